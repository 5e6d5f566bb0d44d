"""Packs in several files, and packings that go on where they were stopped."""

import fcntl
import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from photo_files import pets, png, pngs, write_folder, write_zip
from test_pack import cut, garble_header, is_as_if_decoded

from byol.errors import UserError
from data import folders, make_split, open_photos, packing, shards
from data.cache import TEMPORARY
from data.decode import decode
from data.photos import FILES, open_pack
from data.stored import HEADER_BYTES, npy_header, write_array, write_texts
from data.temporary import KEPT_S, temporary_folder

ROWS = 8  # in a shard of these tests


@pytest.fixture
def small_shards(cache, monkeypatch):
    """Shards of `ROWS` photos of 8 px."""
    monkeypatch.setattr(shards, "SHARD_BYTES", ROWS * 3 * 8 * 8 + 100)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the files that are decoded."""
    done = []
    monkeypatch.setattr("data.items.decode", lambda *args: (done.append(1), decode(*args))[1])
    return done


def opened(path, size=8, **flags):
    return open_photos(str(path), size, progress=False, **flags)


def image_files(photos):
    return sorted(photos.folder.glob("images*.npy"), key=lambda file: (len(file.name), file.name))


def inodes(photos):
    return [file.stat().st_ino for file in image_files(photos)]


def manifest_of(photos):
    return json.loads((photos.folder / "manifest.json").read_text())


# ---- reading


@pytest.mark.parametrize("count", [ROWS, ROWS + 1, 2 * ROWS, 2 * ROWS + 3])
def test_shards_give_what_one_file_gives(cache, tmp_path, monkeypatch, count):
    archive = write_zip(tmp_path / "a.zip", pngs(*(f"{i}.png" for i in range(count))))
    with monkeypatch.context() as patch:
        patch.setenv("BYOL_CACHE", str(tmp_path / "other"))
        one = opened(archive)
    monkeypatch.setattr(shards, "SHARD_BYTES", ROWS * 3 * 8 * 8)
    photos = opened(archive)
    assert len(image_files(photos)) == -(-count // ROWS)
    assert all(np.load(file).shape[0] <= ROWS for file in image_files(photos))
    assert (photos.names, photos.fingerprint) == (list(one.names), one.fingerprint)
    assert (photos.shape, photos.folder.name) == (one.shape, one.folder.name)
    assert (len(photos.images), photos.images.nbytes) == (count, one.images.nbytes)
    rows = np.random.default_rng(0).integers(0, count, (5, 20))  # some twice
    for index in (slice(None), rows, 0, count - 1, -1, slice(3, ROWS + 1), np.empty(0, np.int64)):
        np.testing.assert_array_equal(photos.images[index], one.images[index])


def test_a_small_pack_is_that_of_earlier_versions(small_shards, tmp_path):
    photos = opened(write_zip(tmp_path / "a.zip", pngs(*(f"{i}.png" for i in range(ROWS)))))
    assert [file.name for file in image_files(photos)] == ["images.npy"]
    assert not manifest_of(photos).keys() & {"stored", "shard_rows", "in_order"}
    assert not list(photos.folder.glob("shard-*")) + list(photos.folder.glob("places*"))


@pytest.mark.parametrize("name", ["images.npy", "images-00002.npy", "places.npy", "manifest.json"])
@pytest.mark.parametrize("damage", [cut, garble_header])
def test_a_damaged_shard_is_packed_anew(small_shards, tmp_path, damage, name):
    content = pngs(*(f"{i}.png" for i in range(20)))
    folder = write_folder(tmp_path / "in", {n: b for n, b in content.items() if n != "3.png"})
    opened(folder)
    (folder / "3.png").write_bytes(content["3.png"])
    photos = opened(folder)
    assert len(image_files(photos)) == 3
    damage(photos.folder / name)
    is_as_if_decoded(opened(folder), content)


@pytest.mark.parametrize(
    "change",
    [{"shard_rows": 0}, {"shard_rows": 7}, {"stored": 19}, {"stored": "20"}, {"in_order": False}],
)
def test_a_wrong_manifest_is_packed_anew(small_shards, tmp_path, change):
    content = pngs(*(f"{i}.png" for i in range(20)))
    archive = write_zip(tmp_path / "a.zip", content)
    photos = opened(archive)
    about = manifest_of(photos)
    (photos.folder / "manifest.json").write_text(json.dumps(about | change))
    photos = opened(archive)
    is_as_if_decoded(photos, content)
    assert manifest_of(photos) == about


def test_places_behind_the_last_photo_are_packed_anew(small_shards, tmp_path):
    content = pngs(*(f"{i}.png" for i in range(20)))
    folder = write_folder(tmp_path / "in", content)
    opened(folder)
    write_folder(folder, {"0.jpg": png(99)})
    photos = opened(folder)
    write_array(photos.folder / "places.npy", np.full(21, 21, np.uint32))
    is_as_if_decoded(opened(folder), content | {"0.jpg": png(99)})


# ---- what is new


def test_what_is_old_is_not_packed_anew(small_shards, tmp_path, decoded, capsys):
    content = pngs(*(f"b/{i:02}.png" for i in range(3 * ROWS + 2)))
    folder = write_folder(tmp_path / "in", content)
    before = opened(folder)
    new = {f"{'ac'[i % 2]}/{i}.png": png(100 + i) for i in range(10)}
    write_folder(folder, new)
    photos = open_photos(str(folder), 8)
    assert len(decoded) == len(content) + len(new)
    assert set(inodes(before)[:3]) < set(inodes(photos))  # the whole shards are the same files
    assert list(photos.names) == sorted(content | new)  # as if all were packed at once
    is_as_if_decoded(photos, content | new)
    alone = (file for file in before.folder.iterdir() if file.is_dir() or file.stat().st_nlink == 1)
    size = sum(file.stat().st_size for file in alone)  # what its removal gives back
    assert f"earlier versions ({size / 1000:.0f} kB)" in capsys.readouterr().err
    for file in before.folder.glob("*.npy"):
        file.unlink()
    is_as_if_decoded(opened(folder), content | new)

    more = {"d/1.png": png(300)}
    write_folder(folder, more)
    again = opened(folder)
    assert len(decoded) == len(content) + len(new) + 1
    assert len(set(inodes(photos)) & set(inodes(again))) == 4
    is_as_if_decoded(again, content | new | more)


def test_a_shard_of_which_little_is_left_is_copied(small_shards, tmp_path, decoded):
    content = pngs(*(f"{i:02}.png" for i in range(3 * ROWS)))
    folder = write_folder(tmp_path / "in", content)
    before = opened(folder)
    for i in [*range(5), *range(ROWS, ROWS + 3)]:  # 3 of the first shard are left, 5 of the second
        (folder / f"{i:02}.png").unlink()
        del content[f"{i:02}.png"]
    photos = opened(folder)
    assert len(decoded) == 3 * ROWS
    assert [inode in inodes(before) for inode in inodes(photos)] == [True, True, False]
    assert inodes(before)[0] not in inodes(photos)
    assert len(np.load(image_files(photos)[2])) == 3
    is_as_if_decoded(photos, content)


def test_photos_that_only_got_other_names(small_shards, tmp_path, decoded):
    content = pngs(*(f"{i:02}.png" for i in range(2 * ROWS)))
    folder = write_folder(tmp_path / "in", content)
    before = opened(folder)
    (folder / "00.png").rename(folder / "99.png")
    content["99.png"] = content.pop("00.png")
    photos = opened(folder)
    assert (len(decoded), inodes(photos)) == (2 * ROWS, inodes(before))
    is_as_if_decoded(photos, content)


def test_equal_photos_share_their_pixels(small_shards, tmp_path, decoded):
    content = pngs(*(f"{i:02}.png" for i in range(ROWS)))
    opened(write_zip(tmp_path / "a.zip", content))
    content |= {f"copy of {name}": blob for name, blob in content.items()}
    photos = opened(write_zip(tmp_path / "b.zip", content))
    assert (len(decoded), len(image_files(photos))) == (ROWS, 1)
    is_as_if_decoded(photos, content)


def test_a_disk_without_links(small_shards, tmp_path, decoded, monkeypatch):
    content = pngs(*(f"{i:02}.png" for i in range(2 * ROWS)))
    folder = write_folder(tmp_path / "in", content)
    before = opened(folder)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    (folder / "new.png").write_bytes(png(99))
    photos = opened(folder)
    assert (len(decoded), set(inodes(photos)) & set(inodes(before))) == (2 * ROWS + 1, set())
    is_as_if_decoded(photos, content | {"new.png": png(99)})


def test_a_pack_in_one_file_is_taken_over(cache, tmp_path, decoded, monkeypatch):
    """As earlier versions wrote it, whatever its size."""
    content = pngs(*(f"{i:02}.png" for i in range(3 * ROWS)))
    folder = write_folder(tmp_path / "in", content)
    before = opened(folder)
    assert len(image_files(before)) == 1
    monkeypatch.setattr(shards, "SHARD_BYTES", ROWS * 3 * 8 * 8)
    assert opened(folder).folder == before.folder
    (folder / "00.png").unlink()
    del content["00.png"]
    photos = opened(folder)
    assert (len(decoded), len(image_files(photos))) == (3 * ROWS, 3)
    is_as_if_decoded(photos, content)


@pytest.fixture
def read(monkeypatch):
    """Names of the files of folders that are read to the end."""
    done, look = [], folders.read_photo
    monkeypatch.setattr(folders, "read_photo", lambda *args: (done.append(args[1]), look(*args))[1])
    return done


def test_what_is_old_is_not_even_read(cache, tmp_path, decoded, read, monkeypatch):
    monkeypatch.setattr(packing, "guess_shape", lambda *_: (8, 8))  # which reads some files
    content = pngs(*(f"a/{i:02}.png" for i in range(20)))
    folder = write_folder(tmp_path / "in", content | {"x.jpg": b""})
    opened(folder, skip_broken=True)
    assert len(read) == 21
    read.clear()
    write_folder(folder, {"b.png": png(77)})
    changed = {"a/03.png": png(78, 9), "a/04.png": png(79)}
    write_folder(folder, changed)
    os.utime(folder / "a/05.png", ns=(1, 1))
    (folder / "a/06.png").rename(folder / "a/99.png")
    content |= {"a/99.png": content.pop("a/06.png"), "b.png": png(77), **changed}
    is_as_if_decoded(opened(folder), content)
    assert sorted(read) == ["a/03.png", "a/04.png", "a/05.png", "a/99.png", "b.png", "x.jpg"]
    assert len(decoded) == 21 + 4
    read.clear()
    folder.rename(tmp_path / "moved")  # its photos are found by their content alone
    is_as_if_decoded(opened(tmp_path / "moved"), content)
    assert len(read) == len(content) + 1


def test_a_damaged_list_of_stamps_costs_reading_alone(cache, tmp_path, decoded, read):
    content = pngs(*(f"a/{i:02}.png" for i in range(20)))
    folder = write_folder(tmp_path / "in", content)
    pack = opened(folder).folder
    for damage in (cut, os.unlink):
        damage(pack / "stamps.npy")
        assert opened(folder).folder == pack
    read.clear()
    write_folder(folder, {"b.png": png(77)})
    is_as_if_decoded(opened(folder), content | {"b.png": png(77)})
    assert (len(set(read)), len(decoded)) == (21, 21)


# ---- stopped packings


def stopping(after, how):
    """A `decode` that ends the packing at the file of this number."""
    done = []

    def decode_some(blob, shape):
        done.append(1)
        if len(done) > after:
            how()
        return decode(blob, shape)

    return decode_some


def kill_a_packing(folder, after, **flags):
    """Pack in a process of its own, which dies at the file of this number."""

    def pack_until_killed():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("data.loading.usable_cores", lambda: 1)
            stop = stopping(after, lambda: os.kill(os.getpid(), signal.SIGKILL))
            patch.setattr("data.items.decode", stop)
            opened(folder, **flags)

    process = multiprocessing.get_context("fork").Process(target=pack_until_killed)
    process.start()
    process.join(60)
    return process.exitcode


def test_a_killed_packing_goes_on_at_the_last_whole_shard(
    small_shards, cache, tmp_path, decoded, read, monkeypatch, capsys
):
    monkeypatch.setattr(packing, "guess_shape", lambda *_: (8, 8))  # which reads some files
    content = pets(20)  # 40 photos, 5 shards
    folder = write_folder(tmp_path / "in", content)
    with monkeypatch.context() as patch:
        patch.setenv("BYOL_CACHE", str(tmp_path / "other"))
        unbroken = opened(folder)
    decoded.clear()
    read.clear()
    assert kill_a_packing(folder, 30) == -signal.SIGKILL
    (left,) = cache.iterdir()
    whole = len(list(left.glob("shard-*-digests.npy")))
    assert 2 <= whole <= 3  # up to 8 are decoded ahead
    photos = opened(folder)
    assert len(decoded) == len(read) == 40 - whole * ROWS
    assert f"{whole * ROWS} photos of a packing that was stopped" in capsys.readouterr().err
    assert list(cache.iterdir()) == [photos.folder]
    assert photos.folder.name == unbroken.folder.name
    assert (photos.fingerprint, photos.names) == (unbroken.fingerprint, list(unbroken.names))
    np.testing.assert_array_equal(photos.images[:], unbroken.images[:])
    assert not list(photos.folder.glob("shard-*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, MemoryError])
def test_what_an_error_stops_goes_on_too(
    small_shards, cache, tmp_path, decoded, monkeypatch, capsys, error
):
    content = pets(20)
    folder = write_folder(tmp_path / "in", content)

    def stop():
        raise error

    monkeypatch.setattr("data.loading.usable_cores", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr("data.items.decode", stopping(20, stop))
        with pytest.raises(UserError if error is MemoryError else error):
            opened(folder)
    (left,) = cache.iterdir()
    assert f"so far stays in {left}, and the same command" in capsys.readouterr().err
    assert sorted(file.name for file in left.glob("images*")) == ["images-00001.npy", "images.npy"]
    is_as_if_decoded(opened(folder), content)
    assert len(decoded) == 40 - 2 * ROWS
    assert len(list(cache.iterdir())) == 1


def test_a_packing_at_work_is_left_alone(small_shards, cache, tmp_path, decoded):
    folder = write_folder(tmp_path / "in", pets(20))
    kill_a_packing(folder, 30)
    (left,) = cache.iterdir()
    lock = os.open(left, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    opened(folder)
    assert len(decoded) == 40
    os.utime(left, (1, 1))
    opened(folder, 9)  # another packing, which removes what is old
    assert left.exists()
    os.close(lock)


def test_what_nobody_goes_on_with_is_removed_in_the_end(small_shards, cache, tmp_path):
    folder = write_folder(tmp_path / "in", pets(20))
    kill_a_packing(folder, 30)
    (left,) = cache.iterdir()
    for age, there in ((KEPT_S - 60, True), (KEPT_S + 60, False)):
        os.utime(left, (time.time() - age,) * 2)
        with temporary_folder(cache):
            pass
        assert left.exists() == there


def test_shards_of_another_shape_are_not_taken(small_shards, cache, tmp_path, decoded):
    content = pets(20)
    folder = write_folder(tmp_path / "in", content)
    kill_a_packing(folder, 30)
    is_as_if_decoded(opened(folder, 9), content, 9)
    assert len(decoded) == 40
    assert any(path.name.startswith(TEMPORARY) for path in cache.iterdir())


def test_a_shard_cut_by_a_loss_of_power_is_not_taken(small_shards, cache, tmp_path, decoded):
    content = pets(20)
    folder = write_folder(tmp_path / "in", content)
    kill_a_packing(folder, 30)
    (left,) = cache.iterdir()
    cut(left / "images-00001.npy")
    is_as_if_decoded(opened(folder), content)
    assert len(decoded) == 40 - ROWS


def test_a_wrong_guess_at_the_shape_leaves_no_shard(small_shards, cache, tmp_path, monkeypatch):
    content = {f"{i:02}.png": png(i, 8) for i in range(20)}
    monkeypatch.setattr(packing, "guess_shape", lambda *_: (8, 16))
    photos = opened(write_zip(tmp_path / "a.zip", content))
    is_as_if_decoded(photos, content)
    assert len(image_files(photos)) == 3


@pytest.mark.hazard
def test_a_packing_that_is_killed_again_and_again_ends(small_shards, cache, tmp_path):
    content = pets(60)
    folder = write_folder(tmp_path / "in", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOL_CACHE", str(tmp_path / "other"))
        unbroken = opened(folder)
    random, kills = np.random.default_rng(0), 0
    while kill_a_packing(folder, int(random.integers(5, 40))):
        kills += 1
        assert kills < 40
    assert kills > 3
    photos = opened(folder)
    np.testing.assert_array_equal(photos.images[:], unbroken.images[:])
    assert photos.names == list(unbroken.names)


# ---- ten million


def memory_of_index(pack, count, names):
    """Open a pack and draw a split, in a process of its own: what stays of it in memory, in bytes.

    Also the seconds of the processor for opening, and for the whole.
    """

    def memory():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before, start = memory(), time.process_time()
    photos = open_pack(pack, "photos", 8)
    opening = time.process_time() - start
    assert [photos.names[row] for row in names] == list(names.values())
    split = make_split(photos, 250)
    split.digest_learned()
    whole = time.process_time() - start
    assert len(split.learned) == count - 250
    del split
    return memory() - before, opening, whole


@pytest.mark.slow
@pytest.mark.parametrize("count", [1_000_000, 10_000_000])
def test_the_index_of_millions(tmp_path, cache, count):
    """The photos are holes in their shards. Not one name is an object of Python's."""
    pack = opened(write_zip(tmp_path / "a.zip", pngs("a/0.png", "b/1.png"))).folder
    rows = 2_000_000  # in a shard
    for number, first in enumerate(range(0, count, rows)):
        some = min(rows, count - first)
        with open(pack / shards.shard_name(number), "wb") as file:
            file.write(npy_header(np.uint8, (some, 3, 8, 8)))
            file.truncate(HEADER_BYTES + some * 3 * 8 * 8)
    numbers = np.arange(count)
    write_texts(pack, "names", (f"{'ab'[i % 2]}/{i:08}.jpg" for i in range(count)))
    for name, column in {
        "labels": numbers % 2,
        "is_test": np.zeros(count, bool),
        "sizes": np.full((count, 2), 8, np.int32),
        "by_name": np.concatenate([numbers[::2], numbers[1::2]]),
        "places": numbers[::-1].astype(np.uint32),
    }.items():
        write_array(pack / f"{name}.npy", column)
    with open(pack / "digests.npy", "wb") as file:
        file.write(npy_header(np.uint8, (count, 32)))
        file.truncate(HEADER_BYTES + count * 32)
    manifest = json.loads((pack / "manifest.json").read_text())
    manifest |= {"count": count, "stored": count, "shard_rows": rows, "in_order": False}
    files = {*FILES, *shards.image_files(manifest)}
    manifest["bytes"] = {name: (pack / name).stat().st_size for name in files}
    (pack / "manifest.json").write_text(json.dumps(manifest))

    names = {0: "a/00000000.jpg", 999_999: "b/00999999.jpg", count - 1: f"b/{count - 1:08}.jpg"}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        bytes_, opening, whole = pool.submit(memory_of_index, pack, count, names).result()
    print(f"{count:,}: {bytes_ / count:.1f} bytes a photo, {opening:.2f} s, {whole:.1f} s")
    # 14 of the name and 8 of its end, 8 + 8 + 8 + 1 of the columns, 4 of the place
    assert 51 * count <= bytes_ < 60 * count + 40e6
    assert opening < 1e-6 * count
    assert whole < 20e-6 * count
