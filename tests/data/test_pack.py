"""Packing once, opening again, and what goes wrong in between."""

import errno
import json
import multiprocessing
import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from photo_files import pets, png, pngs, write_folder, write_zip

from byol.errors import UserError
from data import open_photos, pack
from data.decode import decode
from data.stored import npy_header, write_array, write_texts


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / "pets.zip", pets(10))


@pytest.fixture
def packings(monkeypatch):
    """Counts how often something is packed."""
    done = []
    fill = pack._fill
    monkeypatch.setattr(pack, "_fill", lambda *args: (done.append(1), fill(*args))[1])
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
    os.utime(archive, ns=(1, 1))
    opened(archive)
    assert len(packings) == 4
    monkeypatch.setattr(pack, "PACK_VERSION", pack.PACK_VERSION + 1)
    opened(archive)
    assert len(packings) == 5


def test_a_changed_folder_packs_anew(cache, tmp_path, packings):
    root = write_folder(tmp_path / "in", pets(5))
    opened(root)
    (root / "PetImages/Cat/more.png").write_bytes(png(77))
    assert len(opened(root).names) == 11
    (root / "PetImages/Cat/more.png").unlink()
    assert len(opened(root).names) == 10  # the first pack still fits
    assert len(packings) == 2


def test_the_fingerprint_is_of_the_names_alone(cache, tmp_path):
    one = opened(write_zip(tmp_path / "a.zip", pets(3)))
    two = opened(write_zip(tmp_path / "b.zip", dict(reversed(pets(3).items()))), size=5)
    other = opened(write_zip(tmp_path / "c.zip", pets(4)))
    assert one.fingerprint == two.fingerprint != other.fingerprint


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


def test_photos_of_telephones_are_not_passed_over_in_silence(cache, tmp_path, capsys):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    content = pngs(*(f"{n}.png" for n in range(20))) | {"IMG_1.HEIC": heic, "note.txt": b"hello"}
    for source in (
        write_folder(tmp_path / "photos", content),
        write_zip(tmp_path / "p.zip", content),
    ):
        photos = open_photos(str(source), 8)
        assert [name for name, _ in photos.skipped] == ["IMG_1.HEIC"]
        said = capsys.readouterr().err
        assert "skipped 1 of 21 files: IMG_1.HEIC (HEIC and AVIF are not read, convert it" in said


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
    }.items():
        write_array(small / f"{name}.npy", array)
    write_texts(small, "names", names)
    write_texts(small, "skipped", (f"{i}" for i in range(count // 5)))
    manifest = json.loads((small / "manifest.json").read_text())
    manifest["bytes"] = {name: (small / name).stat().st_size for name in pack.FILES}
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


def test_too_many_broken_files(cache, tmp_path):
    content = {**pngs(*(f"{i}.png" for i in range(50))), **{f"x{i}.jpg": b"" for i in range(6)}}
    with pytest.raises(UserError, match=r"6 of 56 files cannot be used.*x0\.jpg \(empty file\)"):
        opened(write_zip(tmp_path / "a.zip", content))
    assert list(cache.iterdir()) == []


def test_nothing_but_broken_files(cache, tmp_path):
    with pytest.raises(UserError, match="1 of 1 files cannot be used"):
        opened(write_zip(tmp_path / "a.zip", {"x.jpg": b""}))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_interrupted_packing_leaves_nothing(cache, archive, monkeypatch, error):
    calls = []

    def interrupted(blob, size):
        calls.append(1)
        if len(calls) > 12:
            raise error
        return decode(blob, size)

    with monkeypatch.context() as patch:
        patch.setattr("data.walk.decode", interrupted)
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
    killed = cache / f"{pack.TEMPORARY}1-dead"
    folder.rename(killed)
    assert len(opened(archive).names) == 20
    assert len(packings) == 2
    assert killed.exists()  # it might be at work still
    long_ago = time.time() - pack.STALE_S - 60
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
    for name in (*pack.FILES, "manifest.json"):
        packed(damage, name)


@pytest.mark.parametrize("damage", [garble_header, other_array])
def test_an_array_of_another_kind_is_packed_anew(packed, damage):
    for name in (name for name in pack.FILES if name.endswith(".npy")):
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

    monkeypatch.setattr("data.walk.decode", uneven)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
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
