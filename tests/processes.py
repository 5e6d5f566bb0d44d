"""Waiting for what another process does, and limits on what this one may do."""

import contextlib
import resource
import time


def wait_for(condition, process, every=0.05):
    """Until `condition()`, looked at `every` seconds; fails after two minutes or if it ends."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(every)


@contextlib.contextmanager
def longest_file(size: int):
    """No file can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
