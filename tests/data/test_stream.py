"""Photos that are streamed: the same pixels as packed ones, from files, folders and archives."""

from itertools import pairwise

import numpy as np
import pytest
from photo_files import png, pngs, write_folder, write_tar, write_zip

from byol.errors import UserError
from data import open_photos
from data.stream import Stream, safe_name, safe_names


def streamed(*paths, broken=None) -> dict:
    told = [] if broken is None else broken
    stream = Stream([str(path) for path in paths], (8, 8), lambda *about: told.append(about))
    return {photo.path: photo for photo in stream}


@pytest.mark.parametrize("write", [write_folder, write_zip, write_tar])
def test_the_pixels_are_those_of_a_pack(tmp_path, in_tmp, write):
    suffix = {write_zip: ".zip", write_tar: ".tar.gz"}.get(write, "")
    content = pngs("cat/1.png", "dog/2.png", "3.png")
    source = write(tmp_path / f"pets{suffix}", content)
    packed = open_photos(str(source), 8)
    photos = streamed(source)
    assert list(photos) == [f"{source}/{name}" for name in packed.names]
    for row, photo in enumerate(photos.values()):
        np.testing.assert_array_equal(photo.pixels, packed.images[row])
        assert (photo.height, photo.width) == tuple(packed.sizes[row])
        assert photo.read() == content[packed.names[row]]


def test_files_and_folders_keep_their_order(in_tmp):
    write_folder(in_tmp, pngs("a.png", "b/c.png", "d.jfif") | {"notes.txt": b"x"})
    paths = ["d.jfif", "notes.txt", "b", "a.png"]
    stream = Stream(paths, (8, 8), lambda *_: None)
    assert stream.count() == 4
    found = [photo.path for photo in stream]
    assert found == [paths[0], f"{paths[2]}/c.png", paths[3]]
    assert str(stream.passed) == f"1 text file ({paths[1]})"
    assert (stream.read, stream.broken) == (3, 0)


def test_a_photo_in_two_places_is_told_of_twice(tmp_path):
    write_folder(tmp_path, {"x/cat/1.png": png(0), "y/cat/1.png": png(0)})
    assert len(streamed(tmp_path)) == 2


def test_broken_photos_are_told_with_their_reason(tmp_path):
    write_folder(tmp_path, {"a.png": png(0), "b.png": b"", "c.jpg": b"no"})
    broken = []
    assert len(streamed(tmp_path, broken=broken)) == 1
    assert dict(broken) == {
        f"{tmp_path}/b.png": "empty file",
        f"{tmp_path}/c.jpg": "not an image that can be read",
    }


def test_what_is_not_there_is_said_before_anything_is_read(tmp_path):
    write_folder(tmp_path, pngs("a.png"))
    with pytest.raises(UserError, match=r"^nowhere: no such file"):
        Stream([str(tmp_path), "nowhere"], (8, 8), lambda *_: None)
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"^[^-].*bad.zip is damaged"):
        list(Stream([str(tmp_path / "bad.zip")], (8, 8), lambda *_: None))


def test_only_few_photos_are_in_memory(tmp_path):
    """Each file is read shortly before its photo is given."""
    write_folder(tmp_path, pngs(*(f"{number:03}.png" for number in range(200))))
    seen = []
    for photo in Stream([str(tmp_path)], (8, 8), lambda *_: None):
        seen.append(photo.path)
        if len(seen) == 100:
            (tmp_path / "199.png").unlink()
    assert len(seen) == 199  # the last one was not read when the hundredth was given
    assert all(a < b for a, b in pairwise(seen))


@pytest.mark.parametrize(
    ("name", "safe"),
    [("cat", "cat"), ("../cat", "_cat"), ("a/b", "a_b"), ("..", "_"), ("", "_"), ("a\nb", "a\\nb")],
)
def test_a_class_makes_one_folder_whatever_its_name(name, safe):
    assert safe_name(name) == safe


@pytest.mark.parametrize("name", ["a" * 250 + ".png", "ü" * 250 + ".png", "a." + "b" * 300])
def test_a_long_name_is_cut_in_front_of_its_ending(name):
    short = safe_name(name)
    assert 100 < len(short.encode()) <= 200
    start, ending = (short[:-4], ".png") if name.endswith(".png") else (short, "")
    assert name.startswith(start)
    assert short.endswith(ending)


def test_two_classes_never_share_a_folder():
    assert safe_names(["a/b", "a_b", "a_b-2", "A_B", "..", "cat"]) == [
        "a_b", "a_b-2", "a_b-2-2", "A_B-3", "_", "cat",
    ]  # fmt: skip
