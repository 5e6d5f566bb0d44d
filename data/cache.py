"""The cache of packs: found by a listing or by content, and which of them nobody needs any more.

A pack is a folder TITLE-KEY. The key comes from its content, so a folder that was touched or moved
finds its pack again. `listings/` in it has a file for each listing (names, sizes, times of files)
that is known to have this content: then no file has to be read. It holds what was passed over.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from byol.errors import UserError, printable
from byol.files import write_atomically

DIGEST_BYTES = 32  # of SHA-256
STALE_S = 24 * 3600
TEMPORARY = ".tmp-"
LISTINGS = "listings"


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


def make_temporary(cache: Path) -> Path:
    """Make a folder to pack in, and remove what killed packings left. Raises `UserError`."""
    temporary = cache / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        temporary.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot write to the cache folder {printable(str(cache))} ({error.strerror}); "
            "set BYOL_CACHE to a folder that you can write to"
        ) from None
    return temporary


def _remove_stale(cache: Path) -> None:
    """Remove what packings that were killed more than a day ago left behind."""
    for folder in cache.glob(TEMPORARY + "*"):
        try:
            old = time.time() - folder.stat().st_mtime > STALE_S
        except OSError:  # its owner has just removed it
            continue
        if old:
            shutil.rmtree(folder, ignore_errors=True)


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


def describe_size(packs: list[Path]) -> str:
    """Say how much room packs take."""
    total = 0
    for file in (file for pack in packs for file in pack.glob("*")):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if total >= size:
            return f"{total / size:.1f} {unit}"
    return f"{total / 1e3:.0f} kB"


# ---- photos that need not be decoded again ----


class EarlierPhotos:
    """The photos of earlier packs of one stored shape, as one long list, found by their digests."""

    def __init__(self, packs: list):
        """packs: a `Photos` of each."""
        self._packs = packs
        self._ends = np.cumsum([0, *(len(pack.digests) for pack in packs)])
        none = np.empty((0, DIGEST_BYTES), np.uint8)
        self._digests = np.concatenate([none, *(pack.digests.read_all() for pack in packs)])
        self.sizes = np.concatenate([np.empty((0, 2), np.int32), *(pack.sizes for pack in packs)])
        first_bytes = np.ascontiguousarray(self._digests[:, :8]).view(np.uint64).reshape(-1)
        self._order = np.argsort(first_bytes)
        self._sorted = first_bytes[self._order]

    def __contains__(self, digest: bytes) -> bool:
        return bool(self._packs) and self.find(digest) is not None

    def find(self, digest: bytes) -> int | None:
        """Find the place of a photo in the list, if it is there."""
        first_bytes = np.frombuffer(digest, np.uint64, 1)[0]
        start, end = (self._sorted.searchsorted(first_bytes, side) for side in ("left", "right"))
        for place in self._order[start:end]:  # equal photos, so the first will do
            if self._digests[place].tobytes() == digest:
                return int(place)
        return None

    def pixels(self, place: int) -> np.ndarray:
        """Read the stored photo, uint8 (3, H, W), at this place of the list."""
        pack = int(self._ends.searchsorted(place, "right")) - 1
        return self._packs[pack].images[place - int(self._ends[pack])]

    def similar_packs(self, places: np.ndarray, count: int) -> list[Path]:
        """List the packs that have nearly the photos of a new one.

        That is: more than half of their photos are among the `places`, and these are more than half
        of the `count` photos of the new one.
        """
        shared_with_each = np.diff(np.unique(places).searchsorted(self._ends))
        return [
            pack.folder
            for pack, shared in zip(self._packs, shared_with_each, strict=True)
            if shared > len(pack.digests) / 2 and shared > count / 2
        ]
