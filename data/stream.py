"""Photos of files, folders and archives, decoded one after the other. Nothing of them is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from byol.errors import UserError, printable
from data.archives import READ
from data.folders import list_files, read_folder
from data.items import Item, Loaded, Passed
from data.kinds import PassedOver
from data.loading import load_all
from data.sources import KNOWN, Source, find_source

MOST_BYTES = 200  # of a name in UTF-8; most disks take 255, and a file half-written needs more


class StreamedPhoto(NamedTuple):
    """One photo: where it is, uint8 (3, H, W) pixels, original height and width.

    path: of its file; in an archive the archive's path, then its name there
    read: gives the bytes of its file
    """

    path: str
    pixels: np.ndarray
    height: int
    width: int
    read: Callable[[], bytes]


class Stream:
    """The photos below `paths`: files, folders, archives or known data sets, in this order.

    `passed` counts what is no photo. `read` and `broken` count photos. `tell_broken` is called
    with the path and the reason of each photo that cannot be read.
    """

    def __init__(
        self, paths: list[str], shape: tuple[int, int], tell_broken: Callable[[str, str], None]
    ):
        """Look whether all is there. Raises `UserError` if not. shape: of the stored photos."""
        self.shape, self.tell_broken = shape, tell_broken
        self.passed, self.read, self.broken = PassedOver(), 0, 0
        self._sources = list(_find(paths))

    def count(self) -> int | None:
        """Count the files that may be photos; None if only reading can tell."""
        counts = [source.count() for _, source in self._sources]
        return None if None in counts else sum(counts)

    def __iter__(self) -> Iterator[StreamedPhoto]:
        """Decode in threads, few ahead. Raises `UserError` for a damaged archive."""
        for root, source in self._sources:
            self.passed += source.passed
            waiting: dict[str, Item] = {}
            noting = dataclasses.replace(
                source, items=functools.partial(_noting, source.items, waiting)
            )
            with _naming_the_argument():
                for result in load_all(noting, self.shape, ()):
                    if isinstance(result, Passed):
                        self.passed.add(result.kind, root + result.name)
                        waiting.pop(result.name, None)
                    elif isinstance(result, Loaded):
                        self.read += 1
                        # the drawings and CIFAR-10 have their full name once they are loaded
                        item = waiting.pop(result.name, None)
                        yield StreamedPhoto(
                            root + result.name, *result[1:4], item.read if item else _no_file
                        )
                    else:
                        self.broken += 1
                        self.tell_broken(root + result[0], result[1])


def _noting(items: Callable[[], Iterable], waiting: dict[str, Item]) -> Iterator[Item | Passed]:
    """Yield the items of a source, and note those that are on their way."""
    for item in items():
        if isinstance(item, Item):
            waiting.setdefault(item.name, item)
        yield item


def _no_file() -> bytes:
    raise UserError("these photos are no files that could be copied")


def _find(paths: list[str]) -> Iterator[tuple[str, Source]]:
    """Yield a source for each folder, archive or known name, and one for files in a row.

    With each comes what to put before a name in it to make a path.
    """
    files: list[str] = []
    for path in paths:
        is_file = os.path.isfile(os.path.expanduser(path))
        if is_file and not path.lower().endswith(READ):
            files.append(path)
            continue
        if files:
            yield "", _files(files)
            files = []
        with _naming_the_argument():
            source = find_source(path)
        yield ("" if path in KNOWN else path.rstrip("/") + "/"), source
    if files:
        yield "", _files(files)


def _files(paths: list[str]) -> Source:
    found = list_files(paths)
    return Source("files", "", "", lambda: len(found), lambda: read_folder(found))


@contextlib.contextmanager
def _naming_the_argument() -> Iterator[None]:
    """Take the flag of the training scripts off an error: here the photos are arguments."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).removeprefix("--data ")) from None


def safe_name(name: str) -> str:
    """Make a name for a file or folder of any text: no separator, no control character.

    It has at most `MOST_BYTES`; what is too much is cut in front of the ending.
    """
    name = printable(name.replace("/", "_").replace("\\", "_").replace(":", "_")).strip(". ")
    ending = Path(name).suffix if len(Path(name).suffix.encode()) < MOST_BYTES // 10 else ""
    stem = name.removesuffix(ending).encode()[: MOST_BYTES - len(ending.encode())]
    return stem.decode(errors="ignore") + ending or "_"


def safe_names(names: list[str]) -> list[str]:
    """Make such a name of each text, no two the same: "a/b" and "a_b" give "a_b" and "a_b-2".

    Upper and lower case count as the same, as some disks cannot tell them apart.
    """
    made: list[str] = []
    for name in map(safe_name, names):
        numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
        taken = {other.casefold() for other in made}
        made.append(next(each for each in numbered if each.casefold() not in taken))
    return made
