"""Decode a source once into files of raw arrays, which every later run reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from byol.errors import NO_ROOM, UserError, note, printable
from byol.files import write_file
from data.cache import (
    STAMPS,
    EarlierPhotos,
    command_to_remove,
    describe_size,
    packs_in,
    read_manifest,
    with_content,
)
from data.classes import RULES, classify
from data.deep import notes
from data.items import STAMP_BYTES, Copies, Loaded, Passed
from data.jpegs import encode
from data.kinds import COPY, IN_LABELLED, PassedOver
from data.labels import LABELLED
from data.loading import load_all
from data.photos import FILES, PACK_VERSION, Photos, key_of, open_pack, open_whole
from data.shape import describe_shape, guess_shape, stored_shape
from data.shards import (
    DIGEST_BYTES,
    JPEG,
    RAW,
    ShardWriter,
    byte_rows,
    complete,
    image_files,
    kind_of,
    remove_shards,
)
from data.sources import Source
from data.stored import write_array, write_texts
from data.temporary import find_leftovers, temporary_folder


def pack(
    found: Source, source: str, store_size: int, cache: Path, progress: bool, kind: str = RAW
) -> tuple[Path, PassedOver]:
    """Read all photos, and make a pack of them if the cache has none of this content and kind.

    It is made in a temporary folder, which is renamed when it is whole. Returns the pack, and what
    was found that is no photo.
    """
    try:
        with temporary_folder(cache) as temporary:
            return _pack_in(temporary, found, source, store_size, progress, kind)
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


def _pack_in(
    temporary: Path, found: Source, source: str, store_size: int, progress: bool, kind: str
) -> tuple[Path, PassedOver]:
    """Do as `pack` says; what is half done is in `temporary`."""
    cache = temporary.parent
    packs = list(open_whole(packs_in(cache), source, store_size, kind))
    content, earlier, writer = _read_in_shape(found, store_size, temporary, packs, progress, kind)
    for sentence in notes():
        note(sentence)
    if not content.names and not content.skipped:
        others = found.passed + content.passed
        raise UserError(
            f"--data {printable(source)} holds no images that can be read"
            f"{f', but {others}' if others else ''}; {others.remedy()}"
        )
    skipped = sorted(map("\0".join, content.skipped))
    of_kind = () if kind == RAW else (kind,)
    key = key_of(describe_shape(content.shape), content.fingerprint, *skipped, *of_kind)
    if photos := next(open_whole(with_content(cache, key), source, store_size, kind), None):
        return photos.folder, content.passed  # a listing that was not known: all is there
    final = cache / f"{found.title}-{key}"
    _fill(content, found, source, earlier, writer)
    _publish(temporary, final, source, store_size, kind)
    earlier.remove_used_leftovers(content.place_array())
    if progress:
        _tell_of_packs(final, found, content, earlier, kind)
    return final, content.passed


def _publish(temporary: Path, final: Path, source: str, store_size: int, kind: str) -> None:
    """Rename to the final place, unless another process has put a whole pack there."""
    try:
        os.rename(temporary, final)
    except OSError:
        if not final.exists():
            raise
        if open_pack(final, source, store_size, kind) is None:  # damaged: swap it out
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
    stamps: bytearray = field(default_factory=bytearray)
    places: array = field(default_factory=lambda: array("q"))  # among the earlier photos, or -1
    skipped: list[tuple[str, str]] = field(default_factory=list)
    passed: PassedOver = field(default_factory=PassedOver)
    by_name: list[int] = field(default_factory=list)
    fingerprint: str = ""

    def size_array(self) -> np.ndarray:
        """Give the sizes as int32 (N, 2)."""
        return np.array(self.sizes, np.int32).reshape(-1, 2)

    def place_array(self) -> np.ndarray:
        """Give the places as int64 (N,)."""
        return np.array(self.places, np.int64)

    def finish(self) -> None:
        """Work out `by_name` and `fingerprint`."""
        self.by_name = sorted(range(len(self.names)), key=self.names.__getitem__)
        names = "\0".join(self.names[row] for row in self.by_name)
        digests = byte_rows(self.digests, DIGEST_BYTES)[self.by_name]
        parts = names.encode("utf-8", "surrogatepass"), digests.tobytes()
        self.fingerprint = "-".join(hashlib.sha256(part).hexdigest() for part in parts)


def _read_in_shape(
    found: Source, store_size: int, folder: Path, packs: list[Photos], progress: bool, kind: str
) -> tuple[_Content, EarlierPhotos, ShardWriter]:
    """Read all files in the shape that their sizes ask for: again if the guess at it was wrong.

    Returns the earlier photos of this shape as well, and the writer that has written the others
    into `folder`.
    """
    shape = guess_shape(found, store_size)
    while True:
        leftovers = find_leftovers(folder.parent, shape, PACK_VERSION, kind)
        earlier = EarlierPhotos([pack for pack in packs if pack.shape == shape], leftovers)
        if leftovers:
            count = sum(len(leftover.images) for leftover in leftovers)
            note(f"{count:,} photos of a packing that was stopped need not be decoded again")
        notes()  # forget what was decoded before
        writer = ShardWriter(folder, shape, PACK_VERSION, kind)
        content = _read(found, shape, writer, earlier, progress)
        wanted = stored_shape(content.size_array(), store_size)
        if shape == wanted:
            return content, earlier, writer
        writer.close()
        remove_shards(folder)
        note(
            f"the first guess, {describe_shape(shape)} px, does not fit the shapes of "
            "all photos: they are decoded again"
        )
        shape = wanted


def _read(
    found: Source,
    shape: tuple[int, int],
    writer: ShardWriter,
    earlier: EarlierPhotos,
    progress: bool,
) -> _Content:
    """Read all files; decode those that are not among the `earlier` photos, and write them."""
    content, copies = _Content(shape), Copies()
    labelled: set[bytes] = set()  # digests
    jpeg = writer.kind == JPEG
    loading = load_all(found, shape, earlier, earlier.digest_of, encode if jpeg else None)
    with (
        contextlib.closing(loading) as results,
        tqdm(
            desc=f"packing {found.title} at {describe_shape(shape)} px{' as JPEG' if jpeg else ''}",
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
            else:
                place, size = -1, (result.height, result.width)
                writer.add(result.pixels, *size, result.digest, result.stamp)
            content.names.append(result.name)
            content.sizes.extend(size)
            content.digests += result.digest
            content.stamps += result.stamp or bytes(STAMP_BYTES)
            content.places.append(place)
    content.finish()
    return content


def _fill(
    content: _Content,
    found: Source,
    source: str,
    earlier: EarlierPhotos,
    writer: ShardWriter,
) -> None:
    """Complete the files of a pack beside what the writer has written, and manifest.json."""
    names, skipped, (height, width) = content.names, content.skipped, content.shape
    folder = writer.folder
    of_shards = complete(writer, content.place_array(), earlier)
    layout = classify(names)
    write_array(folder / "labels.npy", layout.labels)
    write_array(folder / "is_test.npy", layout.is_test)
    write_array(folder / "sizes.npy", content.size_array())
    write_array(folder / "digests.npy", byte_rows(content.digests, DIGEST_BYTES))
    if content.stamps.count(0) < len(content.stamps):  # archives have none
        write_array(folder / STAMPS, byte_rows(content.stamps, STAMP_BYTES))
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
        **of_shards,
        "bytes": {
            name: (folder / name).stat().st_size
            for name in dict.fromkeys((*FILES, *image_files(of_shards)))
        },
    }
    writer.forget()
    write_file(folder / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode("ascii"))


def _tell_of_packs(
    pack: Path, found: Source, content: _Content, earlier: EarlierPhotos, kind: str
) -> None:
    """Say where the packed photos lie, and which packs may be removed, with the command."""
    note(
        f"the photos are packed in {printable(str(pack))} ({describe_size([pack])}), "
        f"and stay there until you remove it: {command_to_remove([pack])}"
    )
    copied = content.place_array()
    others = set(earlier.similar_packs(copied[copied >= 0], len(copied)))
    (height, width), reshaped = content.shape, False
    for other in packs_in(pack.parent):
        manifest = read_manifest(other)
        same_place = manifest.get("place") == found.place
        same_size = manifest.get("store_size") == height and kind_of(manifest) == kind
        of_other_version = manifest.get("version", PACK_VERSION) != PACK_VERSION
        if of_other_version or (same_place and same_size):
            others.add(other)
            reshaped |= same_place and same_size and manifest.get("width", height) != width
    if reshaped and (copied < 0).all():
        note(
            f"the photos are stored at {describe_shape(content.shape)} px now, as "
            "their shapes ask for, and were all decoded anew"
        )
    if others := sorted(others - {pack}):
        what = f"{len(others)} earlier packs" if len(others) > 1 else "an earlier pack"
        note(
            f"{what} of these photos or of earlier versions ({describe_size(others, True)}) "
            f"may no longer be needed: {command_to_remove(others)}"
        )
