"""Splits: disjoint, balanced, and the same wherever they are drawn."""

import hashlib
import json

import numpy as np
import pytest

from byol.errors import UserError
from data import Photos, make_split

PARTS = ("labelled", "unlabelled", "holdout", "test")


def fake(*counts: int, test: int = 0, free: int = 0, seed: int | None = None) -> Photos:
    """`counts` training images per class, `test` test images each, `free` without a class."""
    rows = [
        (f"{split}/{kind}/{i}.jpg", kind, split == "test")
        for kind, count in enumerate(counts)
        for split, number in (("train", count), ("test", test))
        for i in range(number)
    ]
    rows += [(f"train/free/{i}.jpg", -1, False) for i in range(free)]
    if seed is not None:
        np.random.default_rng(seed).shuffle(rows)
    names, labels, is_test = ([row[i] for row in rows] for i in range(3))
    return Photos(
        images=np.zeros((len(rows), 3, 1, 1), np.uint8),
        names=list(names),
        labels=np.array([int(x) for x in labels], np.int64),
        classes=[f"class{i}" for i in range(len(counts))],
        is_test=np.array([str(x) == "True" for x in is_test], bool),
        sizes=np.ones((len(rows), 2), np.int32),
        skipped=[],
        source="fake",
        fingerprint="f",
        by_name=np.array(sorted(range(len(rows)), key=lambda row: rows[row][0]), np.int64),
    )


def names_of(photos, split) -> dict[str, list[str]]:
    return {part: [photos.names[row] for row in getattr(split, part)] for part in PARTS}


def per_class(photos, rows) -> list[int]:
    labels = photos.labels[rows]
    return np.bincount(labels[labels >= 0], minlength=len(photos.classes)).tolist()


def test_every_image_is_in_exactly_one_part_sorted_by_name():
    photos = fake(50, 40, test=7, free=9, seed=1)
    split = make_split(photos, 20, holdout=10)
    rows = np.concatenate([getattr(split, part) for part in PARTS])
    assert sorted(rows.tolist()) == list(range(len(photos.names)))
    for names in names_of(photos, split).values():
        assert names == sorted(names)
    assert all(getattr(split, part).dtype == np.int64 for part in PARTS)
    assert photos.is_test[split.test].all()
    assert len(split.test) == 14


def test_balance():
    photos = fake(50, 60, 70, free=5)
    split = make_split(photos, 20, holdout=10)
    assert per_class(photos, split.labelled) == [7, 7, 6]
    assert per_class(photos, split.holdout) == [4, 3, 3]
    assert (photos.labels[split.holdout] >= 0).all()
    assert (photos.labels[split.unlabelled] == -1).sum() == 5


def test_the_order_of_the_pack_does_not_matter():
    splits = []
    for seed in (None, 1, 2):
        photos = fake(50, 60, test=5, free=10, seed=seed)
        splits.append(names_of(photos, make_split(photos, 20, 10, split_seed=3, label_seed=4)))
    assert splits[0] == splits[1] == splits[2]


def test_the_documented_rule():
    photos = fake(30, 30)
    split = make_split(photos, 6, holdout=4, split_seed=5, label_seed=6)

    def first(names, seed, purpose, count):
        rank = {n: hashlib.sha256(f"{seed}:{purpose}:{n}".encode()).hexdigest() for n in names}
        return sorted(names, key=rank.get)[:count]

    groups = [[f"train/{kind}/{i}.jpg" for i in range(30)] for kind in (0, 1)]
    held = [n for group in groups for n in first(group, 5, "holdout", 2)]
    left = [[n for n in group if n not in held] for group in groups]
    labelled = [n for group in left for n in first(group, 6, "labels", 3)]
    assert names_of(photos, split)["holdout"] == sorted(held)
    assert names_of(photos, split)["labelled"] == sorted(labelled)


def test_seeds():
    photos = fake(100, 100)
    base = names_of(photos, make_split(photos, 40, 20))
    assert base == names_of(photos, make_split(photos, 40, 20, 0, 0))
    other_labels = names_of(photos, make_split(photos, 40, 20, 0, 1))
    assert other_labels["holdout"] == base["holdout"]
    assert other_labels["labelled"] != base["labelled"]
    other = names_of(photos, make_split(photos, 40, 20, 1))
    assert other["holdout"] != base["holdout"]


def test_more_labels_contain_fewer():
    photos = fake(100, 90, 80)
    before: set[int] = set()
    for labels in (3, 4, 10, 30, 100, 200):
        now = set(make_split(photos, labels, holdout=20).labelled.tolist())
        assert len(now) == labels
        assert before < now
        before = now


def test_none_keeps_every_label_and_zero_none():
    photos = fake(10, 20, test=3)
    everything = make_split(photos, None, holdout=6)
    assert (len(everything.labelled), len(everything.unlabelled)) == (24, 0)
    nothing = make_split(photos, 0, holdout=6)
    assert (len(nothing.labelled), len(nothing.unlabelled)) == (0, 24)
    np.testing.assert_array_equal(everything.holdout, nothing.holdout)


def test_none_leaves_images_without_class_unlabelled():
    split = make_split(fake(10, 20, free=4), None)
    assert (len(split.labelled), len(split.unlabelled)) == (30, 4)


def test_a_source_without_classes():
    photos = fake(free=30)
    for labels in (0, None):
        split = make_split(photos, labels, holdout=10)
        assert [len(getattr(split, part)) for part in PARTS] == [0, 20, 10, 0]


@pytest.mark.parametrize(
    ("photos", "asked", "told"),
    [
        (fake(50, 4), {"labels": 10}, ["class1", "only 4", "needs 5", "give --labels 9 or less"]),
        (fake(50, 9), {"labels": 10, "holdout": 10}, ["class1", "only 4", "--labels"]),
        (
            fake(50, 9),
            {"labels": 0, "holdout": 20},
            ["class1", "only 9", "give --holdout 19 or less"],
        ),
        (fake(10, 10), {"labels": 0, "holdout": 20}, ["--holdout 20", "20 training images"]),
        (fake(free=10), {"labels": 0, "holdout": 11}, ["give --holdout 10 or less", "only 10"]),
        (fake(free=10), {"labels": 4}, ["--labels 4", "fake has none", "--labels 0"]),
        (fake(10), {"labels": 4}, ["only one class", "class0", "two"]),
        (fake(10, 10), {"labels": 1}, ["--labels 1", "at least 2"]),
        (fake(10, 10), {"labels": -1}, ["--labels -1"]),
        (fake(10, 10), {"labels": 2, "holdout": -1}, ["--holdout -1"]),
        (fake(0, 0, test=5), {"labels": 0}, ["test images only"]),
    ],
)
def test_what_cannot_be_drawn(photos, asked, told):
    with pytest.raises(UserError) as caught:
        make_split(photos, **asked)
    for words in told:
        assert words in str(caught.value)


def test_saving(tmp_path):
    photos = fake(20, 20, test=2)
    photos.names[0] = "train/0/\udcff.jpg"
    split = make_split(photos, 6, 4, split_seed=1, label_seed=2)
    path = tmp_path / "new" / "split.json"
    split.save(path)
    split.save(path)
    saved = json.loads(path.read_text())
    assert {part: saved[part] for part in PARTS} == names_of(photos, split)
    assert (saved["split_seed"], saved["label_seed"], saved["source"]) == (1, 2, "fake")
    assert [p.name for p in path.parent.iterdir()] == ["split.json"]


@pytest.mark.parametrize("labels", [0, 6])
def test_what_is_saved_is_plain_json(tmp_path, labels):
    photos = fake(20, 20)
    photos.names[:2] = ['a"\\\n', "\U0001f600"]
    split = make_split(photos, labels)
    split.save(tmp_path / "split.json")
    about = {key: getattr(split, key) for key in ("source", "fingerprint")}
    seeds = {key: getattr(split, key) for key in ("split_seed", "label_seed")}
    content = {**about, **seeds, **names_of(photos, split)}
    assert (tmp_path / "split.json").read_text() == json.dumps(content, indent=2) + "\n"


def test_drawing_all_of_a_class_and_none_of_another():
    photos = fake(1, 2, 3, 40, free=3, test=1, seed=5)
    split = make_split(photos, 0, holdout=3)
    assert per_class(photos, split.holdout) == [1, 1, 1, 0]
    assert len(split.unlabelled) == 46
