"""Decode a source once into files of raw arrays, which every later run reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from byol.errors import NO_ROOM, UserError, printable
from byol.files import usable_cores, write_file
from data.classes import classify, describe
from data.decode import BadImage
from data.kinds import COPY, PassedOver
from data.sources import DATA_DIR, Source, find_source
from data.stored import StoredArray, npy_header, read_texts, write_array, write_texts
from data.walk import Copies, Item, Loaded, NoPhoto, Passed

PACK_VERSION = 3  # raise it whenever decoding, names or the files below change
MAX_BROKEN = 0.1
MAX_WAITING = 500_000_000  # bytes of files that are being decoded or wait for it
STALE_S = 24 * 3600
TEMPORARY = ".tmp-"
FILES = (  # of a pack, beside manifest.json
    "images.npy",
    "labels.npy",
    "is_test.npy",
    "sizes.npy",
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

    images: uint8 (N, 3, S, S), RGB planes, read from their file row by row
    names: '/'-separated path of each image inside the source
    labels: int64 (N,), an index into `classes`, -1 if the image has no class
    classes: sorted class names
    is_test: bool (N,), True if the image belongs to a test split of the source
    sizes: int32 (N, 2), original height and width in pixels, upright
    skipped: (name, reason) of each file that could not be used
    source: what was asked for
    fingerprint: SHA-256 over the sorted names, the same on every machine
    by_name: int64 (N,), all rows in the order of their names
    test_folders: the folders whose images are for the test, with their numbers
    passed: what else was found, and is no photo
    empty: folders in which there is no photo
    notes: sentences on folders that may be meant otherwise
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
    test_folders: dict[str, int] = field(default_factory=dict)
    passed: PassedOver = field(default_factory=PassedOver)
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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
            parts = [f"one class folder, {printable(self.classes[0])}"]
        elif around not in ("", "."):
            parts.append(f"all of its photos are in {printable(around)}")
        if self.empty:
            parts.append(f"there are no photos in {printable(', '.join(self.empty[:3]))}")
        if self.passed:
            parts.append(f"passed over were {self.passed}")
        return "; ".join(parts)

    def is_known_as(self, fingerprint: str) -> bool:
        """Tell whether these are the photos that a run knew by this fingerprint."""
        return fingerprint == self.fingerprint


def open_photos(
    source: str, store_size: int, classes_at: int | None = None, *, progress: bool = True
) -> Photos:
    """Open `source` (a known name, a folder or an archive) at `store_size` pixels square.

    The first call packs it into the cache ($BYOL_CACHE, or data/packed), later ones only open
    the pack. Lines on stderr tell of skipped files, and of folders that may be meant otherwise.
    classes_at: which folder names the class, if the rules of data/classes.py do not fit. Raises
    `UserError` if the source cannot be found or used, or the cache cannot be written.
    """
    if store_size < 1:
        raise UserError(f"a store size of {store_size} pixels makes no image; give 1 or more")
    found = find_source(source, progress)
    key = f"{PACK_VERSION}\n{store_size}\n{found.identity}".encode("utf-8", "surrogatepass")
    cache = Path(os.environ.get("BYOL_CACHE") or DATA_DIR / "packed").expanduser().resolve()
    final = cache / f"{found.title}-{hashlib.sha256(key).hexdigest()[:16]}"
    photos = _open_pack(final, source, store_size)
    if photos is None:
        _pack(found, source, store_size, final, progress)
        photos = _open_pack(final, source, store_size)
        if photos is None:
            raise UserError(f"the pack in {final} cannot be read back; check that disk")
    if photos.skipped:
        count = len(photos.names) + len(photos.skipped)
        more = f"see {final / 'skipped.txt'}"
        print(
            f"skipped {len(photos.skipped):,} of {count:,} files: {_tell(photos.skipped, more)}",
            file=sys.stderr,
        )
    photos.passed, photos.empty = found.passed + photos.passed, found.empty
    if classes_at is not None:
        _take_classes(photos, classes_at)
    for note in photos.notes:
        print(f"note        {note}", file=sys.stderr)
    return photos


def _take_classes(photos: Photos, classes_at: int) -> None:
    """Take the classes from the folders of this number. Raises `UserError` if there are none."""
    layout = classify(list(photos.names), classes_at)
    if not layout.classes:
        deepest = max(name.count("/") for name in photos.names)
        raise UserError(
            f"--classes-at {classes_at}: no photo of --data {printable(photos.source)} has a class "
            f"there, and the deepest path has {deepest} folders: give another number, or auto for "
            "the rules of docs/own_photos.md"
        )
    photos.labels, photos.classes, photos.is_test = layout.labels, layout.classes, layout.is_test
    photos.test_folders, photos.notes = layout.test_folders, layout.notes


def _open_pack(folder: Path, source: str, store_size: int) -> Photos | None:
    """Open the pack in `folder`; None if there is none or it is damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="ascii"))
        n = manifest["count"]
        shape = (n, 3, store_size, store_size)
        for name in FILES:
            if (folder / name).stat().st_size != manifest["bytes"][name]:
                return None
        return Photos(
            images=StoredArray(folder / "images.npy", np.uint8, shape),
            names=read_texts(folder, "names", n),
            labels=StoredArray(folder / "labels.npy", np.int64, (n,)).read_all(),
            classes=manifest["classes"],
            is_test=StoredArray(folder / "is_test.npy", np.bool_, (n,)).read_all(),
            sizes=StoredArray(folder / "sizes.npy", np.int32, (n, 2)).read_all(),
            skipped=read_texts(folder, "skipped", manifest["skipped"], 2),
            source=source,
            fingerprint=manifest["fingerprint"],
            by_name=StoredArray(folder / "by_name.npy", np.int64, (n,)).read_all(),
            test_folders=dict(manifest["test_folders"]),
            passed=PassedOver(dict(manifest["passed"])),
            notes=list(manifest["notes"]),
        )
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def _pack(found: Source, source: str, store_size: int, final: Path, progress: bool) -> None:
    """Pack into a temporary folder beside `final` and rename it when it is whole."""
    cache = final.parent
    temporary = cache / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        temporary.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot write to the cache folder {cache} ({error.strerror}); "
            "set BYOL_CACHE to a folder that you can write to"
        ) from None
    try:
        _fill(found, source, store_size, temporary, progress)
        _publish(temporary, final, source, store_size)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"no room to pack the photos into {cache} ({error.strerror}); free some space there "
            "or set BYOL_CACHE to a folder on another disk"
        ) from None
    except MemoryError:
        raise UserError(
            f"too little memory to decode --data {source}; free some and run the command again, "
            "or make its largest images smaller"
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


def _remove_stale(cache: Path) -> None:
    """Remove what packings that were killed more than a day ago left behind."""
    for folder in cache.glob(TEMPORARY + "*"):
        try:
            old = time.time() - folder.stat().st_mtime > STALE_S
        except OSError:  # its owner has just removed it
            continue
        if old:
            shutil.rmtree(folder, ignore_errors=True)


def _fill(found: Source, source: str, store_size: int, folder: Path, progress: bool) -> None:
    """Write the `FILES` and manifest.json of `found` into `folder`."""
    names: list[str] = []
    sizes = array("i")  # height, width, height, width, ...
    skipped: list[tuple[str, str]] = []
    passed, copies = PassedOver(), Copies()
    with (
        open(folder / "images.npy", "wb") as file,
        contextlib.closing(_load_all(found, store_size)) as results,
        tqdm(
            desc=f"packing {found.title} at {store_size} px",
            total=found.count(),
            unit=" images",
            disable=not progress,
            mininterval=0.1 if sys.stderr.isatty() else 10,
        ) as bar,
    ):
        file.write(npy_header(np.uint8, (0, 3, store_size, store_size)))
        for result in results:
            bar.update()
            if isinstance(result, Passed):
                passed.add(*result)
            elif isinstance(result, Loaded) and copies.knows(result):
                passed.add(COPY, result.name)
            elif isinstance(result, Loaded):
                file.write(result.pixels)
                names.append(result.name)
                sizes.extend((result.height, result.width))
            else:
                skipped.append(result)
        file.seek(0)
        file.write(npy_header(np.uint8, (len(names), 3, store_size, store_size)))
        file.flush()
        os.fsync(file.fileno())
    if not names and not skipped:
        others = found.passed + passed
        raise UserError(
            f"--data {printable(source)} holds no images that can be read"
            f"{f', but {others}' if others else ''}; {others.remedy()}"
        )
    _refuse_broken(source, len(names), skipped)

    layout = classify(names)
    by_name = sorted(range(len(names)), key=names.__getitem__)
    joined = "\0".join(names[row] for row in by_name).encode("utf-8", "surrogatepass")
    write_array(folder / "labels.npy", layout.labels)
    write_array(folder / "is_test.npy", layout.is_test)
    write_array(folder / "sizes.npy", np.array(sizes, np.int32).reshape(-1, 2))
    write_array(folder / "by_name.npy", np.array(by_name, np.int64))
    write_texts(folder, "names", names)
    write_texts(folder, "skipped", (text for pair in skipped for text in pair))
    lines = (f"{printable(name)}: {printable(reason)}\n" for name, reason in skipped)
    write_file(folder / "skipped.txt", "".join(lines).encode())
    manifest = {
        "version": PACK_VERSION,
        "source": source,
        "identity": found.identity,
        "store_size": store_size,
        "count": len(names),
        "skipped": len(skipped),
        "fingerprint": hashlib.sha256(joined).hexdigest(),
        "classes": layout.classes,
        "test_folders": layout.test_folders,
        "notes": layout.notes,
        "passed": passed.kinds,
        "bytes": {name: (folder / name).stat().st_size for name in FILES},
    }
    write_file(folder / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode("ascii"))


def _load_all(found: Source, store_size: int) -> Iterator[Loaded | Passed | tuple[str, str]]:
    """Decode in threads, few ahead of the writer, in the order of the source.

    Yields what was loaded, what is passed over, or (name, reason) for a file to skip.
    """
    workers = usable_cores()
    pending: deque[tuple[Item, Future[Loaded]]] = deque()
    waiting = 0
    seen: set[str] = set()

    def finish() -> Loaded | Passed | tuple[str, str]:
        nonlocal waiting
        item, future = pending.popleft()
        waiting -= item.file_bytes
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
            while pending and waiting + item.file_bytes > MAX_WAITING:
                yield finish()
            waiting += item.file_bytes
            try:
                pending.append((item, pool.submit(item.load, store_size)))
            except RuntimeError as error:  # no memory for one more thread
                raise MemoryError from error
            if len(pending) >= 8 * workers:
                yield finish()
        while pending:
            yield finish()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _refuse_broken(source: str, kept: int, skipped: list[tuple[str, str]]) -> None:
    count = kept + len(skipped)
    if not kept or len(skipped) > MAX_BROKEN * count:
        raise UserError(
            f"--data {printable(source)}: {len(skipped):,} of {count:,} files cannot be used, too "
            f"many to go on; mend or remove them: {_tell(skipped, 'and so on')}"
        )


def _tell(skipped: Sequence[tuple[str, str]], more: str) -> str:
    """Name the first three skipped files with their reasons, safe to print."""
    first = ", ".join(
        f"{printable(name[:300])} ({printable(reason)})" for name, reason in skipped[:3]
    )
    return first + (f" and {len(skipped) - 3:,} more, {more}" if len(skipped) > 3 else "")
