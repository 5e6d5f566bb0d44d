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
from torch import Tensor, nn

from byol.errors import Stopped, UserError
from byol.evaluation.features import count_pairs
from byol.evaluation.scores import Scores
from byol.evaluation.temperature import calibration_error, find_temperature
from byol.files import write_atomically
from byol.run.checkpoint import all_finite
from byol.run.interrupt import Interrupt

REPEATS = 3  # of the folds of a frozen encoder, which take seconds
MOST_TO_REPEAT = 1_000  # images: what is measured on more varies little
KEPT = "folds.npy"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way that fine-tuning goes


class Folds:
    """The scores of each labelled image by classifiers that did not learn from it.

    folds: int64 (R, N), the fold of each image, in each of R repeats
    shares: (S,) how far classifiers go from the start to the end of their training: `go_to`
    by_share: float32 (S, R, N, classes), NaN where the classifier is still to be trained
    share: the one of `shares` that is taken. All figures are of it.
    """

    def __init__(
        self, folds: np.ndarray, truth: Tensor, classes: list[str], shares: tuple = (1.0,)
    ):
        """truth: (N,) the labels."""
        self.folds, self.truth, self.classes = folds, truth.cpu(), classes
        self.shares, self.share = shares, shares[-1]
        self.by_share = torch.full((len(shares), *folds.shape, len(classes)), torch.nan)

    @property
    def scores(self) -> Tensor:
        """Those of the share that is taken: (R, N, classes)."""
        return self.by_share[self.shares.index(self.share)]

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
                if self.by_share[:, repeat, of_fold].isnan().any():
                    yield repeat, of_fold

    def note(
        self, repeat: int, of_fold: Tensor, scores: Tensor, rate_flag: str, share: float = 1.0
    ) -> None:
        """Take the scores of a fold's images.

        Raises `UserError` if one is not finite; it names the flag of the rate.
        """
        _check_finite(bool(scores.isfinite().all()), rate_flag)
        at = self.shares.index(share)
        self.by_share[at, repeat, of_fold] = scores.detach().float().cpu()

    def choose_share(self) -> None:
        """Take the least share that is right about as often as the best.

        If of d images just one of both is right, the difference has a standard error of sqrt(d)
        images (McNemar). Within sqrt(d + 2) they are taken for equal: few images say little.
        """
        right = (self.by_share.argmax(3) == self.truth).flatten(1)  # (S, R N)
        counts = right.sum(1)
        differing = (right != right[counts.argmax()]).sum(1)
        as_good = counts.max() - counts <= (differing + 2).sqrt()
        self.share = self.shares[int(as_good.nonzero()[0])]

    def accuracy_of(self, share: float) -> float:
        found = self.by_share[self.shares.index(share)].argmax(2)
        return float((found == self.truth).double().mean())

    def advice(self) -> str:
        """Say what training all weights brings beside a head on the encoder as it is."""
        start, end = (100 * self.accuracy_of(share) for share in (0.0, 1.0))
        told = f"the encoder as it is {start:.1f} %, all weights trained {end:.1f} %"
        if not self.share:
            return f"{told}: it stays as it is, and --freeze gives that in seconds"
        if self.share == 1:
            return f"{told}: all weights are taken as they are trained"
        there = 100 * self.accuracy_of(self.share)
        return f"{told}: they go {100 * self.share:.0f} % of that way ({there:.1f} %)"

    def save(self, folder: Path, identity: dict) -> None:
        """Keep what is done, for a run that is stopped here."""
        buffer = io.BytesIO()
        np.save(buffer, self.by_share.numpy())
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
            if kept.shape == self.by_share.shape:
                self.by_share = kept

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
            "share": self.share,
            "accuracy_by_share": {str(share): self.accuracy_of(share) for share in self.shares},
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


def _mark(identity: dict) -> bytes:
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest().encode()
