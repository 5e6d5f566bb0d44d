"""Measure how well `explore.py duplicates` finds copies: precision and recall on real photos.

    python -m experiments.duplicates cats_vs_dogs.zip --init byol.pt

Takes photos of a ZIP archive, makes one copy of some of them, of each kind in turn (stored anew as
JPEG and WebP, at half the size, mirrored, cropped to 90, 80 and 70 % of each side at a random
place), and looks for groups among all. Recall: the share of copies in the group of their photo.
Precision: the share of pairs in groups that are of one photo. Photos that were there twice before
count as false pairs, so it is a lower bound; they are listed.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tempfile
import zipfile
from collections import defaultdict
from itertools import combinations
from pathlib import Path

from PIL import Image, ImageOps

from byol.command_line import command
from byol.errors import UserError, printable
from byol.evaluation.duplicates import AGREEMENT, find_groups
from byol.evaluation.embedding import Embedder
from byol.hardware.device import set_up
from data import open_photos

CROPS = (90, 80, 70)  # per cent of each side


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", help="a .zip of photos")
    parser.add_argument("--init", required=True, help="a byol.pt or a classifier.pt")
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--copied", type=int, default=1400, help="how many of them get a copy")
    parser.add_argument("--agreement", type=float, nargs="+", default=[AGREEMENT])
    args = parser.parse_args(argv)
    embedder = Embedder(args.init, *set_up("auto", "auto"))
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(args.archive), Path(folder), args.photos, args.copied)
        photos = open_photos(folder, embedder.stored_side)
        features, widths = embedder.both_ways(photos)
        kinds = sorted({name.split("/")[0] for name in photos.names} - {"photo"})
        print(f"| agreement | {' | '.join(kinds)} | precision | pairs |")
        print("|" + "---|" * (3 + len(kinds)))
        for threshold in args.agreement:
            groups = find_groups(photos, features, widths, threshold)
            names = [[photos.names[copy.row] for copy in group] for group in groups]
            recall, right, false = score(names, photos.names)
            found = " | ".join(f"{100 * recall[kind]:.1f}" for kind in kinds)
            pairs = right + len(false)
            print(f"| {threshold:g} | {found} | {100 * right / max(1, pairs):.2f} | {pairs:,} |")
            for pair in false[:20]:
                print(f"not planted: {printable(' '.join(pair))}", file=sys.stderr)


def write_photos(archive: Path, folder: Path, count: int, copied: int) -> None:
    """Write photos as `photo/NUMBER.jpg`, as they are, and a copy as `KIND/NUMBER.ENDING`."""
    draws = random.Random(0)
    with zipfile.ZipFile(archive) as file:
        names = sorted(entry.filename for entry in file.infolist() if entry.file_size)
        names = [name for name in names if name.lower().endswith((".jpg", ".jpeg"))]
        if not 0 < copied <= count <= len(names):
            raise UserError(f"{archive} has {len(names):,} JPEG files: ask for fewer")
        for number, name in enumerate(draws.sample(names, count)):
            blob = file.read(name)
            save(folder / "photo" / f"{number}.jpg", blob)
            if number < copied:
                made = copies(Image.open(io.BytesIO(blob)).convert("RGB"), draws)
                path, copy = made[number % len(made)]
                save(folder / path.format(number), copy)


def copies(photo: Image.Image, draws: random.Random) -> list[tuple[str, bytes]]:
    """Make the copies of a photo: names with a place for its number, and files."""
    half = photo.resize([max(1, side // 2) for side in photo.size], Image.Resampling.BICUBIC)
    made = [
        ("jpeg/{}.jpg", encode(photo, "JPEG", 50)),
        ("webp/{}.webp", encode(photo, "WEBP", 60)),
        ("half/{}.jpg", encode(half, "JPEG", 90)),
        ("mirrored/{}.jpg", encode(ImageOps.mirror(photo), "JPEG", 90)),
    ]
    for share in CROPS:
        width, height = (round(side * share / 100) for side in photo.size)
        left, top = draws.randint(0, photo.width - width), draws.randint(0, photo.height - height)
        part = photo.crop((left, top, left + width, top + height))
        made.append((f"crop {share} %/{{}}.jpg", encode(part, "JPEG", 90)))
    return made


def encode(image: Image.Image, kind: str, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return stream.getvalue()


def save(path: Path, blob: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(blob)


def score(groups: list[list[str]], names) -> tuple[dict[str, float], int, list[tuple[str, str]]]:
    """Compare groups of names with what was planted: recall by kind, right pairs, false pairs."""

    def photo_of(name: str) -> str:
        return Path(name).stem

    right, false, found = 0, [], defaultdict(int)
    for group in groups:
        for one, other in combinations(group, 2):
            if photo_of(one) == photo_of(other):
                right += 1
            else:
                false.append((one, other))
        originals = {photo_of(name) for name in group if name.startswith("photo/")}
        for name in group:
            found[name.split("/")[0]] += photo_of(name) in originals
    there = defaultdict(int)
    for name in names:
        there[name.split("/")[0]] += 1
    return {kind: found[kind] / count for kind, count in there.items()}, right, false


if __name__ == "__main__":
    sys.exit(main())
