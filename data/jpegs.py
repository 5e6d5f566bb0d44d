"""Stored photos as JPEGs: about a tenth of the disk, decoded by threads at each use."""

from __future__ import annotations

import functools
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from byol.files import usable_cores
from data.stored import HEADER_BYTES, StoredFile

# Accuracy at 64 px is that of the photos themselves (docs/packs.md). Other values are other packs:
# raise PACK_VERSION.
QUALITY, SUBSAMPLING = 90, "4:4:4"
MOST_THREADS = 32
AT_ONCE = 8  # photos that a thread decodes before it asks for more


def encode(pixels: np.ndarray) -> np.ndarray:
    """Encode one photo, uint8 (3, H, W), as a JPEG: its bytes, uint8 (B,)."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    save = functools.partial(image.save, format="JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    file = io.BytesIO()
    try:  # tables of the photo's own make it a sixth smaller, and decoding takes as long
        save(file, optimize=True)
    except OSError:  # Pillow has not enough room for them if the photo is noise
        file = io.BytesIO()
        save(file)
    return np.frombuffer(file.getvalue(), np.uint8)


class JpegFile(StoredFile):
    """A shard of JPEGs: a .npy file, uint8 (B,), with one after the other, then their ends.

    The ends, int64 (N,), are its last bytes. Errors as of `StoredFile`.
    """

    def __init__(self, path: Path, rows: int, shape: tuple[int, int]):
        """rows: how many photos. shape: their height and width."""
        size = os.stat(path).st_size - HEADER_BYTES
        super().__init__(path, np.uint8, (size,))
        ends = np.empty(rows, np.int64)
        self.fill_bytes(memoryview(ends.view(np.uint8)), HEADER_BYTES + size - ends.nbytes)
        self._ends = np.concatenate([[0], ends])
        if self._ends[-1] != size - ends.nbytes or (np.diff(self._ends) <= 0).any():
            raise ValueError(f"{path} does not hold {rows:,} photos")
        self.shape = shape

    def __len__(self) -> int:
        return len(self._ends) - 1

    def read_jpeg(self, row: int) -> np.ndarray:
        """Read the bytes of one photo, uint8 (B,)."""
        start, end = self._ends[row : row + 2].tolist()
        blob = np.empty(end - start, np.uint8)
        self.fill_bytes(memoryview(blob), HEADER_BYTES + start)
        return blob

    def ask_for_rows(self, rows: np.ndarray) -> None:
        """Tell the system that `rows` (int64, N) are read next."""
        starts, ends = self._ends[rows], self._ends[rows + 1]
        self.ask_for((starts + HEADER_BYTES).tolist(), (ends - starts).tolist())

    def read_into(self, rows: np.ndarray, out: np.ndarray, into: np.ndarray) -> None:
        """Decode `rows` (int64, N) into the rows `into` (N,) of `out` (M, 3, H, W)."""
        for row, at in zip(rows.tolist(), into.tolist(), strict=True):
            out[at] = self._decode(self.read_jpeg(row))
        self.check_unchanged()

    def _decode(self, blob: np.ndarray) -> np.ndarray:
        """Decode a JPEG of the stored shape: uint8 (3, H, W), not contiguous."""
        height, width = self.shape
        try:  # in half the time of `Image.open`, which looks at much that is known here
            image = Image.frombytes("RGB", (width, height), blob.tobytes(), "jpeg", "RGB", "")
        except (ValueError, OSError):
            raise self.spoilt("holds a photo that is no JPEG of its shape") from None
        pixels = np.frombuffer(image.tobytes(), np.uint8)
        return pixels.reshape(height, width, 3).transpose(2, 0, 1)


def threads() -> ThreadPoolExecutor:
    """Give the threads that decode, of this process: one a core."""
    return _threads(os.getpid())


@functools.lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """Start the threads of a process: those of another one are not in a copy of it."""
    return ThreadPoolExecutor(min(usable_cores(), MOST_THREADS), thread_name_prefix="jpeg")
