"""How many full-size photos are packed per second? Prints one JSON line.

    python benchmarks/packing.py --data cats_vs_dogs.zip

Makes a temporary folder of --count JPEG files of 500 x 375 pixels at quality 90 out of the photos
of --data (again from the first, where it has fewer). They are squashed to 500 x 500 and then to
500 x 375, both bicubic: small photos are enlarged, which leaves them smoother and their files
smaller than a camera's, and a little quicker to decode; the line tells the bytes per file. The
folder is then packed by `open_photos` into an empty cache, --rounds times; the median is reported.
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
from common import versions
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from byol.errors import command
from data import open_photos
from data.decode import BadImage
from data.sources import find_source

WIDTH, HEIGHT, QUALITY = 500, 375, 90


def write_photos(source: str, count: int, folder: Path) -> int:
    """Write `count` JPEG files into `folder`. Returns their bytes, all together."""
    written = total = 0
    while written < count:
        before = written
        for item in itertools.islice(find_source(source).items(), count):
            if written == count:
                break
            try:
                pixels = item.load(WIDTH).pixels
            except BadImage:
                continue
            path = folder / f"{written:06}.jpg"
            photo = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            photo = photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            photo.save(path, quality=QUALITY)
            total += path.stat().st_size
            written += 1
        if written == before:
            raise SystemExit(f"--data {source} holds no photo that can be used")
    return total


def seconds_to_pack(photos: Path, store_size: int, place: str | None) -> float:
    """Seconds of the first opening, with an empty cache."""
    with tempfile.TemporaryDirectory(dir=place) as cache:
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

    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        size = write_photos(args.data, args.count, Path(name))
        rounds = []
        for _ in range(args.rounds):
            rounds.append(args.count / seconds_to_pack(Path(name), args.store_size, args.folder))
            print(f"{rounds[-1]:.0f} photos/s", file=sys.stderr)
    about = {
        "photos_per_second": round(statistics.median(rounds), 1),
        "each_round": [round(value, 1) for value in rounds],
        "count": args.count,
        "pixels": [WIDTH, HEIGHT],
        "bytes_per_file": round(size / args.count),
        "store_size": args.store_size,
        "data": Path(args.data).name,
        "cpus": os.cpu_count(),
        "pillow": PIL.__version__,
        **versions(),
    }
    print(json.dumps(about))


if __name__ == "__main__":
    sys.exit(main())
