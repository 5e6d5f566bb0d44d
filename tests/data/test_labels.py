"""Labels from a second source, a table or a pattern; groups of photos."""

import json
import re
import shutil

import numpy as np
import pytest
from photo_files import png, pngs, write_folder, write_tar, write_zip

from byol.errors import UserError
from data import make_split, open_again, open_photos
from data.labels import digest_of, read_table


@pytest.fixture(autouse=True)
def _cache(cache):
    """Packs of the test's own."""


def opened(path, **settings):
    return open_photos(str(path), 8, progress=False, **settings)


def labels_of(photos) -> dict[str, str | None]:
    named = [*photos.classes, None]
    return {name: named[photos.labels[row]] for row, name in enumerate(photos.names)}


@pytest.fixture
def flat(tmp_path):
    """Photos without folders: cat.0.png, cat.1.png, dog.2.png, and x/bird.png."""
    return write_folder(
        tmp_path / "flat", pngs("cat.0.png", "cat.1.png", "dog.2.png", "x/bird.png")
    )


def table(tmp_path, text: str, encoding: str = "utf-8") -> str:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return str(path)


# ---- class folders


@pytest.mark.parametrize(
    "unsorted", ["{}.png", "unlabelled/{}.png", "unsorted/{}.png", "inbox/{}.png", "Inbox/a/{}.png"]
)
@pytest.mark.parametrize("around", ["", "sorted/"])
def test_photos_beside_class_folders_are_unlabelled(tmp_path, unsorted, around):
    names = [f"{around}{kind}/{i}.png" for kind in ("cat", "dog") for i in range(3)]
    photos = opened(write_folder(tmp_path / "p", pngs(*names, *map(unsorted.format, range(4)))))
    assert photos.classes == ["cat", "dog"]
    assert {name for name, label in labels_of(photos).items() if label} == set(names)
    split = make_split(photos, None)
    assert (len(split.labelled), len(split.unlabelled), len(split.learned)) == (6, 4, 10)
    assert split.learned.tolist() == photos.by_name.tolist()


def test_a_pack_of_earlier_rules_gets_the_labels_of_todays(tmp_path, cache, capsys):
    folder = write_folder(tmp_path / "p", pngs("cat/1.png", "dog/2.png", "inbox/3.png"))
    opened(folder)
    (manifest,) = cache.glob("*/manifest.json")
    content = json.loads(manifest.read_text())
    del content["rules"]
    content["classes"] = ["cat", "dog", "inbox"]
    manifest.write_text(json.dumps(content))
    assert opened(folder).classes == ["cat", "dog"]


def test_what_is_learned_from_leaves_the_test_out(tmp_path):
    names = [f"{part}/{kind}/{i}.png" for part in ("train", "test") for kind in "ab" for i in "012"]
    photos = opened(write_folder(tmp_path / "p", pngs(*names, "train/9.png")))
    split = make_split(photos, None, holdout=2)
    learned = {photos.names[row] for row in split.learned}
    kept = {photos.names[row] for row in (*split.holdout, *split.test)}
    assert len(kept) == 8
    assert learned == set(photos.names) - kept
    few = make_split(photos, 2, holdout=2)
    assert few.learned.tolist() == few.unlabelled.tolist()
    assert few.digest_learned() != split.digest_learned()


# ---- two sources


@pytest.fixture
def both(tmp_path):
    """sorted/ with two classes, and inbox/ with four photos, one of them sorted as well."""
    here = write_folder(tmp_path / "sorted", pngs("cat/1.png", "cat/2.png", "dog/1.png"))
    rest = {f"2020/{i}.png": png(100 + i) for i in range(3)}
    write_folder(tmp_path / "inbox", rest | {"cat/again.png": png(1)})
    return here, tmp_path / "inbox"


def test_two_sources_are_joined_and_the_folders_of_one_are_the_classes(both):
    photos = opened(both[1], labelled=str(both[0]))
    assert labels_of(photos) == {
        "labelled/cat/1.png": "cat",
        "labelled/cat/2.png": "cat",
        "labelled/dog/1.png": "dog",
        "data/2020/0.png": None,
        "data/2020/1.png": None,
        "data/2020/2.png": None,
    }
    assert "1 photo that is in --labelled as well (data/cat/again.png)" in photos.describe_classes()
    assert not photos.is_test.any()


def test_a_second_opening_says_the_same(both, cache):
    first, second = (opened(both[1], labelled=str(both[0])) for _ in range(2))
    assert labels_of(first) == labels_of(second)
    assert first.describe_classes() == second.describe_classes()
    assert first.fingerprint == second.fingerprint
    assert len(list(cache.glob("*/manifest.json"))) == 1


def test_folders_and_archives_join_to_the_same_photos(both, tmp_path):
    def content(folder):
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png")}

    in_zip = write_zip(tmp_path / "s.zip", content(both[0]))
    in_tar = write_tar(tmp_path / "i.tar", content(both[1]))
    prints = {
        opened(data, labelled=str(labelled)).fingerprint
        for data in (both[1], in_tar)
        for labelled in (both[0], in_zip)
    }
    assert len(prints) == 1


def test_photos_that_were_packed_before_are_not_decoded_again(both, monkeypatch):
    opened(both[0]), opened(both[1])
    monkeypatch.setattr("data.items.decode", None)
    photos = opened(both[1], labelled=str(both[0]))
    for name, seed in (("labelled/cat/2.png", 1), ("data/2020/1.png", 101)):
        alone = opened(both[0] if seed == 1 else both[1])
        row = list(alone.names).index(name.partition("/")[2])
        same = photos.images[list(photos.names).index(name)]
        assert (same == alone.images[row]).all()


def test_the_test_folder_of_the_labelled_ones_is_the_test(tmp_path):
    names = [f"{part}/{kind}/1.png" for part in ("train", "test") for kind in ("cat", "dog")]
    write_folder(tmp_path / "s", pngs(*names))
    write_folder(tmp_path / "i", {"test/9.png": png(50), "train/8.png": png(51)})
    photos = opened(tmp_path / "i", labelled=str(tmp_path / "s"))
    tested = {name for name, test in zip(photos.names, photos.is_test, strict=True) if test}
    assert tested == {"labelled/test/cat/1.png", "labelled/test/dog/1.png"}
    assert photos.test_folders == {"test": 2}


def test_the_level_of_the_class_counts_below_the_labelled_ones(tmp_path):
    write_folder(tmp_path / "s", pngs("a/cat/1.png", "b/dog/2.png"))
    write_folder(tmp_path / "i", {"9.png": png(50)})
    photos = opened(tmp_path / "i", labelled=str(tmp_path / "s"), classes_at=2)
    assert photos.classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "--labelled .*: no such file or folder"),
        ({"1.png": png(0)}, "--labelled .*: no photo of it lies in a class folder"),
        ({"note.txt": b"x"}, "--labelled .*: no photo of it lies in a class folder"),
    ],
)
def test_labelled_photos_that_are_none_are_refused(tmp_path, content, words):
    write_folder(tmp_path / "i", {"9.png": png(50)})
    if content:
        write_folder(tmp_path / "s", content)
    with pytest.raises(UserError, match=words):
        opened(tmp_path / "i", labelled=str(tmp_path / "s"))


# ---- a table


def test_a_table_says_the_labels(flat, tmp_path, capsys):
    text = "\ufefffile,label\r\ncat.0.png,cat\r\n./x\\bird.png, bird \r\n\r\ndog.2.png,\r\n"
    path = table(tmp_path, text + "gone.png,cat\r\n")
    photos = opened(flat, labels_file=path)
    assert labels_of(photos) == {
        "cat.0.png": "cat", "cat.1.png": None, "dog.2.png": None, "x/bird.png": "bird"
    }  # fmt: skip
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "--labels-file" in line]
    assert line.endswith(
        "2 photos have a label; 1 have an empty one; not in it, and so unlabelled: 1 (cat.1.png); "
        "in it, but no photo that can be used: 1 (gone.png)"
    )


def test_a_table_may_have_other_columns_and_quoted_names(tmp_path):
    folder = write_folder(tmp_path / "p", pngs('a,"b".png', "c.png"))
    path = table(tmp_path, 'Label,who,File\none,me,"a,""b"".png"\ntwo,you,c.png\n')
    assert labels_of(opened(folder, labels_file=path)) == {'a,"b".png': "one", "c.png": "two"}


def test_accents_of_two_forms_are_one(tmp_path):
    folder = write_folder(tmp_path / "p", pngs("cafe\u0301.png", "b.png"))
    path = table(tmp_path, "file,label\ncaf\u00e9.png,e\u0301\nb.png,\u00e9\n")
    assert opened(folder, labels_file=path).classes == ["\u00e9"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,label\na,b\n", "has the columns name, label; its first line must be file,label"),
        ("file;label\na;b\n", "separated by a comma"),
        ("", "has the columns of nothing"),
        ("file,label\n", "has no line below its header"),
        ("file,label\ncat.0.png,a,b\n", "line 2 has 3 columns, and the first has 2"),
        ("file,label\ncat.0.png\n", "line 2 has 1 columns"),
        ('file,label\n"cat.0.png,a\n', "cannot be read as CSV"),
        ("file,label\ncat.0.png,a\ncat.0.png,b\n", "two labels, a in line 2 and b in line 3"),
        ("file,label\ncat.0.png,a\n./cat.0.png,\n", "two labels, a in line 2 and none in line 3"),
        ("file,label\nother.png,a\n", "none of its 1 files is a photo of --data"),
        ("file,label\ncat.0.png,\n", "no photo has a label there"),
    ],
)
def test_a_table_that_will_not_do_is_refused(flat, tmp_path, text, words):
    path = table(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        opened(flat, labels_file=path)
    assert str(error.value).startswith(f"--labels-file {path}")
    assert "\n" not in str(error.value)


def test_a_table_that_cannot_be_read_is_refused(flat, tmp_path):
    for path, words in (
        (table(tmp_path, "file,label\né,b\n", "latin-1"), "is not UTF-8"),
        (str(tmp_path / "none.csv"), "No such file"),
        (str(tmp_path), "Is a directory"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            opened(flat, labels_file=path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_tables_are_one_sentence_or_are_read(flat, tmp_path, seed):
    draw = np.random.default_rng(seed)
    text = b'\xef\xbb\xbffile,label\ncat.0.png,cat\n"cat.1.png",dog\n'
    blob = bytearray(text * int(draw.integers(1, 3)))
    for at in draw.integers(0, len(blob), 3):
        blob[at] = draw.integers(0, 256)
    (tmp_path / "labels.csv").write_bytes(blob)
    said = "--labels-file"
    try:
        opened(flat, labels_file=str(tmp_path / "labels.csv"))
    except UserError as error:
        said = str(error)
    assert said.isprintable()
    assert "--labels-file" in said


def test_the_same_row_twice_is_no_fault(tmp_path):
    assert read_table(table(tmp_path, "file,label\na.png,x\na.png,x\n")) == {"a.png": "x"}


def test_a_table_leaves_the_test_folder_and_drops_what_only_the_test_has(tmp_path, capsys):
    names = ["train/1.png", "train/2.png", "test/3.png", "test/4.png"]
    folder = write_folder(tmp_path / "p", pngs(*names))
    rows = zip(names, ("a", "b", "a", "c"), strict=True)
    path = table(tmp_path, "file,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    photos = opened(folder, labels_file=path)
    assert labels_of(photos) == dict(zip(names, ("a", "b", "a", None), strict=True))
    assert photos.is_test.tolist() == [name.startswith("test") for name in photos.names]
    assert "for the test: the folder test (2)" in photos.describe_classes()
    assert "of c there are photos for the test alone" in capsys.readouterr().err


def test_a_changed_label_changes_the_digest(flat, tmp_path):
    digests = [
        digest_of(opened(flat, labels_file=table(tmp_path, f"file,label\ncat.0.png,{text}\n")))
        for text in ("a", "b", "a")
    ]
    assert digests[0] == digests[2] != digests[1]


# ---- a pattern


@pytest.mark.parametrize(
    ("pattern", "labels"),
    [
        (r"(\w+)\.\d+", ["cat", "cat", "dog", None]),
        (r"^[a-z]+(?=\.\d)", ["cat", "cat", "dog", None]),
        (r"(cat)|dog", ["cat", "cat", None, None]),  # the group may take no part
        (r"(?:^|/)([a-z])[a-z]*(\.\d)?", ["c", "c", "d", "x"]),
    ],
)
def test_a_pattern_says_the_labels(flat, pattern, labels, capsys):
    names = ["cat.0.png", "cat.1.png", "dog.2.png", "x/bird.png"]
    assert labels_of(opened(flat, label_pattern=pattern)) == dict(zip(names, labels, strict=True))
    said = capsys.readouterr().err
    assert f"{4 - labels.count(None)} photos have a label" in said
    assert ("unlabelled" in said) == (None in labels)


def test_a_pattern_that_will_not_do_is_refused(flat):
    for pattern, words in (("(", "is no regular expression"), ("owl", "matches no path below")):
        with pytest.raises(UserError, match=f"--label-pattern .* {words}"):
            opened(flat, label_pattern=pattern)


# ---- groups


def test_a_pattern_says_the_groups(tmp_path, capsys):
    names = ["p1/a.png", "p1/b.png", "p22/c.png", "d.png", "e.png"]
    photos = opened(write_folder(tmp_path / "p", pngs(*names)), group_by=r"p(\d+)/")
    of = dict(zip(photos.names, photos.groups.tolist(), strict=True))
    assert of["p1/a.png"] == of["p1/b.png"]
    assert len(set(of.values())) == 4
    assert photos.groups.dtype == np.int64
    said = capsys.readouterr().err
    assert "2 groups of 3 photos; in no group, each alone: 2 (d.png, e.png)" in said


def test_groups_go_across_two_sources(tmp_path):
    write_folder(tmp_path / "s", pngs("cat/p1_1.png", "dog/p2_1.png"))
    write_folder(tmp_path / "i", {"p1_2.png": png(50)})
    photos = opened(tmp_path / "i", labelled=str(tmp_path / "s"), group_by=r"p\d")
    of = dict(zip(photos.names, photos.groups.tolist(), strict=True))
    assert of["labelled/cat/p1_1.png"] == of["data/p1_2.png"] != of["labelled/dog/p2_1.png"]


def test_a_group_on_both_sides_of_a_test_split_is_told(tmp_path, capsys):
    names = [f"{part}/{kind}/p{i}.png" for part in ("train", "test") for kind in "ab" for i in "12"]
    names = [name.replace("test/a/p1", "test/a/p7").replace("test/b/p1", "test/b/p7")
             for name in names]  # fmt: skip
    opened(write_folder(tmp_path / "p", pngs(*names)), group_by=r"p\d")
    assert "1 groups of --group-by stand on both sides of the test split" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "words"), [("[", "no regular expression"), ("z", "matches no")]
)
def test_a_pattern_of_groups_that_will_not_do_is_refused(flat, pattern, words):
    with pytest.raises(UserError, match=f"--group-by .* {words}"):
        opened(flat, group_by=pattern)


# ---- opened again, for a run that is known by its photos


def test_a_pack_is_opened_again_with_its_labels_though_the_photos_are_gone(flat, tmp_path, capsys):
    settings = {
        "labels_file": table(tmp_path, "file,label\ncat.1.png,a\nx/bird.png,b\n"),
        "group_by": "cat|dog",
    }
    before = opened(flat, **settings)
    shutil.rmtree(flat)
    capsys.readouterr()
    again = open_again(before.fingerprint, str(flat), 8, **settings)
    assert capsys.readouterr() == ("", "")
    assert labels_of(again) == labels_of(before)
    assert again.groups.tolist() == before.groups.tolist()
    np.testing.assert_array_equal(again.images[:], before.images[:])
    by_names = before.fingerprint.partition("-")[0]  # as earlier versions knew photos
    assert open_again(by_names, str(flat), 8).fingerprint == before.fingerprint


def test_two_sources_are_opened_again(tmp_path):
    write_folder(tmp_path / "a", pngs("cat/1.png", "dog/2.png"))
    write_folder(tmp_path / "b", {"3.png": png(7), "x/4.png": png(8)})
    labelled = {"labelled": str(tmp_path / "a"), "group_by": r"\d"}
    before = opened(tmp_path / "b", **labelled)
    again = open_again(before.fingerprint, str(tmp_path / "b"), 8, **labelled)
    assert labels_of(again) == labels_of(before)
    assert sorted(again.classes) == ["cat", "dog"]


def test_what_was_not_packed_is_not_opened_again(flat, tmp_path):
    before = opened(flat)
    for fingerprint, side in ((before.fingerprint, 9), ("0" * 64, 8), ("", 8)):
        with pytest.raises(UserError, match="BYOL_CACHE"):
            open_again(fingerprint, str(flat), side)
    assert not list((tmp_path / "flat").glob(".*"))


def test_of_two_packs_that_of_the_source_is_opened_again(tmp_path):
    """Photos lie there in the order in which the source has them."""
    content = pngs("b.png", "a.png")
    zipped = opened(write_zip(tmp_path / "p.zip", content))
    folder = opened(write_folder(tmp_path / "p", content))
    assert folder.fingerprint == zipped.fingerprint
    for before, name in ((zipped, "p.zip"), (folder, "p")):
        again = open_again(before.fingerprint, str(tmp_path / name), 8)
        assert list(again.names) == list(before.names)
