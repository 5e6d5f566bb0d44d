"""Open a source: find its photos, pack them if need be, and read their labels."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from byol.errors import UserError, note, printable
from byol.files import same_photos
from data.cache import add_listing, packs_in, read_manifest, with_listing
from data.classes import RULES, Layout, classify
from data.decode import FORMATS
from data.kinds import PassedOver
from data.labels import find_groups, join, read_layout, tell_of_torn_groups
from data.packing import pack
from data.photos import Photos, key_of, open_pack
from data.shards import RAW
from data.sources import DATA_DIR, Source, find_source

MAX_BROKEN = 0.1
NAMED = 3  # of the skipped files


def open_photos(
    source: str,
    store_size: int,
    classes_at: int | None = None,
    *,
    labelled: str | None = None,
    labels_file: str | None = None,
    label_pattern: str | None = None,
    group_by: str | None = None,
    skip_broken: bool = False,
    kind: str = RAW,
    progress: bool = True,
) -> Photos:
    """Open `source` (a known name, a folder or an archive), stored `store_size` pixels high.

    The stored photos are squares, or wider if many of them are long (data/shape.py). The first
    call packs them into the cache ($BYOL_CACHE, or data/packed), later ones only open the pack.
    Lines on stderr tell of skipped files, and of folders that may be meant otherwise.
    classes_at: which folder names the class, if the rules of data/classes.py do not fit.
    labelled: a second source, whose folders are the classes; its photos join those of `source`,
    which then have no label. labels_file, label_pattern: other ways to say labels (see
    data/labels.py). group_by: a pattern for the photos that belong together. kind: how the photos
    are stored, "raw", or "jpeg" (data/jpegs.py): other packs, of slightly other pixels.

    Raises `UserError` if the source cannot be found or used, if too many files are broken (not with
    `skip_broken`), if no photo has a label where the settings say, or if the cache cannot be
    written.
    """
    if store_size < 1:
        raise UserError(f"a store size of {store_size} pixels makes no image; give 1 or more")
    found = find_source(source, progress)
    if labelled is not None:
        found = join(find_source(labelled, progress, "--labelled"), found)
        source = f"{source} with --labelled {labelled}"
    cache = cache_folder()
    listing = listing_of(found, store_size, kind)
    photos = _open_listed(cache, listing, source, store_size, kind)
    if photos is None:
        folder, passed = pack(found, source, store_size, cache, progress, kind)
        photos = open_pack(folder, source, store_size, kind)
        if photos is None:
            raise UserError(
                f"the pack in {printable(str(folder))} cannot be read back; check that disk"
            )
        photos.passed = passed
        add_listing(folder, listing, passed.kinds)
    count = len(photos.names) + len(photos.skipped)
    listed = printable(str(photos.folder / "skipped.txt"))
    _refuse_broken(source, len(photos.names), photos.skipped, listed, skip_broken)
    if photos.skipped:
        more = f", see {listed}" if len(photos.skipped) > NAMED else ""
        print(
            f"skipped {len(photos.skipped):,} of {count:,} files: {_tell(photos.skipped)}{more}",
            file=sys.stderr,
        )
    photos.passed, photos.empty = found.passed + photos.passed, found.empty
    ways = {"labelled": labelled, "labels_file": labels_file, "label_pattern": label_pattern}
    _read_labels(photos, group_by, classes_at=classes_at, **ways)
    for sentence in photos.notes:
        note(sentence)
    return photos


def open_again(
    fingerprint: str,
    source: str,
    store_size: int,
    *,
    group_by: str | None = None,
    skip_broken: bool = False,
    kind: str = RAW,
    **ways,
) -> Photos:
    """Open the pack of photos that a run knew by this fingerprint, and read their labels.

    Nothing is fetched, packed or told, and the photos themselves may have moved: their pack is
    enough. The others are as of `open_photos`. Raises `UserError` if there is no such pack, or if
    no photo has a label where the settings say.
    """
    cache = cache_folder()
    packs = [(folder, read_manifest(folder)) for folder in packs_in(cache)]
    packs.sort(key=lambda pack: pack[1].get("source") != source)  # the order of its photos is known
    for folder, manifest in packs:
        if not same_photos(str(manifest.get("fingerprint")), fingerprint):
            continue
        if photos := open_pack(folder, source, store_size, kind):
            with contextlib.redirect_stderr(io.StringIO()):  # it was told when they were packed
                _read_labels(photos, group_by, **ways)
            return photos
    raise UserError(
        f"the photos of --data {printable(source)} are not in {printable(str(cache))} as the run "
        "saw them: set BYOL_CACHE to where they were packed, or run it again"
    )


def listing_of(found: Source, store_size: int, kind: str = RAW) -> str:
    """Name what is known of a source without reading it: that it has the content of a pack."""
    of_kind = () if kind == RAW else (kind,)
    return key_of(str(store_size), ",".join(FORMATS), found.identity, *of_kind)


def cache_folder() -> Path:
    """Name the folder of the packs: $BYOL_CACHE, or data/packed."""
    return Path(os.environ.get("BYOL_CACHE") or DATA_DIR / "packed").expanduser().resolve()


def _read_labels(photos: Photos, group_by: str | None, **ways) -> None:
    """Read labels and groups from where the settings say, if that is not in the pack.

    ways: as of `read_layout`. Raises `UserError` if no photo gets a label.
    """
    if photos.rules != RULES:  # a pack of an earlier version
        _take(photos, classify(list(photos.names)))
    if any(way is not None for way in ways.values()):
        _take(photos, read_layout(photos, **ways))
    if group_by is not None:
        photos.groups = find_groups(photos.names, group_by, ways.get("labelled") is not None)
        tell_of_torn_groups(photos)


def _take(photos: Photos, layout: Layout) -> None:
    """Take labels, classes and test from a layout."""
    photos.labels, photos.classes, photos.is_test = layout.labels, layout.classes, layout.is_test
    photos.test_folders, photos.notes = layout.test_folders, layout.notes


def _open_listed(
    cache: Path, listing: str, source: str, store_size: int, kind: str
) -> Photos | None:
    """Open a pack that is known to have the content of this listing; None if there is none."""
    for folder, kinds in with_listing(cache, listing):
        if photos := open_pack(folder, source, store_size, kind):
            photos.passed = PassedOver(kinds)
            return photos
    return None


def _refuse_broken(
    source: str, kept: int, skipped: Sequence[tuple[str, str]], listed: str, skip_broken: bool
) -> None:
    """Raise `UserError` if too many files cannot be used. `listed`: the file that names them."""
    count = kept + len(skipped)
    if kept and (skip_broken or len(skipped) <= MAX_BROKEN * count):
        return
    way_on = ", or go on without them by --skip-broken" if kept else ""
    raise UserError(
        f"--data {printable(source)}: {len(skipped):,} of {count:,} files cannot be used, too many "
        f"to go on: {_tell(skipped)}; {listed} lists all; mend or remove them{way_on}"
    )


def _tell(skipped: Sequence[tuple[str, str]]) -> str:
    """Name the first skipped files with their reasons, safe to print."""
    first = ", ".join(
        f"{printable(name[:300])} ({printable(reason)})" for name, reason in skipped[:NAMED]
    )
    return first + (f" and {len(skipped) - NAMED:,} more" if len(skipped) > NAMED else "")
