"""Which photos train with labels, which without, and which are kept aside.

A split is a pure function of the names and the seeds: photos are ranked by
sha256(f"{seed}:{purpose}:{name}"), so every machine and every order of the pack draws the same.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from byol.errors import UserError, printable
from byol.files import write_atomically
from data.photos import Photos
from data.stored import encode_rows


@dataclass
class Split:
    """Four disjoint parts, each an int64 array of rows of `Photos`, sorted by name.

    Every row belongs to exactly one part. `test` is the source's own test split; `holdout` is
    drawn from its training part. `hidden`: those of `unlabelled` that have a label and share no
    group with the labelled ones, to test on. `learned`: what is learned from without labels; with
    all labels (`all_labels`) the labelled ones too. `groups`: int64, of all photos (see `Photos`).
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    holdout: np.ndarray
    test: np.ndarray
    split_seed: int = 0
    label_seed: int = 0
    source: str = ""
    fingerprint: str = ""
    names: Sequence[str] = field(default_factory=list, repr=False)
    hidden: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    groups: np.ndarray | None = None
    learned: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    all_labels: bool = False

    def digest_learned(self) -> str:
        """Hash the names of the photos that are learned from."""
        digest = hashlib.sha256()
        for names in encode_rows(self.names, self.learned):
            digest.update(b"".join(name + b"\0" for name in names))
        return digest.hexdigest()

    def describe(self, photos: Photos) -> str:
        """Say how many photos each part has and each class, for a banner."""
        labelled = f"{len(self.labelled):,} labelled"
        if self.all_labels:
            learned = f"{len(self.learned):,} images to learn from, {labelled} among them"
        else:
            learned = f"{len(self.unlabelled):,} unlabelled images to learn from, {labelled}"
        return (
            f"{printable(photos.source)}: {learned}, {len(self.holdout):,} held out, "
            f"{len(self.test):,} in a test split, {len(photos.skipped):,} files skipped\n"
            f"{photos.describe_classes()}"
        )

    def folds(self, photos: Photos, count: int, seed: int) -> np.ndarray:
        """Give each labelled photo the number of its fold (see `stratified_folds`)."""
        groups = None if self.groups is None else self.groups[self.labelled]
        labels = photos.labels[self.labelled]
        return stratified_folds(labels, groups, count, seed, photos.classes)

    def save(self, path: str | Path) -> None:
        """Write the names of each part and the seeds as JSON, all or nothing."""
        about = {
            "source": self.source,
            "fingerprint": self.fingerprint,
            "split_seed": self.split_seed,
            "label_seed": self.label_seed,
        }
        text = io.BytesIO()  # as json.dump would write it, some names at a time: there may be many
        text.write(json.dumps(about, indent=2).removesuffix("\n}").encode())
        for part in ("labelled", "unlabelled", "holdout", "test"):
            text.write(f',\n  "{part}": ['.encode())
            comma = ""
            for names in encode_rows(self.names, getattr(self, part)):
                decoded = [name.decode("utf-8", "surrogatepass") for name in names]
                lines = json.dumps(decoded, separators=(",\n    ", ": "))
                text.write(f"{comma}\n    {lines[1:-1]}".encode())
                comma = ","
            text.write(b"\n  ]" if comma else b"]")
        text.write(b"\n}\n")
        write_atomically(path, text.getbuffer())


def make_split(
    photos: Photos,
    labels: int | None,
    holdout: int = 0,
    split_seed: int = 0,
    label_seed: int | None = None,
) -> Split:
    """Split the photos into labelled, unlabelled, holdout and test.

    `labels`: how many images keep their label, the same number of each class (if that does
    not divide, the first classes have one more); 0 for none; None for every image that has a
    class. A larger number with the same seeds contains the smaller one's images. `holdout`: how
    many images of the training part to keep aside, balanced in the same way; it depends on
    `split_seed` only. Images without a class are never in the holdout of a source with classes.

    If `photos.groups` are known, they are drawn group by group: as few groups as possible are torn
    by the labels, and `hidden` has none of these. A group of which one image is held out is held
    out whole, so the holdout may be larger, and have images without a class.

    Raises `UserError` if the source has too few images for what is asked.
    """
    if labels is not None and labels < 0:
        raise UserError(f"--labels {labels} is negative; give 0 or more")
    if holdout < 0:
        raise UserError(f"--holdout {holdout} is negative; give 0 or more")
    label_seed = split_seed if label_seed is None else label_seed
    train = ~photos.is_test
    if not train.any():
        raise UserError(
            f"--data {printable(photos.source)} has test images only; "
            "give a source with images to train on"
        )
    if labels:
        _check_classes(photos, labels)

    held = _draw(photos, train, holdout, split_seed, "holdout")
    if photos.groups is not None:
        held = train & np.isin(photos.groups, photos.groups[held])
    left = train & ~held
    if not left.any():
        raise UserError(
            f"--holdout {holdout} leaves none of the {train.sum():,} training images; lower it"
        )
    if labels is None:
        chosen = left & (photos.labels >= 0)
    else:
        chosen = _draw(photos, left, labels, label_seed, "labels")
    hidden = left & ~chosen & (photos.labels >= 0)
    if photos.groups is not None:
        hidden &= ~np.isin(photos.groups, photos.groups[chosen])

    def rows(part: np.ndarray) -> np.ndarray:
        return photos.by_name[part[photos.by_name]]

    unlabelled = rows(left & ~chosen)
    all_hidden = np.array_equal(hidden, left & ~chosen)
    return Split(
        labelled=rows(chosen),
        unlabelled=unlabelled,
        holdout=rows(held),
        test=rows(photos.is_test),
        split_seed=split_seed,
        label_seed=label_seed,
        source=photos.source,
        fingerprint=photos.fingerprint,
        names=photos.names,
        hidden=unlabelled if all_hidden else rows(hidden),  # one array: there may be many
        groups=photos.groups,
        learned=rows(left) if labels is None else unlabelled,
        all_labels=labels is None,
    )


def _check_classes(photos: Photos, labels: int) -> None:
    """Labels make sense only with two classes or more, each with an image."""
    classes = photos.classes
    if not classes:
        raise UserError(
            f"--labels {labels} needs classes, and --data {printable(photos.source)} has none; "
            "put each class in a folder of its own or give --labels 0"
        )
    if len(classes) == 1:
        raise UserError(
            f"--data {printable(photos.source)} has only one class, {printable(classes[0])}; "
            "a classifier needs two, so add another class folder or give --labels 0"
        )
    if labels < len(classes):
        raise UserError(
            f"--labels {labels} leaves some of the {len(classes)} classes without an image; "
            f"give at least {len(classes)}, or 0"
        )


def _draw(photos: Photos, among: np.ndarray, count: int, seed: int, purpose: str) -> np.ndarray:
    """Draw the first `count` by rank, balanced over the classes if there are any.

    `among` and the result are masks, bool (N,).
    """
    drawn = np.zeros(len(among), bool)
    if count == 0:
        return drawn
    rows = np.flatnonzero(among)
    of_classes = [rows]
    if photos.classes:
        labels = photos.labels[rows]
        rows, labels = rows[np.argsort(labels)], np.sort(labels)
        cuts = np.searchsorted(labels, range(len(photos.classes) + 1))
        of_classes = [rows[start:end] for start, end in pairwise(cuts)]
    leaders = _leaders(photos)
    # the smallest class first: it is the one to name
    for index, of_class in sorted(enumerate(of_classes), key=lambda pair: len(pair[1])):
        quota = count // len(of_classes) + (index < count % len(of_classes))
        if len(of_class) < quota:
            whose = f"class {printable(photos.classes[index])}" if photos.classes else "the source"
            raise UserError(
                f"--{purpose} {count} needs {quota:,} training images of {whose}, "
                f"but only {len(of_class):,} are left; {_remedy(purpose, count, of_classes)}"
            )
        if len(of_class) > quota > 0:
            ranks = _ranks(seed, purpose, photos.names, of_class)
            if leaders is not None:
                of_leaders = _ranks(seed, purpose, photos.names, leaders[of_class])
                ranks = np.hstack([of_leaders, ranks])
            of_class = of_class[_smallest(ranks, quota)]
        if quota:
            drawn[of_class] = True
    return drawn


def _leaders(photos: Photos) -> np.ndarray | None:
    """Give the first row by name of each photo's group: int64 (N,); None without groups."""
    if photos.groups is None:
        return None
    _, first, group = np.unique(
        photos.groups[photos.by_name], return_index=True, return_inverse=True
    )
    leaders = np.empty(len(group), np.int64)
    leaders[photos.by_name] = photos.by_name[first[group]]
    return leaders


def _remedy(purpose: str, count: int, of_classes: list[np.ndarray]) -> str:
    """Say which count would work: the largest of which each class has its share."""
    share = min(len(of_class) for of_class in of_classes)
    most = share * len(of_classes)
    for of_class in of_classes:  # the first classes have one more if it does not divide
        if len(of_class) == share:
            break
        most += 1
    if purpose != "labels":
        return f"give --{purpose} {most} or less"
    if share == 0:
        return (
            "put some of its photos outside of the test folder, or give --labels 0 to learn from "
            "all photos without labels"
        )
    return f"give --labels {most} or less, all for every label there is, or 0 for none"


def _ranks(seed: int, purpose: str, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Give the ranks of these photos, uint64 (N, 4) that compare as the digests do."""
    prefix, sha256 = f"{seed}:{purpose}:".encode(), hashlib.sha256
    digests = b"".join(
        sha256(prefix + name).digest() for some in encode_rows(names, rows) for name in some
    )
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 4)


def _smallest(ranks: np.ndarray, count: int) -> np.ndarray:
    """Find the places of the `count` smallest of ranks (N, K)."""
    near = np.flatnonzero(ranks[:, 0] <= np.partition(ranks[:, 0], count - 1)[count - 1])
    return near[np.lexsort(ranks[near].T[::-1])[:count]]


def _rank(seed: int, purpose: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{purpose}:{name}".encode("utf-8", "surrogatepass")).digest()


def stratified_folds(
    labels: np.ndarray,
    groups: np.ndarray | None,
    count: int,
    seed: int,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """Give each labelled photo the number of its fold: int64 (N,), 0 to the count of folds - 1.

    labels: int64 (N,), 0 or more; groups: int64 (N,), photos of one number are never in two folds.
    Each class is spread evenly: without groups its folds differ by one photo at most, and so do
    the folds as a whole. There are `count` folds, or fewer (two at least) if a class has fewer
    photos or groups. `classes` are the names for an error.

    Raises `UserError` if a class cannot be in two folds.
    """
    if count < 2:
        raise UserError(f"{count} folds are too few for cross-validation; give 2 or more")
    there, columns = np.unique(labels, return_inverse=True)
    own = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    parts = np.unique(np.stack([columns, own]), axis=1)[0]  # the class of each part of a group
    for column, number in enumerate(np.bincount(parts)):
        count = min(count, int(number))
        if number < 2:
            raise _too_few_to_fold(there[column], groups, classes)
    if groups is None:
        order = sorted(range(len(labels)), key=lambda at: (columns[at], _fold_rank(seed, at)))
        folds = np.empty(len(labels), np.int64)
        folds[order] = np.arange(len(labels)) % count
        return folds

    table = np.zeros((own.max() + 1, len(there)), np.int64)  # photos: groups by classes
    np.add.at(table, (own, columns), 1)
    in_fold = np.zeros((count, len(there)), np.int64)
    shares = 1 / table.sum(axis=0) ** 2.0
    fold_of = np.empty(len(table), np.int64)
    for group in _largest_first(table, seed):
        # the sum of squares of (photos in the fold / photos of the class) grows least
        growth = in_fold @ (table[group] * shares)
        fold = np.lexsort((in_fold.sum(axis=1), growth.round(12)))[0]
        fold_of[group] = fold
        in_fold[fold] += table[group]
    for column in np.flatnonzero((in_fold > 0).sum(axis=0) < 2):
        raise _too_few_to_fold(there[column], groups, classes)
    return fold_of[own]


def _largest_first(table: np.ndarray, seed: int) -> list[int]:
    """Order groups by size, those of one size by their main class, and then at random."""
    sizes, mains = table.sum(axis=1), table.argmax(axis=1)
    return sorted(
        range(len(table)),
        key=lambda group: (-sizes[group], mains[group], _fold_rank(seed, group)),
    )


def _fold_rank(seed: int, index: int) -> bytes:
    return _rank(seed, "folds", str(index))


def _too_few_to_fold(
    label: int, groups: np.ndarray | None, classes: Sequence[str] | None
) -> UserError:
    name = printable(classes[label]) if classes else f"number {label}"
    what = "photo" if groups is None else "group of --group-by"
    return UserError(
        f"class {name} has too few labelled photos for cross-validation: each class needs more "
        f"than one {what}; label more photos of it, leave the class out, or give --folds 0"
    )
