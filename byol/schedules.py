"""What happens at which optimizer step: rate, tau and order of the photos, as pure functions.

Nothing here has a state, so a run that stops anywhere goes on to the identical result (paper,
section 3.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


def lr_at(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Rise linearly from 0 to `peak` over `warmup_steps`, then fall by half a cosine to 0."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def tau_at(step: int, total_steps: int, tau0: float) -> float:
    """1 - (1 - tau0) (cos(pi step / total) + 1) / 2: from tau0 up to 1."""
    return 1 - (1 - tau0) * (math.cos(math.pi * min(1.0, step / total_steps)) + 1) / 2


@lru_cache(maxsize=4)  # of two counts, and of the epochs before and after a turn
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffle the positions 0..count-1 for one epoch: (count,), a function of the arguments.

    They take 4 bytes a photo, and are in the order that `permutation(count)` gives.
    """
    positions = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)
    np.random.Generator(np.random.PCG64([seed, epoch])).shuffle(positions)
    return positions


def positions_at(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """Pick which of `count` images make up `step`: int64 (batch_size,).

    Each epoch drops its incomplete batch.
    """
    epoch, batch = divmod(step, count // batch_size)
    order = epoch_order(count, seed, epoch)
    return order[batch * batch_size : (batch + 1) * batch_size].astype(np.int64)


@dataclass(frozen=True)
class Schedule:
    """Every number that follows from epochs, batch and the count of images."""

    images: int
    batch_size: int  # at most `images`
    epochs: int
    warmup_epochs: float
    peak_lr: float
    seed: int
    tau0: float = 1.0
    head_epochs: float = 0.0  # in which the heads alone learn

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.batch_size

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def warmup_steps(self) -> int:
        return round(min(self.warmup_epochs, self.epochs / 2) * self.steps_per_epoch)

    @property
    def head_steps(self) -> int:
        return round(min(self.head_epochs, self.epochs / 2) * self.steps_per_epoch)

    def lr(self, step: int) -> float:
        return lr_at(step, self.total_steps, self.warmup_steps, self.peak_lr)

    def encoder_scale(self, step: int) -> float:
        """Scale the encoder's rate: 0 while the heads alone learn, then up to 1 by a warm-up."""
        done = step - self.head_steps
        if done < 0:
            return 0.0
        return 1.0 if done >= self.warmup_steps else done / self.warmup_steps

    def tau(self, step: int) -> float:
        return tau_at(step, self.total_steps, self.tau0)

    def positions(self, step: int) -> np.ndarray:
        """Pick which images make up `step`: (batch_size,), positions in 0..images-1."""
        return positions_at(step, self.images, self.batch_size, self.seed)

    def parts(self, size: int) -> list[int]:
        """Cut a batch of `size` images into those whose losses are averaged apart, and added."""
        return [size]

    def ends_epoch(self, done: int) -> bool:
        """Tell whether an epoch ends when `done` steps are done."""
        return done % self.steps_per_epoch == 0

    def __str__(self) -> str:
        return (
            f"{self.epochs} epochs x {self.steps_per_epoch} steps of {self.batch_size} "
            f"= {self.total_steps:,} steps, {self.warmup_steps:,} of warm-up"
            + (f"; in the first {self.head_steps:,} the heads alone" if self.head_steps else "")
        )


LABELLED, UNLABELLED = 16, 128  # images in a batch of self-training
WARMUP_EPOCHS = 0.5


@dataclass(frozen=True)
class MixedSchedule(Schedule):
    """A schedule for unlabelled images, with some of the `labelled` images in each batch.

    Positions begin with those of the labelled images. An epoch is a pass over the unlabelled ones.
    """

    labelled: int = 0

    @classmethod
    def of(cls, labelled: int, unlabelled: int, epochs: int, lr: float, seed: int) -> MixedSchedule:
        """Build it for these counts of images."""
        size = min(UNLABELLED, unlabelled)
        return cls(unlabelled, size, epochs, WARMUP_EPOCHS, lr, seed, labelled=labelled)

    def positions(self, step: int) -> np.ndarray:
        """Pick which images make up `step`: at most `LABELLED` and `UNLABELLED` of them."""
        known = positions_at(step, self.labelled, min(LABELLED, self.labelled), self.seed)
        return np.concatenate([known, self.labelled + super().positions(step)])

    def parts(self, size: int) -> list[int]:
        """Cut a batch into its labelled and its unlabelled images."""
        known = min(LABELLED, self.labelled)
        return [known, size - known]
