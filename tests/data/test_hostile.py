"""Archives and folders made to do harm: refused or read; bombs are in tests/hazards/."""

import bz2
import gc
import gzip
import os
import socket
import stat
import struct
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
from broken_photos import NAMES, zip_of
from photo_files import pets, png, pngs, write_folder, write_tar, write_zip

import train_byol
from byol.errors import UserError
from data import folders, items, loading, open_photos
from data.decode import BadImage

pytestmark = pytest.mark.usefixtures("cache")


def opened(path, size=8):
    return open_photos(str(path), size, progress=False)


def refused(path, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        opened(path)
    assert str(caught.value).isprintable()


# ---- zip ----


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize("claim", [0, 1, 100, 150_000_000, 2**32 - 2])
def test_a_zip_entry_that_lies_about_its_size(tmp_path, method, claim):
    blob = png(99, 40) + bytes(20_000)
    path = zip_of(tmp_path / "a.zip", {"lie.png": blob}, method, claim)
    photos = opened(path)
    assert len(photos.names) >= len(NAMES)
    if claim < len(blob):
        assert [name for name, _ in photos.skipped] == ["lie.png"]


def test_zip_entries_that_overlap_are_refused(tmp_path):
    """Every entry of the directory points at the same packed bytes."""
    path = write_zip(tmp_path / "a.zip", {**pngs(*NAMES[:2]), "big.png": png(5, 200)})
    with zipfile.ZipFile(path, "a") as archive:
        one = archive.getinfo("big.png")
        for i in range(50):
            other = zipfile.ZipInfo(f"copy{i}.png")
            for field in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(other, field, getattr(one, field))
            archive.filelist.append(other)
        archive._didModify = True
    refused(path, "its files overlap")


def test_an_archive_in_an_archive_is_no_image(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", pets(3)).read_bytes()
    content = {**pngs(*NAMES), "inner.zip": inner, "inner.png": inner}
    for path in (write_zip(tmp_path / "a.zip", content), write_tar(tmp_path / "a.tar", content)):
        photos = opened(path)
        assert photos.skipped == [("inner.png", "not an image that can be read")]
        assert len(photos.names) == len(NAMES)


def test_a_zip_entry_without_a_name(tmp_path):
    path = write_zip(tmp_path / "a.zip", pngs(*NAMES))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("/", b"x")
    blob = path.read_bytes()
    at = blob.rfind(b"PK\x01\x02")
    header = blob[at : at + 28] + b"\0\0" + blob[at + 30 : at + 46]  # the name's length, no name
    end = bytearray(blob[at + 47 :])
    end[12:16] = struct.pack("<I", struct.unpack("<I", end[12:16])[0] - 1)
    path.write_bytes(blob[:at] + header + end)
    assert "" in zipfile.ZipFile(path).namelist()
    assert opened(path).names == NAMES


def test_few_bytes_wait_at_once(tmp_path, monkeypatch):
    """However many threads there are and however large the walk."""
    monkeypatch.setattr(loading, "usable_cores", lambda: 16)
    monkeypatch.setattr(loading, "MAX_WAITING", 40_000)
    alive, most, lock = 0, 0, threading.Lock()
    true_decode = items.decode

    def decode(blob, size):
        nonlocal alive, most
        with lock:
            alive += len(blob)
            most = max(most, alive)
        time.sleep(0.005)
        try:
            return true_decode(blob, size)
        finally:
            with lock:
                alive -= len(blob)

    monkeypatch.setattr(items, "decode", decode)
    content = {name: png(i, 60) for i, name in enumerate(NAMES)}  # 11 KB each
    assert opened(write_zip(tmp_path / "a.zip", content)).names == NAMES
    assert 20_000 < most <= 40_000
    most = 0
    monkeypatch.setattr(loading, "MAX_WAITING", 10)  # less than one: one at a time
    content = {name: png(100 + i, 60) for i, name in enumerate(NAMES)}  # none is known
    assert opened(write_tar(tmp_path / "a.tar", content)).names == NAMES
    assert 10_000 < most < 12_000


def test_a_broken_file_is_let_go_at_once(tmp_path):
    """A problem that holds itself keeps the file's bytes until the next garbage collection."""
    path = write_zip(tmp_path / "a.zip", {**pngs(*NAMES), "30.png": b"broken", "31.png": b""})
    gc.collect()
    gc.disable()
    try:
        assert len(opened(path).skipped) == 2
        assert not [thing for thing in gc.get_objects() if type(thing) is BadImage]
    finally:
        gc.enable()


# ---- tar ----


def member(name: str, kind: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(body) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


KINDS = {
    "symlink": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_a_tar_is_skipped(tmp_path, kind):
    path = write_tar(tmp_path / "a.tar", pngs(*NAMES))
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("odd.png")
        info.type = KINDS[kind]
        info.linkname = "/etc/passwd"
        archive.addfile(info)
    assert opened(path).skipped == [("odd.png", "a link or device, not a file")]


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"X"])
def test_a_tar_header_of_gigabytes_is_refused(tmp_path, kind):
    """tarfile would read a long name or notes whole: here 3 GB from 3 MB."""
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(member("0.png", tarfile.REGTYPE, png(0)) + member("n", kind, size=3 << 30))
        stream.write(bytes(1 << 20))
    refused(path, "a header of 3,221,225,472 bytes")


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_headers_on_headers_are_refused(tmp_path, kind):
    body = b"11 path=ab\n" if kind == b"x" else b"name\0"
    path = tmp_path / "a.tar"
    path.write_bytes(member("0.png", b"0", png(0)) + member("n", kind, body) * 5000 + bytes(1024))
    refused(path, "damaged")


def test_a_map_of_endless_holes_is_refused(tmp_path):
    sparse = bytearray(member("a.png", tarfile.GNUTYPE_SPARSE, size=512))
    sparse[482] = 1
    sparse[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(sparse))[0]
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(sparse) + (b"0" * 504 + b"\1" * 8) * 100)
    refused(path, "many holes")
    body = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
    path.write_bytes(member("n", b"x", body) + member("a.png", b"0", b"9999999\n" * 64) * 2)
    refused(path, "many holes")


def test_a_tar_of_ten_gigabytes_of_zeros_is_refused_at_once(tmp_path):
    """10 KB that would take a minute to skip."""
    path = tmp_path / "a.tar.bz2"
    path.write_bytes(bz2.compress(member("a.png", b"0", size=10 << 30) + bytes(10 << 20)))
    assert path.stat().st_size < 10_000
    started = time.monotonic()
    refused(path, "unpacks to over 1,000 times its size")
    assert time.monotonic() - started < 2


def test_a_negative_size_in_a_tar_is_refused(tmp_path):
    for size in (-512, -100_000):
        path = tmp_path / f"a{size}.tar"
        path.write_bytes(member("a.png", b"0", png(0), size=size) + bytes(1024))
        refused(path, "damaged|holds no images|cannot be used")


# ---- names ----

ODD_NAMES = [
    "line\nbreak",
    "bell\a and \x1b]0;title\x07 and \x1b[2J",
    "right \u202egnp.live to left",
    "isolate \u2066x\u2069, mark \u200f, zero \u200bwidth, line \u2028 end, \x9b31m",
    "x" * 251,
]


def tell_tale(text: str) -> set[str]:
    """The characters of the text that a terminal does not show as they are."""
    return {c for c in text if not c.isprintable() and c not in "\n\r"}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "not utf-8"])
@pytest.mark.parametrize("usable", [True, False])
def test_no_name_is_printed_raw(tmp_path, capfd, monkeypatch, kind, usable):
    monkeypatch.chdir(tmp_path)
    good = pngs(*(f"{i}.png" for i in range(60 if usable else 1)))
    content = {**good, **{f"{name}.png": b"no image" for name in ODD_NAMES}}
    if kind == "folder":
        path = write_folder(tmp_path / "in", content)
    elif kind == "not utf-8":
        path = write_folder(tmp_path / "in", good)
        for i in range(4):
            Path(os.fsdecode(os.fsencode(path) + b"/\xff\xfe\x9b31m%d.png" % i)).write_bytes(b"x")
    else:
        path = {"zip": write_zip, "tar": write_tar}[kind](tmp_path / f"a.{kind}", content)
    told = ""
    if usable:
        photos = opened(path)
        assert len(photos.skipped) == (4 if kind == "not utf-8" else len(ODD_NAMES))
        listed = next((tmp_path / "cache").glob("*/skipped.txt")).read_text()
        assert len(listed.splitlines()) == len(photos.skipped)
        told += listed
    else:
        assert train_byol.main(["--data", str(path), "--device", "cpu"]) == 2
    told += capfd.readouterr().err
    assert tell_tale(told) == set()
    assert "\\" in told
    assert "line\nbreak" not in told


def test_a_name_of_a_tar_may_be_long_but_its_message_is_not(tmp_path, capfd):
    path = tmp_path / "a.tar"
    content = {**pngs(*NAMES), "y" * 100_000 + ".png": b"no image"}
    opened(write_tar(path, content))
    assert len(capfd.readouterr().err) < 500


# ---- folders ----


def test_what_is_no_file_in_a_folder_is_skipped(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "in", pngs(*(f"{i}.png" for i in range(60))))
    monkeypatch.chdir(root)
    os.mkfifo("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket.jpg")
    Path("zero.jpg").symlink_to("/dev/zero")
    Path("a.jpg").symlink_to("b.jpg")
    Path("b.jpg").symlink_to("a.jpg")
    photos = opened(root)
    assert len(photos.names) == 60
    assert sorted(photos.skipped) == [
        *((name, "a link to nothing") for name in ("a.jpg", "b.jpg")),
        *((name, "not a regular file") for name in ("pipe.jpg", "socket.jpg", "zero.jpg")),
    ]


def test_files_that_change_between_listing_and_reading(tmp_path):
    root = write_folder(tmp_path / "in", pngs(*NAMES[:6]))
    listed = folders.list_folder(root).files
    (root / "0.png").unlink()
    (root / "1.png").write_bytes(png(1)[:40])
    (root / "2.png").write_bytes(b"")
    for name in ("3.png", "4.png"):
        (root / name).unlink()
    os.mkfifo(root / "3.png")  # opening it would wait for a writer
    (root / "4.png").symlink_to("/dev/zero")
    reasons = []
    for item in folders.read_folder(listed):
        try:
            assert item.load(8).pixels.shape == (3, 8, 8)
        except BadImage as problem:
            reasons.append(str(problem))
    assert reasons[0] == "cannot be read: No such file or directory"
    assert reasons[1] == "not an image that can be read"
    assert reasons[2:] == ["empty file", "not a regular file", "not a regular file"]


def test_devices_in_a_zip_are_only_bytes(tmp_path):
    path = write_zip(tmp_path / "a.zip", pngs(*NAMES))
    with zipfile.ZipFile(path, "a") as archive:
        for name, kind in (("dev.png", stat.S_IFCHR), ("pipe.png", stat.S_IFIFO)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o666) << 16
            archive.writestr(info, b"x")
    assert [name for name, _ in opened(path).skipped] == ["dev.png", "pipe.png"]
    assert {p.name for p in tmp_path.iterdir()} == {"a.zip", "cache"}
