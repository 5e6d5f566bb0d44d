"""The columns of a pack: .npy files that are mapped into memory, and lists of text over them."""

from __future__ import annotations

import io
import operator
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from byol.files import write_file


class Texts(Sequence):
    """A read-only list of strings, or of tuples of them, each decoded when it is asked for.

    blob: uint8 (B,), all strings in UTF-8, one after the other; lone surrogates are kept
    ends: int64 (width * N + 1,), where each string ends in the blob, after a 0
    width: 1 for strings, K for tuples of K strings

    It equals a list of the same items.
    """

    def __init__(self, blob: np.ndarray, ends: np.ndarray, width: int = 1):
        self._blob = memoryview(blob)
        self._ends = np.asarray(ends)  # a plain array over the same memory: faster to index
        self._width = width

    def __len__(self) -> int:
        return (len(self._ends) - 1) // self._width

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
        ends = self._ends[first * self._width : last * self._width + 1].tolist()
        texts = [str(self._blob[a:b], "utf-8", "surrogatepass") for a, b in pairwise(ends)]
        if self._width == 1:
            return iter(texts)
        return zip(*(texts[i :: self._width] for i in range(self._width)), strict=True)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file and flush it to the disk. Raises `OSError`."""
    buffer = io.BytesIO()  # straight to a full disk, numpy's error would lack its number
    np.save(buffer, array, allow_pickle=False)
    write_file(path, buffer.getbuffer())


def read_array(path: Path, dtype: type, shape: tuple[int, ...], mode: str = "c") -> np.ndarray:
    """Map a .npy file. Raises `OSError`, or `ValueError` where it holds another array.

    With mode "c" the array can be written to, which the file never sees; with "r" it cannot.
    """
    mode = None if 0 in shape else mode  # nothing cannot be mapped
    try:
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (SyntaxError, TypeError, tokenize.TokenError) as error:
        raise ValueError(f"{path} has a garbled header ({error})") from None
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{path} holds {array.dtype} {array.shape}, not {dtype} {shape}")
    return array


def write_texts(folder: Path, name: str, texts: Iterable[str]) -> None:
    """Write what `read_texts` reads, NAME.npy and NAME_ends.npy. Raises `OSError`."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    write_array(folder / f"{name}.npy", np.frombuffer(b"".join(parts), np.uint8))
    write_array(folder / f"{name}_ends.npy", ends)


def read_texts(folder: Path, name: str, count: int, width: int = 1) -> Texts:
    """Map `count` items of `width` strings each. Raises `OSError` or `ValueError`."""
    ends = read_array(folder / f"{name}_ends.npy", np.int64, (count * width + 1,))
    blob = read_array(folder / f"{name}.npy", np.uint8, (int(ends[-1]),))
    return Texts(blob, ends, width)
