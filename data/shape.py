"""The shape in which the photos of a source are stored: a square, or wider if they are long.

All photos of a pack have one shape (H, W). H is the stored side. A photo of another shape is
squeezed into it, and one that is taller than wide is stored turned, so that its long side lies
along W. A photo that is squeezed loses detail along its long side. Measured on central views of
150 px from 180 px, a square keeps 0.88 of that of a photo of 4:3, 0.82 of 3:2 and 0.71 of 16:9.
A store of the photo's own shape keeps 0.95 (benchmarks/long_photos.py), and takes 1.5 or 1.78 times
the room. So photos of 4:3 stay in squares, and a few longer ones among others do too.
"""

from __future__ import annotations

import contextlib
import itertools

import numpy as np

from data.decode import BadImage
from data.items import NoPhoto, Passed
from data.sources import Source

# Both as fractions: long / short side above which photos are too long for the shapes before; W / H.
STEPS = (((7, 5), (3, 2)), ((8, 5), (16, 9)))
SHARE = 0.25  # so many photos may be too long for a shape before the next one is taken
SAMPLE = 100  # photos whose headers are read for a first guess
SAMPLE_BYTES = 500_000_000  # that are read of their files at most


def stored_shape(sizes: np.ndarray, side: int) -> tuple[int, int]:
    """Choose height and width of the store for photos of these sizes (N, 2).

    It is a square, unless more than `SHARE` of the photos are too long for it. The width is a
    multiple of 4 then.
    """
    short, long = np.minimum(*sizes.T), np.maximum(*sizes.T)
    width = side
    for (most, by), (numerator, denominator) in STEPS:
        if np.count_nonzero(by * long > most * short) <= SHARE * len(sizes):
            break
        width = -(-side * numerator // (4 * denominator)) * 4
    return side, width


def guess_shape(found: Source, side: int) -> tuple[int, int]:
    """Guess the shape from the headers of some photos, spread over the source if it can be."""
    step = max((found.count() or 0) // SAMPLE, 1)
    sizes, file_bytes = [], 0
    for item in itertools.islice(found.items(), 0, step * SAMPLE, step):
        if isinstance(item, Passed):
            continue
        file_bytes += item.file_bytes
        if item.size is None or file_bytes > SAMPLE_BYTES:
            break
        with contextlib.suppress(BadImage, NoPhoto):
            sizes.append(item.size())
    return stored_shape(np.array(sizes), side) if sizes else (side, side)


def describe_shape(shape: tuple[int, int]) -> str:
    """Write a shape as "180", or as "180 x 320" if it is no square."""
    height, width = shape
    return str(height) if height == width else f"{height} x {width}"
