"""The views that a training makes of a few of its photos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from byol.config import PretrainConfig
from byol.hardware.batches import Batch, gather
from byol.schedules import Schedule, epoch_order
from byol.views.augment import TwoViews

EPOCHS = 2  # of which a pair of views is made


@dataclass
class TrainingViews:
    """Photos with the pair of views that each gets in the first epochs.

    rows: (P,) of the photos. steps: (EPOCHS, P) in which they come. pairs: uint8
    (EPOCHS, 2, P, S, S, 3), view 1 and view 2 as the network sees them, without normalisation.
    """

    rows: np.ndarray
    steps: np.ndarray
    pairs: np.ndarray


def training_views(
    config: PretrainConfig, photos, learned: np.ndarray, schedule: Schedule, count: int
) -> TrainingViews:
    """Make the views of `count` photos of the first step, those of the second epoch as well.

    learned: rows of `photos` that the training learns from. Photos that the second epoch drops with
    its incomplete batch are left out. In a run of one epoch its views are those of a longer one.
    """
    steps = np.stack([_steps_of(schedule, epoch) for epoch in range(EPOCHS)])  # (EPOCHS, images)
    first = schedule.positions(0)
    chosen = first[(steps[:, first] >= 0).all(0)][:count]
    rows, steps = learned[chosen], steps[:, chosen]
    two_views = TwoViews(config.views, config.view_side, config.mean, config.std, config.seed)
    cpu = torch.device("cpu")
    pairs = []
    for of_epoch in steps:
        for row, step in zip(rows, of_epoch.tolist(), strict=True):
            alone = np.array([row])
            batch = Batch(gather(photos.images, alone, cpu), photos.sizes[alone], alone)
            pairs.append(torch.cat(two_views(batch, step)))  # (2, 3, S, S)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    pixels = (torch.stack(pairs) * std + mean).clamp(0, 1).mul(255).round().byte()
    pixels = pixels.unflatten(0, (EPOCHS, len(rows))).transpose(1, 2).permute(0, 1, 2, 4, 5, 3)
    return TrainingViews(rows, steps, pixels.numpy())


def _steps_of(schedule: Schedule, epoch: int) -> np.ndarray:
    """Find the step of an epoch in which each image comes: (images,), -1 if it is dropped."""
    order = epoch_order(schedule.images, schedule.seed, epoch)
    batches = np.empty(schedule.images, np.int64)
    batches[order] = np.arange(schedule.images) // schedule.batch_size
    return np.where(
        batches < schedule.steps_per_epoch, epoch * schedule.steps_per_epoch + batches, -1
    )
