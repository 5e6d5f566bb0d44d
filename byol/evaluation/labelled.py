"""Which images a classifier is trained and tested on, and whether they will do."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from byol.config import ClassifierConfig
from byol.encoder import Encoder
from byol.errors import UserError, note, printable
from byol.evaluation.features import FeatureExtractor
from byol.evaluation.folds import MOST_TO_REPEAT, REPEATS, SHARES, Folds
from byol.evaluation.leakage import Duplicates

MOST_PAIRS = 100_000_000  # of a training and a test image that are compared: some seconds
MOST_TO_COMPUTE = 2_000  # test images, if their features are computed for the comparison alone


class Labelled:
    """The images that a classifier learns from (`train`) and is tested on (`test`), as rows.

    tested_on: "test split", "holdout", "hidden labels"; if there is none of these, `test` is empty
        and it is "cross-validation", or "nothing" without folds.
    folds: those of the cross-validation, (R, N) for N images; None if there is none.
    duplicates: near-duplicates across training and test, once they are known.
    """

    def __init__(self, config: ClassifierConfig, photos, split, pretrained: dict | None):
        """Check that the images will do. Raises `UserError` if not.

        split: of `photos`. pretrained: the checkpoint that the classifier starts from.
        """
        check_holdout(config, photos, pretrained)
        check_labelled(config, photos, split)
        self.photos, self.split = photos, split
        self.train = split.labelled
        self.unlabelled = split.unlabelled if config.self_train else split.unlabelled[:0]
        if config.self_train and not len(self.unlabelled):
            raise UserError(
                "--self-train needs unlabelled photos, and all are labelled: give fewer --labels, "
                "or leave it out"
            )
        self.tested_on, self.test = pick_test_images(photos, split, or_none=True)
        self.duplicates: Duplicates | None = None
        self.folds = self._draw_folds(config)
        if not len(self.test):
            self.tested_on = "cross-validation" if self.folds else "nothing"

    def _draw_folds(self, config: ClassifierConfig) -> Folds | None:
        """Draw the folds of each repeat. Raises `UserError` if it needs more images of a class."""
        if not config.folds:
            return None
        repeats = REPEATS if config.freeze and len(self.train) <= MOST_TO_REPEAT else 1
        try:
            folds = [self.split.folds(self.photos, config.folds, seed) for seed in range(repeats)]
        except UserError as error:
            if not len(self.test):
                raise
            note(f"the probabilities are not calibrated: {error}")
            return None
        truth = torch.from_numpy(self.photos.labels[self.train])
        shares = SHARES if config.begins_with_head else (1.0,)
        return Folds(np.stack(folds), truth, self.photos.classes, shares)

    def truth(self, rows: np.ndarray, device: torch.device) -> Tensor:
        """Give the labels of `rows`: (N,) on the device."""
        return torch.from_numpy(self.photos.labels[rows]).to(device)

    def find_duplicates(
        self,
        extract: FeatureExtractor,
        encoder: Encoder,
        train: tuple[np.ndarray, Tensor],
        features: Tensor | None = None,
    ) -> None:
        """Look for near-duplicates of the `train` rows, with their features, among the test images.

        features: of all test images (N, width), if they are known. Of many images some are looked
        at, evenly spread.
        """
        most = max(1, MOST_PAIRS // len(train[0]))
        step = math.ceil(
            len(self.test) / (most if features is not None else min(most, MOST_TO_COMPUTE))
        )
        rows = self.test[::step]
        if features is None:
            features = extract(encoder, self.photos, rows, "test images")
        else:
            features = features[::step]
        self.duplicates = Duplicates(extract, encoder, self.photos, train, (rows, features))

    def __str__(self) -> str:
        tested = f"tested on {len(self.test):,} ({self.tested_on})"
        if not len(self.test):
            tested = f"tested {'by' if self.folds else 'on'} {self.tested_on}"
        return (
            f"{printable(self.photos.source)}: {len(self.train):,} labelled images of "
            f"{len(self.photos.classes)} classes; {tested}; "
            f"{len(self.photos.skipped):,} files skipped\n"
            f"{self.photos.describe_classes()}"
        )


def class_weights(kind: str, truth: Tensor, classes: int) -> Tensor | None:
    """Give the weight of each class in the loss, (K,): None for "none". truth: labels (N,).

    "balanced": images / (classes * images of the class).
    """
    if kind == "none":
        return None
    counts = torch.bincount(truth, minlength=classes)
    return len(truth) / (classes * counts.float())


def check_classes(config: ClassifierConfig, photos) -> None:
    """Raise `UserError` without two classes or without labels."""
    if len(photos.classes) < 2:
        raise UserError(
            f"--data {printable(config.data)} has {photos.describe_lack()}; a classifier needs "
            "two or more, such as photos/cat and photos/dog, or labels of another kind "
            "(docs/labels.md)"
        )
    if config.labels == 0:
        raise UserError("--labels 0: a classifier needs labelled images; give 2 or more")


def check_labelled(config: ClassifierConfig, photos, split, least: int = 1) -> None:
    """Raise `UserError` for a class with fewer labelled images than `least`."""
    counts = np.bincount(photos.labels[split.labelled], minlength=len(photos.classes))
    if counts.min() < least:
        few = printable(photos.classes[int(counts.argmin())])
        labels = "all" if config.labels is None else config.labels
        raise UserError(
            f"--labels {labels} gives {counts.min()} labelled training images of class {few}, and "
            f"{least} are needed; give more labels, or a source with more images to train on"
        )


def check_holdout(config: ClassifierConfig, photos, pretrained: dict | None) -> None:
    """Raise `UserError` for a holdout of which pretraining has seen images."""
    if pretrained and photos.has_names_of(pretrained["data_fingerprint"]):
        for key in ("holdout", "split_seed", "classes_at", "label_pattern", "group_by"):
            before = pretrained["config"].get(key)  # earlier versions had not all of them
            if config.holdout and before != getattr(config, key):
                raise UserError(
                    f"--{key.replace('_', '-')}: {config.init} was trained with {before}, so it "
                    "has seen images of this holdout; leave the option out"
                )
        before = pretrained.get("label_digest")  # earlier versions and states have none
        if config.holdout and before and before != photos.label_digest:
            raise UserError(
                f"--holdout: the labels are not those of when {config.init} was trained, so it has "
                "seen images of this holdout; put the old labels back, or leave the option out"
            )


def pick_test_images(photos, split, or_none: bool = False) -> tuple[str, np.ndarray]:
    """Pick the rows to test on, and say what they are.

    Raises `UserError` if there are none, but with `or_none`.
    """
    tests = {"test split": split.test, "holdout": split.holdout, "hidden labels": split.hidden}
    for name, rows in tests.items():
        rows = rows[photos.labels[rows] >= 0]
        if len(rows):
            return name, rows
    if or_none:
        return "", np.empty(0, np.int64)
    raise UserError(
        "no labelled image is left to test on; lower --labels, take the cross-validation of "
        "train_classifier.py, or pretrain with --holdout"
    )
