"""What a run says as it goes: metrics.jsonl, the progress bar, warnings, and when it gives up."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from byol.errors import UserError
from byol.files import naming, write_atomically
from byol.hardware.device import peak_bytes, read_later
from byol.hardware.step import LossScaler
from byol.progress import say, silent
from byol.run.checkpoint import all_finite
from byol.run.events import Events
from byol.run.folder import LAST, PREVIOUS
from byol.schedules import Schedule

# Of the loss in float16: each overflow halves it, 2,000 good steps double it. It starts at 65,536;
# below 1 it no longer lifts small gradients, and 17 overflows had no time to recover.
LEAST_SCALE = 1.0

COLLAPSED, COLLAPSED_STEPS = 0.1, 200  # a spread below the one for as long as the other
FORECAST_FROM, FORECAST_AT = 5, 20  # steps: the first ones are slow
FORECAST_LEAST = 60.0  # seconds: a classifier that takes less needs none


def progress(total: int, unit: str, initial: int = 0) -> tqdm:
    """Make a bar with speed and time left; a line every half minute if stderr is a file.

    With --quiet it draws nothing.
    """
    bar = {"total": total, "initial": initial, "unit": unit, "disable": silent()}
    if sys.stderr.isatty():
        return tqdm(**bar, dynamic_ncols=True, mininterval=0.5)
    # no width to draw in: words only
    form = "{n_fmt}/{total_fmt} {unit}s, {remaining} left, {rate_fmt}{postfix}\n"
    return tqdm(**bar, mininterval=30, maxinterval=60, bar_format=form)


def read_jsonl(path: str | Path) -> list[dict]:
    """Read the objects of a metrics file. A last line that was cut off is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsFile:
    """Appends objects to `path`, each flushed as it is written.

    Lines of an earlier run are kept up to and including step `keep_through`; 0 starts anew.
    tensorboard: TensorBoard gets the same numbers, those of kept lines as well.
    """

    def __init__(self, path: Path, keep_through: int = 0, tensorboard: bool = False):
        rows = read_jsonl(path) if keep_through and path.exists() else []
        kept = [row for row in rows if row["step"] <= keep_through]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._events = Events(path.parent) if tensorboard else None
        for row in kept if self._events else ():
            self._events.write(row)
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (closed by __exit__)

    def write(self, **values) -> None:
        """Append a line. Raises `OSError` if there is no room; then nothing of the line stays."""
        line = (json.dumps(values) + "\n").encode()
        end = self._file.seek(0, os.SEEK_END)
        with naming(self._path):
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:
                self._file.truncate(end)
                raise
        if self._events:
            self._events.write(values)

    def flush_to_disk(self) -> None:
        """Flush before a checkpoint: no line is lost that a resumed run does not write again."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class PretrainLog:
    """metrics.jsonl and the bar of a run of `train_byol.py`.

    A line has one loss and one spread for each of `outputs` (see `BYOL.outputs`). The loss of the
    run is the sum of the losses times their weights. config: a `PretrainConfig`.
    """

    def __init__(
        self,
        folder: Path,
        config,
        outputs: list[str],
        schedule: Schedule,
        scaler: LossScaler,
        device: torch.device,
    ):
        self.folder, self.config, self.outputs = folder, config, outputs
        self.schedule, self.scaler, self.device = schedule, scaler, device
        self.results: list[Tensor] = []  # of the micro-batches since the last line: (2, P) each
        self.waiting: list[tuple] = []  # lines whose numbers are on their way from the device
        self.seconds_before = 0.0  # of an earlier process, since the last line
        self.first_step = 0

    def state_dict(self) -> dict:
        results = torch.stack(self.results) if self.results else []
        seconds = time.perf_counter() - self.line_began
        return {"results": results, "seconds": seconds}

    def load_state_dict(self, state: dict) -> None:
        self.results = [pair.to(self.device) for pair in state.get("results", [])]
        self.seconds_before = state.get("seconds", 0.0)

    def begin(self, first_step: int) -> None:
        """Open the file at the step where the run begins or goes on."""
        self.first_step, self.good_until = first_step, first_step
        self.forecast = Forecast(first_step, self.schedule.total_steps, self.device)
        path = self.folder / "metrics.jsonl"
        self.file = MetricsFile(path, first_step, self.config.tensorboard)

    def __enter__(self) -> PretrainLog:
        self.began = time.perf_counter()
        self.line_began = self.began - self.seconds_before
        self.bar = progress(self.schedule.total_steps, "step", self.first_step)
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        self.bar.close()

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Leave out of the speed what is done inside: a save is no training."""
        stopped = time.perf_counter()
        yield
        self.line_began += time.perf_counter() - stopped

    def note(self, losses: Tensor, spreads: Tensor) -> None:
        """Keep what a micro-batch gave, (P,) each, on the device."""
        self.results.append(torch.stack([losses, spreads]))

    def after_step(self, done: int) -> None:
        """Write a line if one is due: of `done` steps, and of those since the last line."""
        self.bar.update()
        if done % self.config.log_every == 0 or self.schedule.ends_epoch(done):
            now = time.perf_counter()
            images = len(self.results) * self.config.micro_batch
            speed = images / (now - self.line_began)
            means = torch.stack(self.results).mean(0).flatten()  # P losses, then P spreads
            numbers = torch.cat([means, self.scaler.numbers()])
            self.waiting.append((done, speed, read_later(numbers)))
            self.results, self.line_began = [], now
        # log one line late: reading the newest loss would stall the GPU
        self._write_lines(but=1)
        self.forecast.after_step(done)

    def flush(self) -> None:
        """Write the lines that wait, and flush them to the disk."""
        self._write_lines(but=0)
        self.file.flush_to_disk()

    def _write_lines(self, but: int) -> None:
        while len(self.waiting) > but:
            self._write_line(*self.waiting.pop(0))

    def _write_line(self, done: int, speed: float, numbers) -> None:
        """Write the line of step `done`; warn once of a collapse.

        `numbers` (see `read_later`): means of the losses and of the spreads since the last line,
        then how many steps were skipped since the start, and the scale of the loss.

        Raises `UserError` if the loss is not finite, or float16 no longer holds the gradients.
        """
        *means, skipped, scale = numbers()
        losses, spreads = means[: len(self.outputs)], means[len(self.outputs) :]
        loss = sum(w * value for w, value in zip(self.config.output_weights, losses, strict=True))
        if not math.isfinite(loss):
            self.give_up("the loss is not finite", done)
        if scale < LEAST_SCALE:
            what = f"the gradients overflow float16: {skipped:,.0f} steps were skipped"
            self.give_up(f"{what}, so the weights no longer change", done)
        self._look_for_collapse(done, spreads[0])
        epoch = done / self.schedule.steps_per_epoch
        self.file.write(
            step=done,
            epoch=round(epoch, 4),
            loss=loss,
            lr=self.schedule.lr(done - 1),
            tau=self.schedule.tau(done - 1),
            images_per_second=speed,
            spread=spreads[0],
            **self._by_output("loss", losses),
            **self._by_output("spread", spreads),
            **({"skipped_steps": int(skipped)} if self.scaler.enabled else {}),
        )
        about = f"epoch {epoch:.1f}, loss {loss:.3f}, {speed:.0f} images/s"
        self.bar.set_postfix_str(about, refresh=False)

    def _by_output(self, name: str, values: list[float]) -> dict[str, float]:
        """Name columns such as `loss_layer2.0`, if there is more than one output."""
        if len(self.outputs) == 1:
            return {}
        columns = [f"{name}_{output}" for output in self.outputs]
        return dict(zip(columns, values, strict=True))

    def _look_for_collapse(self, done: int, spread: float) -> None:
        if spread >= COLLAPSED:
            self.good_until = done
        elif self.good_until is not None and done - self.good_until >= COLLAPSED_STEPS:
            self.bar.write(
                f"warning: since step {self.good_until:,} all projections are nearly the same "
                f"(spread {spread:.2f}), so nothing more is learned; stop, and try a lower --lr, "
                "more --weight-decay or a higher --tau0",
                file=sys.stderr,
            )
            self.good_until = None  # once is enough

    def check(self, model: nn.Module, done: int) -> None:
        """Raise `UserError` if a weight is not finite: such a state is not saved."""
        if not all_finite(model):
            self.give_up("the weights are not finite", done)

    def give_up(self, what: str, done: int) -> NoReturn:
        """Raise `UserError`: what went wrong, what is saved, and what to try."""
        states = [path for name in (PREVIOUS, LAST) if (path := self.folder / name).exists()]
        kept = f"the last good state is {states[0]}" if states else "nothing was saved"
        other = ", or with --amp bf16 (off on a card without it)" if self.scaler.enabled else ""
        raise UserError(
            f"{what} at step {done:,}, learning rate {self.schedule.lr(done - 1):.2g} "
            f"(--lr {self.config.base_lr:g}); {kept}; start anew with a lower --lr{other}"
        )

    def summary(self) -> str:
        """Say what this process took: time, speed, memory, skipped steps."""
        seconds = time.perf_counter() - self.began
        steps = self.schedule.total_steps - self.first_step
        text = f"{_duration(seconds)}, {steps * self.schedule.batch_size / seconds:.0f} images/s"
        text += f", at most {peak_bytes(self.device) / 2**30:.2f} GiB of memory"
        if self.scaler.enabled:
            text += f", {int(self.scaler.skipped):,} steps skipped as float16 overflowed"
        return text


class Forecast:
    """Says once, after some twenty steps, when a run will end, and what memory it takes.

    least: seconds; a run that ends sooner is left alone. `say` writes the line.
    """

    def __init__(
        self, first_step: int, total: int, device: torch.device, least=0.0, say: Callable = say
    ):
        self.from_step, self.at_step = first_step + FORECAST_FROM, first_step + FORECAST_AT
        self.total, self.device, self.least, self.say = total, device, least, say

    def after_step(self, done: int) -> None:
        """Say it if it is time, after `done` steps."""
        if done == self.from_step:
            self.began = time.perf_counter()
        if done != self.at_step or done == self.total:
            return
        each = (time.perf_counter() - self.began) / (FORECAST_AT - FORECAST_FROM)
        left = each * (self.total - done)
        if left < self.least:
            return
        end = datetime.datetime.now() + datetime.timedelta(seconds=left)
        when = f"{end:%H:%M}" if left < 12 * 3600 else f"{end:%A, %H:%M}"
        memory = peak_bytes(self.device) / 2**30
        text = f"forecast    {_about(left)}, {when}; so far at most {memory:.1f} GiB of memory"
        on_terminal = sys.stderr.isatty()  # where a bar gives way to the line
        with tqdm.external_write_mode(sys.stderr) if on_terminal else contextlib.nullcontext():
            self.say(text)


def _about(seconds: float) -> str:
    """Write seconds as nobody would say them more exactly."""
    if seconds < 60:
        return "less than a minute"
    if seconds > 2 * 3600:
        return f"about {seconds / 3600:.1f} hours"
    return "about a minute" if seconds < 90 else f"about {seconds / 60:.0f} minutes"


def _duration(seconds: float) -> str:
    """Write seconds as minutes, or as hours."""
    return f"{seconds / 3600:.1f} hours" if seconds > 2 * 3600 else f"{seconds / 60:.1f} minutes"


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
