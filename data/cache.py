"""The cache of packs: found by a listing or by content, and which of them nobody needs any more.

A pack is a folder TITLE-KEY. The key comes from its content, so a folder that was touched or moved
finds its pack again. `listings/` in it has a file for each listing (names, sizes, times of files)
that is known to have this content: then no file has to be read. It holds what was passed over.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from byol.errors import UserError, printable
from byol.files import write_atomically
from data.items import STAMP_BYTES
from data.shards import DIGEST_BYTES
from data.stored import StoredArray

TEMPORARY = ".tmp-"
LISTINGS = "listings"
STAMPS = "stamps.npy"  # of a pack of files: the next packing reads what is new alone


# ---- packs in the cache ----


def packs_in(cache: Path) -> Iterator[Path]:
    """List the packs, whole or damaged."""
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(cache))
        yield from (
            cache / name
            for name in names
            if not name.startswith(TEMPORARY) and (cache / name / "manifest.json").is_file()
        )


def with_listing(cache: Path, listing: str) -> Iterator[tuple[Path, dict]]:
    """List the packs of which this listing is known, each with what was passed over."""
    for pack in packs_in(cache):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            passed = json.loads((pack / LISTINGS / listing).read_text(encoding="ascii"))
            if isinstance(passed, dict):
                yield pack, passed


def with_content(cache: Path, key: str) -> Iterator[Path]:
    """List the packs of this content: several if one source was packed under two titles."""
    return (pack for pack in packs_in(cache) if pack.name.endswith(f"-{key}"))


def add_listing(pack: Path, listing: str, passed: dict) -> None:
    """Note that a listing has the content of this pack, and what was passed over besides.

    Nothing is lost if that fails.
    """
    with contextlib.suppress(OSError):
        write_atomically(pack / LISTINGS / listing, json.dumps(passed).encode("ascii"))


# ---- what can be removed ----


def read_manifest(pack: Path) -> dict:
    """Read the manifest; an empty one if it is damaged."""
    try:
        manifest = json.loads((pack / "manifest.json").read_text(encoding="ascii"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def command_to_remove(packs: list[Path]) -> str:
    """Write the command that removes packs, to be pasted."""
    return "rm -r " + " ".join(printable(shlex.quote(str(pack))) for pack in packs)


def describe_size(packs: list[Path], freed: bool = False) -> str:
    """Say how much room packs take, or how much is `freed` without them: other packs have links."""
    total = 0
    for file in (file for pack in packs for file in pack.glob("*")):
        with contextlib.suppress(OSError):
            info = file.stat()
            shared = stat.S_ISREG(info.st_mode) and info.st_nlink > 1
            total += 0 if freed and shared else info.st_size
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if total >= size:
            return f"{total / size:.1f} {unit}"
    return f"{total / 1e3:.0f} kB"


# ---- photos that need not be decoded again ----


class EarlierPhotos:
    """The photos of earlier packs, as one long list, found by their digests.

    All are of one kind and stored shape. What packings that were stopped left counts as a pack.
    """

    def __init__(self, packs: list, leftovers: Sequence = ()):
        """packs: a `Photos` of each; leftovers: a `Leftover` of each."""
        self._packs, self._images = packs, [each.images for each in [*packs, *leftovers]]
        self.leftovers = leftovers
        self._ends = np.cumsum([0, *map(len, self._images)])
        digests = [pack.digests.read_all() for pack in packs]
        stamps = [_read_stamps(pack) for pack in packs]
        self._digests = _Places([*digests, *(each.digests for each in leftovers)], DIGEST_BYTES)
        self._stamps = _Places([*stamps, *(each.stamps for each in leftovers)], STAMP_BYTES)
        sizes = (each.sizes for each in [*packs, *leftovers])
        self.sizes = np.concatenate([np.empty((0, 2), np.int32), *sizes])

    def __contains__(self, digest: bytes) -> bool:
        return self.find(digest) is not None

    def find(self, digest: bytes) -> int | None:
        """Find the place of a photo in the list, if it is there."""
        return self._digests.find(digest)

    def digest_of(self, stamp: bytes) -> bytes | None:
        """Give the digest of a file that was packed with this stamp."""
        place = self._stamps.find(stamp)
        return None if place is None else self._digests.rows[place].tobytes()

    def read(self, place: int) -> tuple[np.ndarray, int, int, bytes, bytes]:
        """Read what `ShardWriter.add` takes of the photo at this place of the list."""
        pack = int(self._ends.searchsorted(place, "right")) - 1
        photo = self._images[pack].as_stored(place - int(self._ends[pack]))
        known = (column.rows[place].tobytes() for column in (self._digests, self._stamps))
        return photo, *self.sizes[place].tolist(), *known

    def link(self, places: np.ndarray, shard_rows: int, folder: Path) -> tuple[np.ndarray, int]:
        """Link whole shards, more than half of whose photos are wanted, into `folder`.

        places: int64, sorted. They become linked-0.npy and so on, and take no room. Gives the row
        in them of each place, -1 if it is in none, and how many there are.
        """
        rows, count = np.full(len(places), -1, np.int64), 0
        cuts = places.searchsorted(self._ends)
        for number, images in enumerate(self._images):
            of_pack = slice(*cuts[number : number + 2])
            shards, within = images.locate(places[of_pack] - self._ends[number])
            for shard in np.unique(shards):
                file, wanted = images.shards[shard], shards == shard
                most = len(file) == shard_rows and np.unique(within[wanted]).size > shard_rows / 2
                if most and _link(file, folder / f"linked-{count}.npy"):
                    rows[of_pack][wanted] = count * shard_rows + within[wanted]
                    count += 1
        return rows, count

    def similar_packs(self, places: np.ndarray, count: int) -> list[Path]:
        """List the packs that have nearly the photos of a new one.

        That is: more than half of their photos are among the `places`, and these are more than half
        of the `count` photos of the new one.
        """
        return [
            pack.folder
            for pack, shared in zip(self._packs, self._shared_with_each(places), strict=False)
            if shared > len(pack.digests) / 2 and shared > count / 2
        ]

    def remove_used_leftovers(self, places: np.ndarray) -> None:
        """Remove what stopped packings left, if photos of it are among the `places`."""
        of_leftovers = self._shared_with_each(places)[len(self._packs) :]
        for leftover, shared in zip(self.leftovers, of_leftovers, strict=True):
            if shared:
                shutil.rmtree(leftover.folder, ignore_errors=True)

    def _shared_with_each(self, places: np.ndarray) -> np.ndarray:
        """Count the photos of each pack, and of each leftover, that are among the `places`."""
        return np.diff(np.unique(places).searchsorted(self._ends))


class _Places:
    """Finds the place of a row of bytes among many."""

    def __init__(self, parts: list[np.ndarray], width: int):
        """parts: uint8 (N, width) each."""
        self.rows = np.concatenate([np.empty((0, width), np.uint8), *parts])
        first_bytes = np.ascontiguousarray(self.rows[:, :8]).view(np.uint64).reshape(-1)
        self._order = np.argsort(first_bytes)
        self._sorted = first_bytes[self._order]

    def find(self, row: bytes) -> int | None:
        """Give the first place of these bytes; None if they are nowhere."""
        if not len(self.rows):
            return None
        first_bytes = np.frombuffer(row, np.uint64, 1)[0]
        start, end = (self._sorted.searchsorted(first_bytes, side) for side in ("left", "right"))
        for place in self._order[start:end]:  # equal photos, so the first will do
            if self.rows[place].tobytes() == row:
                return int(place)
        return None


def _read_stamps(pack) -> np.ndarray:
    """Read the stamps of the files of a pack; zeros if it has none, as those of archives."""
    shape = len(pack.digests), STAMP_BYTES
    with contextlib.suppress(OSError, ValueError, UserError):
        return StoredArray(pack.folder / STAMPS, np.uint8, shape).read_all()
    return np.zeros(shape, np.uint8)


def _link(file: StoredArray, path: Path) -> bool:
    """Give a file that is open a second name; tells whether that worked."""
    try:
        os.link(file.path, path)
        if file.is_file(path):
            return True
        path.unlink()  # another file has taken its place
    except OSError:  # it was removed, or the disk has no links
        pass
    return False
