"""Walk through the image files of a zip or a tar, in place."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from byol.errors import UserError, printable
from data import kinds
from data.decode import BadImage
from data.items import Item, NoPhoto, Passed, item_of, read_photo, refusal
from data.kinds import kind_of_file

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
READ = ZIP_SUFFIXES + TAR_SUFFIXES
MAX_TAR_HEADER = 1_000_000  # bytes of a long name or of other notes on one member
MAX_DEPTH = 100  # folders around a file in an archive
MAX_RATIO = 1_000  # how much larger than its file a tar may become, after the first gigabyte


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
            raise refusal(name, "a link, not a file")
        if info.flag_bits & 1:
            raise refusal(name, "encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refusal(name, f"packed by method {info.compress_type}, not by deflate")
        try:
            with archive.open(info) as stream:
                return read_photo(stream, name, info.file_size)
        except (BadImage, NoPhoto, MemoryError):
            raise
        except Exception as error:  # zipfile raises many kinds for a damaged entry
            reason = str(error) or type(error).__name__
            raise refusal(name, f"damaged in the archive: {reason[:60]}") from error

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
            yield item_of(name, functools.partial(read, info, name), info.file_size)


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
            raise refusal(name, "a link or device, not a file")
        member = archive.extractfile(info)
        assert member is not None
        blob = read_photo(member, name, info.size)
    except NoPhoto as kind:
        return Passed(str(kind), name)
    except BadImage as problem:
        return item_of(name, functools.partial(_fail, str(problem)), 0)
    return item_of(name, lambda: blob, info.size)


def _fail(reason: str) -> bytes:
    raise BadImage(reason)


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error) or type(error).__name__
    return UserError(
        f"{printable(str(path))} is damaged or no archive ({printable(reason)}); "
        "copy or download it again"
    )


def _clean(name: str) -> str:
    """Clean an archive's name for display: no root, no `.` and `..`. It never becomes a path."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
