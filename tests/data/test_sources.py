"""Finding images in folders and archives, and reading classes off their names."""

import io
import os
import stat
import tarfile
import time
import zipfile

import numpy as np
import pytest
from photo_files import pets, png, pngs, write_folder, write_tar, write_zip
from PIL import Image

from byol.errors import UserError
from data import archives, items, kinds, open_photos, sources
from data.classes import classify

pytestmark = pytest.mark.usefixtures("cache")


def opened(path, size=8):
    return open_photos(str(path), size, progress=False)


def by_name(photos) -> dict:
    """What must not depend on the kind of source: label, test flag, size, pixels per name."""
    rows = zip(
        photos.names, photos.labels, photos.is_test, photos.sizes, photos.images, strict=True
    )
    return {
        name: (photos.classes[label] if label >= 0 else None, bool(test), *size, pixels.tobytes())
        for name, label, test, size, pixels in rows
    }


# ---- layout ----


@pytest.mark.parametrize(
    ("names", "classes", "tests"),
    [
        # name -> class, and which are test images
        ({"PetImages/Cat/1.jpg": "Cat", "PetImages/Dog/1.jpg": "Dog"}, "Cat Dog", []),
        ({"Cat/1.jpg": "Cat", "Dog/1.jpg": "Dog", "9.jpg": None}, "Cat Dog", []),
        ({"a/b/c/Cat/1.jpg": "Cat", "a/b/c/Dog/x/1.jpg": "Dog"}, "Cat Dog", []),
        (
            {"train/cat/1.jpg": "cat", "train/dog/1.jpg": "dog", "test/cat/2.jpg": "cat"},
            "cat dog",
            ["test/cat/2.jpg"],
        ),
        (
            {"d/train/a/1.jpg": "a", "d/train/b/1.jpg": "b", "d/val/b/2.jpg": "b"},
            "a b",
            ["d/val/b/2.jpg"],
        ),
        (
            {"Train/a/1.jpg": "a", "TRAIN/b/1.jpg": "b", "Validation/b/2.jpg": "b"},
            "a b",
            ["Validation/b/2.jpg"],
        ),
        (
            {
                "training_set/training_set/cats/1.jpg": "cats",
                "training_set/training_set/dogs/1.jpg": "dogs",
                "test_set/test_set/dogs/2.jpg": "dogs",
            },
            "cats dogs",
            ["test_set/test_set/dogs/2.jpg"],
        ),
        (
            {"train/images/a/1.jpg": "a", "train/images/b/1.jpg": "b", "test/images/a/1.jpg": "a"},
            "a b",
            ["test/images/a/1.jpg"],
        ),
        (
            {"train/a/1.jpg": "a", "train/b/1.jpg": "b", "test/2.jpg": None},
            "a b",
            ["test/2.jpg"],
        ),
        (
            {"Cat/1.jpg": "Cat", "Dog/1.jpg": "Dog", "test/Cat/2.jpg": "Cat"},
            "Cat Dog",
            ["test/Cat/2.jpg"],
        ),
        ({"car/1.jpg": "car", "train/1.jpg": "train"}, "car train", []),  # a train as a thing
        ({"1.jpg": None, "2.jpg": None}, "", []),
        ({"photos/1.jpg": None, "photos/2.jpg": None}, "", []),
        ({"photos/Cat/1.jpg": None, "photos/Cat/2.jpg": None}, "", []),
        ({"train/1.jpg": None, "test/2.jpg": None}, "", ["test/2.jpg"]),
        (
            {"a/1.jpg": "a", "b/1.jpg": "b", "unlabelled/3.jpg": None, "unsup/x/4.jpg": None},
            "a b",
            [],
        ),
        (
            {"w/labelled/a/1.jpg": "a", "w/labelled/b/1.jpg": "b", "w/unlabeled/3.jpg": None},
            "a b",
            [],
        ),
    ],
)
def test_layout(names, classes, tests):
    for order in (list(names), list(names)[::-1]):
        layout = classify(order)
        labels, found, is_test = layout.labels, layout.classes, layout.is_test
        assert found == classes.split()
        assert [found[label] if label >= 0 else None for label in labels] == [
            names[name] for name in order
        ]
        assert [name for name, test in zip(order, is_test, strict=True) if test] == tests


# ---- folders ----


def test_a_folder_with_other_files_about(tmp_path):
    content = pets(2)
    clutter = {
        "PetImages/Cat/Thumbs.db": b"x",
        "PetImages/Cat/.hidden.png": b"x",
        "PetImages/.git/1.png": b"x",
        "__MACOSX/PetImages/Cat/0.png": b"x",
        "readme.txt": b"x",
    }
    photos = opened(write_folder(tmp_path / "in", {**content, **clutter}))
    assert sorted(photos.names) == sorted(content)
    assert photos.classes == ["Cat", "Dog"]
    assert photos.skipped == []


def test_suffixes_in_any_case(tmp_path):
    names = [f"{i}{s}" for i, s in enumerate([".JPG", ".Jpeg", ".PNG", ".TIF", ".tiff", ".Bmp"])]
    photos = opened(write_folder(tmp_path / "in", pngs(*names)))  # the content decides
    assert sorted(photos.names) == sorted(names)


def test_folder_links(tmp_path):
    root = write_folder(tmp_path / "in", pngs(*(f"{i}.png" for i in range(20))))
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "link.png").symlink_to(root / "0.png")
    (root / "broken.png").symlink_to(root / "nothing.png")
    os.mkfifo(root / "pipe.png")
    photos = opened(root)
    assert sorted(photos.names) == sorted(f"{i}.png" for i in range(20))
    assert sorted(photos.skipped) == [
        ("broken.png", "a link to nothing"),
        ("pipe.png", "not a regular file"),
    ]
    assert photos.passed.kinds == {kinds.LINK: [2, ["loop", "link.png"]]}


def test_names_that_are_no_text(tmp_path, capsys):
    root = write_folder(tmp_path / "in", pngs(*(f"{i}.png" for i in range(20))))
    with open(os.fsencode(root) + b"/\xff\x1b[31m\n.png", "wb"):
        pass
    photos = opened(root)
    assert photos.skipped == [("\udcff\x1b[31m\n.png", "empty file")]
    told = capsys.readouterr().err
    assert told == "skipped 1 of 21 files: \\udcff\\x1b[31m\\n.png (empty file)\n"


# ---- archives ----


def test_archives_give_what_the_folder_gives(tmp_path):
    content = pngs(
        *(f"train/{kind}/{i}.png" for kind in ("cat", "dog") for i in range(4)),
        *(f"test/{kind}/{i}.png" for kind in ("cat", "dog") for i in range(2)),
    )
    content["train/cat/notes.txt"] = b"no image"
    content["__MACOSX/train/cat/._0.png"] = b"no image"
    folder = opened(write_folder(tmp_path / "in", content), size=5)
    assert folder.classes == ["cat", "dog"]
    assert folder.is_test.sum() == 4
    paths = [write_zip(tmp_path / "a.zip", content)]
    paths += [write_tar(tmp_path / f"a.{kind}", content) for kind in ("tar", "tar.gz", "tar.xz")]
    paths.append(tmp_path / "b.TGZ")
    paths[-1].write_bytes((tmp_path / "a.tar.gz").read_bytes())
    for path in paths:
        photos = opened(path, size=5)
        assert by_name(photos) == by_name(folder)
        assert photos.fingerprint == folder.fingerprint


def test_nothing_of_a_hostile_archive_touches_the_disk(tmp_path):
    outside = tmp_path / "outside"
    good = pngs(*(f"{i}.png" for i in range(40)))
    evil = {
        "../outside/up.png": png(100),
        f"{outside}/absolute.png": png(101),
        "a/../../../outside/deep.png": png(102),
    }
    write_zip(tmp_path / "evil.zip", {**good, **evil})
    with zipfile.ZipFile(tmp_path / "evil.zip", "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(outside))
    write_tar(tmp_path / "evil.tar", {**good, **evil})
    with tarfile.open(tmp_path / "evil.tar", "a") as archive:
        for name, kind in [("link.png", tarfile.SYMTYPE), ("dev.png", tarfile.CHRTYPE)]:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = str(outside)
            archive.addfile(info)
    before = {str(p) for p in tmp_path.rglob("*")}
    for name, links in [("evil.zip", ["link.png"]), ("evil.tar", ["link.png", "dev.png"])]:
        photos = opened(tmp_path / name)
        assert len(photos.names) == 43
        assert "outside/up.png" in photos.names
        assert not any(n.startswith("/") or ".." in n.split("/") for n in photos.names)
        assert [n for n, _ in photos.skipped] == links
    created = {str(p) for p in tmp_path.rglob("*")} - before
    assert all(path.startswith(str(tmp_path / "cache")) for path in created)
    assert not any(path.endswith(".png") for path in created)


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_oversized_files_are_skipped(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(items, "MAX_FILE_BYTES", 2000)
    content = {**pngs(*(f"{i}.png" for i in range(10))), "big.png": png(0, 64)}
    write = {"zip": write_zip, "tar": write_tar, "folder": write_folder}[kind]
    photos = opened(write(tmp_path / f"a.{kind}", content))
    assert [name for name, _ in photos.skipped] == ["big.png"]
    assert "larger than" in photos.skipped[0][1]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_first_of_two_equal_names_stays(tmp_path):
    content = pngs(*(f"{i}.png" for i in range(12)))
    first = opened(write_zip(tmp_path / "a.zip", content))
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("./3.png", png(99))
    photos = opened(tmp_path / "a.zip")
    assert photos.skipped == [("3.png", "a second file of this name")]
    assert by_name(photos) == by_name(first)


def test_an_encrypted_entry_is_skipped(tmp_path):
    path = write_zip(tmp_path / "a.zip", pngs(*(f"{i}.png" for i in range(12))))
    blob = bytearray(path.read_bytes())
    blob[6] |= 1  # the flag of the first entry, there and in the directory
    blob[blob.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(blob)
    assert opened(path).skipped == [("0.png", "encrypted")]


def test_a_garbled_zip_entry_is_skipped(tmp_path):
    path = write_zip(tmp_path / "a.zip", pngs(*(f"{i}.png" for i in range(12))))
    blob = bytearray(path.read_bytes())
    blob[120] ^= 0xFF  # inside the first image
    path.write_bytes(blob)
    ((name, reason),) = opened(path).skipped
    assert name == "0.png"
    assert "damaged in the archive" in reason


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_a_cut_archive_is_named(tmp_path, kind):
    write = write_zip if kind == "zip" else write_tar
    whole = write(tmp_path / f"whole.{kind}", pets(20)).read_bytes()
    path = tmp_path / f"cut.{kind}"
    # 10240 cuts a tar at the boundary of two members, where tarfile sees nothing wrong.
    for length in (0, 10, len(whole) // 2, min(10240, len(whole) - 1000), len(whole) // 2 + 100):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"cut\.{kind}.* damaged"):
            opened(path)


def test_a_garbled_tar_header_is_not_taken_for_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", pets(5))
    blob = bytearray(path.read_bytes())
    blob[blob.index(b"PetImages/Dog/2.png")] ^= 0xFF
    path.write_bytes(blob)
    with pytest.raises(UserError, match=r"a\.tar.* damaged"):
        opened(path)


def test_text_is_no_archive(tmp_path):
    for kind in ("zip", "tar", "tar.xz"):
        (tmp_path / f"a.{kind}").write_text("hello " * 500)
        with pytest.raises(UserError, match=rf"a\.{kind}"):
            opened(tmp_path / f"a.{kind}")


# ---- names ----


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("cats-vs-dog", "did you mean cats-vs-dogs"),
        ("CIFAR-10", "did you mean cifar10"),
        ("cartoon", "did you mean cartoons"),
        ("/no/such/place", "cats-vs-dogs, cifar10, cartoons"),
        ("", "cats-vs-dogs, cifar10, cartoons"),
        ("x" * 5000, "no such file"),
    ],
)
def test_unknown_sources(source, hint):
    with pytest.raises(UserError, match=r"^--data") as caught:
        opened(source)
    assert hint in str(caught.value)


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match=r"a\.rar is no folder and no archive"):
        opened(tmp_path / "a.rar")


def test_no_images(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        opened(tmp_path / "in")


@pytest.mark.parametrize("place", ["", "mine"])
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_cats_vs_dogs_put_there_by_hand(tmp_path, monkeypatch, kind, place):
    monkeypatch.setattr(sources, "DATA_DIR", tmp_path / "data")
    root = tmp_path / "data" / place
    root.mkdir(parents=True)
    if kind == "zip":
        write_zip(root / sources.CATS_VS_DOGS, pets(3))  # no check of its hash
    else:
        write_folder(root, pets(3))
    photos = opened("cats-vs-dogs")
    assert photos.classes == ["Cat", "Dog"]
    assert photos.names == sorted(pets(3))  # the same names either way, so the same split


def test_cats_vs_dogs_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "DATA_DIR", tmp_path / "data")
    monkeypatch.setattr(sources, "CATS_VS_DOGS_URL", "http://127.0.0.1:9/x.zip")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match="by hand") as caught:
        opened("cats-vs-dogs")
    assert str(tmp_path / "data" / sources.CATS_VS_DOGS) in str(caught.value)


def test_cifar10(tmp_path, monkeypatch):
    import torchvision

    class Fake:
        classes = ("airplane", "cat")

        def __init__(self, root, train, download):
            assert root == str(sources.DATA_DIR)
            assert download
            count = 6 if train else 2
            self.data = np.random.default_rng(train).integers(0, 256, (count, 32, 32, 3), np.uint8)
            self.targets = [i % 2 for i in range(count)]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
    photos = opened("cifar10", size=32)
    assert photos.classes == ["airplane", "cat"]
    assert photos.names[:2] == ["train/airplane/00000", "train/cat/00001"]
    assert photos.is_test.tolist() == [False] * 6 + [True] * 2
    want = Fake(str(sources.DATA_DIR), True, True).data.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(photos.images[:6], want)


@pytest.mark.slow
def test_real_cifar10(root):
    """60,000 small files in one archive, packed as it lies in under a minute."""
    path = root.parent / "shared" / "datasets" / "cifar10.tar.xz"
    if not path.is_file():
        pytest.skip(f"CIFAR-10 is not at {path}")
    started = time.monotonic()
    photos = opened(path, 32)
    assert time.monotonic() - started < 60
    assert (len(photos.names), photos.skipped) == (60_000, [])
    assert (photos.classes[0], photos.classes[-1], len(photos.classes)) == ("airplane", "truck", 10)
    for test, count in ((True, 1_000), (False, 5_000)):
        assert np.bincount(photos.labels[photos.is_test == test]).tolist() == [count] * 10
    with archives.lzma.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:  # the first image of the archive, read without this project
            if member.isfile():
                first = np.asarray(Image.open(archive.extractfile(member)).convert("RGB"))
                break
    row = photos.names.index(member.name.removeprefix("./"))
    np.testing.assert_array_equal(photos.images[row], first.transpose(2, 0, 1))


def test_cifar10_without_network(monkeypatch):
    import torchvision

    def fail(*_, **__):
        raise RuntimeError("Error downloading\ncifar-10")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(UserError, match="cifar10 cannot be fetched") as caught:
        opened("cifar10")
    assert "\n" not in str(caught.value)


def test_cartoons(monkeypatch):
    from data import cartoons

    monkeypatch.setattr(cartoons, "TRAIN_IMAGES", 6)
    monkeypatch.setattr(cartoons, "TEST_IMAGES", 4)
    photos = opened("cartoons", size=24)
    assert photos.classes == ["cat", "dog"]
    assert photos.is_test.tolist() == [False] * 6 + [True] * 4
    for row in (0, 7):
        pixels, label = cartoons.draw(0, row, 24)
        np.testing.assert_array_equal(photos.images[row], pixels.transpose(2, 0, 1))
        assert photos.labels[row] == label
        split = "test" if row >= 6 else "train"
        assert photos.names[row] == f"{split}/{cartoons.CLASSES[label]}/{row:05d}"


def test_a_tar_is_read_in_one_pass(tmp_path, monkeypatch):
    """No seek, so that xz is unpacked once."""
    write_tar(tmp_path / "a.tar.xz", pets(5))

    class OnePass(io.BufferedReader):
        def seek(self, *_):
            raise AssertionError("a seek")

    blob = archives.lzma.open(tmp_path / "a.tar.xz").read()
    monkeypatch.setattr(archives, "_open_stream", lambda path: OnePass(io.BytesIO(blob)))
    assert len(opened(tmp_path / "a.tar.xz").names) == 10
