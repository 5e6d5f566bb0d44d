"""What is a photo, what is passed over and told, and where links lead."""

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from photo_files import png, pngs, write_folder, write_tar, write_zip
from PIL import Image

from byol.errors import UserError
from data import folders, items, kinds, open_photos

pytestmark = pytest.mark.usefixtures("cache")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
AVIF = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(100)
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100)
MOV = b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(100)
CR3 = b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100)
CR2 = b"II*\0\x10\0\0\0CR\2\0" + bytes(100)


def opened(path, size=8):
    return open_photos(str(path), size, progress=False)


def encoded(kind: str, seed: int = 0, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def passed(photos) -> dict[str, int]:
    return {kind: count for kind, (count, _) in photos.passed.kinds.items()}


def in_each_form(tmp_path, content: dict[str, bytes]) -> list[Path]:
    """A folder, a zip and a tar of the same content."""
    return [
        write_folder(tmp_path / "in", content),
        write_zip(tmp_path / "a.zip", content),
        write_tar(tmp_path / "a.tar", content),
    ]


# ---- first bytes


def test_a_file_is_a_photo_by_its_first_bytes_whatever_its_ending(tmp_path):
    formats = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
    content = {f"{kind}.{end}": encoded(kind, seed) for seed, (kind, end) in enumerate(
        zip(formats, ("jfif", "large", "dat", "x", "0", "pic"), strict=True)
    )}  # fmt: skip
    content |= {f"no ending {kind}": encoded(kind, 9) for kind in formats}
    content |= {"b.tif": encoded("TIFF", big_tiff=True), "wrong.png": encoded("JPEG"),
                "wrong.jpg": encoded("WEBP")}  # fmt: skip
    for path in in_each_form(tmp_path, content):
        photos = opened(path)
        assert sorted(photos.names) == sorted(content)
        assert (photos.skipped, passed(photos)) == ([], {})


@pytest.mark.parametrize(
    ("blob", "kind"),
    [
        (HEIC, kinds.PHOTO),
        (AVIF, kinds.PHOTO),
        (b"\0\0\0\x1cftypavif" + bytes(100), kinds.PHOTO),
        (MP4, kinds.VIDEO),
        (MOV, kinds.VIDEO),
        (CR3, kinds.RAW),
        (CR2, kinds.RAW),
        (b"RIFF\0\0\0\0AVI LIST", kinds.VIDEO),
        (b"RIFF\0\0\0\0WAVEfmt ", kinds.SOUND),
        (b"BMW cars and others, a text that begins like a bitmap", kinds.TEXT),
        (b"GIF in words", kinds.TEXT),
        ("Schöne Grüße".encode(), kinds.TEXT),
        (b"P6\n8 8\n255\n" + bytes(192), kinds.PICTURE),
        (b"8BPS\0\1", kinds.PICTURE),
        (bytes(128) + b"DICM", kinds.PICTURE),
        (b"%PDF-1.7", kinds.DOCUMENT),
        (b"PK\3\4\0\0", kinds.ARCHIVE),
        (b"\x1f\x8b\x08", kinds.ARCHIVE),
        (b"", kinds.OTHER),
        (bytes(64), kinds.OTHER),
    ],
)
def test_what_a_file_is_by_its_first_bytes(blob, kind):
    assert kinds.kind_of_bytes(blob[: kinds.HEAD_BYTES]) == kind


def test_what_is_no_photo_is_counted_by_kind_and_named(tmp_path, capsys):
    content = {
        **pngs(*(f"{i}.png" for i in range(20))),
        "clip.MOV": MOV,
        "clip": MP4,
        "IMG_1.CR2": CR2,
        "IMG_2.dng": encoded("TIFF"),
        "notes.txt": b"hello",
        "labels.json": b"{}",
        "LICENSE": b"free",
        "more.zip": b"PK\3\4",
        "page.pdf": b"%PDF",
        "logo.svg": b"<svg/>",
        "0.png.bak": png(0),
        "1.png_original": png(1),
        "2.png~": png(2),
        "model.pt": b"PK\3\4",
    }
    for path in in_each_form(tmp_path, content):
        photos = opened(path)
        assert sorted(photos.names) == sorted(f"{i}.png" for i in range(20))
        assert photos.skipped == []
        assert passed(photos) == {
            kinds.VIDEO: 2, kinds.RAW: 2, kinds.TEXT: 3, kinds.ARCHIVE: 1, kinds.DOCUMENT: 1,
            kinds.PICTURE: 1, kinds.BACKUP: 3, kinds.OTHER: 1,
        }  # fmt: skip
        told = photos.describe_classes()
        assert "passed over: 2 camera RAW files (IMG_1.CR2, IMG_2.dng), 1 picture of" in told
        assert "1 archive (more.zip)" in told
        assert opened(path).describe_classes() == told  # from the pack as well
    assert capsys.readouterr().err == ""


def test_a_file_that_claims_to_be_a_photo_and_is_none_is_broken(tmp_path):
    content = {**pngs(*(f"{i}.png" for i in range(40))), "page.jpg": b"<html>", "clip.jpeg": MP4}
    for path in in_each_form(tmp_path, content):
        photos = opened(path)
        assert sorted(name for name, _ in photos.skipped) == ["clip.jpeg", "page.jpg"]
        assert passed(photos) == {}


def test_no_file_is_opened_to_list_a_folder(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "in", {**pngs("a/1.png", "b/2", "c/3.x"), "d/4.mp4": MP4})
    opened(root)
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("a file was opened"))
    found = folders.list_folder(root)
    assert [file.name for file in found.files] == ["a/1.png", "b/2", "c/3.x"]


def test_a_large_file_of_another_kind_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "MAX_FILE_BYTES", 2000)
    content = {**pngs(*(f"{i}.png" for i in range(10))), "weights.0": b"\1" + bytes(100_000)}
    for path in in_each_form(tmp_path, content):
        photos = opened(path)
        assert (photos.skipped, passed(photos)) == ([], {kinds.OTHER: 1})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({f"DSC_{i}.NEF": b"MM\0*" for i in range(5)},
         ["5 camera RAW files (DSC_0.NEF, DSC_1.NEF, DSC_2.NEF, ...)", "export them as JPEG"]),
        ({"train.7z": b"7z\xbc\xaf", "test1.rar": b"Rar!", "sample.csv": b"id"},
         ["2 archives (", "train.7z", "1 text file (sample.csv)", "unpack them"]),
        ({"a.mp4": MP4}, ["1 video (a.mp4)", "take pictures out of them"]),
        ({"a.psd": b"8BPS", "b.ppm": b"P6"}, ["2 pictures of other formats", "convert them"]),
        ({"a.txt": b"x"}, ["1 text file (a.txt)", "check the path"]),
    ],
)  # fmt: skip
def test_a_source_of_other_things_is_told_in_one_sentence(tmp_path, content, words):
    for path in in_each_form(tmp_path, content):
        with pytest.raises(UserError, match="holds no images that can be read, but ") as caught:
            opened(path)
        assert all(word in str(caught.value) for word in words)


def test_a_folder_of_heic_is_told_in_one_sentence(tmp_path):
    root = write_folder(tmp_path / "in", {f"IMG_{i}.HEIC": HEIC for i in range(5)})
    with pytest.raises(UserError, match=r"5 of 5 files cannot be used.*IMG_0\.HEIC \(.*HEIC"):
        opened(root)


# ---- what systems, programs and this project keep beside photos

CLUTTER = [
    *("@eaDir/cat/1.png@SynoEAStream/SYNOPHOTO_THUMB_XL.jpg", "cat/@eaDir/1.png/THUMB_M.jpg"),
    *("#recycle/cat/old.jpg", "@Recycle/old.jpg", "cat/.@__thumb/default1.png", "@tmp/x.jpg"),
    *("$RECYCLE.BIN/S-1-5/$R1.jpg", "System Volume Information/x.jpg", "lost+found/#12"),
    *("__MACOSX/cat/._1.png", "cat/.AppleDouble/1.png", "cat/._1.png", ".Trashes/501/1.png"),
    *("cat/.thumbnails/1.jpg", "cat/.picasaoriginals/1.png", ".git/annex/x.png", "found.000/x.jpg"),
    *("Catalog Previews.lrdata/0/1.lrprev", "My Smart Previews.lrdata/1.jpg", "[Originals]/1.jpg"),
    *("cat/Thumbs.db", "cat/desktop.ini", "cat/.DS_Store", "cat/Picasa.ini", "appdata_oc1x/p.jpg"),
    *("Lib.photoslibrary/resources/derivatives/1.jpg", "Lib.photoslibrary/private/x.jpg"),
    *("ground_truth/1_mask.png", "cat/SegmentationClass/1.png", "cat/MVI_1.THM", ".stversions/1"),
]


def test_folders_of_systems_and_programs_are_passed_over(tmp_path):
    good = pngs("cat/1.png", "dog/2.png", "dog/Lib.photoslibrary/originals/0/3.png")
    content = {**good, **{name: png(99) for name in CLUTTER}}
    for path in in_each_form(tmp_path, content):
        photos = opened(path)
        assert sorted(photos.names) == sorted(good)
        assert photos.classes == ["cat", "dog"]
        assert photos.skipped == []
        assert passed(photos)[kinds.SYSTEM_FOLDER] > 8
        assert {kinds.SYSTEM_FILE, kinds.HIDDEN_FILE, kinds.HIDDEN_FOLDER, kinds.MASKS} < set(
            passed(photos)
        )
        assert "folders of a system or program (" in photos.describe_classes()


def test_masks_are_passed_over_beside_images_and_a_class_elsewhere(tmp_path):
    beside = pngs("flu/images/1.png", "flu/masks/1.png", "cold/images/1.png", "cold/masks/1.png")
    for path in in_each_form(tmp_path / "beside", beside):
        photos = opened(path)
        assert photos.classes == ["cold", "flu"]
        assert sorted(photos.names) == ["cold/images/1.png", "flu/images/1.png"]
        assert passed(photos) == {kinds.MASKS: 2}
    for path in in_each_form(tmp_path / "faces", pngs("mask/1.png", "no mask/2.png")):
        assert opened(path).classes == ["mask", "no mask"]


def test_a_folder_that_is_given_itself_is_never_passed_over(tmp_path):
    for name in ("@eaDir", ".hidden", "ground_truth"):
        root = write_folder(tmp_path / name, pngs("1.png", "2.png"))
        assert len(opened(root).names) == 2


def picture(path: Path) -> None:
    """A picture as matplotlib writes it."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(1, 1))
    figure.savefig(path, dpi=20)
    plt.close(figure)


def test_what_this_project_writes_is_no_photo_and_changes_no_identity(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "in", pngs("cat/1.png", "dog/2.png", "cat/loss1.png"))
    monkeypatch.setenv("BYOL_CACHE", str(root / "cache"))
    before = opened(root)
    assert before.classes == ["cat", "dog"]
    for folder in ("runs/byol", "runs/classifier", "evaluation", "plots"):
        (root / folder).mkdir(parents=True)
    for name in ("runs/byol/run.lock", "runs/byol/last.pt", "evaluation/run.lock", "byol.pt",
                 "evaluation/table.md", "runs/classifier/run.lock", "train.log"):  # fmt: skip
        (root / name).write_bytes(b"x")
    for name in sorted(kinds.OWN_PICTURES):
        picture(root / "plots" / name)
    for name in ("evaluation/table.png", "runs/byol/any.png", "accuracy.png"):
        picture(root / name)
    packs = sorted((root / "cache").iterdir())
    photos = opened(root)
    assert sorted(photos.names) == ["cat/1.png", "cat/loss1.png", "dog/2.png"]
    assert sorted((root / "cache").iterdir()) == packs
    assert photos.empty == []
    assert passed(photos) == {
        kinds.OWN_FOLDER: 4,  # three runs and the pack
        kinds.OWN_PICTURE: len(kinds.OWN_PICTURES) + 1,
        kinds.OTHER: 1,
        kinds.TEXT: 1,
    }
    for path in (write_zip(tmp_path / "a.zip", pngs("cat/1.png", "dog/2.png")),):
        with zipfile.ZipFile(path, "a") as archive:
            archive.write(root / "plots" / "loss1.png", "plots/loss1.png")
        assert opened(path).classes == ["cat", "dog"]


# ---- links


def test_links_to_folders_are_followed_inside_and_outside(tmp_path):
    root = write_folder(tmp_path / "in", pngs("cat/1.png", "cat/2.png", ".store/bird/5.png"))
    write_folder(tmp_path / "elsewhere", pngs("dog/3.png", "dog/4.png", "dog/deep/6.png"))
    (root / "dog").symlink_to("../elsewhere/dog")
    (root / "bird").symlink_to(root / ".store" / "bird")
    photos = opened(root)
    assert photos.classes == ["bird", "cat", "dog"]
    assert sorted(photos.names) == [
        *("bird/5.png", "cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png", "dog/deep/6.png")
    ]


def test_links_make_no_loop_and_give_each_file_once(tmp_path):
    names = ["cat/1.png", "dog/2.png", *(f"dog/{i}.png" for i in range(10, 20))]
    root = write_folder(tmp_path / "in", pngs(*names))
    write_folder(tmp_path / "out", {"a/b/3.png": png(99)})
    links = {
        "cat/up": "..", "cat/root": root, "all": tmp_path, "disk": "/", "cat/same": "../dog",
        "far": tmp_path / "out", "far2": tmp_path / "out" / "a", "self": "self",
        "favourite.png": "cat/1.png", "dog/1.png": "../cat/1.png",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "out" / "a" / "back").symlink_to(root)
    os.link(root / "dog" / "2.png", root / "dog" / "z.png")
    photos = opened(root)
    assert sorted(photos.names) == sorted([*names, "far/a/b/3.png"])
    assert passed(photos) == {kinds.LINK: 10}
    assert photos.skipped == [("self", "a link to nothing")]


def test_a_class_whose_link_leads_nowhere_is_named(tmp_path, capsys):
    root = write_folder(tmp_path / "in", pngs(*(f"cat/{i}.png" for i in range(20))))
    (root / "dog").symlink_to("/mnt/away/dog")
    assert opened(root).skipped == [("dog", "a link to nothing")]
    assert "dog (a link to nothing)" in capsys.readouterr().err


def test_a_tree_of_links_to_a_hidden_store_gives_each_file_once(tmp_path):
    """As git-annex keeps large files."""
    root = write_folder(tmp_path / "in", {f".git/annex/{i}": png(i) for i in range(4)})
    for name, number in {"cat/a.png": 0, "cat/b.png": 1, "dog/c.png": 2, "dog/d.png": 2}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(root / ".git" / "annex" / str(number))
    photos = opened(root)
    assert sorted(photos.names) == ["cat/a.png", "cat/b.png", "dog/c.png"]
    assert passed(photos) == {kinds.LINK: 1, kinds.HIDDEN_FOLDER: 1}


# ---- copies and empty folders


@pytest.mark.parametrize("inner", ["chest", "chest_copy"])
def test_a_doubled_tree_is_used_once(tmp_path, inner):
    single = pngs(*(f"chest/{split}/{kind}/{i}.png" for split in ("train", "test")
                    for kind in ("ill", "well") for i in range(3)))  # fmt: skip
    doubled = {f"chest/{inner}/{name.partition('/')[2]}": blob for name, blob in single.items()}
    for path in in_each_form(tmp_path, {**doubled, **single}):
        photos = opened(path)
        kept = [name for name in photos.names if inner not in name.split("/")[1]]
        assert sorted(kept) == sorted(single) or path.suffix == ".tar"  # which cannot look ahead
        assert photos.classes == ["ill", "well"]
        assert (len(photos.names), passed(photos)) == (12, {kinds.COPY: 12})
        train = {photos.images[row].tobytes() for row in np.flatnonzero(~photos.is_test)}
        test = {photos.images[row].tobytes() for row in np.flatnonzero(photos.is_test)}
        assert (len(train), len(test), train & test) == (6, 6, set())
        assert "12 copies of photos (chest" in photos.describe_classes()


def test_one_photo_in_train_and_test_is_used_once(tmp_path):
    content = pngs("train/cat/1.png", "train/dog/2.png", "test/dog/3.png")
    content["test/cat/1.png"] = content["train/cat/1.png"]
    content["train/cat/same pixels.png"] = content["train/cat/1.png"]  # another name stays
    photos = opened(write_zip(tmp_path / "a.zip", content))
    assert passed(photos) == {kinds.COPY: 1}
    assert len(photos.names) == 4


def test_a_folder_without_photos_is_named(tmp_path):
    root = write_folder(tmp_path / "in", {**pngs("cat/1.png", "cat/2.png"), "dog/a.cr2": CR2})
    (root / "bird" / "young").mkdir(parents=True)
    photos = opened(root)
    assert photos.empty == ["bird", "dog"]
    assert "; no photos in bird, dog; passed over: 1 camera RAW" in photos.describe_classes()
    assert photos.describe_lack() == (
        "0 class folders; all of its photos are in cat; there are no photos in bird, dog; passed "
        "over were 1 camera RAW file (dog/a.cr2)"
    )
    shutil.rmtree(root / "cat")
    with pytest.raises(UserError, match="holds no images"):
        opened(root)


def test_a_path_of_thousands_of_folders_in_an_archive_is_passed_over(tmp_path):
    deep = "a/" * 20_000 + "1.png"
    good = pngs("1.png", "2.png")
    with tarfile.open(write_tar(tmp_path / "a.tar", good), "a") as archive:
        archive.addfile(tarfile.TarInfo(deep))
    for path in (write_zip(tmp_path / "a.zip", {**good, deep: png(3)}), tmp_path / "a.tar"):
        photos = opened(path)
        assert (photos.names, passed(photos)) == (["1.png", "2.png"], {kinds.OTHER: 1})
