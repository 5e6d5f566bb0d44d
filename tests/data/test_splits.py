"""Splits: disjoint, balanced, and the same wherever they are drawn."""

import hashlib
import json

import numpy as np
import pytest

from byol.errors import UserError
from data import Photos, make_split, stratified_folds
from data.stored import read_texts, write_texts

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


# ---- folds ----


def spread(labels, folds) -> np.ndarray:
    """Count the photos of each class (rows) in each fold (columns)."""
    table = np.zeros((labels.max() + 1, folds.max() + 1), np.int64)
    np.add.at(table, (labels, folds), 1)
    return table


@pytest.mark.parametrize("counts", [(40, 40), (7, 23, 11), (5, 5, 5, 93)])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_spread_each_class_evenly(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(labels)
    folds = stratified_folds(labels, None, 5, seed)
    table = spread(labels, folds)
    assert table.shape == (len(counts), 5)
    assert (table.max(axis=1) - table.min(axis=1) <= 1).all()
    assert np.ptp(table.sum(axis=0)) <= 1
    assert (folds == stratified_folds(labels, None, 5, seed)).all()
    assert (folds != stratified_folds(labels, None, 5, seed + 1)).any()


def test_folds_do_not_follow_the_order_of_the_photos():
    folds = stratified_folds(np.zeros(1000, np.int64), None, 5, 0)
    # neighbours share a fold as often as chance has it, which is one time in five
    assert 0.15 < (folds[1:] == folds[:-1]).mean() < 0.25


@pytest.mark.parametrize("seed", range(3))
def test_a_group_is_never_in_two_folds(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 60, 500) * 7 - 100
    labels = rng.integers(0, 3, 500)
    labels[groups < 0] = 2  # some groups are of one class
    folds = stratified_folds(labels, groups, 5, seed)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1
    table = spread(labels, folds)
    shares = table / table.sum(axis=1, keepdims=True)
    assert abs(shares - 0.2).max() < 0.05  # a group is up to 2 % of the photos


def test_photos_in_groups_of_one_are_as_photos_without_groups():
    labels = np.array([0, 1] * 9)
    alone = stratified_folds(labels, np.arange(18), 3, 4)
    assert (alone == stratified_folds(labels, None, 3, 4)).all()


def test_the_smallest_class_says_how_many_folds_there_are():
    labels = np.array([0] * 50 + [1] * 3)
    assert stratified_folds(labels, None, 5, 0).max() == 2
    groups = np.array([*range(50), 50, 50, 51])
    folds = stratified_folds(labels, groups, 5, 0)
    assert folds.max() == 1
    assert folds[50] == folds[51] != folds[52]


@pytest.mark.parametrize(
    ("groups", "word"), [(None, "more than one photo"), ([1, 2, 3, 3], "group of --group-by")]
)
def test_a_class_that_cannot_be_in_two_folds_is_named(groups, word):
    labels = np.array([0, 0, 1, 1] if groups else [0, 0, 0, 1])
    groups = groups and np.array(groups)
    with pytest.raises(UserError, match=f"class dog has too few .* {word}"):
        stratified_folds(labels, groups, 5, 0, ["cat", "dog"])
    with pytest.raises(UserError, match="class number 1"):
        stratified_folds(labels, groups, 5, 0)


def test_one_fold_is_no_cross_validation():
    with pytest.raises(UserError, match="give 2 or more"):
        stratified_folds(np.array([0, 0, 1, 1]), None, 1, 0)


# ---- groups


def grouped(counts, groups: int, *, test: int = 0, free: int = 0, seed: int = 0) -> Photos:
    """As `fake`, with photos in random groups."""
    photos = fake(*counts, test=test, free=free, seed=seed)
    photos.groups = np.random.default_rng(seed).integers(0, groups, len(photos.names))
    return photos


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("labels", [20, 40, None])
def test_no_group_stands_on_two_sides(seed, labels):
    photos = grouped((60, 50, 40), 40, free=50, seed=seed)
    split = make_split(photos, labels, holdout=12, split_seed=seed)
    of = {part: set(photos.groups[getattr(split, part)].tolist())
          for part in ("labelled", "unlabelled", "holdout", "hidden")}  # fmt: skip
    assert not of["holdout"] & (of["labelled"] | of["unlabelled"])
    assert not of["hidden"] & of["labelled"]
    if labels:
        assert len(split.labelled) == labels
        assert len(of["hidden"]) > 5
    rows = np.concatenate([getattr(split, part) for part in PARTS])
    assert sorted(rows.tolist()) == list(range(len(photos.names)))
    assert set(split.hidden) <= set(split.unlabelled)
    assert (photos.labels[split.hidden] >= 0).all()
    assert split.groups is photos.groups


def test_few_groups_are_torn_by_the_labels():
    """Of each class at most one: 40 labels of 20 groups of 10 take 4 whole groups, or 5."""
    photos = fake(100, 100)
    photos.groups = np.arange(200) // 10
    split = make_split(photos, 40)
    assert per_class(photos, split.labelled) == [20, 20]
    assert len(set(photos.groups[split.labelled].tolist())) == 4
    assert len(split.hidden) == 160


def test_a_group_that_is_held_out_is_held_out_whole():
    photos = fake(30, 30, free=30)
    photos.groups = np.array([row % 15 for row in range(90)])
    split = make_split(photos, 4, holdout=2)
    held = set(photos.groups[split.holdout].tolist())
    assert len(split.holdout) == 6 * len(held)
    assert (photos.labels[split.holdout] < 0).any()


def test_more_labels_with_groups_contain_fewer():
    photos = grouped((60, 50), 30)
    few, many = (set(make_split(photos, count).labelled.tolist()) for count in (10, 50))
    assert few < many


def test_the_order_of_the_pack_does_not_matter_to_groups():
    drawn = set()
    for seed in (None, 1, 2):
        photos = fake(50, 60, free=10, seed=seed)
        photos.groups = np.array([sum(map(ord, name)) % 17 for name in photos.names])
        drawn.add(json.dumps(names_of(photos, make_split(photos, 20, 10))))
    assert len(drawn) == 1


def test_photos_that_are_each_their_own_group_split_as_without_groups():
    photos = fake(50, 60, test=3, free=10)
    without = names_of(photos, make_split(photos, 20, 10))
    photos.groups = np.arange(len(photos.names))[::-1].copy()
    split = make_split(photos, 20, 10)
    assert names_of(photos, split) == without
    assert len(split.hidden) == 110 - 30


def test_many_photos_of_a_pack_are_drawn_and_saved_by_the_documented_rules(tmp_path):
    """More than are looked at in one go, from the texts of a pack, some of them odd."""
    photos = fake(3000, 2500, test=10, seed=3)
    odd = ["é.jpg", 'a"\\\n.jpg', "\udcff.jpg", "zero\0byte.jpg"]
    names = [*odd, *photos.names[4:]]
    write_texts(tmp_path, "names", names)
    photos.names = read_texts(tmp_path, "names", len(names))
    photos.by_name = np.array(sorted(range(len(names)), key=names.__getitem__))
    split = make_split(photos, 2 * 2100, split_seed=5)
    for label in (0, 1):
        rows = np.flatnonzero((photos.labels == label) & ~photos.is_test)
        ranked = sorted(
            (
                hashlib.sha256(f"5:labels:{names[row]}".encode("utf-8", "surrogatepass")).digest(),
                row,
            )
            for row in rows
        )
        drawn = split.labelled[photos.labels[split.labelled] == label]
        assert sorted(drawn) == sorted(row for _, row in ranked[:2100])
    learned = "".join(names[row] + "\0" for row in split.learned)
    digest = hashlib.sha256(learned.encode("utf-8", "surrogatepass")).hexdigest()
    assert split.digest_learned() == digest
    split.save(tmp_path / "split.json")
    text = (tmp_path / "split.json").read_text()
    parts = {part: [names[row] for row in getattr(split, part)] for part in PARTS}
    about = {key: json.loads(text)[key] for key in ("source", "fingerprint", "split_seed")}
    assert text == json.dumps({**about, "label_seed": 5, **parts}, indent=2) + "\n"
