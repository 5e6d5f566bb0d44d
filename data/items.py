"""One file of a source that may be a photo: how it is read, decoded and known again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container
from typing import IO, NamedTuple

import numpy as np

from data import kinds
from data.decode import BadImage, decode, read_size
from data.kinds import HEAD_BYTES, PHOTO, claims_photo, kind_of_bytes

MAX_FILE_BYTES = 200_000_000
STAMP_BYTES = 16


class Loaded(NamedTuple):
    """One image: its name, uint8 (3, H, W) pixels, original height and width.

    digest: SHA-256 of its file, or of what stands for it
    pixels: None if the digest was known, which leaves height and width open
    stamp: that of its `Item`
    """

    name: str
    pixels: np.ndarray | None
    height: int
    width: int
    digest: bytes
    stamp: bytes = b""


class Item(NamedTuple):
    """One file of a source that may be a photo.

    `load` may run in any thread. It may raise `BadImage`, and `NoPhoto` if the first bytes are
    those of something else.

    load: takes the stored shape, and optionally the digests of what need not be decoded
    file_bytes: what its file takes in memory until the item is done with
    size: reads height and width from the header alone; None if all images are square
    read: gives the bytes of its file, if it has one
    stamp: `STAMP_BYTES` that change with the place, the size or the time of a file on the disk
    """

    name: str
    load: Callable[..., Loaded]
    file_bytes: int = 0
    size: Callable[[], tuple[int, int]] | None = None
    read: Callable[[], bytes] | None = None
    stamp: bytes = b""


class Passed(NamedTuple):
    """A file or folder of a source that is no photo: what it is (see data/kinds.py), its name."""

    kind: str
    name: str


class NoPhoto(Exception):
    """This file is no photo, and does not claim to be one. The text says what it is."""


class Copies:
    """Knows a file again that lies in another place with its name, folder name and bytes.

    Some archives hold their whole tree twice. Photos that are alike under other names are left
    alone.
    """

    def __init__(self):
        self._seen: set[bytes] = set()

    def knows(self, loaded: Loaded) -> bool:
        """Tell whether this is a copy of an image that was asked about before."""
        tail = "/".join(loaded.name.split("/")[-2:]).casefold()
        key = hashlib.sha256(loaded.digest + tail.encode("utf-8", "surrogatepass")).digest()[:16]
        known = key in self._seen
        self._seen.add(key)
        return known


def item_of(name: str, read: Callable[[], bytes], file_bytes: int) -> Item:
    def load(shape: int | tuple[int, int], known: Container[bytes] = ()) -> Loaded:
        blob = read()
        digest = hashlib.sha256(blob).digest()
        if digest in known:
            return Loaded(name, None, 0, 0, digest)
        return Loaded(name, *decode(blob, shape), digest)

    held = file_bytes if file_bytes <= MAX_FILE_BYTES else 0  # else never read
    return Item(name, load, held, lambda: read_size(read()), read)


def renamed(item: Item, name: str) -> Item:
    """Give the same file under another name."""

    def load(*args) -> Loaded:
        return item.load(*args)._replace(name=name)

    return item._replace(name=name, load=load)


def read_photo(stream: IO[bytes], name: str, size: int) -> bytes:
    """Read an open file, no more than the `size` that it claims and one byte.

    Raises `NoPhoto` if its first bytes are those of something else, and its ending is no photo's.
    """
    if not claims_photo(name):
        kind = kind_of_bytes(stream.peek(HEAD_BYTES)[:HEAD_BYTES])
        if kind != PHOTO:
            raise NoPhoto(kind)
    _check_size(size)
    blob = stream.read(min(size, MAX_FILE_BYTES) + 1)
    _check_size(len(blob))
    if kinds.is_own_picture(name, blob[:HEAD_BYTES]):
        raise NoPhoto(kinds.OWN_PICTURE)
    return blob


def refusal(name: str, reason: str) -> BadImage | NoPhoto:
    """Make the exception for a file that cannot be looked at: who knows whether it is a photo."""
    return BadImage(reason) if claims_photo(name) else NoPhoto(kinds.OTHER)


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise BadImage(f"larger than {MAX_FILE_BYTES // 1_000_000} MB")
