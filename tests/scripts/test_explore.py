"""`explore.py` from flags to files, on drawings and narrow encoders."""

import csv
import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from narrow_encoder import narrow, write_encoder
from PIL import Image, ImageOps
from refusals import fails

import explore
import train_classifier
from byol.evaluation.features import FeatureExtractor
from byol.hardware.device import set_up
from byol.run import checkpoint
from data import open_photos

COUNT = 44  # photos


@pytest.fixture(scope="module")
def encoder(photos, cache, tmp_path_factory) -> str:
    """A file of a narrow encoder with random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOL_CACHE", str(cache))
        narrow(patch)
        return write_encoder(tmp_path_factory.mktemp("encoder") / "byol.pt", photos)


@pytest.fixture
def run(encoder, narrow_encoder):
    """Run a command with the encoder: its exit code."""
    return lambda *flags: explore.main([*map(str, flags), "--init", encoder, "--device", "cpu"])


@pytest.fixture
def table(run, capsys):
    """Run a command that prints a table: its lines, the header first."""

    def read(*flags) -> list[list[str]]:
        capsys.readouterr()
        assert run(*flags) == 0
        text = capsys.readouterr().out
        assert text.count("\r\n") == text.count("\n")  # RFC 4180
        return list(csv.reader(io.StringIO(text, newline="")))

    return read


def test_features_are_those_of_the_encoder(run, encoder, photos):
    assert run("embed", photos, "--out", "features.npz") == 0
    with np.load("features.npz") as file:
        names, features = file["names"].tolist(), file["features"]
    packed = open_photos(str(photos), 32)
    content = checkpoint.load_pretrained(encoder)
    device, amp = set_up("cpu", "auto")
    viewing = {key: content[key] for key in ("image_size", "mean", "std")}
    extract = FeatureExtractor(**viewing, device=device, amp=amp)
    network = checkpoint.load_encoder(content, encoder)
    expected = extract(network, packed, np.arange(COUNT)).numpy()
    assert names == list(packed.names)
    assert features.dtype == np.float32
    assert features.shape == (COUNT, 64)
    np.testing.assert_allclose(features, expected, atol=0.02, rtol=0.02)


def test_a_classifier_is_an_encoder_too(narrow_encoder, encoder, photos, capsys):
    flags = ["--init", encoder, "--freeze", "--run-dir", "run", "--epochs", "2", "--batch-size",
             "4", "--amp", "off", "--device", "cpu"]  # fmt: skip
    assert train_classifier.main(flags) == 0
    for name, init in (("a", encoder), ("b", "run/classifier.pt")):
        flags = ["embed", str(photos), "--init", init, "--out", f"{name}.npz", "--device", "cpu"]
        assert explore.main(flags) == 0
    with np.load("a.npz") as a, np.load("b.npz") as b:
        np.testing.assert_array_equal(a["features"], b["features"])


def test_the_nearest_are_those_of_the_highest_cosine(run, table, photos):
    assert run("embed", photos, "--out", "features.npz") == 0
    with np.load("features.npz") as file:
        names, features = file["names"].tolist(), file["features"]
    query = photos / names[3]
    found = table("nearest", query, names[5], "--among", photos, "--count", 4)
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = [["query", "rank", "file", "similarity"]]
    for text, row in ((str(query), 3), (names[5], 5)):
        cosines = directions @ directions[row]
        order = [other for other in np.argsort(-cosines).tolist() if other != row][:4]
        expected += [[text, str(rank), names[o]] for rank, o in enumerate(order, 1)]
        here = [float(line[3]) for line in found[1:] if line[0] == text]
        np.testing.assert_allclose(here, cosines[order], atol=2e-3)
    assert [line[:3] for line in found[1:]] == expected[1:]


def test_a_query_from_elsewhere_has_all_photos_as_neighbours(table, photos):
    some = next(photos.rglob("*.png"))
    ImageOps.invert(Image.open(some).convert("RGB")).save("other.webp")
    found = table("nearest", "other.webp", "other.webp", "--among", photos, "--count", COUNT)
    assert len(found) == 1 + 2 * COUNT
    assert found[1:][:COUNT] == found[1:][COUNT:]
    assert len({line[2] for line in found[1:]}) == COUNT


def test_duplicates_are_found_in_their_groups(table, photos):
    folder = Path("twice")
    shutil.copytree(photos, folder / "photos")
    first, second, third = sorted(photos.rglob("*.png"))[:3]
    (folder / "copies").mkdir()
    shutil.copy(first, folder / "copies" / "same, file.png")
    photo = Image.open(second).convert("RGB")
    photo.save(folder / "copies" / "stored_anew.jpg", quality=90)
    ImageOps.mirror(Image.open(third).convert("RGB")).resize((80, 80)).save(
        folder / "copies" / "turned.webp", quality=90
    )
    found = table("duplicates", folder, "--agreement", 0.995)
    assert found[0] == ["group", "file", "like", "agreement"]
    groups = {}
    for number, name, like, agreement in found[1:]:
        groups.setdefault(number, {})[name] = like, float(agreement)
    by_name = {name: group for group in groups.values() for name in group}
    inside = {p: f"photos/{p.relative_to(photos)}" for p in (first, second, third)}
    for path, copy in zip((first, second, third), ("same, file.png", "stored_anew.jpg",
                                                   "turned.webp"), strict=True):  # fmt: skip
        assert by_name[f"copies/{copy}"] is by_name[inside[path]], copy
    assert by_name["copies/same, file.png"]["copies/same, file.png"] == (inside[first], 1)


def test_suggestions_are_different_photos_and_stand_for_all(table, photos):
    found = table("suggest", photos, "--count", 7)
    assert found[0] == ["rank", "file", "stands_for"]
    assert [line[0] for line in found[1:]] == [str(rank) for rank in range(1, 8)]
    assert len({line[1] for line in found[1:]}) == 7
    assert all((photos / line[1]).is_file() for line in found[1:])
    sizes = [int(line[2]) for line in found[1:]]
    assert sum(sizes) == COUNT
    assert sizes == sorted(sizes, reverse=True)
    assert table("suggest", photos, "--count", 7) == found
    assert table("suggest", photos, "--count", 7, "--seed", 1) != found


def test_what_has_a_label_is_not_suggested(table, run, photos, tmp_path, capsys):
    """Photos in class folders are labelled, if others lie in no folder."""
    mixed = tmp_path / "mixed"
    shutil.copytree(photos / "train", mixed)
    for number, path in enumerate(sorted((photos / "test").rglob("*.png"))):
        shutil.copy(path, mixed / f"{number}.png")
    flat = {path.name for path in mixed.glob("*.png")}
    found = table("suggest", mixed, "--count", len(flat))
    assert {line[1] for line in found[1:]} == flat
    assert {line[2] for line in found[1:]} == {"1"}
    assert run("suggest", mixed, "--count", 3) == 0
    left_out = f"{COUNT - len(flat)} photos that lie in class folders have a label"
    assert left_out in capsys.readouterr().err
    code = run("suggest", mixed, "--count", len(flat) + 1)
    fails(capsys, code, f"there are {len(flat)} photos without a label")


def test_a_table_goes_to_a_file_and_pictures_are_drawn(run, photos, capsys):
    query = next(photos.rglob("*.png"))
    for name, flags in (
        ("nearest", ["nearest", query, "--among", photos]),
        ("suggest", ["suggest", photos, "--count", 9]),
    ):
        assert run(*flags, "--out", f"{name}.csv", "--sheet", f"{name}.png") == 0
        assert capsys.readouterr().out == ""
        lines = Path(f"{name}.csv").read_bytes().split(b"\r\n")
        assert len(lines) == (7 if name == "nearest" else 11)
    with Image.open("nearest.png") as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB"))
    with Image.open(query) as photo:  # the first photo of the sheet is the query
        shown = np.asarray(Image.fromarray(pixels[2:146, 2:146]).resize((40, 40)), np.float32)
        drawn = np.asarray(photo.convert("RGB"), np.float32)
    assert np.corrcoef(shown.ravel(), drawn.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("name", ["map.png", "map.jpg"])
def test_a_map_shows_every_photo_in_the_colour_of_its_class(run, photos, capsys, name):
    assert run("map", photos, "--out", name, "--layout", "pca") == 0
    captured = capsys.readouterr()
    assert captured.out == f"{name}\n"
    assert "photos are drawn" not in captured.err
    with Image.open(name) as picture:
        assert picture.format == ("PNG" if name == "map.png" else "JPEG")
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ((0, 0x72, 0xB2), (0xE6, 0x9F, 0)):
        assert (np.abs(pixels - colour).max(axis=2) < 40).sum() > 22 * 4 * 80  # frames


def test_without_scikit_learn_a_map_is_of_pca_and_says_so(run, photos, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert run("map", photos, "--out", "map.png") == 0
    assert "PCA is used, as scikit-learn is not installed" in capsys.readouterr().err
    assert Path("map.png").is_file()
    code = run("map", photos, "--out", "other.png", "--layout", "tsne")
    fails(capsys, code, "--layout tsne needs scikit-learn")
    assert not Path("other.png").exists()


def test_a_map_is_no_photo_of_the_next_one(run, photos, capsys):
    shutil.copytree(photos, "own")
    for _ in range(2):
        assert run("map", "own", "--out", "own/map.png", "--layout", "pca") == 0
    assert f"{COUNT}\n" in capsys.readouterr().err.split("own:")[-1]


def test_broken_photos_are_counted_and_named(run, photos, capsys):
    shutil.copytree(photos, "some")
    Path("some/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    assert run("suggest", "some", "--count", 3) == 0
    assert "skipped 1 of 45 files: broken.jpg" in capsys.readouterr().err
    for number in range(9):
        Path(f"some/broken{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    fails(capsys, run("suggest", "some", "--count", 3), "broken", "--skip-broken")
    assert run("suggest", "some", "--count", 3, "--skip-broken") == 0


def test_bad_input_is_one_sentence(run, encoder, narrow_encoder, photos, tmp_path, capsys):
    Path("empty").mkdir()
    Path("text.pt").write_text("hello")
    Path("no photo.jpg").write_text("hello")
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(next(photos.rglob("*.png")), one)
    for words, flags in (
        (["empty holds no images"], ["suggest", "empty"]),
        (["nowhere: no such file or folder"], ["suggest", "nowhere"]),
        (["--count 45: there are 44 photos"], ["suggest", photos, "--count", 45]),
        (["--count must be a whole number"], ["suggest", photos, "--count", "many"]),
        (["--seed must be a whole number"], ["suggest", photos, "--seed", "x"]),
        (["invalid choice: 'suggests'"], ["suggests", photos]),
        (["no photo.jpg cannot be read"], ["nearest", "no photo.jpg", "--among", photos]),
        (["gone.jpg is no file, and no photo of"], ["nearest", "gone.jpg", "--among", photos]),
        (
            ["--count 44: there are 43 photos beside the query"],
            ["nearest", next(photos.rglob("*.png")), "--among", photos, "--count", 44],
        ),
        (["one has 1 photo; duplicates needs 2"], ["duplicates", one]),
        (["--agreement 2"], ["duplicates", photos, "--agreement", 2]),
        (["empty is a folder"], ["embed", photos, "--out", "empty"]),
        (["cannot be written to"], ["suggest", photos, "--out", "text.pt/a.csv"]),
        (["a picture ends in .png"], ["map", photos, "--out", "map.gif"]),
        (["a picture ends in .png"], ["suggest", photos, "--sheet", "a.csv"]),
        (["there is no option --cuont"], ["suggest", photos, "--cuont", 3]),
    ):
        fails(capsys, run(*flags), *words)
    for init in ("text.pt", "gone.pt"):
        code = explore.main(["suggest", str(photos), "--init", init, "--device", "cpu"])
        fails(capsys, code, init)
    assert sorted(p.name for p in Path().iterdir()) == ["empty", "no photo.jpg", "one", "text.pt"]


def test_an_output_without_room_leaves_what_was_there(run, photos, capsys):
    from processes import longest_file

    Path("features.npz").write_bytes(b"before")
    assert run("embed", photos, "--out", "other.npz") == 0  # packs
    with longest_file(4096):
        code = run("embed", photos, "--out", "features.npz")
    fails(capsys, code, "no room to write features.npz")
    assert Path("features.npz").read_bytes() == b"before"
    assert sorted(p.name for p in Path().iterdir()) == ["features.npz", "other.npz"]


def test_help_fits_and_names_each_command(capsys):
    with pytest.raises(SystemExit):
        explore.main(["--help"])
    text = capsys.readouterr().out
    for name in ("embed", "map", "nearest", "duplicates", "suggest"):
        assert f"python explore.py {name} " in text
    assert len(text.splitlines()) < 30
