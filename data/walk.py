"""Walk through the image files of a folder or an archive, in place."""

from __future__ import annotations

import bz2
import errno
import functools
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from byol.errors import UserError, printable
from data.decode import BadImage, decode

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
NOT_READ = (".heic", ".heif", ".avif")  # told of as files that could not be used
ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_FILE_BYTES = 200_000_000
MAX_TAR_HEADER = 1_000_000  # bytes of a long name or of other notes on one member
MAX_RATIO = 1_000  # how much larger than its file a tar may become, after the first gigabyte


class Loaded(NamedTuple):
    """One decoded image: its name, uint8 (3, S, S) pixels, original height and width."""

    name: str
    pixels: np.ndarray
    height: int
    width: int


class Item(NamedTuple):
    """One image of a source. `load(size)` may run in any thread and may raise `BadImage`.

    file_bytes: what its file takes in memory until the item is done with
    """

    name: str
    load: Callable[[int], Loaded]
    file_bytes: int = 0


# ---- folders ----


class _File(NamedTuple):
    name: str
    path: str
    size: int
    mtime_ns: int
    regular: bool


def walk_folder(root: Path, inside: str = "") -> Iterator[_File]:
    """List the image files below `root`, sorted; links to folders are not followed (no loops).

    Names start at `root`, after `inside`: "PetImages/" gives a folder the names of its archive.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"--data: cannot list {printable(str(error.filename))} ({error.strerror}); "
            "make it readable or move it away"
        )

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = inside if within == "." else f"{inside}{within}/"
        for file in sorted(files):
            path = os.path.join(folder, file)
            name = prefix + file
            if not _is_image(name):
                continue
            try:
                info = os.stat(path)
            except OSError:  # a broken link
                yield _File(name, path, 0, 0, False)
            else:
                regular = stat.S_ISREG(info.st_mode)
                yield _File(name, path, info.st_size, info.st_mtime_ns, regular)


def read_folder(files: list[_File]) -> Iterator[Item]:
    """Walk what `walk_folder` found; each file is read in the thread that decodes it."""

    def read(file: _File) -> bytes:
        if not file.regular:
            raise BadImage("not a regular file")
        _check_size(file.size)
        try:
            with open(file.path, "rb", opener=_open_now) as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise BadImage("not a regular file")
                return stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError from error
            raise BadImage(f"cannot be read: {error.strerror}") from error

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


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    for info in archive.infolist():
        name = _clean(info.filename.replace("\\", "/"))
        if _is_image(name) and not info.is_dir():  # is_dir() fails on an empty name
            yield name, info


def count_zip(path: Path) -> int:
    """Count the image files that the archive lists."""
    with _open_zip(path) as archive:
        return sum(1 for _ in _zip_entries(archive))


def read_zip(path: Path) -> Iterator[Item]:
    """Walk a zip in its own order; each entry is read in the thread that decodes it."""

    def read(info: zipfile.ZipInfo) -> bytes:
        if stat.S_ISLNK(info.external_attr >> 16):
            raise BadImage("a link, not a file")
        if info.flag_bits & 1:
            raise BadImage("encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadImage(f"packed by method {info.compress_type}, not by deflate")
        _check_size(info.file_size)
        try:
            with archive.open(info) as stream:  # no more than it claims, whatever it holds
                return stream.read(info.file_size + 1)
        except MemoryError:
            raise
        except Exception as error:  # zipfile raises many kinds for a damaged entry
            reason = str(error) or type(error).__name__
            raise BadImage(f"damaged in the archive: {reason[:60]}") from error

    # Its reads are safe from several threads. It closes itself when the last item is gone, since
    # items are still waiting to be read when this generator ends.
    archive = _open_zip(path)
    if sum(info.compress_size for info in archive.infolist()) > path.stat().st_size:
        raise _damaged(path, zipfile.BadZipFile("its files overlap"))
    for name, info in _zip_entries(archive):
        yield _item(name, functools.partial(read, info), info.file_size)


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


def read_tar(path: Path) -> Iterator[Item]:
    """Walk a tar in one pass, without a seek."""
    most = 1_000_000_000 + MAX_RATIO * path.stat().st_size
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
                if info.isdir() or not _is_image(name):
                    continue
                yield _item(name, _tar_read(archive, info), info.size)
    except TAR_ERRORS as error:
        raise _damaged(path, error) from None


def _tar_read(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], bytes]:
    """Read one member now, since the stream moves on; its problems are raised when it is used."""
    try:
        if not info.isreg():
            raise BadImage("a link or device, not a file")
        _check_size(info.size)
    except BadImage as problem:
        return functools.partial(_fail, str(problem))
    member = archive.extractfile(info)
    assert member is not None
    blob = member.read(MAX_FILE_BYTES + 1)
    return lambda: blob


def _fail(reason: str) -> bytes:
    raise BadImage(reason)


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error) or type(error).__name__
    return UserError(
        f"--data {printable(str(path))} is damaged or no archive ({printable(reason)}); "
        "copy or download it again"
    )


# ---- helpers ----


def _item(name: str, read: Callable[[], bytes], file_bytes: int) -> Item:
    def load(size: int) -> Loaded:
        blob = read()
        _check_size(len(blob))
        return Loaded(name, *decode(blob, size))

    return Item(name, load, file_bytes if file_bytes <= MAX_FILE_BYTES else 0)  # else never read


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise BadImage(f"larger than {MAX_FILE_BYTES // 1_000_000} MB")


def _clean(name: str) -> str:
    """Clean an archive's name for display: no root, no `.` and `..`. It never becomes a path."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _is_image(name: str) -> bool:
    """By its suffix; hidden files and macOS's shadow folder do not count."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and parts[-1].lower().endswith(IMAGE_SUFFIXES + NOT_READ)
