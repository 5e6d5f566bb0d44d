"""A run of milliseconds: the loop of train_byol.py around a linear layer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from byol.config import PretrainConfig
from byol.hardware.step import LossScaler
from byol.optim import build_optimizer, parameter_groups, set_lr
from byol.run.pretrain_log import PretrainLog
from byol.run.run import Run

CPU = torch.device("cpu")


class TinyTraining:
    """Six steps of a linear layer, three an epoch, with all that `train_byol.py` has around it.

    What a test does to it: `overflow` (steps whose gradient is infinite), `losses` and `spreads`
    (step -> a list, in place of what it computes), `then` {step: what happens after it}.
    """

    def __init__(self, *, amp=None, flags=(), images=12, fingerprint="0", **settings):
        small = {"batch_size": 4, "epochs": 2, "log_every": 2, "losses": "classic",
                 "optimizer": "sgd", "warmup_epochs": 1.0, "save_every": 0.0}  # fmt: skip
        self.config = PretrainConfig(**{**small, **settings})
        self.run = Run.open(self.config, set(flags))
        self.photos = SimpleNamespace(
            fingerprint=fingerprint,
            source="photos",
            is_known_as=lambda before: before == fingerprint,
        )
        self.schedule = self.config.schedule(images)
        torch.manual_seed(self.config.seed)
        self.outputs = ["avgpool", *self.config.trained_blocks]
        self.model = nn.Linear(3, len(self.outputs))
        self.scaler = LossScaler(CPU, amp)
        self.optimizer = build_optimizer(
            self.config.optimizer,
            parameter_groups(self.model),
            self.config.decay,
            self.scaler.enabled,
        )
        self.log = PretrainLog(
            self.run.folder, self.config, self.outputs, self.schedule, self.scaler, CPU
        )
        self.overflow, self.then = set(), {}
        self.losses, self.spreads = None, lambda step: [0.5] * len(self.outputs)

    def start(self) -> int:
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        self.run.check_same_photos(self.photos)
        return self.run.start(self.schedule, log=self.log, **parts)

    def step(self, step: int) -> None:
        set_lr(self.optimizer, self.schedule.lr(step))
        self.optimizer.zero_grad(set_to_none=True)
        draw = torch.Generator().manual_seed(step)
        losses = self.model(torch.randn(4, 3, generator=draw)).square().mean(0)  # (P,)
        infinite = float("inf") if step in self.overflow else 1.0
        self.scaler.scale(losses.sum() * infinite).backward()
        shown = torch.tensor(self.losses(step)) if self.losses else losses.detach()
        self.log.note(shown, torch.tensor(self.spreads(step)))
        self.scaler.step(self.optimizer)

    def loop(self, first_step: int) -> None:
        with self.run, self.log:
            for step in range(first_step, self.schedule.total_steps):
                self.step(step)
                self.then.get(step, lambda: None)()
                self.log.after_step(step + 1)
                self.run.after_step(step + 1)

    def train(self) -> TinyTraining:
        try:
            self.loop(self.start())
        finally:
            self.close()
        return self

    def close(self) -> None:
        """Give up the lock of the folder, as a process does that ends."""
        self.run._lock.close()


@pytest.fixture
def tiny(in_tmp):
    """`TinyTraining`, in an empty folder."""
    return TinyTraining
