"""Arrays in files of which rows are read as they are needed, also where others touch the file."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np

from byol.errors import UserError

HEADER_BYTES = 128


def npy_header(dtype: type, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file, as numpy writes it; of 128 bytes for any shape we have."""
    text = f"{{'descr': {np.dtype(dtype).str!r}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


class StoredArray:
    """An array in a .npy file, which stays open: it may be deleted without harm.

    Rows are read and not mapped into memory, where a file that is cut would end the process
    (SIGBUS). Raises `OSError` or `ValueError` where the file is not this array, and later
    `UserError` where it is cut or written to while it is in use.
    """

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...]):
        self.path, self.dtype, self.shape = path, np.dtype(dtype), shape
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._opened = self._state()
        header = npy_header(dtype, shape)
        if os.pread(self._file, HEADER_BYTES, 0) != header:
            raise ValueError(f"{path} does not hold {self.dtype} {shape}")
        if self._opened[0] != HEADER_BYTES + self.nbytes:
            raise ValueError(f"{path} is not as long as its header says")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self._row_bytes

    def __getitem__(self, index) -> np.ndarray:
        """A row, or rows: of a number, a slice, or an array of numbers from 0 on."""
        rows = np.asarray(range(len(self))[index] if isinstance(index, int | slice) else index)
        out = np.empty((rows.size, *self.shape[1:]), self.dtype)
        self.read(rows.reshape(-1), out)
        return out.reshape(rows.shape + self.shape[1:])

    def whole(self) -> np.ndarray:
        """All of it, as an array that can be written to."""
        out = np.empty(self.shape, self.dtype)
        self._fill(memoryview(out.reshape(-1).view(np.uint8)), HEADER_BYTES)
        self._check_unchanged()
        return out

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read `rows` (int64, N) into `out` (N, ...), contiguous."""
        buffer, size = memoryview(out.reshape(-1).view(np.uint8)), self._row_bytes
        places = (rows * size + HEADER_BYTES).tolist()
        for start, at in zip(range(0, len(buffer), size), places, strict=True):
            self._fill(buffer[start : start + size], at)
        self._check_unchanged()

    def _fill(self, buffer: memoryview, at: int) -> None:
        """Fill `buffer` with the bytes of the file from `at` on."""
        try:
            while (count := os.preadv(self._file, (buffer,), at)) < len(buffer):
                if not count:
                    raise self._spoilt("was cut while it was in use")
                buffer, at = buffer[count:], at + count
        except OSError as error:
            raise self._spoilt(f"cannot be read ({error.strerror})") from None

    def _state(self) -> tuple[int, int]:
        info = os.fstat(self._file)
        return info.st_size, info.st_mtime_ns

    def _check_unchanged(self) -> None:
        if self._state() != self._opened:
            raise self._spoilt("was written to while it was in use")

    def _spoilt(self, what: str) -> UserError:
        return UserError(
            f"{self.path} {what}: remove the folder {self.path.parent} and run the command again, "
            "which packs the photos anew; train_byol.py goes on with --resume"
        )
