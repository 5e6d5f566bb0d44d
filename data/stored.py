"""Arrays and lists of texts in .npy files, of which rows are read as they are needed."""

from __future__ import annotations

import contextlib
import operator
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise, repeat
from pathlib import Path

import numpy as np

from byol.errors import UserError
from byol.files import write_file

HEADER_BYTES = 128


def npy_header(dtype: type, shape: tuple[int, ...]) -> bytes:
    """Build the header of a .npy file as numpy writes it: 128 bytes for any shape we have."""
    text = f"{{'descr': {np.dtype(dtype).str!r}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


class Rows:
    """Rows of an array that lie on the disk, read by `read` as they are needed.

    dtype, shape: of the array
    """

    dtype: np.dtype
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, index) -> np.ndarray:
        """A row, or rows: of a number, a slice, or an array of numbers from 0 on."""
        rows = np.asarray(range(len(self))[index] if isinstance(index, int | slice) else index)
        out = np.empty((rows.size, *self.shape[1:]), self.dtype)
        self.read(rows.reshape(-1), out)
        return out.reshape(rows.shape + self.shape[1:])

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read `rows` (int64, N) into `out` (N, ...), contiguous."""
        raise NotImplementedError

    def as_stored(self, row: int) -> np.ndarray:
        """Give what is stored of one row: the row itself."""
        return self[row]


class StoredFile:
    """A .npy file, which stays open: it may be deleted without harm.

    It is read and not mapped into memory: there a file that is cut would end the process (SIGBUS).
    Raises `OSError` or `ValueError` if the file does not hold this array, and later `UserError` if
    it is cut or written to while it is in use.
    """

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...]):
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._opened = self._state()
        header = npy_header(dtype, shape)
        if os.pread(self._file, HEADER_BYTES, 0) != header:
            raise ValueError(f"{path} does not hold {np.dtype(dtype)} {shape}")
        size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
        if self._opened[0] != HEADER_BYTES + size:
            raise ValueError(f"{path} is not as long as its header says")

    def is_file(self, path: Path) -> bool:
        """Tell whether `path` is a name of the file that is open here. Raises `OSError`."""
        return os.path.samestat(os.fstat(self._file), os.stat(path))

    def ask_for(self, starts: Iterable[int], sizes: Iterable[int]) -> None:
        """Tell the system which bytes are read next: it then asks the disk for all of them at once.

        Read one after the other, each would wait for the disk by itself.
        """
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with contextlib.suppress(OSError):  # it is advice
                for start, size in zip(starts, sizes, strict=False):
                    os.posix_fadvise(self._file, start, size, os.POSIX_FADV_WILLNEED)

    def fill_bytes(self, buffer: memoryview, at: int) -> None:
        """Fill `buffer` with the bytes of the file from `at` on."""
        try:
            while (count := os.preadv(self._file, (buffer,), at)) < len(buffer):
                if not count:
                    raise self.spoilt("was cut while it was in use")
                buffer, at = buffer[count:], at + count
        except OSError as error:
            raise self.spoilt(f"cannot be read ({error.strerror})") from None

    def check_unchanged(self) -> None:
        """Raise `UserError` if the file was written to since it was opened."""
        if self._state() != self._opened:
            raise self.spoilt("was written to while it was in use")

    def spoilt(self, what: str) -> UserError:
        """Make the error that says what is wrong with the file, and what to do."""
        return UserError(
            f"{self.path} {what}: remove the folder {self.path.parent} and run the command again, "
            "which packs the photos anew; train_byol.py goes on with --resume"
        )

    def _state(self) -> tuple[int, int]:
        info = os.fstat(self._file)
        return info.st_size, info.st_mtime_ns


class StoredArray(StoredFile, Rows):
    """An array in a .npy file, of which rows are read. Errors as of `StoredFile`."""

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...]):
        super().__init__(path, dtype, shape)
        self.dtype, self.shape = np.dtype(dtype), shape
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def read_all(self) -> np.ndarray:
        """Read all of it, as an array that can be written to."""
        out = np.empty(self.shape, self.dtype)
        self.fill_bytes(memoryview(out.reshape(-1).view(np.uint8)), HEADER_BYTES)
        self.check_unchanged()
        return out

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read `rows` (int64, N) into `out` (N, ...), contiguous."""
        self.ask_for_rows(rows)
        self.read_into(rows, out, np.arange(len(rows)))

    def ask_for_rows(self, rows: np.ndarray) -> None:
        """Tell the system that `rows` (int64, N) are read next."""
        starts = (rows * self._row_bytes + HEADER_BYTES).tolist()
        self.ask_for(starts, repeat(self._row_bytes))

    def read_into(self, rows: np.ndarray, out: np.ndarray, into: np.ndarray) -> None:
        """Read `rows` (int64, N) into the rows `into` (N,) of `out` (M, ...), contiguous."""
        buffer, size = memoryview(out.reshape(-1).view(np.uint8)), self._row_bytes
        places = (rows * size + HEADER_BYTES).tolist()
        for start, at in zip((into * size).tolist(), places, strict=True):
            self.fill_bytes(buffer[start : start + size], at)
        self.check_unchanged()

    @property
    def shards(self) -> list[StoredArray]:
        """The files of this array: this one."""
        return [self]

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find where `rows` are: the number of the file, and the row in it."""
        return np.zeros_like(rows), rows


class Texts(Sequence):
    """A read-only list of strings, or of tuples of them, each decoded when it is asked for.

    blob: uint8 (B,), all strings in UTF-8, one after the other; lone surrogates are kept
    ends: int64 (width * N + 1,), the end of each string in the blob, after a 0
    width: 1 for strings, K for tuples of K strings

    Both are read at the first use. It equals a list of the same items.
    """

    def __init__(self, blob: StoredArray, ends: StoredArray, width: int = 1):
        self._stored = blob, ends
        self._width = width

    @cached_property
    def _content(self) -> tuple[bytes, np.ndarray]:
        blob, ends = self._stored
        return blob.read_all().tobytes(), ends.read_all()

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
        texts = [blob[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(ends)]
        if self._width == 1:
            return iter(texts)
        return zip(*(texts[i :: self._width] for i in range(self._width)), strict=True)

    def encode(self, rows: np.ndarray) -> list[bytes]:
        """Give the strings of these rows (int64, N) in UTF-8; only of a list of strings."""
        blob, ends = self._content
        places = zip(ends[rows].tolist(), ends[rows + 1].tolist(), strict=True)
        return [blob[start:end] for start, end in places]


def encode_rows(texts: Sequence[str], rows: np.ndarray) -> Iterator[list[bytes]]:
    """Give many strings of a list in UTF-8, some thousand at a time, in the order of `rows`."""
    for at in range(0, len(rows), 4096):
        some = rows[at : at + 4096]
        if isinstance(texts, Texts):
            yield texts.encode(some)
        else:
            yield [texts[row].encode("utf-8", "surrogatepass") for row in some]


def write_array(path: Path, rows: np.ndarray) -> None:
    """Write a .npy file and flush it to the disk. Raises `OSError`."""
    write_file(path, npy_header(rows.dtype, rows.shape) + rows.tobytes())


def write_texts(folder: Path, name: str, texts: Iterable[str]) -> None:
    """Write what `read_texts` reads, NAME.npy and NAME_ends.npy. Raises `OSError`."""
    blob, ends = bytearray(), array("q", [0])
    for text in texts:
        blob += text.encode("utf-8", "surrogatepass")
        ends.append(len(blob))
    write_array(folder / f"{name}.npy", np.frombuffer(blob, np.uint8))
    write_array(folder / f"{name}_ends.npy", np.frombuffer(ends, np.int64))


def read_texts(folder: Path, name: str, count: int, width: int = 1) -> Texts:
    """Open `count` items of `width` strings each. Raises `OSError` or `ValueError`."""
    ends = StoredArray(folder / f"{name}_ends.npy", np.int64, (count * width + 1,))
    blob = StoredArray(folder / f"{name}.npy", np.uint8, (int(ends[-1]),))
    return Texts(blob, ends, width)
