"""Judge an encoder for the table of `evaluate.py`: frozen, or by a run of train_classifier.py."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from byol.config import REPRESENTATIONS, ClassifierConfig
from byol.evaluation.labelled import check_labelled, pick_test_images
from byol.evaluation.linear_and_knn import FeatureBank
from byol.evaluation.protocol import (
    Protocol,
    Weights,
    losses_of,
    settings_of,
    train_or_take,
)
from byol.evaluation.scores import Scores


def describe_test(photos, split, config: ClassifierConfig, protocol: Protocol) -> str:
    """Say what a protocol is tested on, with its `split`. Raises `UserError` if labels are too few.

    That is before hours of work.
    """
    settings = dataclasses.replace(config, labels=protocol.count)
    check_labelled(settings, photos, split, least=2)
    tested_on, rows = pick_test_images(photos, split)
    scores = Scores.of_test(photos.labels[rows], photos.classes)
    if scores.warning():
        print(f"{scores.warning()} ({protocol.labels} labels)", file=sys.stderr)
    chance = f", {100 * scores.chance:.1f} % of the largest class" if scores.uneven else ""
    return f"{len(rows):,} images ({tested_on}{chance})"


def scores_of(bank: FeatureBank, photos, split) -> Iterator[tuple[str, Scores, float, Scores]]:
    """Judge each representation with one draw of the labels.

    Yields its name, the scores of linear evaluation, its L2 strength and the scores of kNN.
    """
    _, test_rows = pick_test_images(photos, split)
    for representation in REPRESENTATIONS:
        linear, strength, knn = bank.confusions(
            representation, split.labelled, test_rows, len(photos.classes)
        )
        yield representation, Scores(linear, photos.classes), strength, Scores(knn, photos.classes)


def fine_tuned(
    train: Callable, runs: Path, photos, weights: Weights, config: ClassifierConfig,
    representation: str, protocol: Protocol, seed: int,
) -> dict:  # fmt: skip
    """Do one run of train_classifier.py, the rest of one, or take it if it is there: its summary.

    train: that of train_classifier.py. The name of the folder in `runs` is for the reader: what is
    in it says whether it is this run.
    """
    start = "random"
    if weights.pretrained:
        kind = losses_of(weights.pretrained) if weights.pretrained["config"] else "given"
        start = f"{kind}-{weights.digest[:12]}"
    name = f"{start}-{representation}-{protocol.labels}-{protocol.epochs}epochs-seed{seed}"
    settings = settings_of(config, weights, representation, protocol, seed)
    return train_or_take(train, runs / name, settings, weights, photos)


def of_uneven_classes(scores: Scores) -> dict:
    """Give what is noted beside the accuracy if the classes are uneven, else nothing."""
    if not scores.uneven:
        return {}
    return {"balanced": scores.balanced_accuracy, "recall": scores.summary()["recall"]}


def of_uneven_run(summary: dict) -> dict:
    """Give the same from the summary of a run. Earlier versions did not write it."""
    if "confusion" not in summary or not Scores(summary["confusion"], summary["classes"]).uneven:
        return {}
    return {"balanced": summary["balanced_accuracy"], "recall": summary["recall"]}
