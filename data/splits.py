"""Which photos train with labels, which without, and which are kept aside.

A split is a pure function of the names and the seeds: photos are ranked by
sha256(f"{seed}:{purpose}:{name}"), so every machine and every order of the pack draws the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from byol.errors import UserError
from byol.metrics import write_json
from data.files import printable
from data.pack import Photos


@dataclass
class Split:
    """Four disjoint parts, each an int64 array of rows of `Photos`, sorted by name.

    Every row belongs to exactly one part. `test` is the source's own test split; `holdout` is
    drawn from its training part.
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    holdout: np.ndarray
    test: np.ndarray
    split_seed: int = 0
    label_seed: int = 0
    source: str = ""
    fingerprint: str = ""
    names: list[str] = field(default_factory=list, repr=False)

    def save(self, path: str | Path) -> None:
        """Write the names of each part and the seeds as JSON, all or nothing."""
        content: dict[str, object] = {
            "source": self.source,
            "fingerprint": self.fingerprint,
            "split_seed": self.split_seed,
            "label_seed": self.label_seed,
        }
        for part in ("labelled", "unlabelled", "holdout", "test"):
            content[part] = [self.names[row] for row in getattr(self, part)]
        write_json(path, content)


def make_split(
    photos: Photos,
    labels: int | None,
    holdout: int = 0,
    split_seed: int = 0,
    label_seed: int | None = None,
) -> Split:
    """Split the photos into labelled, unlabelled, holdout and test.

    `labels`: how many images keep their label, the same number of each class (where that does
    not divide, the first classes have one more); 0 for none; None for every image that has a
    class. A larger number with the same seeds contains the smaller one's images. `holdout`: how
    many images of the training part to keep aside, balanced in the same way; it depends on
    `split_seed` only. Images without a class are never in the holdout of a source with classes.

    Raises `UserError` where the source has too few images for what is asked.
    """
    if labels is not None and labels < 0:
        raise UserError(f"--labels {labels} is negative; give 0 or more")
    if holdout < 0:
        raise UserError(f"--holdout {holdout} is negative; give 0 or more")
    label_seed = split_seed if label_seed is None else label_seed
    by_name = sorted(range(len(photos.names)), key=photos.names.__getitem__)
    test = [row for row in by_name if photos.is_test[row]]
    train = [row for row in by_name if not photos.is_test[row]]
    if not train:
        raise UserError(
            f"--data {printable(photos.source)} has test images only; "
            "give a source with images to train on"
        )
    if labels:
        _check_classes(photos, labels)

    held = set(_draw(photos, train, holdout, split_seed, "holdout"))
    left = [row for row in train if row not in held]
    if not left:
        raise UserError(
            f"--holdout {holdout} leaves none of the {len(train):,} training images; lower it"
        )
    if labels is None:
        chosen = {row for row in left if photos.labels[row] >= 0}
    else:
        chosen = set(_draw(photos, left, labels, label_seed, "labels"))

    def rows(part: list[int]) -> np.ndarray:
        return np.array(part, dtype=np.int64)

    return Split(
        labelled=rows([row for row in left if row in chosen]),
        unlabelled=rows([row for row in left if row not in chosen]),
        holdout=rows([row for row in train if row in held]),
        test=rows(test),
        split_seed=split_seed,
        label_seed=label_seed,
        source=photos.source,
        fingerprint=photos.fingerprint,
        names=photos.names,
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


def _draw(photos: Photos, rows: list[int], count: int, seed: int, purpose: str) -> list[int]:
    """The first `count` of `rows` by rank, balanced over the classes where there are any."""
    if count == 0:
        return []
    groups = [rows]
    if photos.classes:
        groups = [[] for _ in photos.classes]
        for row in rows:
            if photos.labels[row] >= 0:
                groups[photos.labels[row]].append(row)
    drawn: list[int] = []
    for index, group in enumerate(groups):
        quota = count // len(groups) + (index < count % len(groups))
        if len(group) < quota:
            whose = f"class {printable(photos.classes[index])}" if photos.classes else "the source"
            raise UserError(
                f"--{purpose} {count} needs {quota:,} training images of {whose}, "
                f"but only {len(group):,} are left; lower --{purpose}"
            )
        drawn += sorted(group, key=lambda row: _rank(seed, purpose, photos.names[row]))[:quota]
    return drawn


def _rank(seed: int, purpose: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{purpose}:{name}".encode("utf-8", "surrogatepass")).digest()
