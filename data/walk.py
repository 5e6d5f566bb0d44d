"""Walk through the image files of a folder or an archive, in place."""

from __future__ import annotations

import bz2
import errno
import functools
import gzip
import hashlib
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from byol.errors import UserError, printable
from data import kinds
from data.decode import BadImage, decode, read_size
from data.kinds import HEAD_BYTES, PHOTO, PassedOver, claims_photo, kind_of_bytes, kind_of_file

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_FILE_BYTES = 200_000_000
MAX_TAR_HEADER = 1_000_000  # bytes of a long name or of other notes on one member
MAX_DEPTH = 100  # folders around a file in an archive
MAX_RATIO = 1_000  # how much larger than its file a tar may become, after the first gigabyte


class Loaded(NamedTuple):
    """One image: its name, uint8 (3, H, W) pixels, original height and width.

    digest: SHA-256 of its file, or of what stands for it
    pixels: None if the digest was known, which leaves height and width open
    """

    name: str
    pixels: np.ndarray | None
    height: int
    width: int
    digest: bytes


class Item(NamedTuple):
    """One file of a source that may be a photo.

    `load` may run in any thread. It may raise `BadImage`, and `NoPhoto` if the first bytes are
    those of something else.

    load: takes the stored shape, and optionally the digests of what need not be decoded
    file_bytes: what its file takes in memory until the item is done with
    size: reads height and width from the header alone; None if all images are square
    read: gives the bytes of its file, if it has one
    """

    name: str
    load: Callable[..., Loaded]
    file_bytes: int = 0
    size: Callable[[], tuple[int, int]] | None = None
    read: Callable[[], bytes] | None = None


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


# ---- folders ----


class _File(NamedTuple):
    """problem: why it cannot be read; nothing if it can."""

    name: str
    path: str
    size: int
    mtime_ns: int
    problem: str = ""


@dataclass
class Listing:
    """The files below a folder that may be photos, what was passed over, folders without any."""

    files: list[_File] = field(default_factory=list)
    passed: PassedOver = field(default_factory=PassedOver)
    empty: list[str] = field(default_factory=list)


def list_folder(root: Path, inside: str = "") -> Listing:
    """List the files below `root` that may be photos, each real file once. None is opened.

    Links are followed, to folders inside and outside of `root`. What is there without a link comes
    first, and photos of fewer folders before those of more: of two copies the first one stays.
    Names start at `root`, after `inside`: "PetImages/" gives a folder the names of its archive.
    """
    return _Lister(root, inside).list()


def list_files(paths: list[str]) -> list[_File]:
    """List files that are given one by one; their names are their paths. None is opened."""
    files = []
    for path in paths:
        try:
            info = os.stat(os.path.expanduser(path))
            files.append(_File(path, os.path.expanduser(path), info.st_size, info.st_mtime_ns))
        except OSError as error:
            files.append(_File(path, path, 0, 0, f"cannot be read: {error.strerror}"))
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
                if kind := kind_of_file(name):
                    passed.add(kind, prefix + name)
                elif name in kinds.OWN_PICTURES and kinds.is_own_picture(name, _head_of(path)):
                    passed.add(kinds.OWN_PICTURE, prefix + name)
                    self.own.append(prefix + name)
                else:
                    self.add(prefix + name, path, os.lstat)

    def add(self, name: str, path: str, look: Callable = os.stat) -> None:
        """Add a file, or put a link aside for later."""
        try:
            info = look(path)
        except OSError:
            self.found.files.append(_File(name, path, 0, 0, "a link to nothing"))
            return
        if stat.S_ISLNK(info.st_mode):
            self.links.append((name, path))
        elif not stat.S_ISREG(info.st_mode):
            if claims_photo(name):
                self.found.files.append(_File(name, path, 0, 0, "not a regular file"))
            else:
                self.found.passed.add(kinds.OTHER, name)
        elif info.st_nlink > 1 and (info.st_dev, info.st_ino) in self.several:
            self.found.passed.add(kinds.LINK, name)
        else:
            if info.st_nlink > 1:
                self.several.add((info.st_dev, info.st_ino))
            self.found.files.append(_File(name, path, info.st_size, info.st_mtime_ns))

    def find_empty(self) -> list[str]:
        """Name the folders without any file that may be a photo, but not those inside of them.

        Those that hold what this project wrote are not meant for photos.
        """
        full = {""}
        names = [*(file.name for file in self.found.files), *self.own]
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


def read_folder(files: list[_File]) -> Iterator[Item]:
    """Walk what `list_folder` found; each file is read in the thread that decodes it."""

    def read(file: _File) -> bytes:
        if file.problem:
            raise BadImage(file.problem)
        try:
            with open(file.path, "rb", opener=_open_now) as stream:
                info = os.fstat(stream.fileno())
                if not stat.S_ISREG(info.st_mode):
                    raise BadImage("not a regular file")
                return _read_photo(stream, file.name, info.st_size)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError from error
            raise _refusal(file.name, f"cannot be read: {error.strerror}") from error

    for file in files:
        yield _item(file.name, functools.partial(read, file), file.size)


def _open_now(path: str, flags: int) -> int:
    """Open without waiting: a file may have become a pipe since it was listed."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# ---- archives ----


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise _damaged(path, error) from None


class _Names:
    """Tells by the names in an archive what is no photo."""

    def __init__(self):
        self._inside: dict[str, set[str]] = {"": set()}  # folder -> those in it, in lower case
        self._passed: dict[str, Passed | None] = {"": None}  # folder -> it, or one around it

    def see(self, folder: str) -> None:
        """Learn of a folder: whether another one holds masks depends on what is beside it."""
        if folder not in self._inside:
            around, _, last = folder.rpartition("/")
            self.see(around)
            self._inside[around].add(last.lower())
            self._inside[folder] = set()

    def pass_over(self, name: str) -> Passed | None:
        """Say what a file is, or a folder around it, by its name; None if it may be a photo."""
        folder, _, file = name.rpartition("/")
        if name.count("/") > MAX_DEPTH:
            return Passed(kinds.OTHER, name)
        if passed := self._pass_over_folder(folder):
            return passed
        kind = kind_of_file(file)
        return Passed(kind, name) if kind else None

    def _pass_over_folder(self, folder: str) -> Passed | None:
        if folder not in self._passed:
            self.see(folder)
            around, _, last = folder.rpartition("/")
            passed = self._pass_over_folder(around)
            if not passed:
                parent = around.rpartition("/")[2]
                kind = kinds.kind_of_folder(last, parent, self._inside[around])
                passed = Passed(kind, folder) if kind else None
            self._passed[folder] = passed
        return self._passed[folder]


def _zip_files(archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """List the files in a zip; those in fewer folders come first (see `list_folder`)."""
    files = []
    for info in archive.infolist():
        name = _clean(info.filename.replace("\\", "/"))
        if name and not info.is_dir():  # is_dir() fails on an empty name
            files.append((name, info))
    files.sort(key=lambda file: file[0].count("/"))
    return files


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, str] | Passed]:
    """Walk through the files that may be photos, and what is passed over, each folder once."""
    files, names, told = _zip_files(archive), _Names(), set()
    for name, _ in files:
        if name.count("/") <= MAX_DEPTH:
            names.see(name.rpartition("/")[0])
    for name, info in files:
        passed = names.pass_over(name)
        if not passed:
            yield info, name
        elif passed not in told:
            told.add(passed)
            yield passed


def count_zip(path: Path) -> int:
    """Count what `read_zip` gives."""
    with _open_zip(path) as archive:
        return sum(1 for _ in _zip_entries(archive))


def read_zip(path: Path) -> Iterator[Item | Passed]:
    """Walk a zip in its own order, by depth; each entry is read in the thread that decodes it."""

    def read(info: zipfile.ZipInfo, name: str) -> bytes:
        if stat.S_ISLNK(info.external_attr >> 16):
            raise _refusal(name, "a link, not a file")
        if info.flag_bits & 1:
            raise _refusal(name, "encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refusal(name, f"packed by method {info.compress_type}, not by deflate")
        try:
            with archive.open(info) as stream:
                return _read_photo(stream, name, info.file_size)
        except (BadImage, NoPhoto, MemoryError):
            raise
        except Exception as error:  # zipfile raises many kinds for a damaged entry
            reason = str(error) or type(error).__name__
            raise _refusal(name, f"damaged in the archive: {reason[:60]}") from error

    # Its reads are safe from several threads. It closes itself when the last item is gone, since
    # items are still waiting to be read when this generator ends.
    archive = _open_zip(path)
    if sum(info.compress_size for info in archive.infolist()) > path.stat().st_size:
        raise _damaged(path, zipfile.BadZipFile("its files overlap"))
    for entry in _zip_entries(archive):
        if isinstance(entry, Passed):
            yield entry
        else:
            info, name = entry
            yield _item(name, functools.partial(read, info, name), info.file_size)


class _StrictHeader(tarfile.TarInfo):
    """tarfile takes a cut or garbled header for the end of the archive; say so instead.

    It also reads long names, notes and maps of holes whole, whatever their size.
    """

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        info = super().frombuf(buf, encoding, errors)
        kind = info.type
        if kind in (b"x", b"g", b"X", b"L", b"K") and not 0 <= info.size <= MAX_TAR_HEADER:
            raise tarfile.InvalidHeaderError(f"a header of {info.size:,} bytes")
        if kind == tarfile.GNUTYPE_SPARSE and buf[482]:  # its map goes on after the header
            raise tarfile.InvalidHeaderError("a file with many holes")
        return info

    def _proc_gnusparse_10(self, *_) -> None:
        raise tarfile.InvalidHeaderError("a file with many holes")

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _open_stream(path: Path) -> IO[bytes]:
    """Open the unpacked bytes of a tar, whatever its compression; xz is unpacked in order."""
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if magic.startswith(b"\xfd7zXZ\0"):
        return lzma.open(path)
    if magic.startswith(b"BZh"):
        return bz2.open(path)
    return open(path, "rb")


TAR_ERRORS = (
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RecursionError,  # headers on headers
)


def read_tar(path: Path) -> Iterator[Item | Passed]:
    """Walk a tar in one pass, without a seek."""
    most = 1_000_000_000 + MAX_RATIO * path.stat().st_size
    names, told = _Names(), set()
    try:
        with (
            _open_stream(path) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictHeader) as archive,
        ):
            while (info := archive.next()) is not None:
                archive.members.clear()  # it keeps the headers of all
                if archive.offset > most:
                    raise tarfile.ReadError(f"it unpacks to over {MAX_RATIO:,} times its size")
                name = _clean(info.name)
                if info.isdir() or not name:
                    continue
                passed = names.pass_over(name)
                if not passed:
                    yield _tar_item(archive, info, name)
                elif passed not in told:
                    told.add(passed)
                    yield passed
    except TAR_ERRORS as error:
        raise _damaged(path, error) from None


def _tar_item(archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> Item | Passed:
    """Read one member now, since the stream moves on; its problems are raised when it is used."""
    try:
        if not info.isreg():
            raise _refusal(name, "a link or device, not a file")
        member = archive.extractfile(info)
        assert member is not None
        blob = _read_photo(member, name, info.size)
    except NoPhoto as kind:
        return Passed(str(kind), name)
    except BadImage as problem:
        return _item(name, functools.partial(_fail, str(problem)), 0)
    return _item(name, lambda: blob, info.size)


def _fail(reason: str) -> bytes:
    raise BadImage(reason)


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error) or type(error).__name__
    return UserError(
        f"{printable(str(path))} is damaged or no archive ({printable(reason)}); "
        "copy or download it again"
    )


# ---- helpers ----


def _item(name: str, read: Callable[[], bytes], file_bytes: int) -> Item:
    def load(shape: int | tuple[int, int], known: Container[bytes] = ()) -> Loaded:
        blob = read()
        digest = hashlib.sha256(blob).digest()
        if digest in known:
            return Loaded(name, None, 0, 0, digest)
        return Loaded(name, *decode(blob, shape), digest)

    held = file_bytes if file_bytes <= MAX_FILE_BYTES else 0  # else never read
    return Item(name, load, held, lambda: read_size(read()), read)


def _read_photo(stream: IO[bytes], name: str, size: int) -> bytes:
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


def _refusal(name: str, reason: str) -> BadImage | NoPhoto:
    """Make the exception for a file that cannot be looked at: who knows whether it is a photo."""
    return BadImage(reason) if claims_photo(name) else NoPhoto(kinds.OTHER)


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise BadImage(f"larger than {MAX_FILE_BYTES // 1_000_000} MB")


def _clean(name: str) -> str:
    """Clean an archive's name for display: no root, no `.` and `..`. It never becomes a path."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
