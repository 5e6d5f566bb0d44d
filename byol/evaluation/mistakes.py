"""The mistakes of a classifier on the photos that it was tested on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from byol.errors import UserError
from byol.evaluation.labelled import pick_test_images


@dataclass
class Mistake:
    """A test photo (`row`) that is of the class `truth` and is taken for `found`."""

    row: int
    truth: int
    found: int
    probability: float  # of `found`, 0 to 1


def rows_of_test(photos, split, summary: dict) -> np.ndarray:
    """Give the rows that a finished classifier was tested on, by its summary.

    Raises `UserError` if there are none, or if these photos are not those of the test.
    """
    if summary["tested_on"] == "cross-validation":
        raise UserError(
            "the classifier has learned from all labelled photos, and was judged by "
            "cross-validation; keep some for a test, by --holdout"
        )
    tested_on, rows = pick_test_images(photos, split)
    if (tested_on, len(rows)) != (summary["tested_on"], summary["test_images"]):
        raise UserError("the labels are not those of the test; run the classifier again")
    return rows


def find_mistakes(probabilities: Tensor, truth: np.ndarray, rows: np.ndarray) -> list[Mistake]:
    """List the mistakes, the most confident first.

    probabilities: (N, classes). truth: (N,), the labels. rows: (N,), which photos they are.
    """
    most = probabilities.max(1)
    found, sure = most.indices.cpu().numpy(), most.values.cpu().numpy()
    wrong = np.flatnonzero(found != truth)
    order = wrong[(-sure[wrong]).argsort(kind="stable")]
    return [Mistake(int(rows[i]), int(truth[i]), int(found[i]), float(sure[i])) for i in order]
