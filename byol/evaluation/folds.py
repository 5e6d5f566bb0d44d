"""Cross-validation of a classifier on its labelled images: what it says of each unseen one."""

from __future__ import annotations

import hashlib
import io
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol.errors import Stopped, UserError
from byol.evaluation.features import count_pairs
from byol.evaluation.scores import Scores
from byol.files import write_atomically
from byol.run.checkpoint import all_finite
from byol.run.interrupt import Interrupt

REPEATS = 3  # of the folds of a frozen encoder, which take seconds
MOST_TO_REPEAT = 1_000  # images: what is measured on more varies little
KEPT = "folds.npy"


class Folds:
    """The scores of each labelled image by classifiers that did not learn from it.

    folds: int64 (R, N), the fold of each image, in each of R repeats
    scores: float32 (R, N, classes), NaN where the classifier is still to be trained
    """

    def __init__(self, folds: np.ndarray, truth: Tensor, classes: list[str]):
        """truth: (N,) the labels."""
        self.folds, self.truth, self.classes = folds, truth.cpu(), classes
        self.scores = torch.full((*folds.shape, len(classes)), torch.nan)

    @property
    def count(self) -> int:
        """How many folds there are in each repeat."""
        return int(self.folds.max()) + 1

    def __str__(self) -> str:
        repeats, images = self.folds.shape
        times = f", {repeats} times" if repeats > 1 else ""
        return f"{self.count} folds of {images:,} labelled images{times}"

    def to_do(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (repeat, mask (N,) of the fold) for each classifier that is still to be trained."""
        for repeat, folds in enumerate(self.folds):
            for number in range(int(folds.max()) + 1):
                of_fold = torch.from_numpy(folds == number)
                if self.scores[repeat, of_fold].isnan().any():
                    yield repeat, of_fold

    def note(self, repeat: int, of_fold: Tensor, scores: Tensor, rate_flag: str) -> None:
        """Take the scores of a fold's images.

        Raises `UserError` if one is not finite; it names the flag of the rate.
        """
        _check_finite(bool(scores.isfinite().all()), rate_flag)
        self.scores[repeat, of_fold] = scores.detach().float().cpu()

    def save(self, folder: Path, identity: dict) -> None:
        """Keep what is done, for a run that is stopped here."""
        buffer = io.BytesIO()
        np.save(buffer, self.scores.numpy())
        write_atomically(folder / KEPT, buffer.getvalue() + _mark(identity))

    def restore(self, folder: Path, identity: dict) -> None:
        """Take what a stopped run of this identity kept, if it did."""
        try:
            blob = (folder / KEPT).read_bytes()
        except OSError:
            return
        mark = _mark(identity)
        if blob.endswith(mark):
            kept = torch.from_numpy(np.load(io.BytesIO(blob[: -len(mark)])))
            if kept.shape == self.scores.shape:
                self.scores = kept

    def accuracies(self) -> list[float]:
        """Compute the accuracy of each repeat."""
        return (self.scores.argmax(2) == self.truth).double().mean(1).tolist()

    def scored(self) -> Scores:
        """Score the images; each counts once for each repeat."""
        found, truth = self.scores.argmax(2), self.truth.expand(self.folds.shape)
        confusion = count_pairs(truth.flatten(), found.flatten(), len(self.classes))
        return Scores(confusion, self.classes, len(self.folds))

    def temperature(self) -> float:
        """Find the temperature by which the scores become calibrated probabilities."""
        return find_temperature(self.scores.flatten(0, 1), self.truth.repeat(len(self.folds)))

    def summary(self) -> dict:
        """Give the figures for `summary.json`."""
        accuracies, repeats = self.accuracies(), len(self.folds)
        return {
            "folds": self.count,
            "repeats": repeats,
            "accuracy": statistics.mean(accuracies),
            "std": statistics.stdev(accuracies) if repeats > 1 else None,
            "standard_error": self.standard_error(),
            "expected_calibration_error": calibration_error(
                self.scores.flatten(0, 1) / self.temperature(), self.truth.repeat(repeats)
            ),
        }

    def describe(self) -> str:
        """Say the accuracy."""
        mean = statistics.mean(self.accuracies())
        text = f"cross-validation {100 * mean:.2f} % ({self})"
        if len(self.folds) > 1:
            text += f", ± {100 * statistics.stdev(self.accuracies()):.2f} between the times"
        return f"{text}; ± {100 * self.standard_error():.1f} for {len(self.truth):,} images"

    def standard_error(self) -> float:
        """Estimate the deviation of the accuracy over other images of this number."""
        mean = statistics.mean(self.accuracies())
        return (mean * (1 - mean) / len(self.truth)) ** 0.5


class Silent:
    """Stands for the run and the log of a fold, of which nothing is kept or told."""

    def __init__(self, interrupt: Interrupt, rate_flag: str):
        self.interrupt, self.rate_flag = interrupt, rate_flag

    def open_log(self, *_) -> Silent:
        return self

    def start(self, *_, **__) -> int:
        return 0

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_) -> None:
        pass

    def note(self, *_) -> None:
        pass

    def after_step(self, _done: int) -> None:
        """Raise `Stopped` if a signal asked for it."""
        if self.interrupt.asked:
            raise Stopped("the same command with --resume goes on", self.interrupt.code)

    def check(self, model: nn.Module, _done: int) -> None:
        """Raise `UserError` if a weight is not finite."""
        _check_finite(all_finite(model), self.rate_flag)


def _check_finite(finite: bool, rate_flag: str) -> None:
    if not finite:
        raise UserError(
            f"in the cross-validation the weights are not finite numbers; try a lower {rate_flag}"
        )


def find_temperature(scores: Tensor, truth: Tensor) -> float:
    """Find the T for which softmax(scores / T) is most likely to give the labels (1706.04599).

    scores: (N, classes). truth: (N,). As in Platt's scaling the labels count as slightly uncertain:
    N + 1 of N + classes are right. So T stays above 0 if no score is wrong.
    """
    classes = scores.shape[1]
    smoothing = classes / (len(scores) + classes)
    scores = scores.double()
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(scores / log_t.exp(), truth, label_smoothing=smoothing)
        loss.backward()
        return loss

    optimizer.step(objective)
    return float(log_t.detach().exp().clamp(1e-3, 1e3))


def calibration_error(scores: Tensor, truth: Tensor, bins: int = 15) -> float:
    """Compute the expected calibration error: |accuracy - confidence|, averaged over the images.

    Images are gathered in `bins` of equal width by their confidence (1706.04599, equation 3).
    """
    confidence, predicted = scores.double().softmax(1).max(1)
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (predicted == truth).double() - confidence
    return float(torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, gap).abs().sum()
                 / len(scores))  # fmt: skip


def _mark(identity: dict) -> bytes:
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest().encode()
