"""The columns of a pack: .npy files, and lists of text over them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from byol.files import write_file
from byol.stored_array import StoredArray, npy_header


class Texts(Sequence):
    """A read-only list of strings, or of tuples of them, each decoded when it is asked for.

    blob: uint8 (B,), all strings in UTF-8, one after the other; lone surrogates are kept
    ends: int64 (width * N + 1,), where each string ends in the blob, after a 0
    width: 1 for strings, K for tuples of K strings

    Both are read at the first use. It equals a list of the same items.
    """

    def __init__(self, blob: StoredArray, ends: StoredArray, width: int = 1):
        self._stored = blob, ends
        self._width = width

    @cached_property
    def _content(self) -> tuple[memoryview, np.ndarray]:
        blob, ends = self._stored
        return memoryview(blob.whole()), ends.whole()

    def __len__(self) -> int:
        return (len(self._stored[1]) - 1) // self._width

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = operator.index(index)
        at += len(self) if at < 0 else 0
        if not 0 <= at < len(self):
            raise IndexError(f"no item {index} in a list of {len(self)}")
        return next(self._items(at, at + 1))

    def __iter__(self) -> Iterator:
        for first in range(0, len(self), 1024):
            yield from self._items(first, min(first + 1024, len(self)))

    def __eq__(self, other) -> bool:
        if not isinstance(other, Texts | list):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None

    def __repr__(self) -> str:
        return f"<{len(self):,} texts: {self[:3]}{'...' if len(self) > 3 else ''}>"

    def _items(self, first: int, last: int) -> Iterator:
        blob, ends = self._content
        ends = ends[first * self._width : last * self._width + 1].tolist()
        texts = [str(blob[a:b], "utf-8", "surrogatepass") for a, b in pairwise(ends)]
        if self._width == 1:
            return iter(texts)
        return zip(*(texts[i :: self._width] for i in range(self._width)), strict=True)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file and flush it to the disk. Raises `OSError`."""
    write_file(path, npy_header(array.dtype, array.shape) + array.tobytes())


def write_texts(folder: Path, name: str, texts: Iterable[str]) -> None:
    """Write what `read_texts` reads, NAME.npy and NAME_ends.npy. Raises `OSError`."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    write_array(folder / f"{name}.npy", np.frombuffer(b"".join(parts), np.uint8))
    write_array(folder / f"{name}_ends.npy", ends)


def read_texts(folder: Path, name: str, count: int, width: int = 1) -> Texts:
    """Open `count` items of `width` strings each. Raises `OSError` or `ValueError`."""
    ends = StoredArray(folder / f"{name}_ends.npy", np.int64, (count * width + 1,))
    blob = StoredArray(folder / f"{name}.npy", np.uint8, (int(ends[-1]),))
    return Texts(blob, ends, width)
