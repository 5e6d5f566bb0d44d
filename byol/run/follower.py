"""What a process other than the first does of a run: it decides with all, and writes nothing."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch
from torch import Tensor

from byol.config import MAY_DIFFER_ON_RESUME
from byol.hardware.distributed import take_over
from byol.run.run import Run
from byol.schedules import Schedule


def facts(config, photos, split, amp: torch.dtype | None) -> dict:
    """List what must be the same in all processes of a run. config: a `PretrainConfig`."""
    settings = dataclasses.asdict(config)
    settings = {k: v for k, v in settings.items() if k not in MAY_DIFFER_ON_RESUME}
    images = {"images": photos.fingerprint, "labels": split.digest_learned()}
    return {**images, "precision": str(amp), **settings}


class Follower(Run):
    """A `Run` that takes its state from the first process, and saves and stops when that does."""

    def __init__(self, config):
        self.folder, self.overwrite = Path(config.run_dir), config.overwrite
        self.save_every, self.save_within = config.save_every, config.save_within
        self.state = None

    def start(self, schedule: Schedule, *, log, model, **others) -> int:
        """Take over the state of the first process: the first step to take."""
        self.schedule = schedule
        return take_over(0, {"model": model, **others})

    def save(self, done: int) -> None:
        self.saved_at = time.perf_counter()


class FollowersLog:
    """A log that holds the numbers of the newest step, for the first process, and writes none."""

    def __init__(self):
        self.results: list[Tensor] = []

    def __enter__(self) -> FollowersLog:
        return self

    def __exit__(self, *_) -> None:
        pass

    def note(self, losses: Tensor, spreads: Tensor) -> None:
        self.results.append(torch.stack([losses, spreads]))

    def after_step(self, done: int) -> None:
        self.results.clear()
