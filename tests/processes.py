"""Waiting for what another process does."""

import time


def wait_for(condition, process, every=0.05):
    """Until `condition()`, looked at `every` seconds; fails after two minutes or if it ends."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(every)
