"""Packing once, opening again, and what goes wrong in between."""

import errno
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from photo_files import pets, png, pngs, write_folder, write_zip

from byol.errors import UserError
from data import open_photos, pack
from data.decode import decode

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "datasets" / "cats_vs_dogs.zip"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("BYOL_CACHE", str(folder))
    return folder


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
    assert isinstance(photos.images, np.memmap)
    assert photos.images.shape == (8, 3, 6, 6)
    assert photos.images.dtype == np.uint8
    assert not photos.images.flags.writeable
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
    np.testing.assert_array_equal(images, photos.images)


def test_the_second_opening_only_maps(cache, archive, packings):
    first, second = opened(archive), opened(archive)
    assert len(packings) == 1
    np.testing.assert_array_equal(first.images, second.images)
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


def test_only_three_skipped_files_are_named(cache, tmp_path, capsys):
    content = {**pngs(*(f"{i}.png" for i in range(60))), **{f"x{i}.jpg": b"" for i in range(5)}}
    opened(write_zip(tmp_path / "a.zip", content))
    told = capsys.readouterr().err
    assert "x2.jpg (empty file) and 2 more, see " in told
    manifest = json.loads(Path(told.split(", see ")[1].strip()).read_text())
    assert len(manifest["skipped"]) == 5


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
        patch.setattr("data.files.decode", interrupted)
        with pytest.raises(error):
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
    with pytest.raises(UserError, match="disk is full") as caught:
        opened(archive)
    assert str(cache) in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path, archive, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BYOL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="BYOL_CACHE"):
        opened(archive)


def cut_images(folder):
    os.truncate(folder / "images.npy", 1000)


def grow_images(folder):
    with open(folder / "images.npy", "ab") as file:
        file.write(b"x")


def garble_header(folder):
    with open(folder / "images.npy", "r+b") as file:
        file.write(b"garbage")


def cut_manifest(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def wrong_manifest(folder):
    (folder / "manifest.json").write_text("[]")


def short_column(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["labels"].pop()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def no_manifest(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        cut_images,
        grow_images,
        garble_header,
        cut_manifest,
        wrong_manifest,
        short_column,
        no_manifest,
    ],
)
def test_a_damaged_pack_is_packed_anew(cache, archive, packings, damage):
    want = np.array(opened(archive).images)
    damage(next(cache.iterdir()))
    np.testing.assert_array_equal(opened(archive).images, want)
    assert len(packings) == 2
    opened(archive)
    assert len(packings) == 2
    assert len(list(cache.iterdir())) == 1


def test_two_processes_at_once(cache, tmp_path):
    path = write_zip(tmp_path / "a.zip", pngs(*(f"{i}.png" for i in range(400))))
    code = (
        "import sys; from data import open_photos\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "p = open_photos(sys.argv[1], 8, progress=False); print(len(p.names), int(p.images.sum()))"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    answers = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert answers[0] == answers[1]
    assert answers[0].startswith("400 ")
    assert len(list(cache.iterdir())) == 1


def test_the_order_of_the_source_is_kept(cache, tmp_path, monkeypatch):
    """Whichever thread is faster."""
    content = pngs(*(f"{i}.png" for i in range(60)))
    blobs = list(content.values())

    def uneven(blob, size):
        time.sleep(0.01 * (blobs.index(blob) % 3 == 0))
        return decode(blob, size)

    monkeypatch.setattr("data.files.decode", uneven)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    photos = opened(write_zip(tmp_path / "a.zip", content))
    assert photos.names == list(content)
    for row in range(60):
        np.testing.assert_array_equal(photos.images[row], decode(blobs[row], 8)[0])


@pytest.mark.parametrize("count", [0, 1, 25_000, 10**9])
def test_the_npy_header_has_one_length(count, tmp_path):
    header = pack._npy_header(count, 180)
    assert len(header) == 128
    (tmp_path / "a.npy").write_bytes(header)
    with open(tmp_path / "a.npy", "rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    assert (shape, fortran, dtype) == ((count, 3, 180, 180), False, np.uint8)


def test_real_photos(cache, tmp_path, capsys):
    if not REAL.exists():
        pytest.skip(f"the real photos are not at {REAL}")
    empty = ["PetImages/Cat/666.jpg", "PetImages/Dog/11702.jpg"]
    with zipfile.ZipFile(REAL) as real:
        names = [f"PetImages/{kind}/{i}.jpg" for kind in ("Cat", "Dog") for i in range(100)]
        content = {name: real.read(name) for name in [*names, *empty]}
    photos = opened(write_zip(tmp_path / "real.zip", content), size=64)
    assert photos.names == names
    assert photos.skipped == [(name, "empty file") for name in empty]
    assert np.bincount(photos.labels).tolist() == [100, 100]
    assert (photos.sizes > 30).all()
    spread = np.asarray(photos.images).reshape(200, -1).std(1)
    assert spread.mean() > 30
    assert "skipped 2 of 202 files" in capsys.readouterr().err
