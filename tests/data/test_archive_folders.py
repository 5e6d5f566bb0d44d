"""A folder of archives is one set."""

import os

import numpy as np
import pytest
from photo_files import png, pngs, write_folder, write_tar, write_zip

from byol.errors import UserError
from data import kinds, make_split, open_photos
from data.stream import Stream

pytestmark = pytest.mark.usefixtures("cache")


def opened(path, size=8):
    return open_photos(str(path), size, progress=False)


def pixels_of(photos):
    return {name: photos.images[row].tobytes() for row, name in enumerate(photos.names)}


def write_shards(folder, content, write, ending, count=3):
    """Deal the files out to archives, shard-0 first."""
    folder.mkdir()
    names = list(content)
    for at in range(count):
        part = {name: content[name] for name in names[at::count]}
        write(folder / f"shard-{at:06}{ending}", part)
    return folder


SETS = [(write_tar, ".tar"), (write_tar, ".tar.gz"), (write_zip, ".zip"), (write_zip, ".ZIP")]


@pytest.mark.parametrize(("write", "ending"), SETS)
def test_it_gives_what_the_same_files_give_in_one_folder(tmp_path, write, ending):
    content = pngs(*(f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(10)))
    content |= {"train/readme.txt": b"x"}
    plain = opened(write_folder(tmp_path / "plain", content))
    shards = opened(write_shards(tmp_path / "shards", content, write, ending))
    assert pixels_of(shards) == pixels_of(plain)
    assert shards.fingerprint == plain.fingerprint
    assert (shards.classes, len(shards.skipped)) == (["cat", "dog"], 0)
    assert shards.passed.kinds == {kinds.TEXT: [1, [f"shard-000002{ending}/train/readme.txt"]]}
    assert list(tmp_path.glob("shards/*")) == list(tmp_path.glob(f"shards/*{ending}"))
    for part in ("labelled", "unlabelled"):
        rows = [getattr(make_split(photos, 4), part) for photos in (shards, plain)]
        assert [shards.names[row] for row in rows[0]] == [plain.names[row] for row in rows[1]]


def test_files_beside_the_photos_of_a_shard_are_passed_over(tmp_path):
    """As in WebDataset: 000001.jpg, 000001.cls, 000001.json."""
    content = {}
    for i in range(12):
        content |= {f"{i:06}.png": png(i), f"{i:06}.cls": b"3", f"{i:06}.json": b"{}"}
    photos = opened(write_shards(tmp_path / "in", content, write_tar, ".tar", 2))
    assert sorted(photos.names) == [f"{i:06}.png" for i in range(12)]
    assert photos.passed.kinds[kinds.TEXT][0] == 24
    assert photos.classes == []


def test_the_names_of_archives_tell_the_test(tmp_path):
    (tmp_path / "in/more").mkdir(parents=True)
    for name, first in {
        "in/set-train-000.tar": 0,
        "in/set-train-001.tar": 4,
        "in/set-val-000-of-001.tar": 8,
        "in/more/set-train-002.tar": 12,
    }.items():
        some = (f"{kind}/{i}.png" for kind in "ab" for i in range(first, first + 4))
        write_tar(tmp_path / name, pngs(*some))
    photos = opened(tmp_path / "in")
    assert sum(photos.is_test) == 8
    of_test = {photos.names[row] for row in np.flatnonzero(photos.is_test)}
    assert of_test == {f"set-val/{kind}/{i}.png" for kind in "ab" for i in range(8, 12)}
    assert "set-train/a/5.png" in photos.names
    assert "more/set-train/a/13.png" in photos.names


def test_no_two_photos_are_taken_for_one(tmp_path):
    """Each shard counts its photos from 0."""
    (tmp_path / "in").mkdir()
    for shard in range(3):
        content = {f"a/{i}.png": png(10 * shard + i) for i in range(4)}
        write_tar(tmp_path / f"in/{shard:04}.tar", content)
    photos = opened(tmp_path / "in")
    assert [photos.names[row] for row in (0, 4, 11)] == ["a/0.png", "a/0001.0.png", "a/0002.3.png"]
    assert len(set(pixels_of(photos).values())) == 12
    before = pixels_of(photos)
    write_tar(tmp_path / "in/0003.tar", {"a/0.png": png(99)})  # no other photo gets another name
    after = pixels_of(opened(tmp_path / "in"))
    assert before.items() < after.items()
    assert after.keys() - before.keys() == {"a/0003.0.png"}


def test_archives_beside_photos_are_not_read(tmp_path):
    folder = write_folder(tmp_path / "in", pngs("a/1.png", "b/2.png"))
    write_zip(folder / "old.zip", pngs("c/3.png"))
    photos = opened(folder)
    assert sorted(photos.names) == ["a/1.png", "b/2.png"]
    assert photos.passed.kinds == {kinds.ARCHIVE: [1, ["old.zip"]]}


def test_a_damaged_one_is_named(tmp_path):
    folder = write_shards(tmp_path / "in", pngs(*(f"{i}.png" for i in range(9))), write_tar, ".tar")
    os.truncate(folder / "shard-000001.tar", 1000)
    with pytest.raises(UserError, match=r"shard-000001.tar is damaged or no archive"):
        opened(folder)


def test_links_to_archives_are_read_and_what_leads_nowhere_is_counted(tmp_path):
    there = write_shards(tmp_path / "there", pngs("1.png", "2.png", "3.png"), write_tar, ".tar")
    (tmp_path / "in").mkdir()
    for at in range(3):
        (tmp_path / f"in/{at}.tar").symlink_to(there / f"shard-{at:06}.tar")
    (tmp_path / "in/3.tar").symlink_to("nowhere")
    photos = opened(tmp_path / "in")
    assert sorted(photos.names) == ["1.png", "2.png", "3.png"]
    assert photos.passed.kinds == {kinds.ARCHIVE: [1, ["3.tar"]]}


def test_a_listing_that_is_known_reads_no_archive(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "in", pngs("1.png", "2.png", "3.png"), write_zip, ".zip")
    one = opened(folder)
    monkeypatch.setattr("data.packing._read", lambda *_: pytest.fail("the archives were read"))
    assert opened(folder).folder == one.folder


def test_they_stream(tmp_path):
    content = pngs("a/1.png", "b/2.png", "b/3.png")
    folder = write_shards(tmp_path / "in", content, write_tar, ".tar")
    stream = Stream([str(folder)], (8, 8), lambda *_: pytest.fail("none is broken"))
    photos = {photo.path: photo for photo in stream}
    assert photos.keys() == {f"{folder}/{name}" for name in content}
    assert all(photos[f"{folder}/{name}"].read() == blob for name, blob in content.items())
