"""Look into photos by what an encoder sees, without labels.

    python explore.py embed PHOTOS --init byol.pt --out features.npz
    python explore.py map PHOTOS --init byol.pt --out map.png
    python explore.py nearest QUERY... --among PHOTOS --init byol.pt --count 5
    python explore.py duplicates PHOTOS --init byol.pt
    python explore.py suggest PHOTOS --init byol.pt --count 50

PHOTOS is a folder, an archive or a known name. The last three write CSV, to the screen or to --out.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
from pathlib import Path

import numpy as np
import torch

from byol.command_line import Parser, command
from byol.config import AMP
from byol.errors import UserError, note, printable
from byol.evaluation.duplicates import AGREEMENT, find_groups
from byol.evaluation.embedding import Embedder, LoosePhotos
from byol.evaluation.layout import find_tsne, lay_out
from byol.evaluation.protocol import parse_count
from byol.evaluation.similarity import most_central, nearest
from byol.files import write_atomically
from byol.hardware.device import describe, set_up
from byol.progress import say, silent
from byol.report.mosaic import (
    LARGE_THUMB,
    MOST_COLUMNS,
    MOST_ROWS,
    Picture,
    draw_map,
    draw_sheet,
    thumbnail,
)
from byol.report.pictures import save_picture
from byol.run.checkpoint import check_writable
from data import Photos, open_photos
from data.decode import BadImage, decode

PICTURES = (".png", ".jpg", ".jpeg")
MOST_FOR_TSNE = 5000  # photos: it takes minutes for more


@command
def main(argv: list[str] | None = None) -> None:
    args = read_flags(argv)
    for flag in ("out", "sheet"):
        if path := getattr(args, flag, None):
            check_writable(path)
            picture = flag == "sheet" or args.run is make_map
            if picture and Path(path).suffix.lower() not in PICTURES:
                raise UserError(
                    f"--{flag} {path}: a picture ends in {', '.join(PICTURES)}; give such a name"
                )
    device, amp = set_up(args.device, args.amp)
    args.embedder = Embedder(args.init, device, amp)
    photos = read_photos(args)
    say(
        f"photos      {printable(photos.source)}: {len(photos.names):,}\n"
        f"encoder     {printable(args.init)}, {args.embedder.config.image_size} px\n"
        f"device      {describe(device, amp)}"
    )
    args.run(args, photos)


def read_flags(argv: list[str] | None) -> argparse.Namespace:
    shared = Parser(add_help=False)
    shared.add_argument("--init", required=True, help="whose encoder: a byol.pt or a classifier.pt")
    shared.add_argument(
        "--skip-broken",
        action="store_true",
        help="go on if over 10 %% of the files are broken",
    )
    shared.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    shared.add_argument("--amp", default="auto", choices=AMP, help="mixed precision [auto]")

    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run, about: str, photos: bool = True) -> Parser:
        each = commands.add_parser(name, help=about, description=about, parents=[shared])
        each.set_defaults(run=run)
        if photos:
            each.add_argument("photos", metavar="PHOTOS", help="a folder, an archive, a known name")
        return each

    each = add("embed", embed, "write names and features of photos (.npz)")
    each.add_argument("--out", required=True, help="the file to write")
    each = add("map", make_map, "draw thumbnails, the similar ones close together")
    each.add_argument("--out", required=True, help="the picture to write, .png or .jpg")
    each.add_argument(
        "--layout", default="auto", choices=("auto", "pca", "tsne"),
        help="auto is t-SNE if scikit-learn is installed, else PCA [auto]",
    )  # fmt: skip
    each = add("nearest", find_nearest, "find the photos most like others", photos=False)
    each.add_argument(
        "queries", metavar="QUERY", nargs="+", help="a photo file, or a name inside of --among"
    )
    each.add_argument("--among", dest="photos", required=True, help="where to look")
    each.add_argument("--count", default="5", help="photos for each query [5]")
    _add_outputs(each)
    each = add("duplicates", find_duplicates, "find photos that are there twice")
    each.add_argument(
        "--agreement", type=float, default=AGREEMENT,
        help=f"correlation of pixels from which two photos are the same, 0 to 1 [{AGREEMENT}]",
    )  # fmt: skip
    _add_outputs(each)
    each = add("suggest", suggest, "choose which photos to label first")
    each.add_argument("--count", default="50", help="how many [50]")
    each.add_argument("--seed", default="0", help="another seed gives another choice [0]")
    _add_outputs(each)
    return parser.parse_args(argv)


def _add_outputs(parser: Parser) -> None:
    parser.add_argument("--out", help="CSV file to write [the screen]")
    parser.add_argument("--sheet", help="picture of the photos to write, .png or .jpg")


# ---- the commands


def embed(args, photos: Photos) -> None:
    """Write `names` (N,) and `features` float32 (N, D) as numpy reads them."""
    features = args.embedder(photos).cpu().numpy()
    blob = io.BytesIO()
    np.savez(blob, names=np.array(list(photos.names)), features=features)
    write_atomically(args.out, blob.getbuffer())
    print(printable(args.out))


def make_map(args, photos: Photos) -> None:
    """Draw the photos where t-SNE or PCA puts them."""
    need(photos, 2, "a map")
    tsne = import_tsne(args.layout)
    rows = np.arange(len(photos.names))
    if tsne and len(rows) > MOST_FOR_TSNE:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_FOR_TSNE).astype(np.int64)]
        note(f"t-SNE takes {len(rows):,} of the photos, evenly spread")
    places = lay_out(args.embedder(photos)[torch.from_numpy(rows)], tsne)

    def picture(at: int, side: int) -> np.ndarray:
        return thumbnail(photos.images[int(rows[at])], photos.sizes[rows[at]], side)

    title = f"{len(rows):,} photos by {'t-SNE' if tsne else 'PCA'}"
    figure, drawn = draw_map(places, picture, photos.labels[rows], photos.classes, title)
    if drawn < len(rows):
        note(f"{drawn:,} photos are drawn; the others lie where one of them lies")
    print(printable(str(save_picture(figure, Path(args.out)))))


def find_nearest(args, photos: Photos) -> None:
    """List the photos most similar to each query, which itself does not count."""
    queries, digests = read_queries(args.queries, photos, args.embedder)
    itself = [
        (query, row)
        for row, stored in enumerate(photos.digests[:])
        if stored.tobytes() in digests
        for query, digest in enumerate(digests)
        if digest == stored.tobytes()
    ]
    count = parse_count(args.count, "--count", 1)
    most = max(np.bincount([query for query, _ in itself], minlength=1))
    check_count(count, len(photos.names) - most, "photos beside the query" if most else "photos")
    never = torch.tensor(itself, device=args.embedder.device) if itself else None
    cosines, rows = nearest(args.embedder(queries), args.embedder(photos), count, never)
    found = [
        [(int(row), float(cosine)) for row, cosine in zip(*both, strict=True)]
        for both in zip(rows.cpu(), cosines.cpu(), strict=True)
    ]
    lines = [
        (query, rank, photos.names[row], f"{cosine:.4f}")
        for query, of_query in zip(args.queries, found, strict=True)
        for rank, (row, cosine) in enumerate(of_query, 1)
    ]
    write_table(args.out, ("query", "rank", "file", "similarity"), lines)
    if args.sheet:
        asked = [
            Picture(
                thumbnail(queries.images[at].cpu().numpy(), queries.sizes[at], LARGE_THUMB),
                ["query", query],
            )
            for at, query in enumerate(args.queries)
        ]
        beside = [[show(photos, row, f"{cosine:.3f}") for row, cosine in each] for each in found]
        write_sheet(args.sheet, [[one, *rest] for one, rest in zip(asked, beside, strict=True)])


def find_duplicates(args, photos: Photos) -> None:
    """List groups of the same photo."""
    if not 0 < args.agreement <= 1:
        raise UserError(f"--agreement {args.agreement:g}: give a number above 0 and up to 1")
    need(photos, 2, "duplicates")
    features, widths = args.embedder.both_ways(photos)
    groups = find_groups(photos, features, widths, args.agreement)
    lines = [
        (number, photos.names[copy.row], photos.names[copy.like], f"{copy.agreement:.3f}")
        for number, group in enumerate(groups, 1)
        for copy in group
    ]
    write_table(args.out, ("group", "file", "like", "agreement"), lines)
    say(f"{len(groups):,} groups of {len(lines):,} photos")
    if args.sheet and groups:
        rows = [[show(photos, c.row, f"{c.agreement:.3f}") for c in group] for group in groups]
        write_sheet(args.sheet, rows)
    elif args.sheet:
        note(f"there is no group to draw, so {printable(args.sheet)} is not written")


def suggest(args, photos: Photos) -> None:
    """List photos that are spread over the representation, the one of the most photos first.

    If some photos lie in class folders and others in none, those in class folders are left out.
    """
    count = parse_count(args.count, "--count", 1)
    seed = parse_count(args.seed, "--seed", 0)
    pool = np.flatnonzero(photos.labels < 0)
    if 0 < len(pool) < len(photos.names):
        left_out = len(photos.names) - len(pool)
        note(f"{left_out:,} photos that lie in class folders have a label, and are left out")
        check_count(count, len(pool), "photos without a label")
    else:
        pool = np.arange(len(photos.names))
        check_count(count, len(pool), "photos")
    rows, sizes = most_central(args.embedder(photos)[pool], count, seed)
    rows = pool[rows.cpu().numpy()]
    lines = [
        (rank, photos.names[row], size)
        for rank, (row, size) in enumerate(zip(rows.tolist(), sizes.tolist(), strict=True), 1)
    ]
    write_table(args.out, ("rank", "file", "stands_for"), lines)
    if args.sheet:
        both = zip(rows.tolist(), sizes.tolist(), strict=True)
        shown = [show(photos, row, f"for {size:,}") for row, size in both]
        write_sheet(
            args.sheet,
            [shown[at : at + MOST_COLUMNS] for at in range(0, len(shown), MOST_COLUMNS)],
        )


# ---- what they share


def read_photos(args) -> Photos:
    """Open the photos at the side that the encoder's own are stored at."""
    try:
        embedder, how = args.embedder, {"skip_broken": args.skip_broken, "progress": not silent()}
        return open_photos(args.photos, embedder.stored_side, kind=embedder.pack, **how)
    except UserError as error:  # no option is called --data here
        raise UserError(str(error).replace("--data ", "", 1)) from None


def read_queries(names: list[str], photos: Photos, embedder) -> tuple[LoosePhotos, list[bytes]]:
    """Read the photos of `names`, files or photos of `photos`, and their SHA-256 digests.

    Raises `UserError` for one that cannot be read.
    """
    images, sizes, digests = [], [], []
    known = None
    for name in names:
        path = Path(name).expanduser()
        if path.is_file():
            try:
                blob = path.read_bytes()
                pixels, *size = decode(blob, photos.shape)
            except (BadImage, OSError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UserError(
                    f"the query {name} cannot be read: {reason}; give a photo"
                ) from None
            digest = hashlib.sha256(blob).digest()
        else:
            known = known or {each: row for row, each in enumerate(photos.names)}
            if name not in known:
                raise UserError(
                    f"the query {name} is no file, and no photo of {photos.source} has this name"
                )
            row = known[name]
            pixels, size, digest = (a[row] for a in (photos.images, photos.sizes, photos.digests))
            digest = digest.tobytes()
        images.append(torch.from_numpy(pixels))
        sizes.append(size)
        digests.append(digest)
    return LoosePhotos(torch.stack(images).to(embedder.device), np.array(sizes)), digests


def import_tsne(layout: str):
    """Import scikit-learn's t-SNE; None for PCA, with a sentence if that is for lack of it."""
    tsne = None if layout == "pca" else find_tsne()
    if layout == "tsne" and tsne is None:
        raise UserError("--layout tsne needs scikit-learn: pip install scikit-learn")
    if layout == "auto" and tsne is None:
        note("PCA is used, as scikit-learn is not installed; with it t-SNE groups better")
    return tsne


def need(photos: Photos, least: int, what: str) -> None:
    """Raise `UserError` for fewer photos."""
    if len(photos.names) < least:
        raise UserError(f"{photos.source} has {len(photos.names)} photo; {what} needs {least}")


def check_count(count: int, there: int, what: str) -> None:
    """Raise `UserError` if more is asked for than is there."""
    if count > there:
        raise UserError(f"--count {count}: there are {there:,} {what}; give at most {there}")


def show(photos: Photos, row: int, caption: str) -> Picture:
    """Make the picture of a photo for a contact sheet."""
    row = int(row)
    pixels = thumbnail(photos.images[row], photos.sizes[row], LARGE_THUMB)
    return Picture(pixels, [caption, photos.names[row]])


def write_table(path: str | None, header: tuple, lines: list[tuple]) -> None:
    """Write CSV (RFC 4180, lines end with CRLF) to a file, whole or not at all, or to stdout.

    Control characters in names are written as escapes.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([printable(str(value)) for value in line] for line in lines)
    if path:
        write_atomically(path, text.getvalue().encode())
        say(printable(path))
    else:
        sys.stdout.write(text.getvalue())


def write_sheet(path: str, rows: list[list[Picture]]) -> None:
    """Draw the contact sheet, and say what is left out."""
    if len(rows) > MOST_ROWS or max(map(len, rows)) > MOST_COLUMNS:
        note(
            f"{printable(path)} shows the first {min(len(rows), MOST_ROWS)} of {len(rows):,} rows, "
            f"and {MOST_COLUMNS} photos of each at most"
        )
    say(printable(str(save_picture(draw_sheet(rows), Path(path)))))


if __name__ == "__main__":
    sys.exit(main())
