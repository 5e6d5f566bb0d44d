"""Decode a source once into files of raw arrays, which every later run reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
from array import array
from collections import deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from byol.errors import NO_ROOM, UserError, printable
from byol.files import same_names, same_photos, usable_cores, write_file
from data.cache import (
    DIGEST_BYTES,
    EarlierPhotos,
    add_listing,
    command_to_remove,
    describe_size,
    make_temporary,
    packs_in,
    read_manifest,
    with_content,
    with_listing,
)
from data.classes import RULES, Layout, classify, describe
from data.decode import FORMATS, BadImage
from data.deep import notes
from data.kinds import COPY, IN_LABELLED, PassedOver
from data.labels import LABELLED, digest_of, find_groups, join, read_layout, tell_of_torn_groups
from data.shape import describe_shape, guess_shape, stored_shape
from data.sources import DATA_DIR, Source, find_source
from data.stored import HEADER_BYTES, StoredArray, npy_header, read_texts, write_array, write_texts
from data.walk import Copies, Item, Loaded, NoPhoto, Passed

PACK_VERSION = 3  # raise it whenever decoding, names or the files below change
MAX_BROKEN = 0.1
NAMED = 3  # of the skipped files
MAX_THREADS = 32  # each takes memory, and only one writes
MAX_WAITING = 500_000_000  # bytes of files that are being decoded, and of what was decoded
FILES = (  # of a pack, beside manifest.json
    "images.npy",
    "labels.npy",
    "is_test.npy",
    "sizes.npy",
    "digests.npy",
    "by_name.npy",
    "names.npy",
    "names_ends.npy",
    "skipped.npy",
    "skipped_ends.npy",
    "skipped.txt",  # the same for people
)


@dataclass
class Photos:
    """All usable images of a source at one size, from its pack.

    images: uint8 (N, 3, H, W), RGB planes, read from their file row by row; if W is above H, photos
        that are taller than wide are transposed
    names: '/'-separated path of each image inside the source
    labels: int64 (N,), an index into `classes`, -1 if the image has no class
    classes: sorted class names
    is_test: bool (N,), True if the image belongs to a test split of the source
    sizes: int32 (N, 2), original height and width in pixels, upright
    skipped: (name, reason) of each file that could not be used
    source: what was asked for
    fingerprint: SHA-256 over the sorted names, "-", and SHA-256 over the digests in this order; the
        same on every machine and in every stored shape
    by_name: int64 (N,), all rows in the order of their names
    digests: uint8 (N, 32), SHA-256 of each image's file
    test_folders: the folders whose images are for the test, with their numbers
    passed: what else was found, and is no photo
    empty: folders in which there is no photo
    notes: sentences on folders that may be meant otherwise
    groups: int64 (N,), photos of one number belong together (--group-by); None without groups
    """

    images: StoredArray
    names: Sequence[str]
    labels: np.ndarray
    classes: list[str]
    is_test: np.ndarray
    sizes: np.ndarray
    skipped: Sequence[tuple[str, str]]
    source: str
    fingerprint: str
    by_name: np.ndarray
    digests: StoredArray | None = None
    test_folders: dict[str, int] = field(default_factory=dict)
    passed: PassedOver = field(default_factory=PassedOver)
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: np.ndarray | None = None
    rules: int = RULES  # by which the labels were read

    @property
    def folder(self) -> Path:
        """The folder of the pack."""
        return self.images.path.parent

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the stored photos."""
        return self.images.shape[2:]

    def describe_shape(self) -> str:
        """Write the stored shape in pixels, as "180" or "180 x 320"."""
        return describe_shape(self.shape)

    @property
    def label_digest(self) -> str:
        """A hash of all labels, which says whether they are as they were."""
        return digest_of(self)

    def describe_classes(self) -> str:
        """Write the line of a banner on classes, test folders, and what was passed over."""
        empty = f"; no photos in {printable(', '.join(self.empty[:3]))}" if self.empty else ""
        empty += f" and {len(self.empty) - 3:,} more folders" if len(self.empty) > 3 else ""
        passed = f"passed over: {self.passed}" if self.passed else "nothing passed over"
        return f"classes     {describe(self)}{empty}; {passed}"

    def describe_lack(self) -> str:
        """Say why there are fewer than two classes."""
        around = os.path.commonpath([name.rpartition("/")[0] or "." for name in self.names])
        parts = [f"{len(self.classes)} class folders"]
        if self.classes:
            parts = [f"one class alone, {printable(self.classes[0])}"]
        elif around not in ("", "."):
            parts.append(f"all of its photos are in {printable(around)}")
        if self.empty:
            parts.append(f"there are no photos in {printable(', '.join(self.empty[:3]))}")
        if self.passed:
            parts.append(f"passed over were {self.passed}")
        return "; ".join(parts)

    def is_known_as(self, fingerprint: str) -> bool:
        """Tell whether these are the photos that a run knew by this fingerprint.

        Earlier versions knew photos by their names alone.
        """
        return same_photos(fingerprint, self.fingerprint)

    def has_names_of(self, fingerprint: str) -> bool:
        """Tell whether a run knew photos of just these names, which is all that a split needs."""
        return same_names(fingerprint, self.fingerprint)


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
    progress: bool = True,
) -> Photos:
    """Open `source` (a known name, a folder or an archive), stored `store_size` pixels high.

    The stored photos are squares, or wider if many of them are long (data/shape.py). The first
    call packs them into the cache ($BYOL_CACHE, or data/packed), later ones only open the pack.
    Lines on stderr tell of skipped files, and of folders that may be meant otherwise.
    classes_at: which folder names the class, if the rules of data/classes.py do not fit.
    labelled: a second source, whose folders are the classes; its photos join those of `source`,
    which then have no label. labels_file, label_pattern: other ways to say labels (see
    data/labels.py). group_by: a pattern for the photos that belong together.

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
    cache = Path(os.environ.get("BYOL_CACHE") or DATA_DIR / "packed").expanduser().resolve()
    listing = _key(str(store_size), ",".join(FORMATS), found.identity)
    photos = _open_listed(cache, listing, source, store_size)
    if photos is None:
        pack, passed = _pack(found, source, store_size, cache, progress)
        photos = _open_pack(pack, source, store_size)
        if photos is None:
            raise UserError(
                f"the pack in {printable(str(pack))} cannot be read back; check that disk"
            )
        photos.passed = passed
        add_listing(pack, listing, passed.kinds)
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
    ways["classes_at"] = classes_at
    if photos.rules != RULES:  # a pack of an earlier version
        _take(photos, classify(list(photos.names)))
    if any(way is not None for way in ways.values()):
        _take(photos, read_layout(photos, **ways))
    if group_by is not None:
        photos.groups = find_groups(photos.names, group_by, found.joined)
        tell_of_torn_groups(photos)
    for note in photos.notes:
        _note(note)
    return photos


def _note(text: str) -> None:
    print(f"note        {text}", file=sys.stderr)


def _take(photos: Photos, layout: Layout) -> None:
    """Take labels, classes and test from a layout."""
    photos.labels, photos.classes, photos.is_test = layout.labels, layout.classes, layout.is_test
    photos.test_folders, photos.notes = layout.test_folders, layout.notes


def _key(*texts: str) -> str:
    """Make a name of a pack or of a listing, from all that decides what is in it."""
    text = "\n".join((str(PACK_VERSION), *texts))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _open_listed(cache: Path, listing: str, source: str, store_size: int) -> Photos | None:
    """Open a pack that is known to have the content of this listing; None if there is none."""
    for pack, kinds in with_listing(cache, listing):
        if photos := _open_pack(pack, source, store_size):
            photos.passed = PassedOver(kinds)
            return photos
    return None


def _open_whole(packs: Iterator[Path], source: str, store_size: int) -> Iterator[Photos]:
    """Open one after the other of the packs that are whole."""
    return filter(None, (_open_pack(pack, source, store_size) for pack in packs))


def _open_pack(folder: Path, source: str, store_size: int) -> Photos | None:
    """Open the pack in `folder`; None if there is none of this size or it is damaged."""
    try:
        manifest = read_manifest(folder)
        if (manifest["version"], manifest["store_size"]) != (PACK_VERSION, store_size):
            return None
        n = manifest["count"]
        for name in FILES:
            if (folder / name).stat().st_size != manifest["bytes"][name]:
                return None
        sizes = StoredArray(folder / "sizes.npy", np.int32, (n, 2)).read_all()
        # Earlier versions stored long photos as squares too: that is no array of this shape.
        shape = (n, 3, *stored_shape(sizes, store_size))
        return Photos(
            images=StoredArray(folder / "images.npy", np.uint8, shape),
            names=read_texts(folder, "names", n),
            labels=StoredArray(folder / "labels.npy", np.int64, (n,)).read_all(),
            classes=manifest["classes"],
            is_test=StoredArray(folder / "is_test.npy", np.bool_, (n,)).read_all(),
            sizes=sizes,
            skipped=read_texts(folder, "skipped", manifest["skipped"], 2),
            source=source,
            fingerprint=manifest["fingerprint"],
            by_name=StoredArray(folder / "by_name.npy", np.int64, (n,)).read_all(),
            digests=StoredArray(folder / "digests.npy", np.uint8, (n, DIGEST_BYTES)),
            test_folders=dict(manifest["test_folders"]),
            notes=list(manifest["notes"]),
            rules=manifest.get("rules", 1),
        )
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


# ---- packing ----


def _pack(
    found: Source, source: str, store_size: int, cache: Path, progress: bool
) -> tuple[Path, PassedOver]:
    """Read all photos, and make a pack of them if the cache has none of this content.

    It is made in a temporary folder, which is renamed when it is whole. Returns the pack, and what
    was found that is no photo.
    """
    temporary = make_temporary(cache)
    try:
        packs = list(_open_whole(packs_in(cache), source, store_size))
        path = temporary / "images.npy"
        content, earlier = _read_in_shape(found, store_size, path, packs, progress)
        for note in notes():
            _note(note)
        if not content.names and not content.skipped:
            others = found.passed + content.passed
            raise UserError(
                f"--data {printable(source)} holds no images that can be read"
                f"{f', but {others}' if others else ''}; {others.remedy()}"
            )
        skipped = sorted(map("\0".join, content.skipped))
        key = _key(describe_shape(content.shape), content.fingerprint, *skipped)
        if photos := next(_open_whole(with_content(cache, key), source, store_size), None):
            return photos.folder, content.passed  # a listing that was not known: all is there
        final = cache / f"{found.title}-{key}"
        _fill(content, found, source, earlier, temporary)
        _publish(temporary, final, source, store_size)
        if progress:
            _tell_of_packs(final, found, content, earlier)
        return final, content.passed
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"no room to pack the photos into {printable(str(cache))} ({error.strerror}); free "
            "some space there or set BYOL_CACHE to a folder on another disk"
        ) from None
    except MemoryError:
        raise UserError(
            f"too little memory to decode --data {printable(source)}; free some and run the "
            "command again, or make its largest images smaller"
        ) from None
    finally:  # nothing to do after a good rename
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, final: Path, source: str, store_size: int) -> None:
    """Rename to the final place, unless another process has put a whole pack there."""
    try:
        os.rename(temporary, final)
    except OSError:
        if not final.exists():
            raise
        if _open_pack(final, source, store_size) is None:  # damaged: swap it out
            os.rename(final, temporary.with_name(temporary.name + "-old"))
            os.rename(temporary, final)
            shutil.rmtree(temporary.with_name(temporary.name + "-old"), ignore_errors=True)


@dataclass
class _Content:
    """What a source holds, by row of the pack to be; `shape` is that of the stored photos."""

    shape: tuple[int, int]
    names: list[str] = field(default_factory=list)
    sizes: array = field(default_factory=lambda: array("i"))  # height, width, height, width, ...
    digests: bytearray = field(default_factory=bytearray)
    places: array = field(default_factory=lambda: array("q"))  # among the earlier photos, or -1
    skipped: list[tuple[str, str]] = field(default_factory=list)
    passed: PassedOver = field(default_factory=PassedOver)
    by_name: list[int] = field(default_factory=list)
    fingerprint: str = ""

    def size_array(self) -> np.ndarray:
        """Give the sizes as int32 (N, 2)."""
        return np.array(self.sizes, np.int32).reshape(-1, 2)

    def finish(self) -> None:
        """Work out `by_name` and `fingerprint`."""
        self.by_name = sorted(range(len(self.names)), key=self.names.__getitem__)
        names = "\0".join(self.names[row] for row in self.by_name)
        digests = np.frombuffer(self.digests, np.uint8).reshape(-1, DIGEST_BYTES)[self.by_name]
        parts = names.encode("utf-8", "surrogatepass"), digests.tobytes()
        self.fingerprint = "-".join(hashlib.sha256(part).hexdigest() for part in parts)


def _read_in_shape(
    found: Source, store_size: int, path: Path, packs: list[Photos], progress: bool
) -> tuple[_Content, EarlierPhotos]:
    """Read all files in the shape that their sizes ask for: again if the guess at it was wrong.

    Returns the earlier photos of this shape as well, out of the `packs`.
    """
    shape = guess_shape(found, store_size)
    while True:
        earlier = EarlierPhotos([pack for pack in packs if pack.shape == shape])
        notes()  # forget what was decoded before
        content = _read(found, shape, path, earlier, progress)
        wanted = stored_shape(content.size_array(), store_size)
        if shape == wanted:
            return content, earlier
        _note(
            f"the first guess, {describe_shape(shape)} px, does not fit the shapes of "
            "all photos: they are decoded again"
        )
        shape = wanted


def _read(
    found: Source, shape: tuple[int, int], path: Path, earlier: EarlierPhotos, progress: bool
) -> _Content:
    """Read all files; decode those that are not among the `earlier` photos into the array `path`.

    The rows of earlier photos are left as holes: nothing is written if all is there already.
    """
    content, copies, hole = _Content(shape), Copies(), True  # a hole for the header
    labelled: set[bytes] = set()  # digests
    with (
        open(path, "wb") as file,
        contextlib.closing(load_all(found, shape, earlier)) as results,
        tqdm(
            desc=f"packing {found.title} at {describe_shape(shape)} px",
            total=found.count(),
            unit=" images",
            disable=not progress,
            mininterval=0.1 if sys.stderr.isatty() else 10,
        ) as bar,
    ):
        for result in results:
            bar.update()
            if isinstance(result, Passed):
                content.passed.add(*result)
                continue
            if not isinstance(result, Loaded):
                content.skipped.append(result)
                continue
            if found.joined and result.name.startswith(LABELLED):
                labelled.add(result.digest)
            elif result.digest in labelled:  # which come first
                content.passed.add(IN_LABELLED, result.name)
                continue
            if copies.knows(result):
                content.passed.add(COPY, result.name)
                continue
            if result.pixels is None:
                place = earlier.find(result.digest)
                size = earlier.sizes[place].tolist()
                hole = True
            else:
                if hole:  # a seek costs the writer its buffer
                    file.seek(_offset(len(content.names), shape))
                file.write(result.pixels)
                place, size, hole = -1, (result.height, result.width), False
            content.names.append(result.name)
            content.sizes.extend(size)
            content.digests += result.digest
            content.places.append(place)
    content.finish()
    return content


def _offset(row: int, shape: tuple[int, int]) -> int:
    """Where a row begins in the file of the images."""
    return HEADER_BYTES + row * 3 * math.prod(shape)


def _fill(
    content: _Content,
    found: Source,
    source: str,
    earlier: EarlierPhotos,
    folder: Path,
) -> None:
    """Complete the `FILES` and manifest.json of a pack in `folder`, which has the decoded rows."""
    names, skipped, (height, width) = content.names, content.skipped, content.shape
    with open(folder / "images.npy", "r+b") as file:
        file.write(npy_header(np.uint8, (len(names), 3, height, width)))
        for row, place in enumerate(content.places):
            if place >= 0:
                file.seek(_offset(row, content.shape))
                file.write(earlier.pixels(place))
        file.flush()
        os.fsync(file.fileno())
    layout = classify(names)
    write_array(folder / "labels.npy", layout.labels)
    write_array(folder / "is_test.npy", layout.is_test)
    write_array(folder / "sizes.npy", content.size_array())
    digests = np.frombuffer(content.digests, np.uint8).reshape(-1, DIGEST_BYTES)
    write_array(folder / "digests.npy", digests)
    write_array(folder / "by_name.npy", np.array(content.by_name, np.int64))
    write_texts(folder, "names", names)
    write_texts(folder, "skipped", (text for pair in skipped for text in pair))
    lines = (f"{printable(name)}: {printable(reason)}\n" for name, reason in skipped)
    write_file(folder / "skipped.txt", "".join(lines).encode())
    manifest = {
        "version": PACK_VERSION,
        "source": source,
        "place": found.place,
        "store_size": height,
        **({} if height == width else {"width": width}),
        "count": len(names),
        "skipped": len(skipped),
        "fingerprint": content.fingerprint,
        "classes": layout.classes,
        "test_folders": layout.test_folders,
        "notes": layout.notes,
        "rules": RULES,
        "bytes": {name: (folder / name).stat().st_size for name in FILES},
    }
    write_file(folder / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode("ascii"))


def _tell_of_packs(pack: Path, found: Source, content: _Content, earlier: EarlierPhotos) -> None:
    """Say where the packed photos lie, and which packs may be removed, with the command."""
    _note(
        f"the photos are packed in {printable(str(pack))} ({describe_size([pack])}), "
        f"and stay there until you remove it: {command_to_remove([pack])}"
    )
    copied = np.array(content.places, np.int64)
    others = set(earlier.similar_packs(copied[copied >= 0], len(copied)))
    (height, width), reshaped = content.shape, False
    for other in packs_in(pack.parent):
        manifest = read_manifest(other)
        same_place = manifest.get("place") == found.place
        same_size = manifest.get("store_size") == height
        of_other_version = manifest.get("version", PACK_VERSION) != PACK_VERSION
        if of_other_version or (same_place and same_size):
            others.add(other)
            reshaped |= same_place and same_size and manifest.get("width", height) != width
    if reshaped and (copied < 0).all():
        _note(
            f"the photos are stored at {describe_shape(content.shape)} px now, as "
            "their shapes ask for, and were all decoded anew"
        )
    if others := sorted(others - {pack}):
        what = f"{len(others)} earlier packs" if len(others) > 1 else "an earlier pack"
        _note(
            f"{what} of these photos or of earlier versions ({describe_size(others)}) "
            f"may no longer be needed: {command_to_remove(others)}"
        )


def load_all(
    found: Source, shape: tuple[int, int], known: Container[bytes]
) -> Iterator[Loaded | Passed | tuple[str, str]]:
    """Decode in threads, few ahead of the writer, in the order of the source.

    Yields what was loaded, what is passed over, or (name, reason) for a file to skip. Files with a
    `known` digest are not decoded.
    """
    workers = min(usable_cores(), MAX_THREADS)
    pending: deque[tuple[int, Item, Future[Loaded]]] = deque()
    waiting = 0
    seen: set[str] = set()

    def finish() -> Loaded | Passed | tuple[str, str]:
        nonlocal waiting
        room, item, future = pending.popleft()
        waiting -= room
        problem = future.exception()
        if isinstance(problem, BadImage):  # raised here, it would keep the file's bytes for long
            return item.name, str(problem)
        if isinstance(problem, NoPhoto):
            return Passed(str(problem), item.name)
        return future.result()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for item in found.items():
            if isinstance(item, Passed):
                yield item
                continue
            if item.name in seen:
                yield item.name, "a second file of this name"
                continue
            seen.add(item.name)
            room = item.file_bytes + 3 * math.prod(shape)
            while pending and waiting + room > MAX_WAITING:
                yield finish()
            waiting += room
            try:
                pending.append((room, item, pool.submit(item.load, shape, known)))
            except RuntimeError as error:  # no memory for one more thread
                raise MemoryError from error
            if len(pending) >= 8 * workers:
                yield finish()
        while pending:
            yield finish()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
