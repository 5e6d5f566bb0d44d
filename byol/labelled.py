"""Which images a classifier is trained and tested on, and whether they will do."""

from __future__ import annotations

import numpy as np

from byol.config import ClassifierConfig
from byol.errors import UserError, printable


def check_classes(config: ClassifierConfig, photos) -> None:
    """Raises `UserError` without two classes or without labels."""
    if len(photos.classes) < 2:
        raise UserError(
            f"--data {config.data} has {len(photos.classes)} class folders; a classifier needs "
            "two or more, such as photos/cat and photos/dog"
        )
    if config.labels == 0:
        raise UserError("--labels 0: a classifier needs labelled images; give 2 or more")


def check_labelled(config: ClassifierConfig, photos, split, least: int = 1) -> None:
    """Raises `UserError` for a class with fewer labelled images than `least`."""
    counts = np.bincount(photos.labels[split.labelled], minlength=len(photos.classes))
    if counts.min() < least:
        few = printable(photos.classes[int(counts.argmin())])
        labels = "all" if config.labels is None else config.labels
        raise UserError(
            f"--labels {labels} gives {counts.min()} labelled training images of class {few}, and "
            f"{least} are needed; give more labels, or a source with more images to train on"
        )


def check_holdout(config: ClassifierConfig, photos, source: dict | None) -> None:
    """Raises `UserError` for a holdout of which pretraining has seen images."""
    if source and source["data_fingerprint"] == photos.fingerprint:
        for key in ("holdout", "split_seed"):
            before = source["config"][key]
            if config.holdout and before != getattr(config, key):
                raise UserError(
                    f"--{key.replace('_', '-')}: {config.init} was trained with {before}, so it "
                    "has seen images of this holdout; leave the option out"
                )


def pick_test_images(photos, split) -> tuple[str, np.ndarray]:
    """The images to test on, and what they are. Raises `UserError` where there are none."""
    hidden = split.unlabelled[photos.labels[split.unlabelled] >= 0]
    tests = {"test split": split.test, "holdout": split.holdout, "hidden labels": hidden}
    for name, rows in tests.items():
        rows = rows[photos.labels[rows] >= 0]
        if len(rows):
            return name, rows
    raise UserError("no labelled image is left to test on; lower --labels or give --holdout")
