"""How many full-size photos are packed per second? Prints one JSON line.

    python -m benchmarks.packing --data cats_vs_dogs.zip

Makes a temporary folder of --count JPEG files of 500 x 375 pixels at quality 90 out of the photos
of --data (again from the first, if it has fewer). They are squashed to 500 x 500 and then to
500 x 375, both bicubic: small photos are enlarged, which leaves them smoother and their files
smaller than a camera's, and a little quicker to decode; the line tells the bytes per file. Then
`open_photos` packs the folder into an empty cache, --rounds times; the median is reported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from benchmarks.common import versions
from byol.command_line import command
from data import open_photos
from data.decode import BadImage
from data.sources import find_source

WIDTH, HEIGHT, QUALITY = 500, 375, 90


def write_photos(data: str, count: int, folder: Path) -> int:
    """Write `count` JPEG files into `folder`. Returns the sum of their bytes."""
    written = total = 0
    while written < count:
        before = written
        for item in itertools.islice(find_source(data).items(), count):
            if written == count:
                break
            try:
                pixels = item.load((WIDTH, WIDTH)).pixels
            except BadImage:
                continue
            path = folder / f"{written:06}.jpg"
            photo = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            photo = photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            photo.save(path, quality=QUALITY)
            total += path.stat().st_size
            written += 1
        if written == before:
            raise SystemExit(f"--data {data} holds no photo that can be used")
    return total


def seconds_to_pack(photos: Path, store_size: int, scratch: str | None) -> float:
    """Time the first opening, with an empty cache below `scratch`."""
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        os.environ["BYOL_CACHE"] = cache
        start = time.perf_counter()
        open_photos(str(photos), store_size, progress=False)
        return time.perf_counter() - start


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder or an archive of photos")
    parser.add_argument("--count", type=int, default=2000, help="of photos to make and pack")
    parser.add_argument("--store-size", type=int, default=180)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="for what is written meanwhile; default: the system's")
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        size = write_photos(args.data, args.count, Path(folder))
        speeds = []
        for _ in range(args.rounds):
            seconds = seconds_to_pack(Path(folder), args.store_size, args.folder)
            speeds.append(args.count / seconds)
            print(f"{speeds[-1]:.0f} photos/s", file=sys.stderr)
    result = {
        "photos_per_second": round(statistics.median(speeds), 1),
        "each_round": [round(speed, 1) for speed in speeds],
        "count": args.count,
        "pixels": [WIDTH, HEIGHT],
        "bytes_per_file": round(size / args.count),
        "store_size": args.store_size,
        "data": Path(args.data).name,
        "cpus": os.cpu_count(),
        "pillow": PIL.__version__,
        **versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
