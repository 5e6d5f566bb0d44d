"""Looks at an encoder while it learns: is it healthy, is it better than random weights?"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from byol.encoder import Encoder
from byol.errors import UserError
from byol.evaluation.advice import Advice
from byol.evaluation.features import FeatureExtractor, Standardise
from byol.evaluation.looked_at import spread
from byol.evaluation.measures import (
    alignment,
    effective_rank,
    first_direction,
    linear_accuracy,
    neighbours_accuracy,
    uniformity,
)
from byol.hardware.batches import Batch, gather
from byol.hardware.device import autocast
from byol.hardware.distributed import is_first
from byol.hardware.step import prepare
from byol.schedules import Schedule
from byol.views.augment import TwoViews

MOST_LABELLED = 500  # photos
MOST_UNLABELLED = 1_000
LEAST_UNLABELLED, SHARE_OF_RUN = 100, 1 / 50  # fewer in a short run: all looks together cost little
PAIRS = 250  # photos of which two views are compared
FOLDS = 5
IMAGES_BETWEEN = 100_000  # at least from one look to the next: a look takes less than 1 % of that
LEAST_LOOKS, MOST_LOOKS = 4, 24  # of a run


class Health:
    """Looks at the encoder of a run every few epochs, on the same photos each time.

    The labelled photos of the split give the accuracy of neighbours and of a linear probe. Hidden
    labels are not read. Up to `MOST_UNLABELLED` photos that BYOL learns from give the rest. Nothing
    of the training changes: no weight, no statistic of BatchNorm, no random number.
    """

    def __init__(
        self,
        config,
        photos,
        split,
        schedule: Schedule,
        device: torch.device,
        amp: torch.dtype | None,
    ):
        """config: a `PretrainConfig`. `health_every` None picks the epochs, 0 is never."""
        self.config, self.photos, self.schedule = config, photos, schedule
        self.device, self.amp = device, amp
        every = config.health_every
        self.every = epochs_between(schedule) if every is None else every
        if not is_first():  # the first process looks for all
            self.every = 0
        self.rows = spread(split.learned, photos_to_look_at(schedule))
        self.labelled, self.folds = self._fold(split)
        self.advice = Advice(schedule)
        self.extract = FeatureExtractor(
            image_size=config.image_size, mean=config.mean, std=config.std, device=device, amp=amp,
            inner_blocks=config.trained_blocks, channels=config.channels,
        )  # fmt: skip
        self.two_views = TwoViews(
            config.views, config.view_side, config.mean, config.std, config.seed
        )

    def _fold(self, split) -> tuple[np.ndarray, np.ndarray]:
        """Pick labelled photos, and draw a fold for each: none if they are too few."""
        try:
            folds = split.folds(self.photos, FOLDS, 0) if len(split.labelled) else np.empty(0)
        except UserError:  # a class has fewer photos than there are folds
            folds = np.empty(0)
        if not len(folds):
            return np.empty(0, np.int64), folds
        some = spread(np.arange(len(split.labelled)), MOST_LABELLED)
        return split.labelled[some], folds[some]

    def begin(self, log, encoder: Encoder) -> None:
        """Take what an earlier process saw, or look at random weights, and at given ones."""
        self.log, self.encoder = log, encoder
        if not self.every:
            return
        for row in log.health:
            self.advice.see(row)  # an earlier process has said what is wrong
        if self.advice.random is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.config.seed)
                random = Encoder(self.config.arch, self.config.stem)
            self._note(0, "random", prepare(random, self.device))
            if self.config.init != "random" and not log.first_step:
                self._note(0, "encoder", encoder)

    def after_step(self, done: int) -> None:
        """Look if it is time: every few epochs, and at the end. Says what is wrong, once."""
        if not self.every or not self.is_due(done):
            return
        self._note(done, "encoder", self.encoder)

    def _note(self, done: int, of: str, encoder: Encoder) -> None:
        """Look at an encoder, write the line, and say what is wrong."""
        with self.log.clock_stopped():
            row = self.log.write_health(done, of, self.look(encoder))
        for sentence in self.advice.see(row):
            self.log.warn(sentence)

    def is_due(self, done: int) -> bool:
        """Tell whether `done` steps end an epoch after which to look."""
        steps = self.every * self.schedule.steps_per_epoch
        return done % steps == 0 or done == self.schedule.total_steps

    @torch.no_grad()
    def look(self, encoder: Encoder) -> dict[str, float]:
        """Measure an encoder (see byol/evaluation/measures.py)."""
        was_training = encoder.training
        encoder.eval()
        seen = self.extract(encoder, self.photos, self.rows, "health")[:, : encoder.dim].cpu()
        one, other = self._two_features(encoder)
        measures = {
            "effective_rank": effective_rank(seen),
            "first_direction": first_direction(seen),
            "alignment": alignment(one, other),
            "uniformity": uniformity(seen),
        }
        if len(self.labelled):
            measures |= self._probe(encoder)
        encoder.train(was_training)
        return measures

    def _two_features(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """Compute the representation of two views, as in training: (N, D) each, on the CPU."""
        rows = self.rows[:PAIRS] if len(self.rows) <= PAIRS else spread(self.rows, PAIRS)
        images = gather(self.photos.images, rows, self.device)
        views = self.two_views(Batch(images, self.photos.sizes[rows], rows), 0)
        with autocast(self.device, self.amp):
            return tuple(encoder(view).float().cpu() for view in views)

    def _probe(self, encoder: Encoder) -> dict[str, float]:
        """Compute the accuracies on labelled photos; inner blocks count if they have losses."""
        features = self.extract(encoder, self.photos, self.labelled, "health").cpu()
        features = Standardise(features, list(encoder.widths(self.config.trained_blocks).values()))(
            features
        )
        labels = torch.from_numpy(self.photos.labels[self.labelled])
        groups = self.photos.groups
        numbers = np.arange(len(labels)) if groups is None else groups[self.labelled]
        return {
            "knn_accuracy": neighbours_accuracy(features, labels, torch.from_numpy(numbers)),
            "linear_accuracy": linear_accuracy(features, labels, torch.from_numpy(self.folds)),
        }


def photos_to_look_at(schedule: Schedule) -> int:
    """Pick how many unlabelled photos to look at: a share of what the run learns from."""
    share = round(SHARE_OF_RUN * schedule.images * schedule.epochs)
    return min(MOST_UNLABELLED, max(LEAST_UNLABELLED, share))


def epochs_between(schedule: Schedule) -> int:
    """Pick the epochs from one look to the next: `IMAGES_BETWEEN` or more, or a part of the run."""
    fewest = math.ceil(schedule.epochs / MOST_LOOKS)
    wanted = max(fewest, math.ceil(IMAGES_BETWEEN / schedule.images))
    return max(1, min(wanted, schedule.epochs // LEAST_LOOKS))
