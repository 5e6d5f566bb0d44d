"""Packing once, opening again, and what goes wrong in between."""

import dataclasses
import errno
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from photo_files import pets, png, pngs, write_folder, write_tar, write_zip
from PIL import Image

from byol.errors import UserError
from data import open_photos, opening, packing, sources
from data.cache import LISTINGS, TEMPORARY
from data.decode import decode
from data.photos import FILES, PACK_VERSION
from data.stored import npy_header, write_array, write_texts
from data.temporary import STALE_S


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / "pets.zip", pets(10))


@pytest.fixture
def packings(monkeypatch):
    """Counts how often something is packed."""
    done = []
    fill = packing._fill
    monkeypatch.setattr(packing, "_fill", lambda *args: (done.append(1), fill(*args))[1])
    return done


def opened(path, size=8):
    return open_photos(str(path), size, progress=False)


def test_a_pack_holds_what_decoding_gives(cache, tmp_path):
    content = pets(4)
    photos = opened(write_zip(tmp_path / "pets.zip", content), size=6)
    assert photos.images.shape == (8, 3, 6, 6)
    assert photos.images.dtype == np.uint8
    assert photos.names == list(content)
    for row, blob in enumerate(content.values()):
        np.testing.assert_array_equal(photos.images[row], decode(blob, 6)[0])
    assert photos.labels.dtype == np.int64
    assert photos.labels.tolist() == [0] * 4 + [1] * 4
    assert photos.classes == ["Cat", "Dog"]
    assert photos.is_test.dtype == bool
    assert photos.sizes.dtype == np.int32
    assert photos.sizes.tolist() == [[8, 8]] * 8
    assert photos.source == str(tmp_path / "pets.zip")
    images = np.load(next(cache.iterdir()) / "images.npy")  # a plain .npy to everyone else
    np.testing.assert_array_equal(images, photos.images[:])


def test_the_second_opening_packs_nothing(cache, archive, packings):
    first, second = opened(archive), opened(archive)
    assert len(packings) == 1
    np.testing.assert_array_equal(first.images[:], second.images[:])
    assert (first.names, first.fingerprint) == (second.names, second.fingerprint)


def test_a_change_packs_anew(cache, archive, packings, monkeypatch):
    opened(archive)
    opened(archive, size=9)
    assert len(packings) == 2
    write_zip(archive, pets(11))
    assert len(opened(archive).names) == 22
    assert len(packings) == 3
    for module in ("photos", "packing"):
        monkeypatch.setattr(f"data.{module}.PACK_VERSION", PACK_VERSION + 1)
    opened(archive)
    assert len(packings) == 4


def test_a_changed_folder_packs_anew(cache, tmp_path, packings):
    root = write_folder(tmp_path / "in", pets(5))
    opened(root)
    (root / "PetImages/Cat/more.png").write_bytes(png(77))
    assert len(opened(root).names) == 11
    (root / "PetImages/Cat/more.png").unlink()
    assert len(opened(root).names) == 10  # the first pack still fits
    assert len(packings) == 2


def sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_fingerprint_is_of_names_and_content(cache, tmp_path):
    content = pets(3)
    one = opened(write_zip(tmp_path / "a.zip", content))
    names = sorted(content)
    digests = [hashlib.sha256(content[name]).digest() for name in names]
    assert one.fingerprint == f"{sha256(chr(0).join(names).encode())}-{sha256(*digests)}"
    turned = dict(reversed(content.items()))
    for same in (
        opened(write_zip(tmp_path / "b.zip", turned), size=5),
        opened(write_folder(tmp_path / "d", content)),
        opened(write_tar(tmp_path / "e.tar.gz", content), size=9),
    ):
        assert same.fingerprint == one.fingerprint
        assert one.is_known_as(same.fingerprint)
    replaced = opened(
        write_zip(tmp_path / "f.zip", dict(zip(content, turned.values(), strict=True)))
    )
    assert not one.is_known_as(replaced.fingerprint)
    assert one.has_names_of(replaced.fingerprint)
    more = opened(write_zip(tmp_path / "c.zip", pets(4)))
    assert not one.is_known_as(more.fingerprint)
    assert not one.has_names_of(more.fingerprint)


def test_what_an_earlier_version_knew_is_known_again(cache, archive):
    photos = opened(archive)
    earlier = sha256("\0".join(sorted(pets(10))).encode())  # the names were all that it looked at
    assert photos.is_known_as(earlier)
    assert photos.has_names_of(earlier)
    assert not photos.is_known_as(sha256(b"other names"))


@pytest.mark.parametrize("source", ["cartoons", "cifar10"])
def test_the_fingerprint_of_images_without_files(cache, monkeypatch, source):
    """It does not depend on the stored side, and on the pixels if they come from elsewhere."""
    found = sources.find_source(source)

    def first_ten():
        return itertools.islice(found.items(), 10)

    few = dataclasses.replace(found, count=lambda: 10, items=first_ten)
    monkeypatch.setattr(opening, "find_source", lambda *_: few)
    if source == "cifar10":
        pixels = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
        part = types.SimpleNamespace(data=pixels, targets=[0] * 10, classes=["cat"])
        stub = types.SimpleNamespace(CIFAR10=lambda *_, **__: part)  # the real one imports torch
        monkeypatch.setitem(sys.modules, "torchvision", stub)
        monkeypatch.setitem(sys.modules, "torchvision.datasets", stub)
    one, other = opened(source, 40), opened(source, 48)
    assert one.fingerprint == other.fingerprint
    assert len({one.digests[row].tobytes() for row in range(10)}) == 10
    if source == "cifar10":
        assert one.digests[3].tobytes() == hashlib.sha256(pixels[3].tobytes()).digest()


# ---- packs by content ----


@pytest.fixture
def decoded(monkeypatch):
    """Counts the files that are decoded."""
    done = []
    monkeypatch.setattr("data.items.decode", lambda *args: (done.append(1), decode(*args))[1])
    return done


@pytest.fixture
def readings(monkeypatch):
    """Counts how often all files are read."""
    done, read = [], packing._read
    monkeypatch.setattr(packing, "_read", lambda *args: (done.append(1), read(*args))[1])
    return done


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "in", pets(10))


def is_as_if_decoded(photos, content, size=8):
    assert sorted(photos.names) == sorted(content)
    for row, name in enumerate(photos.names):
        pixels, *height_and_width = decode(content[name], size)
        np.testing.assert_array_equal(photos.images[row], pixels)
        assert photos.sizes[row].tolist() == height_and_width


def test_touched_photos_need_no_new_pack(cache, folder, packings, decoded):
    one = opened(folder)
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    two = opened(folder)
    assert two.folder == one.folder
    assert (len(packings), len(decoded)) == (1, 20)


@pytest.mark.parametrize("write", [write_zip, write_tar, write_folder])
def test_moved_photos_need_no_new_pack(cache, tmp_path, packings, decoded, write):
    """Whatever they are in."""
    one = opened(write_folder(tmp_path / "in", pets(10)))
    (tmp_path / "in").rename(tmp_path / "moved")
    other = {write_zip: "in.zip", write_tar: "in.tar", write_folder: "elsewhere"}[write]
    for place in (tmp_path / "moved", write(tmp_path / other, pets(10))):
        again = opened(place)
        assert again.folder == one.folder
        assert again.source == str(place)
    assert (len(packings), len(decoded)) == (1, 20)


def test_a_listing_that_is_known_reads_no_file(cache, folder, readings):
    opened(folder)
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    assert opened(folder).folder == opened(folder).folder
    assert len(readings) == 2


def test_what_was_passed_over_belongs_to_the_listing(cache, tmp_path, packings, readings):
    """Not to the pack, which photos in company of other files share."""
    content = pets(10)
    of_folder = write_folder(tmp_path / "in", content | {"clip.mp4": b"x"})
    alone = write_zip(tmp_path / "alone.zip", content)
    beside = write_zip(tmp_path / "beside.zip", content | {"NOTES": b"hello", "a.py": b"x"})
    told = {of_folder: "1 video (clip.mp4)", alone: "", beside: "2 text files (a.py, NOTES)"}
    for _ in range(2):
        for path, passed in told.items():
            assert str(opened(path).passed) == passed
    assert (len(packings), len(readings)) == (1, 3)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_listing_that_is_damaged_is_made_again(cache, folder, packings, readings, content):
    (listing,) = (opened(folder).folder / LISTINGS).iterdir()
    whole = listing.read_bytes()
    listing.write_bytes(content)
    opened(folder)
    assert listing.read_bytes() == whole
    assert (len(packings), len(readings)) == (1, 2)


def test_a_copy_is_passed_over_also_if_it_need_not_be_decoded(cache, tmp_path, decoded):
    content = pets(4)
    twice = content | {f"again/{name}": blob for name, blob in content.items()}
    first = opened(write_zip(tmp_path / "one.zip", content))
    both = opened(write_zip(tmp_path / "two.zip", twice))
    assert (both.folder, len(decoded)) == (first.folder, 8)
    assert both.passed.kinds["copy of a photo"][0] == 8


def test_only_new_photos_are_decoded(cache, tmp_path, packings, decoded, capsys):
    content = pets(10)
    folder = write_folder(tmp_path / "in", content)
    opened(folder)
    (folder / "PetImages/Cat/3.png").unlink()
    (folder / "PetImages/Cat/4.png").rename(folder / "PetImages/Dog/0.jpg")
    (folder / "PetImages/Dog/5.png").write_bytes(png(501, size=11))
    (folder / "PetImages/Fox").mkdir()
    (folder / "PetImages/Fox/1.png").write_bytes(png(502, size=7))
    content["PetImages/Dog/0.jpg"] = content.pop("PetImages/Cat/4.png")
    del content["PetImages/Cat/3.png"]
    content |= {"PetImages/Dog/5.png": png(501, size=11), "PetImages/Fox/1.png": png(502, size=7)}
    assert len(decoded) == 20
    photos = opened(folder)
    assert (len(packings), len(decoded)) == (2, 22)
    is_as_if_decoded(photos, content)
    assert photos.classes == ["Cat", "Dog", "Fox"]
    assert np.load(photos.folder / "images.npy").shape == (20, 3, 8, 8)
    opened(folder, size=9)  # of another size: all anew
    assert len(decoded) == 42


def test_photos_come_from_several_packs(cache, tmp_path, decoded):
    content = pngs(*(f"{i}.png" for i in range(30)))
    some = dict(itertools.islice(content.items(), 12))
    others = {name: content[name] for name in content if name not in some and name != "7.png"}
    opened(write_zip(tmp_path / "some.zip", some))
    opened(write_zip(tmp_path / "others.zip", others))
    assert len(decoded) == 30
    turned = dict(reversed(content.items())) | {"copy.png": content["3.png"], "x.jpg": b""}
    photos = opened(write_zip(tmp_path / "all.zip", turned))
    assert len(decoded) == 31  # the broken one is tried again
    is_as_if_decoded(photos, {name: blob for name, blob in turned.items() if blob})
    assert photos.skipped == [("x.jpg", "empty file")]


def test_mended_photos_are_taken(cache, tmp_path, decoded):
    content = pngs(*(f"{i}.png" for i in range(20)))
    folder = write_folder(tmp_path / "in", content | {"5.png": b"broken"})
    assert len(opened(folder).names) == 19
    (folder / "5.png").write_bytes(content["5.png"])
    is_as_if_decoded(opened(folder), content)
    assert len(decoded) == 21


def test_replaced_photos_are_packed_anew(cache, folder, decoded):
    one = opened(folder)
    for seed, path in enumerate(sorted(folder.rglob("*.png"))):
        path.write_bytes(png(700 + seed))
    two = opened(folder)
    assert two.names == one.names
    assert not one.is_known_as(two.fingerprint)
    assert len(decoded) == 40
    assert (two.images[:] != one.images[:]).any((1, 2, 3)).all()


def test_other_formats_are_looked_for_in_the_files(cache, folder, monkeypatch, packings, readings):
    """Such as HEIC, once its plug-in is installed."""
    opened(folder)
    monkeypatch.setattr("data.opening.FORMATS", [*opening.FORMATS, "NEW"])
    opened(folder)
    assert (len(packings), len(readings)) == (1, 2)


def test_a_pack_is_named_with_the_command_that_removes_it(cache, tmp_path, capsys, monkeypatch):
    folder = write_folder(tmp_path / "in", pets(10))
    one = open_photos(str(folder), 8)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert len(notes) == 1
    assert f"packed in {one.folder} (" in notes[0]
    assert "stay there until you remove it" in notes[0]
    open_photos(str(folder), 8)
    assert "note" not in capsys.readouterr().err  # it is said once

    (folder / "PetImages/Cat/more.png").write_bytes(png(77))
    two = open_photos(str(folder), 8)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert len(notes) == 2
    size = sum(file.stat().st_size for file in one.folder.iterdir())
    assert (
        f"an earlier pack of these photos or of earlier versions ({size / 1000:.0f} kB)" in notes[1]
    )
    subprocess.run(shlex.split(notes[1].split(": ")[1]), check=True)
    assert not one.folder.exists()
    assert open_photos(str(folder), 8).folder == two.folder


def test_which_packs_may_be_removed(cache, tmp_path, capsys, monkeypatch):
    def removable(path, size=8) -> list[Path]:
        open_photos(str(path), size)
        notes = [line for line in capsys.readouterr().err.splitlines() if "may no longer" in line]
        return [Path(p) for note in notes for p in shlex.split(note.split(": ")[1])[2:]]

    content = pets(20)
    half = write_zip(tmp_path / "half.zip", dict(itertools.islice(content.items(), 20)))
    whole = write_folder(tmp_path / "whole's folder", content)
    of_half = opened(half).folder
    assert removable(whole) == []  # the half of it may be in use
    assert removable(whole, size=9) == []
    of_whole = opened(whole).folder
    whole.rename(tmp_path / "moved")
    (tmp_path / "moved/PetImages/Dog/1.png").unlink()
    assert removable(tmp_path / "moved") == [of_whole]  # nearly the same photos
    shutil.rmtree(of_whole)
    for seed, path in enumerate((tmp_path / "moved").rglob("*.png")):
        path.write_bytes(png(900 + seed))
    shared_nothing = removable(tmp_path / "moved")
    assert len(shared_nothing) == 1  # that of the same folder
    shutil.rmtree(shared_nothing[0])
    for module in ("photos", "packing"):
        monkeypatch.setattr(f"data.{module}.PACK_VERSION", PACK_VERSION + 1)
    assert of_half in removable(tmp_path / "moved")  # nobody reads it any more
    (cache / "mine").mkdir()
    (cache / "mine/manifest.json").write_text('{"name": "of another program"}')
    assert cache / "mine" not in removable(write_zip(tmp_path / "b.zip", pets(2)))


def test_an_earlier_pack_that_is_damaged_gives_nothing(cache, folder, packings, decoded):
    (folder / "PetImages/Cat/more.png").write_bytes(png(77))
    one = opened(folder)
    (folder / "PetImages/Cat/more.png").unlink()
    os.truncate(one.folder / "digests.npy", 300)
    is_as_if_decoded(opened(folder), pets(10))
    assert len(decoded) == 41


def test_a_cache_that_may_only_be_read(cache, folder, monkeypatch):
    """A listing that cannot be added costs time only."""
    one = opened(folder)
    (one.folder / "listings").rename(one.folder / "gone")
    monkeypatch.setattr(Path, "touch", lambda *_: os.open("/proc/nowhere", os.O_WRONLY))
    assert opened(folder).folder == one.folder


def test_skipped_files_are_told_at_each_opening(cache, tmp_path, capsys):
    content = {**pngs(*(f"{i}.png" for i in range(60))), "x.jpg": b"", "y.jpg": b"text"}
    path = write_zip(tmp_path / "a.zip", content)
    for _ in range(2):
        photos = opened(path)
        assert photos.skipped == [
            ("x.jpg", "empty file"),
            ("y.jpg", "not an image that can be read"),
        ]
        assert len(photos.names) == len(photos.images) == 60
        told = capsys.readouterr().err
        assert told.startswith("skipped 2 of 62 files: x.jpg (empty file), y.jpg (not an image")
        assert told.count("\n") == 1


def test_photos_of_telephones_are_not_passed_over_in_silence(cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data.decode.FORMATS", ["PNG"])  # pillow-heif may be installed
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    content = pngs(*(f"{n}.png" for n in range(20))) | {"IMG_1.HEIC": heic, "note.txt": b"hello"}
    for source in (
        write_folder(tmp_path / "photos", content),
        write_zip(tmp_path / "p.zip", content),
    ):
        photos = open_photos(str(source), 8)
        assert [name for name, _ in photos.skipped] == ["IMG_1.HEIC"]
        said = capsys.readouterr().err
        assert "skipped 1 of 21 files: IMG_1.HEIC (HEIC needs pillow-heif: pip install" in said


def test_stretched_photos_are_told_of_once_for_each_packing(cache, tmp_path, capsys):
    twelve = {}
    for number in range(20):
        stream = io.BytesIO()
        Image.fromarray(np.full((4, 4), 4000 + number, np.uint16)).save(stream, "PNG")
        twelve[f"{number}.png"] = stream.getvalue()
    folder = write_folder(tmp_path / "photos", twelve)
    for store_size, told in ((8, 1), (8, 0), (9, 1)):  # the second is packed already
        photos = open_photos(str(folder), store_size, progress=False)
        assert np.abs(photos.images[np.arange(20)].astype(int) - 249).max() <= 1
        assert capsys.readouterr().err.count("20 of 12 bits") == told


def test_rows_by_name(cache, tmp_path):
    names = ["b/2.png", "b/10.png", "a/é.png", "a/z.png", "a/\U0001f600.png", "B/1.png", "a.png"]
    photos = opened(write_zip(tmp_path / "a.zip", pngs(*names)))
    assert photos.by_name.dtype == np.int64
    assert photos.names == sorted(names, key=lambda name: name.count("/"))  # the rest as it comes
    assert [photos.names[row] for row in photos.by_name] == sorted(names)


def test_opening_does_not_read_in_proportion(cache, archive, packings):
    """What holds 400,000 photos opens like what holds 20: its images are a hole in a file."""
    opened(archive)
    small, count = next(cache.iterdir()), 400_000
    names = [f"PetImages/{'Cat' if i % 2 else 'Dog'}/{i:07}.png" for i in range(count)]
    with open(small / "images.npy", "r+b") as file:
        file.write(npy_header(np.uint8, (count, 3, 8, 8)))
        file.truncate(128 + count * 3 * 8 * 8)
    for name, array in {
        "labels": np.arange(count) % 2,
        "is_test": np.zeros(count, bool),
        "sizes": np.full((count, 2), 8, np.int32),
        "by_name": np.arange(count),
        "digests": np.zeros((count, 32), np.uint8),
    }.items():
        write_array(small / f"{name}.npy", array)
    write_texts(small, "names", names)
    write_texts(small, "skipped", (f"{i}" for i in range(count // 5)))
    manifest = json.loads((small / "manifest.json").read_text())
    manifest["bytes"] = {name: (small / name).stat().st_size for name in FILES}
    manifest.update(count=count, skipped=count // 10)
    text = json.dumps(manifest)
    (small / "manifest.json").write_text(text)

    times = []
    for _ in range(5):
        start = time.perf_counter()
        photos = opened(archive)
        times.append(time.perf_counter() - start)
    assert len(packings) == 1
    assert len(photos.names) == len(photos.images) == len(photos.labels) == count
    assert (photos.names[-1], photos.names[123_456]) == (names[-1], names[123_456])
    assert photos.skipped[3] == ("6", "7")
    assert len(text) < 2000
    assert min(times) < 0.05  # about 0.002; parsing all of it as JSON takes 0.11


def test_only_three_skipped_files_are_named(cache, tmp_path, capsys):
    content = {**pngs(*(f"{i}.png" for i in range(60))), **{f"x{i}.jpg": b"" for i in range(5)}}
    opened(write_zip(tmp_path / "a.zip", content))
    told = capsys.readouterr().err
    assert "x2.jpg (empty file) and 2 more, see " in told
    lines = Path(told.split(", see ")[1].strip()).read_text().splitlines()
    assert lines == [f"x{i}.jpg: empty file" for i in range(5)]


def test_a_skipped_file_of_an_odd_name_has_one_line(cache, tmp_path):
    root = write_folder(tmp_path / "in", pngs(*(f"{i}.png" for i in range(60))))
    (root / "\udcff\x1b[31m\n.png").write_bytes(b"")
    assert opened(root).skipped == [("\udcff\x1b[31m\n.png", "empty file")]
    listed = (next(cache.iterdir()) / "skipped.txt").read_text()
    assert listed == "\\udcff\\x1b[31m\\n.png: empty file\n"


def test_too_many_broken_files(cache, tmp_path, packings):
    content = {**pngs(*(f"{i}.png" for i in range(50))), **{f"x{i}.jpg": b"" for i in range(6)}}
    archive = write_zip(tmp_path / "a.zip", content)
    for _ in range(2):  # they are not decoded again to say so
        with pytest.raises(
            UserError, match=r"6 of 56 files cannot be used.*x0\.jpg \(empty"
        ) as told:
            opened(archive)
        assert len(packings) == 1
    listed = re.search(r"\(empty file\) and 3 more; (/.*/skipped\.txt) lists all", str(told.value))
    lines = Path(listed[1]).read_text().splitlines()
    assert lines == [f"x{i}.jpg: empty file" for i in range(6)]
    assert "--skip-broken" in str(told.value)
    photos = open_photos(str(archive), 8, skip_broken=True, progress=False)
    assert (len(photos.names), len(photos.skipped), len(packings)) == (50, 6, 1)


def test_nothing_but_broken_files(cache, tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"x.jpg": b""})
    for skip_broken in (False, True):
        with pytest.raises(UserError, match="1 of 1 files cannot be used") as told:
            open_photos(str(archive), 8, skip_broken=skip_broken)
        assert "--skip-broken" not in str(told.value)
        assert Path(str(told.value).split("; ")[1].split()[0]).read_text() == "x.jpg: empty file\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_interrupted_packing_leaves_nothing(cache, archive, monkeypatch, error):
    calls = []

    def interrupted(blob, size):
        calls.append(1)
        if len(calls) > 12:
            raise error
        return decode(blob, size)

    with monkeypatch.context() as patch:
        patch.setattr("data.items.decode", interrupted)
        with pytest.raises(UserError if error is MemoryError else error):
            opened(archive)
    assert list(cache.iterdir()) == []
    assert len(opened(archive).names) == 20


def test_no_memory_for_a_thread(cache, archive, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(UserError, match="too little memory to decode"):
            opened(archive)
    assert list(cache.iterdir()) == []
    assert len(opened(archive).names) == 20


def test_a_killed_packing_is_not_taken_for_a_whole_one(cache, archive, packings):
    opened(archive)
    folder = next(cache.iterdir())
    killed = cache / f"{TEMPORARY}1-dead"
    folder.rename(killed)
    assert len(opened(archive).names) == 20
    assert len(packings) == 2
    assert killed.exists()  # it might be at work still
    long_ago = time.time() - STALE_S - 60
    os.utime(killed, (long_ago, long_ago))
    opened(archive, size=9)
    assert not killed.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(cache, archive, monkeypatch, code):
    def full(fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no room to pack") as caught:
        opened(archive)
    assert str(cache) in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path, archive, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BYOL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="BYOL_CACHE"):
        opened(archive)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def grow(path):
    with open(path, "ab") as file:
        file.write(b"x")


def garble_header(path):
    with open(path, "r+b") as file:
        file.write(b"garbage")


def other_array(path):
    """A sound file of the same size, of one row less."""
    size = path.stat().st_size
    array = np.load(path)
    np.save(path, array[:-1])
    with open(path, "ab") as file:
        file.truncate(size)


@pytest.fixture
def packed(cache, tmp_path, packings):
    """A function that damages a file of a pack: the next opening packs again, the one after not."""
    content = {**pets(10), "PetImages/x.jpg": b"", "PetImages/y.jpg": b""}
    archive = write_zip(tmp_path / "pets.zip", content)
    want = opened(archive)
    pixels, labels = want.images[:], want.labels.tolist()

    def check(damage, name):
        before = len(packings)
        damage(next(cache.iterdir()) / name)
        photos = opened(archive)
        np.testing.assert_array_equal(photos.images[:], pixels)
        assert (photos.labels.tolist(), photos.names) == (labels, list(pets(10)))
        assert photos.skipped == [("PetImages/x.jpg", "empty file"),
                                  ("PetImages/y.jpg", "empty file")]  # fmt: skip
        assert len(packings) == before + 1, name
        opened(archive)
        assert len(packings) == before + 1, name
        assert len(list(cache.iterdir())) == 1

    return check


@pytest.mark.parametrize("damage", [cut, grow, Path.unlink])
def test_a_damaged_file_is_packed_anew(packed, damage):
    for name in (*FILES, "manifest.json"):
        packed(damage, name)


@pytest.mark.parametrize("damage", [garble_header, other_array])
def test_an_array_of_another_kind_is_packed_anew(packed, damage):
    for name in (name for name in FILES if name.endswith(".npy")):
        packed(damage, name)


def test_a_wrong_manifest_is_packed_anew(packed):
    for change in (
        {"count": 19},
        {"count": -1},
        {"count": "20"},
        {"skipped": 1},
        {"skipped": None},
        {"bytes": {}},
        {"bytes": []},
    ):

        def damage(path, change=change):
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

        packed(damage, "manifest.json")


def test_no_manifest_at_all_is_packed_anew(packed):
    for text in ("[]", "", "null", '{"count": 20}'):
        packed(lambda path, text=text: path.write_text(text), "manifest.json")


def test_two_processes_at_once(cache, tmp_path):
    path = write_zip(tmp_path / "a.zip", pngs(*(f"{i}.png" for i in range(400))))
    fork = multiprocessing.get_context("fork")
    ready, answers = fork.Barrier(2), fork.Queue()

    def open_once():
        ready.wait(60)
        photos = opened(path)
        answers.put((len(photos.names), int(photos.images[:].sum())))

    processes = [fork.Process(target=open_once) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = (answers.get(timeout=60) for _ in range(2))
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert first == second
    assert first[0] == 400
    assert len(list(cache.iterdir())) == 1


def test_the_order_of_the_source_is_kept(cache, tmp_path, monkeypatch):
    """Whichever thread is faster."""
    content = pngs(*(f"{i}.png" for i in range(60)))
    blobs = list(content.values())

    def uneven(blob, size):
        time.sleep(0.01 * (blobs.index(blob) % 3 == 0))
        return decode(blob, size)

    monkeypatch.setattr("data.items.decode", uneven)
    monkeypatch.setattr("data.loading.usable_cores", lambda: 8)
    photos = opened(write_zip(tmp_path / "a.zip", content))
    assert photos.names == list(content)
    for row in range(60):
        np.testing.assert_array_equal(photos.images[row], decode(blobs[row], 8)[0])


def test_real_photos(cache, tmp_path, real_photos, capsys):
    empty = ["PetImages/Cat/666.jpg", "PetImages/Dog/11702.jpg"]
    with zipfile.ZipFile(real_photos) as real:
        names = [f"PetImages/{kind}/{i}.jpg" for kind in ("Cat", "Dog") for i in range(100)]
        content = {name: real.read(name) for name in [*names, *empty]}
    photos = opened(write_zip(tmp_path / "real.zip", content), size=64)
    assert photos.names == names
    assert photos.skipped == [(name, "empty file") for name in empty]
    assert np.bincount(photos.labels).tolist() == [100, 100]
    assert (photos.sizes > 30).all()
    spread = photos.images[:].reshape(200, -1).std(1)
    assert spread.mean() > 30
    assert "skipped 2 of 202 files" in capsys.readouterr().err
