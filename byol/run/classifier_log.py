"""What a run of train_classifier.py says as it goes, and when it gives up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from byol.errors import UserError
from byol.progress import say
from byol.run.checkpoint import all_finite
from byol.run.forecast import Forecast, progress
from byol.run.metrics import MetricsFile
from byol.schedules import Schedule

FORECAST_LEAST = 60.0  # seconds: a classifier that takes less needs no forecast


class ClassifierLog:
    """metrics.partial.jsonl and the bar of a run of `train_classifier.py`: a line for each epoch.

    `rate_flag`: the flag that lowers the rate, for an error. `say` gets the forecast.
    """

    def __init__(
        self,
        folder: Path,
        schedule: Schedule,
        rate_flag: str,
        device: torch.device,
        tensorboard: bool = False,
        say: Callable = say,
    ):
        self.path = folder / "metrics.partial.jsonl"  # an earlier result stays until this is whole
        self.schedule, self.rate_flag, self.device = schedule, rate_flag, device
        self.tensorboard, self.say = tensorboard, say
        self.history: list[dict] = []
        self.results: list[Tensor] = []  # of the steps of this epoch: (loss, accuracy)
        self.seconds_before = 0.0  # of an earlier process
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the run began, without the time when it was stopped."""
        return self.seconds_before + time.perf_counter() - self.began

    def state_dict(self) -> dict:
        results = torch.stack(self.results) if self.results else []
        return {"history": self.history, "results": results, "seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.history = state["history"]
        self.results = [pair.to(self.device) for pair in state["results"]]
        self.seconds_before = state["seconds"]

    def begin(self, first_step: int) -> None:
        """Open the file, with the lines of the epochs that are done."""
        steps = first_step, self.schedule.total_steps
        self.forecast = Forecast(*steps, self.device, FORECAST_LEAST, self.say)
        self.file = MetricsFile(self.path, tensorboard=self.tensorboard)
        for row in self.history:
            self.file.write(**row)

    def __enter__(self) -> ClassifierLog:
        self.bar = progress(self.schedule.epochs, "epoch", len(self.history))
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        self.bar.close()

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Do nothing: a save counts here, a run takes seconds or minutes."""
        yield

    def note(self, loss: Tensor, scores: Tensor, truth: Tensor) -> None:
        """Keep loss and accuracy of a step on the device: scores (N, classes), truth (N,)."""
        accuracy = (scores.detach().argmax(1) == truth).float().mean()
        self.results.append(torch.stack([loss.detach(), accuracy]))

    def after_step(self, done: int) -> None:
        """Write a line at the end of an epoch. Raises `UserError` if a loss was not finite."""
        self.forecast.after_step(done)
        if not self.schedule.ends_epoch(done):
            return
        of_epoch = torch.stack(self.results).cpu()  # (steps, 2)
        if len(bad := (~of_epoch[:, 0].isfinite()).nonzero()):
            self.give_up("the loss is", done - len(self.results) + int(bad[0]) + 1)
        loss, accuracy = of_epoch.mean(0).tolist()
        epoch = done // self.schedule.steps_per_epoch
        self.history.append({"epoch": epoch, "loss": loss, "accuracy": accuracy})
        self.file.write(**self.history[-1])
        self.bar.update()
        about = f"loss {loss:.3f}, accuracy {100 * accuracy:.1f} %"
        self.bar.set_postfix_str(about, refresh=False)
        self.results = []

    def flush(self) -> None:
        """Do nothing: a resumed run writes the lines anew, from its state."""

    def check(self, model: nn.Module, done: int) -> None:
        """Raise `UserError` if a weight is not finite: such a state is not saved."""
        if not all_finite(model):
            self.give_up("the weights are", done)

    def give_up(self, what: str, done: int) -> NoReturn:
        """Raise `UserError`: what went wrong, and what to try."""
        rate = self.schedule.lr(done - 1)
        raise UserError(
            f"{what} not finite at step {done:,}, where the rate was {rate:g}; try a lower "
            f"{self.rate_flag}"
        )
