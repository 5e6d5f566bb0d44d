"""Give photos their class and a probability, by a classifier that train_classifier.py wrote.

    python predict.py inbox/ --model runs/classifier-byol-frozen/classifier.pt > predictions.csv
    python predict.py a.jpg more.zip --model classifier.pt --min-confidence 0.9 --sort-into sorted

Photos are files, folders or archives. One line for each photo goes to stdout or to --out.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from byol.command_line import Parser, command
from byol.config import AMP
from byol.errors import NO_ROOM, UserError, note, printable
from byol.evaluation.classifier import Classifier
from byol.evaluation.familiar import looks_of
from byol.files import naming, remove_half_written, temporary_of, writing
from byol.hardware.device import set_up, to_device
from byol.progress import say, silent
from byol.run.checkpoint import check_writable
from byol.run.folder import make_folder
from data.decode import BadImage
from data.kinds import SORTED
from data.stream import Stream, StreamedPhoto, safe_name, safe_names

BATCH = 128  # photos at a time
MOST_TOLD = 20  # classes
COPY = "copy"  # what is written into --sort-into is called so until it is whole
FIRST = ("file", "class", "confidence", "unlike")  # columns, before one for each class


@command
def main(argv: list[str] | None = None) -> None:
    args = read_flags(argv)
    device, amp = set_up(args.device, args.amp)
    classifier = Classifier.load(args.model, device)
    photos = Stream(args.photos, classifier.stored_shape, tell_broken)
    folders = open_sorted(args.sort_into, classifier.classes) if args.sort_into else {}
    if args.out:
        check_writable(args.out)
    tell_what_lacks(classifier, args.model)
    counts: Counter = Counter()  # photos of each class; "" is for those that are not sure
    copied: Counter = Counter()  # "copied", "there", "lost"
    try:
        with table(args.out, args.format, classifier.classes) as write:
            for photo, chances, unlike in predict(classifier, photos, device, amp):
                best = int(np.argmax(chances))
                name = classifier.classes[best] if chances[best] >= args.min_confidence else ""
                write(photo.path, name, chances, unlike)
                counts[name] += 1
                if name in folders:
                    copied[copy(photo, folders[name])] += 1
            if not photos.read:
                raise UserError(describe_lack(args.photos, photos))
    except KeyboardInterrupt:
        if not copied["copied"]:
            raise
        raise KeyboardInterrupt(
            f"{copied['copied']:,} photos are copied into {args.sort_into} already; run the "
            "command again, and they are not copied twice"
        ) from None
    tell(photos, counts, copied, args)


def predict(
    classifier: Classifier, photos: Stream, device, amp
) -> Iterator[tuple[StreamedPhoto, list[float], float | None]]:
    """Yield each photo with the probability of each class, and how unlike the known ones it is."""
    extract = classifier.extractor(device, amp)
    off = True if silent() else None  # None: only on a terminal
    with tqdm(total=photos.count(), unit="photo", delay=2, leave=False, disable=off) as bar:
        for batch in in_batches(photos):
            images = to_device(np.stack([photo.pixels for photo in batch]), device)
            sizes = np.array([(photo.height, photo.width) for photo in batch])
            features, looks = looks_of(extract, classifier.encoder, images, sizes)
            extract.check_finite(features, "features")
            chances = classifier.probabilities(features).tolist()
            known = classifier.familiar
            unlike = known.unlike(looks).tolist() if known else [None] * len(batch)
            yield from zip(batch, chances, unlike, strict=True)
            bar.update(len(batch))


def in_batches(photos: Stream) -> Iterator[list[StreamedPhoto]]:
    batch: list[StreamedPhoto] = []
    for photo in photos:
        batch.append(photo)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def table(out: str | None, form: str, classes: list[str]) -> Iterator[Callable]:
    """Give a function that writes a photo to `out` or stdout: CSV (RFC 4180), or JSON lines.

    `out` is written whole or not at all.
    """
    if not out:
        yield writer(sys.stdout, form, classes)
        return
    with writing(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        write = writer(text, form, classes)

        def naming_the_file(*photo) -> None:
            with naming(Path(out)):
                write(*photo)

        yield naming_the_file
        with naming(Path(out)):
            text.flush()
        text.detach()  # `writing` closes it


def writer(file: TextIO, form: str, classes: list[str]) -> Callable:
    if form == "jsonl":

        def write_json(path: str, name: str, chances: list[float], unlike: float | None) -> None:
            content = {"file": path, "class": name or None, "confidence": max(chances)}
            content |= {"unlike": unlike, "probabilities": dict(zip(classes, chances, strict=True))}
            file.write(json.dumps(content) + "\n")

        return write_json
    rows = csv.writer(file)
    # with the first photo: if none can be read, nothing is written
    header = [[*FIRST, *(f"probability of {c}" if c in FIRST else c for c in classes)]]

    def write_csv(path: str, name: str, chances: list[float], unlike: float | None) -> None:
        numbers = [f"{chance:.6f}" for chance in chances]
        confidence = f"{max(chances):.6f}"
        while header:
            rows.writerow(header.pop())
        rows.writerow([path, name, confidence, "" if unlike is None else f"{unlike:.3f}", *numbers])

    return write_csv


def open_sorted(path: str, classes: list[str]) -> dict[str, Path]:
    """Make the folder for copies, and give the folder in it for each class. Those are made later.

    It is marked, so that the copies are not taken for new photos. Raises `UserError` for a folder
    that holds something else: the mark would hide that as well.
    """
    folder = make_folder(path, "--sort-into")
    if not (folder / SORTED).exists() and any(folder.iterdir()):
        raise UserError(
            f"--sort-into {printable(path)}: this folder holds files that predict.py did not put "
            "there, and later scripts would pass them over; give a new folder, or an empty one"
        )
    (folder / SORTED).touch()
    remove_half_written(folder / COPY)
    return {name: folder / own for name, own in zip(classes, safe_names(classes), strict=True)}


def copy(photo: StreamedPhoto, folder: Path) -> str:
    """Copy the file of a photo into `folder`, and say "copied" or "there" if it is there already.

    Another file of its name is not overwritten: the copy then gets a number. A file that cannot be
    read any more is named, and is "lost". Raises `UserError` or `OSError` if it cannot be written.
    """
    try:
        blob = photo.read()
    except BadImage as error:  # it was good a moment ago
        tqdm.write(f"not copied {printable(photo.path)}: {error}", file=sys.stderr)
        return "lost"
    name = Path(safe_name(Path(photo.path).name))
    try:
        return write_beside(folder, name, blob)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise UserError(
            f"--sort-into: no copy can be written into {printable(str(folder))} "
            f"({error.strerror}); make it a folder that can be written to, or give another"
        ) from None


def write_beside(folder: Path, name: Path, blob: bytes) -> str:
    """Write a file of this name or, if that is taken, with a number; "there" if it is the same.

    It is whole at any instant, but not flushed to the disk: the photo itself is still there.
    """
    folder.mkdir(exist_ok=True)
    for number in count(1):
        path = folder / (name.name if number == 1 else f"{name.stem}-{number}{name.suffix}")
        if not path.exists():
            half_written = temporary_of(folder.parent / COPY)
            try:
                with naming(path):
                    half_written.write_bytes(blob)
                    os.replace(half_written, path)
            finally:
                half_written.unlink(missing_ok=True)
            return "copied"
        if path.is_file() and path.stat().st_size == len(blob) and path.read_bytes() == blob:
            return "there"
    raise AssertionError


def tell_broken(path: str, reason: str) -> None:
    tqdm.write(f"skipped {printable(path)}: {printable(reason)}", file=sys.stderr)


def tell_what_lacks(classifier: Classifier, path: str) -> None:
    """Say what a classifier's file does not hold."""
    lacks = ["calibrated probabilities"] if classifier.temperature is None else []
    lacks += [] if classifier.familiar else ["what photos it knows, so `unlike` is empty"]
    if lacks:
        note(f"{printable(path)} lacks {' and '.join(lacks)}: train it anew, with --folds 5")


def describe_lack(paths: list[str], photos: Stream) -> str:
    """Say why there is nothing to predict."""
    place = printable(", ".join(paths[:3]) + (", ..." if len(paths) > 3 else ""))
    passed = f"; passed over: {photos.passed}" if photos.passed else ""
    if photos.broken:
        return f"{place}: none of {photos.broken:,} photos can be read{passed}; give others"
    return f"{place}: there are no photos{passed}; {photos.passed.remedy()}"


def tell(photos: Stream, counts: Counter, copied: Counter, args) -> None:
    """Say on stderr what was done."""
    classes = ", ".join(f"{printable(c)} {n:,}" for c, n in counts.most_common(MOST_TOLD) if c)
    unsure = f", below --min-confidence {counts['']:,}" if counts[""] else ""
    lines = [f"predicted {photos.read:,} photos: {classes or 'none is sure'}{unsure}"]
    if photos.broken:
        lines.append(f"skipped {photos.broken:,} that cannot be read")
    if photos.passed:
        lines.append(f"passed over: {photos.passed}")
    if args.sort_into:
        there = f", {copied['there']:,} were there already" if copied["there"] else ""
        lost = f", {copied['lost']:,} could not be read any more" if copied["lost"] else ""
        lines.append(f"copied {copied['copied']:,} into {printable(args.sort_into)}{there}{lost}")
    if args.out:
        lines.append(f"wrote {printable(args.out)}")
    say("\n".join(lines))


def read_flags(argv: list[str] | None):
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTOS", help="files, folders, archives")
    add("--model", required=True, metavar="FILE",
        help="a classifier, such as runs/classifier-byol-frozen/classifier.pt")  # fmt: skip
    add("--out", metavar="FILE", help="file for the table, whole or not at all [stdout]")
    add("--format", choices=("csv", "jsonl"), default="csv", help="of the table [csv]")
    add("--min-confidence", type=share, default=0.0, metavar="P",
        help="leave the class empty below this probability [0]")  # fmt: skip
    add("--sort-into", metavar="FOLDER", help="copy the photos into a folder for each class here; "
        "nothing is moved or overwritten")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps [auto]")
    add("--amp", choices=AMP, default="auto", help="mixed precision [auto]")
    return parser.parse_args(argv)


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        if 0 <= (value := float(text)) <= 1:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"give a number from 0 to 1, not {text!r}")


if __name__ == "__main__":
    sys.exit(main())
