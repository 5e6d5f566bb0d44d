"""Walk through a folder of archives as one set: the shards of a large data set, in place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data.archives import READ, ZIP_SUFFIXES, count_zip, read_tar, read_zip
from data.classes import split_kinds
from data.folders import ListedFile
from data.items import Item, Passed, renamed

# What numbers a shard at the end of its name: "-000007", "_7", ".part3", "-00007-of-00128".
NUMBER = re.compile(r"[-_. ]*(?:part|shard)?[-_. ]*\d+(?:[-_. ]*of[-_. ]*\d+)?$", re.IGNORECASE)


def read_archives(archives: list[ListedFile]) -> Iterator[Item | Passed]:
    """Walk one archive after the other, in the order of their names.

    A photo has its name in its archive, after the folder of that archive. If the names of archives
    tell training from test, such as train-0001.tar and val-0001.tar, then their photos lie in the
    folders train and val as well. If an earlier archive has a file of the same name, then the name
    of the archive goes before that of the file: no two are taken for one.
    """
    splits = _split_folders(archives)
    earlier: set[str] = set()
    for archive in archives:
        here: set[str] = set()
        around, _, file = archive.name.rpartition("/")
        folders = [around, splits.get(_group(file), "")]
        prefix = "".join(f"{folder}/" for folder in folders if folder)
        read = read_zip if file.lower().endswith(ZIP_SUFFIXES) else read_tar
        for item in read(Path(archive.path)):
            if isinstance(item, Passed):
                yield Passed(item.kind, f"{archive.name}/{item.name}")
                continue
            name = prefix + item.name
            if name in earlier:
                inner, slash, last = name.rpartition("/")
                name = f"{inner}{slash}{_stem(file)}.{last}"
            here.add(name)
            yield item if name == item.name else renamed(item, name)
        earlier |= here


def count_archives(archives: list[ListedFile]) -> int | None:
    """Count what `read_archives` gives; None if only reading can tell."""
    if all(archive.name.lower().endswith(ZIP_SUFFIXES) for archive in archives):
        return sum(count_zip(Path(archive.path)) for archive in archives)
    return None


def _split_folders(archives: list[ListedFile]) -> dict[str, str]:
    """Give the folder of each group of archives whose name says train, test or no class."""
    groups = {_group(archive.name.rpartition("/")[2]) for archive in archives}
    return {group: group for group in split_kinds(sorted(groups - {""}))}


def _group(file: str) -> str:
    """Give the name of an archive without its number and ending: "train" of "train-0007.tar"."""
    return NUMBER.sub("", _stem(file))


def _stem(file: str) -> str:
    """Give the name of an archive without its ending."""
    lower = file.lower()
    return file[: -len(next(ending for ending in READ if lower.endswith(ending)))]
