"""What a confusion matrix says: accuracy, recall of each class, balanced accuracy, chance."""

from __future__ import annotations

import numpy as np

from byol.errors import printable

UNEVEN = 1.2  # the largest class of a test against the smallest, from which recalls are told
MOST_TOLD = 10  # classes


class Scores:
    """The scores of a classifier on its test images.

    confusion: counts, of true classes (rows) by predicted classes (columns). A class without test
    images has no recall, and the balanced accuracy is the mean over the others. times: how often
    each image was counted.
    """

    def __init__(self, confusion: list[list[int]], classes: list[str], times: int = 1):
        self.confusion, self.classes, self.times = confusion, classes, times
        self.counts = [sum(row) for row in confusion]
        total = sum(self.counts)
        hits = [row[index] for index, row in enumerate(confusion)]
        self.accuracy = sum(hits) / total
        self.chance = max(self.counts) / total  # of always saying the largest class
        self.recalls = [
            hit / count if count else None for hit, count in zip(hits, self.counts, strict=True)
        ]
        known = [recall for recall in self.recalls if recall is not None]
        self.balanced_accuracy = sum(known) / len(known)

    @classmethod
    def of_test(cls, truth: np.ndarray, classes: list[str]) -> Scores:
        """Build those of a test without a mistake. truth: (N,) the labels."""
        return cls(np.diag(np.bincount(truth, minlength=len(classes))).tolist(), classes)

    @property
    def uneven(self) -> bool:
        """Whether the classes of the test differ so much that accuracy alone would mislead."""
        return max(self.counts) > UNEVEN * min(self.counts)

    def summary(self) -> dict:
        """Give the figures for `summary.json`."""
        return {
            "test_accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "chance": self.chance,
            "recall": dict(zip(self.classes, self.recalls, strict=True)),
            "confusion": self.confusion,
        }

    def describe(self, tested_on: str) -> str:
        """Say them; of uneven classes with balanced accuracy and recalls."""
        images = f"{sum(self.counts) // self.times:,} images ({tested_on})"
        text = f"test accuracy {100 * self.accuracy:.2f} % on {images}"
        return f"{text}\nbalanced     {self.describe_classes()}" if self.uneven else text

    def describe_classes(self) -> str:
        """Say the balanced accuracy, the recall of each class, and the chance."""
        recalls = ", ".join(
            f"{printable(name)} {100 * recall:.1f} of {count // self.times:,}"
            for name, recall, count in zip(self.classes, self.recalls, self.counts, strict=True)
            if recall is not None
        )
        text = f"{100 * self.balanced_accuracy:.2f} %"
        text += f"; recall in %: {recalls}" if len(self.classes) <= MOST_TOLD else ""
        return f"{text}; {100 * self.chance:.1f} % are of the largest class"

    def warning(self) -> str:
        """Name the classes of which there is no test image; nothing if there are none."""
        missing = [
            printable(name)
            for name, count in zip(self.classes, self.counts, strict=True)
            if not count
        ]
        return f"warning: no test image of {', '.join(missing[:MOST_TOLD])}" if missing else ""
