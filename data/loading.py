"""Decode the files of a source in threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from byol.files import usable_cores
from data.decode import BadImage
from data.items import Item, Loaded, NoPhoto, Passed
from data.sources import Source

MAX_THREADS = 32  # each takes memory, and only one writes
MAX_WAITING = 500_000_000  # bytes of files that are being decoded, and of what was decoded


def load_all(
    found: Source,
    shape: tuple[int, int],
    known: Container[bytes],
    digest_of: Callable[[bytes], bytes | None] = lambda stamp: None,
    encode: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Loaded | Passed | tuple[str, str]]:
    """Decode in threads, few ahead of the writer, in the order of the source.

    Yields what was loaded, what is passed over, or (name, reason) for a file to skip. Files with a
    `known` digest are not decoded. Those of which `digest_of` knows the stamp are not read either.
    What was decoded goes through `encode`, in the same thread.
    """
    workers = min(usable_cores(), MAX_THREADS)
    pending: deque[tuple[int, Item, Future[Loaded]]] = deque()
    waiting = 0
    seen: set[str] = set()

    def finish() -> Loaded | Passed | tuple[str, str]:
        nonlocal waiting
        room, item, future = pending.popleft()
        waiting -= room
        problem = future.exception()
        if isinstance(problem, BadImage):  # raised here, it would keep the file's bytes for long
            return item.name, str(problem)
        if isinstance(problem, NoPhoto):
            return Passed(str(problem), item.name)
        return future.result()._replace(stamp=item.stamp)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for item in found.items():
            if isinstance(item, Passed):
                yield item
                continue
            if item.name in seen:
                yield item.name, "a second file of this name"
                continue
            seen.add(item.name)
            room = item.file_bytes + 3 * math.prod(shape)
            while pending and waiting + room > MAX_WAITING:
                yield finish()
            waiting += room
            try:
                if item.stamp and (digest := digest_of(item.stamp)):
                    loading = pool.submit(Loaded, item.name, None, 0, 0, digest)
                else:
                    loading = pool.submit(_load, item, shape, known, encode)
                pending.append((room, item, loading))
            except RuntimeError as error:  # no memory for one more thread
                raise MemoryError from error
            if len(pending) >= 8 * workers:
                yield finish()
        while pending:
            yield finish()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(
    item: Item,
    shape: tuple[int, int],
    known: Container[bytes],
    encode: Callable[[np.ndarray], np.ndarray] | None,
) -> Loaded:
    """Load one file, and encode its pixels if need be."""
    loaded = item.load(shape, known)
    if encode is None or loaded.pixels is None:
        return loaded
    return loaded._replace(pixels=encode(loaded.pixels))
