"""Packs of JPEGs."""

import io
import json
import os
import signal

import numpy as np
import pytest
from photo_files import pets, png, pngs, write_folder, write_zip
from PIL import Image
from test_pack import cut, garble_header
from test_shards import image_files, inodes, kill_a_packing

from byol.errors import UserError
from data import open_again, open_photos, packing, shards
from data.decode import decode
from data.jpegs import QUALITY, SUBSAMPLING, encode
from data.shards import JPEG_HEADER

ROWS = 8  # in a shard of these tests


@pytest.fixture
def small_shards(cache, monkeypatch):
    """Shards of `ROWS` photos of 8 px."""
    monkeypatch.setattr(shards, "SHARD_BYTES", ROWS * (3 * 8 * 8 + JPEG_HEADER) + 100)


def opened(path, size=8, **flags):
    return open_photos(str(path), size, progress=False, kind="jpeg", **flags)


def by_pillow(blob, shape=(8, 8)):
    """Decode a file, encode it as a JPEG and decode that: uint8 (3, H, W)."""
    pixels, *_ = decode(blob, shape)
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(file, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def is_as_by_pillow(photos, content, shape=(8, 8)):
    assert sorted(photos.names) == sorted(content)
    expected = [by_pillow(content[name], shape) for name in photos.names]
    np.testing.assert_array_equal(photos.images[:], np.array(expected))


def textured(seed, height, width):
    """A PNG that is smooth as a photo is."""
    texture = np.random.default_rng(seed).normal(size=(height, width, 3)).cumsum(0).cumsum(1)
    low, high = texture.min(), texture.max()
    file = io.BytesIO()
    Image.fromarray((255 * (texture - low) / (high - low)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def encoded(monkeypatch):
    """Counts the photos that are encoded."""
    done = []
    monkeypatch.setattr(packing, "encode", lambda pixels: (done.append(1), encode(pixels))[1])
    return done


def state_of(folder):
    return {
        file.relative_to(folder): (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


# ---- what is in it


@pytest.mark.parametrize(("height", "width", "shape"), [(40, 40, (30, 30)), (36, 64, (30, 56))])
def test_a_photo_is_what_pillow_makes_of_its_jpeg(cache, tmp_path, height, width, shape):
    content = {f"{i}.png": textured(i, height, width) for i in range(25)}
    content["tall.png"] = textured(99, width, height)
    photos = opened(write_zip(tmp_path / "a.zip", content), 30)
    assert photos.shape == shape
    assert (photos.images.shape, photos.images.dtype) == ((26, 3, *shape), np.uint8)
    is_as_by_pillow(photos, content, shape)
    raw = open_photos(str(tmp_path / "a.zip"), 30, progress=False)
    difference = photos.images[:].astype(float) - raw.images[:]
    assert 0 < np.sqrt((difference**2).mean()) < 10


def test_rows_are_read_in_any_order_from_several_files(small_shards, tmp_path):
    photos = opened(write_zip(tmp_path / "a.zip", pngs(*(f"{i:02}.png" for i in range(53)))))
    assert len(image_files(photos)) == 7
    every = np.array([by_pillow(png(i)) for i in range(53)])
    rows = np.random.default_rng(0).integers(0, 53, (5, 20))  # some twice
    for index in (slice(None), rows, 0, 52, -1, slice(3, ROWS + 1), np.empty(0, np.int64)):
        np.testing.assert_array_equal(photos.images[index], every[index])
    assert photos.images.nbytes == every.nbytes  # in memory, as a GPU is asked for


def test_what_is_decoded_is_asked_for_before(small_shards, tmp_path, monkeypatch):
    photos = opened(write_zip(tmp_path / "a.zip", pngs(*(f"{i:02}.png" for i in range(20)))))
    asked = []
    advise = lambda file, start, size, _: asked.append((os.fstat(file).st_ino, start, size))  # noqa: E731
    monkeypatch.setattr(os, "posix_fadvise", advise, raising=False)
    photos.images[[17, 3, 12, 2]]
    files = {file.stat().st_ino: file.read_bytes() for file in image_files(photos)}
    found = [files[inode][start : start + size] for inode, start, size in asked]
    assert found == [encode(decode(png(i), 8)[0]).tobytes() for i in (2, 3, 12, 17)]


def test_a_photo_takes_a_tenth_of_the_disk(cache, tmp_path):
    archive = write_zip(tmp_path / "a.zip", {f"{i}.png": textured(i, 180, 180) for i in range(4)})
    size = image_files(opened(archive, 180))[0].stat().st_size
    assert size < 0.15 * 4 * 3 * 180 * 180


def test_noise_that_jpeg_makes_larger_is_kept(cache, tmp_path):
    """Pillow has not enough room for its own tables there."""
    noise = (np.random.default_rng(0).integers(0, 2, (300, 300, 3)) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    with pytest.raises(OSError, match="broken data stream"):
        Image.fromarray(noise).save(io.BytesIO(), "JPEG", quality=QUALITY, optimize=True)
    content = {"a.png": file.getvalue()}
    is_as_by_pillow(opened(write_zip(tmp_path / "a.zip", content), 300), content, (300, 300))


# ---- beside the raw pack


def test_each_kind_is_a_pack_of_its_own(cache, tmp_path, encoded):
    archive = write_zip(tmp_path / "a.zip", pets(10))
    raw = open_photos(str(archive), 8, progress=False)
    before = state_of(raw.folder)
    photos = opened(archive)
    assert photos.folder != raw.folder
    assert (photos.names, photos.fingerprint) == (list(raw.names), raw.fingerprint)
    assert (photos.labels == raw.labels).all()
    assert state_of(raw.folder) == before
    both = state_of(cache)
    for _ in range(2):  # nothing is packed again
        assert opened(archive).folder == photos.folder
        assert open_photos(str(archive), 8, progress=False).folder == raw.folder
    assert (len(encoded), state_of(cache)) == (20, both)
    for kind, of_kind in (("raw", raw), ("jpeg", photos)):
        assert open_again(raw.fingerprint, str(archive), 8, kind=kind).folder == of_kind.folder


def test_another_kind_is_not_called_an_earlier_pack(cache, tmp_path, capsys):
    folder = write_folder(tmp_path / "in", pets(10))
    open_photos(str(folder), 8)
    open_photos(str(folder), 8, kind="jpeg")
    (folder / "new.png").write_bytes(png(99))
    capsys.readouterr()
    photos = open_photos(str(folder), 8, kind="jpeg")
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "an earlier pack" in line]
    kinds = {
        str(manifest.parent): json.loads(manifest.read_text()).get("kind", "raw")
        for manifest in cache.glob("*/manifest.json")
    }
    assert sorted(kinds.values()) == ["jpeg", "jpeg", "raw"]
    removed = {pack for pack in kinds if pack in told}
    assert removed == {p for p, kind in kinds.items() if kind == "jpeg"} - {str(photos.folder)}


# ---- what is new


def test_what_is_old_is_not_encoded_again(small_shards, tmp_path, encoded):
    content = pngs(*(f"b/{i:02}.png" for i in range(3 * ROWS + 2)))
    folder = write_folder(tmp_path / "in", content)
    before = opened(folder)
    new = {f"{'ac'[i % 2]}/{i}.png": png(100 + i) for i in range(10)}
    write_folder(folder, new)
    photos = opened(folder)
    assert len(encoded) == len(content) + len(new)
    assert set(inodes(before)[:3]) < set(inodes(photos))  # the whole files are the same
    assert list(photos.names) == sorted(content | new)
    is_as_by_pillow(photos, content | new)
    for file in before.folder.glob("*.npy"):
        file.unlink()
    is_as_by_pillow(opened(folder), content | new)


def test_a_file_of_which_little_is_left_is_copied(small_shards, tmp_path, encoded):
    content = pngs(*(f"{i:02}.png" for i in range(3 * ROWS)))
    folder = write_folder(tmp_path / "in", content)
    before = opened(folder)
    for i in range(5):
        (folder / f"{i:02}.png").unlink()
        del content[f"{i:02}.png"]
    photos = opened(folder)
    assert len(encoded) == 3 * ROWS  # to encode a JPEG again would change it
    assert [inode in inodes(before) for inode in inodes(photos)] == [True, True, False]
    is_as_by_pillow(photos, content)


def test_a_killed_packing_goes_on(small_shards, cache, tmp_path, encoded):
    content = pets(20)  # 40 photos, 5 files
    folder = write_folder(tmp_path / "in", content)
    assert kill_a_packing(folder, 30, kind="jpeg") == -signal.SIGKILL
    (left,) = cache.iterdir()
    whole = len(list(left.glob("shard-*-digests.npy")))
    assert whole >= 2
    photos = opened(folder)
    assert len(encoded) == 40 - whole * ROWS
    assert list(cache.iterdir()) == [photos.folder]
    is_as_by_pillow(photos, content)
    assert not list(photos.folder.glob("shard-*"))


@pytest.mark.hazard
def test_a_packing_that_is_killed_again_and_again_ends(small_shards, cache, tmp_path):
    content = pets(60)
    folder = write_folder(tmp_path / "in", content)
    random, kills = np.random.default_rng(0), 0
    while kill_a_packing(folder, int(random.integers(5, 40)), kind="jpeg"):
        kills += 1
        assert kills < 40
    assert kills > 3
    is_as_by_pillow(opened(folder), content)


@pytest.mark.parametrize("kinds", [("raw", "jpeg"), ("jpeg", "raw")])
def test_what_a_packing_of_the_other_kind_left_is_not_taken(
    cache, tmp_path, monkeypatch, capsys, kinds
):
    monkeypatch.setattr(shards, "JPEG_HEADER", 0)  # files of as many photos in both
    monkeypatch.setattr(shards, "SHARD_BYTES", ROWS * 3 * 8 * 8)
    folder = write_folder(tmp_path / "in", pets(20))
    assert kill_a_packing(folder, 30, kind=kinds[0]) == -signal.SIGKILL
    open_photos(str(folder), 8, progress=False, kind=kinds[1])
    assert "need not be decoded" not in capsys.readouterr().err
    open_photos(str(folder), 8, progress=False, kind=kinds[0])
    assert "photos of a packing that was stopped need not be" in capsys.readouterr().err


# ---- damage


def put(file, at, value):
    """Write bytes into a file, of which the disk tells nothing."""
    info = file.stat()
    with open(file, "r+b") as stream:
        stream.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        stream.write(value)
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        garble_header,
        lambda file: put(file, -8, bytes(8)),  # the end of the last photo
        lambda file: put(file, -16, (1 << 40).to_bytes(8, "little")),
    ],
)
@pytest.mark.parametrize("name", ["images.npy", "images-00002.npy"])
def test_a_damaged_file_is_packed_anew(small_shards, tmp_path, damage, name):
    content = pngs(*(f"{i:02}.png" for i in range(20)))
    archive = write_zip(tmp_path / "a.zip", content)
    damage(opened(archive).folder / name)
    is_as_by_pillow(opened(archive), content)


@pytest.mark.parametrize(
    ("blob", "what"), [(b"no JPEG", "no JPEG of its shape"), (None, "no JPEG of its shape")]
)
def test_a_photo_that_is_spoilt_is_one_sentence(cache, tmp_path, blob, what):
    archive = write_zip(tmp_path / "a.zip", pngs(*(f"{i:02}.png" for i in range(20))))
    file = image_files(opened(archive))[0]
    if blob is None:
        at = file.read_bytes().index(b"\xff\xc0")  # of the first photo: its height
        put(file, at + 5, (7).to_bytes(2, "big"))
    else:
        put(file, 128, blob)
    photos = opened(archive)
    np.testing.assert_array_equal(photos.images[1], by_pillow(png(1)))
    for rows in ([0], [3, 0, 2]):
        with pytest.raises(UserError, match=f"images.npy .*{what}: remove the folder"):
            photos.images[rows]


def test_a_file_that_is_written_to_while_it_is_read(cache, tmp_path):
    photos = opened(write_zip(tmp_path / "a.zip", pngs(*(f"{i:02}.png" for i in range(20)))))
    os.utime(image_files(photos)[0], (1, 1))
    for rows in ([0], [3, 0, 2]):
        with pytest.raises(UserError, match="was written to while it was in use"):
            photos.images[rows]


def test_threads_of_a_process_are_not_those_of_its_copy(cache, tmp_path):
    """As in a process that packs after another has read: its copy has no threads."""
    photos = opened(write_zip(tmp_path / "a.zip", pngs(*(f"{i:02}.png" for i in range(20)))))
    expected = photos.images[:]
    child = os.fork()
    if not child:
        os._exit(0 if (photos.images[:] == expected).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
