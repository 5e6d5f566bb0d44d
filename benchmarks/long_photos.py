"""What do long photos lose in a store of which shape, and what does a view cost? Prints JSON.

    python -m benchmarks.long_photos --data cats_vs_dogs.zip

Long photos are made of those of --data: three rows of them, squeezed to squares and side by side,
of which 4:3, 3:2, 16:9 and 3:1 are cut. Each is stored as a square and in the other shapes, and
its central view is compared with torchvision's crop and resize of the photo itself. `detail` is
how much of the differences between neighbours along the long side is kept, the mean over the
photos. `view_time` is how long a view takes against one from a square, on one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from benchmarks.common import versions
from byol.command_line import command
from byol.errors import UserError
from byol.views.augment import central_view
from data.decode import BadImage, fit
from data.items import NoPhoto, Passed
from data.shape import stored_shape
from data.sources import find_source

SHAPES = {"1:1": (1, 1), "4:3": (4, 3), "3:2": (3, 2), "16:9": (16, 9), "3:1": (3, 1)}
ROWS = 3
NEUTRAL = (0, 0, 0), (1, 1, 1)  # mean and deviation of a view that is not normalised


def read_squares(data: str, side: int) -> list[np.ndarray]:
    """Read some photos as squares: uint8 (side, side, 3) each."""
    squares = []
    for item in itertools.islice(find_source(data).items(), 100):
        if not isinstance(item, Passed):
            try:
                squares.append(item.load((side, side)).pixels.transpose(1, 2, 0))
            except (BadImage, NoPhoto):
                continue
    if not squares:
        raise UserError(f"--data {data}: its first files are no photos; give other photos")
    return squares


def make_photo(squares: list[np.ndarray], width: int, seed: int) -> np.ndarray:
    """Lay out `ROWS` rows of squares, of which `width` columns stay: uint8 (H, width, 3)."""
    columns = -(-width // len(squares[0]))
    chosen = np.random.default_rng(seed).integers(0, len(squares), (ROWS, columns))
    rows = [np.concatenate([squares[i] for i in row], 1) for row in chosen]
    return np.ascontiguousarray(np.concatenate(rows)[:, :width])


def detail_kept(photo: np.ndarray, view: torch.Tensor) -> float:
    """Say how much of the differences across that torchvision's central view has is in `view`."""
    height, size = len(photo), view.shape[-1]
    square = reference.center_crop(torch.from_numpy(photo).permute(2, 0, 1) / 255, [height] * 2)
    theirs = reference.resize(square, [size, size], InterpolationMode.BICUBIC, antialias=True)
    ours, theirs = view.diff(dim=-1), theirs.diff(dim=-1)
    return ((ours * theirs).sum() / theirs.square().sum()).item()


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder or an archive of photos")
    parser.add_argument("--count", type=int, default=16, help="of photos of each shape")
    parser.add_argument("--image-size", type=int, default=150)
    parser.add_argument("--store-size", type=int, default=180)
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    squares = read_squares(args.data, args.store_size)
    height = ROWS * args.store_size
    stores = {(args.store_size, args.store_size)}
    stores |= {stored_shape(np.array([shape]), args.store_size) for shape in SHAPES.values()}
    detail, seconds = {}, {store: [] for store in sorted(stores)}
    for name, (long, short) in SHAPES.items():
        width = round(height * long / short)
        photos = [make_photo(squares, width, seed) for seed in range(args.count)]
        sizes = np.tile((height, width), (args.count, 1))
        stored = {
            store: torch.from_numpy(
                np.stack([fit(Image.fromarray(p), store, False) for p in photos])
            )
            for store in seconds
        }
        detail[name] = {}
        for store, images in stored.items():
            views = central_view(images, sizes, args.image_size, *NEUTRAL)
            kept = statistics.mean(map(detail_kept, photos, views))
            detail[name][f"{store[0]} x {store[1]}"] = round(kept, 3)
        for _, (store, images) in itertools.product(range(args.rounds), stored.items()):  # in turn
            start = time.perf_counter()
            central_view(images, sizes, args.image_size, *NEUTRAL)
            seconds[store].append(time.perf_counter() - start)
    medians = {store: statistics.median(times) for store, times in seconds.items()}
    first, *_ = medians.values()
    result = {
        **vars(args),
        "detail": detail,
        "view_time": {f"{h} x {w}": round(t / first, 2) for (h, w), t in medians.items()},
        **versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
