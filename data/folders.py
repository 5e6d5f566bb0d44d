"""Walk through the image files below a folder, in place."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from byol.errors import UserError, printable
from data import kinds
from data.archives import READ
from data.decode import BadImage
from data.items import STAMP_BYTES, Item, item_of, read_photo, refusal
from data.kinds import HEAD_BYTES, PassedOver, claims_photo, kind_of_file


class ListedFile(NamedTuple):
    """A file, which nobody has opened. problem: why it cannot be read; nothing if it can."""

    name: str
    path: str
    size: int
    mtime_ns: int
    problem: str = ""


@dataclass
class Listing:
    """The files below a folder that may be photos, what was passed over, folders without any.

    archives: those that can be read, by name, if no other file claims to be a photo
    """

    files: list[ListedFile] = field(default_factory=list)
    archives: list[ListedFile] = field(default_factory=list)
    passed: PassedOver = field(default_factory=PassedOver)
    empty: list[str] = field(default_factory=list)


def list_folder(root: Path, inside: str = "") -> Listing:
    """List the files below `root` that may be photos, each real file once. None is opened.

    Links are followed, to folders inside and outside of `root`. What is there without a link comes
    first, and photos of fewer folders before those of more: of two copies the first one stays.
    Names start at `root`, after `inside`: "PetImages/" gives a folder the names of its archive.
    """
    return _Lister(root, inside).list()


def list_files(paths: list[str]) -> list[ListedFile]:
    """List files that are given one by one; their names are their paths. None is opened."""
    files = []
    for path in paths:
        try:
            info = os.stat(os.path.expanduser(path))
            files.append(ListedFile(path, os.path.expanduser(path), info.st_size, info.st_mtime_ns))
        except OSError as error:
            files.append(ListedFile(path, path, 0, 0, f"cannot be read: {error.strerror}"))
    return files


class _Lister:
    def __init__(self, root: Path, inside: str):
        self.root, self.inside = os.path.realpath(root), inside
        self.found = Listing()
        self.folders: list[str] = []  # names of those walked through, "cat/"
        self.walked: set[str] = set()  # their real paths
        self.links: list[tuple[str, str]] = []  # (name, path)
        self.own: list[str] = []  # names of what this project wrote
        self.several: set[tuple[int, int]] = set()  # device and inode of files with several names

    def list(self) -> Listing:
        self.walk(self.root, self.inside)
        to_files = []
        for name, path in self.links:  # which grows meanwhile
            if os.path.isdir(path):
                self.follow(name, path)
            else:
                to_files.append((name, path))
        linked: set[str] = set()
        for name, path in to_files:
            target = os.path.realpath(path)
            listed = target in linked or os.path.dirname(target) in self.walked
            if listed and os.path.exists(target):
                self.found.passed.add(kinds.LINK, name)
            else:
                linked.add(target)
                self.add(name, path)
        self.found.files.sort(key=lambda file: file.name.count("/"))
        self.found.archives.sort()
        if any(claims_photo(file.name) for file in self.found.files):
            for archive in self.found.archives:
                self.found.passed.add(kinds.ARCHIVE, archive.name)
            self.found.archives.clear()
        self.found.empty = self.find_empty()
        return self.found

    def follow(self, name: str, path: str) -> None:
        """Walk through the folder that a link leads to, unless that would be a loop or a repeat."""
        target = os.path.realpath(path)
        around = self.root == target or self.root.startswith(target.rstrip(os.sep) + os.sep)
        if around or target in self.walked:
            self.found.passed.add(kinds.LINK, name)
        else:
            self.walk(target, f"{name}/")

    def walk(self, top: str, inside: str) -> None:
        """Walk through a real folder. inside: what its names start with."""

        def refuse(error: OSError) -> None:
            raise UserError(
                f"cannot list the folder {printable(str(error.filename))} ({error.strerror}); "
                "make it readable or move it away"
            )

        passed = self.found.passed
        for folder, folders, files in os.walk(top, onerror=refuse):
            within = os.path.relpath(folder, top).replace(os.sep, "/")
            prefix = inside if within == "." else f"{inside}{within}/"
            if folder != self.root and _is_own(files):
                passed.add(kinds.OWN_FOLDER, prefix[:-1])
                self.own.append(prefix)
                folders.clear()
                continue
            self.walked.add(folder)
            self.folders.append(prefix)
            beside = {name.lower() for name in folders}
            walk_on = []
            for name in sorted(folders):
                path = os.path.join(folder, name)
                if kind := kinds.kind_of_folder(name, os.path.basename(folder), beside):
                    passed.add(kind, prefix + name)
                elif os.path.islink(path):
                    self.links.append((prefix + name, path))
                elif path in self.walked:
                    passed.add(kinds.LINK, prefix + name)
                else:
                    walk_on.append(name)
            folders[:] = walk_on
            for name in sorted(files):
                path = os.path.join(folder, name)
                if (kind := kind_of_file(name)) == kinds.ARCHIVE and name.lower().endswith(READ):
                    self.add_archive(prefix + name, path)
                elif kind:
                    passed.add(kind, prefix + name)
                elif name in kinds.OWN_PICTURES and kinds.is_own_picture(name, _head_of(path)):
                    passed.add(kinds.OWN_PICTURE, prefix + name)
                    self.own.append(prefix + name)
                else:
                    self.add(prefix + name, path, os.lstat)

    def add_archive(self, name: str, path: str) -> None:
        """Add an archive, which may be a link to one."""
        with contextlib.suppress(OSError):  # a link to nothing
            info = os.stat(path)
            if stat.S_ISREG(info.st_mode):
                self.found.archives.append(ListedFile(name, path, info.st_size, info.st_mtime_ns))
                return
        self.found.passed.add(kinds.ARCHIVE, name)

    def add(self, name: str, path: str, look: Callable = os.stat) -> None:
        """Add a file, or put a link aside for later."""
        try:
            info = look(path)
        except OSError:
            self.found.files.append(ListedFile(name, path, 0, 0, "a link to nothing"))
            return
        if stat.S_ISLNK(info.st_mode):
            self.links.append((name, path))
        elif not stat.S_ISREG(info.st_mode):
            if claims_photo(name):
                self.found.files.append(ListedFile(name, path, 0, 0, "not a regular file"))
            else:
                self.found.passed.add(kinds.OTHER, name)
        elif info.st_nlink > 1 and (info.st_dev, info.st_ino) in self.several:
            self.found.passed.add(kinds.LINK, name)
        else:
            if info.st_nlink > 1:
                self.several.add((info.st_dev, info.st_ino))
            self.found.files.append(ListedFile(name, path, info.st_size, info.st_mtime_ns))

    def find_empty(self) -> list[str]:
        """Name the folders without any file that may be a photo, but not those inside of them.

        Those that hold what this project wrote are not meant for photos.
        """
        full = {""}
        files = [*self.found.files, *self.found.archives]
        names = [*(file.name for file in files), *self.own]
        for folder in {name[: name.rfind("/") + 1] for name in names}:
            while folder not in full:
                full.add(folder)
                folder = folder[: folder.rfind("/", 0, -1) + 1]
        empty: list[str] = []
        for folder in sorted(set(self.folders) - full):
            if not empty or not folder.startswith(empty[-1]):
                empty.append(folder)
        return [folder[:-1] for folder in empty if folder != self.inside]


def _is_own(files: list[str]) -> bool:
    """Tell by the files of a folder whether it is our run, table, pack or sorted copies."""
    if "run.lock" in files or kinds.SORTED in files:
        return True
    return "manifest.json" in files and "images.npy" in files


def _head_of(path: str) -> bytes:
    """Read the first bytes of a file; none if it cannot be read."""
    try:
        with open(path, "rb", opener=_open_now) as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def read_folder(files: list[ListedFile]) -> Iterator[Item]:
    """Walk what `list_folder` found; each file is read in the thread that decodes it."""

    def read(file: ListedFile) -> bytes:
        if file.problem:
            raise BadImage(file.problem)
        try:
            with open(file.path, "rb", opener=_open_now) as stream:
                info = os.fstat(stream.fileno())
                if not stat.S_ISREG(info.st_mode):
                    raise BadImage("not a regular file")
                return read_photo(stream, file.name, info.st_size)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError from error
            raise refusal(file.name, f"cannot be read: {error.strerror}") from error

    for file in files:
        item = item_of(file.name, functools.partial(read, file), file.size)
        yield item if file.problem else item._replace(stamp=_stamp(file))


def _stamp(file: ListedFile) -> bytes:
    about = f"{file.path}\0{file.size}\0{file.mtime_ns}"
    return hashlib.sha256(about.encode("utf-8", "surrogatepass")).digest()[:STAMP_BYTES]


def _open_now(path: str, flags: int) -> int:
    """Open without waiting: a file may have become a pipe since it was listed."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
