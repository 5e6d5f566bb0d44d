"""What a run of train_byol.py says as it goes, and when it gives up."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from byol.errors import UserError
from byol.hardware.device import peak_bytes, read_later
from byol.hardware.step import LossScaler
from byol.progress import duration
from byol.run.checkpoint import all_finite
from byol.run.folder import LAST, PREVIOUS
from byol.run.forecast import Forecast, progress
from byol.run.metrics import HEALTH, MetricsFile, read_jsonl
from byol.schedules import Schedule

# Of the loss in float16: each overflow halves it, 2,000 good steps double it. It starts at 65,536;
# below 1 it no longer lifts small gradients, and 17 overflows had no time to recover.
LEAST_SCALE = 1.0

COLLAPSED, COLLAPSED_STEPS = 0.1, 200  # a spread below the one for as long as the other


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
        self.health: list[dict] = []  # lines of byol/evaluation/health.py
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
        kept = read_jsonl(path, HEALTH) if first_step and path.exists() else []
        self.health = [row for row in kept if row["step"] <= first_step]
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
        about = f"epoch {epoch:.1f}, loss {loss:.3f}, {speed:.0f} images/s{self._last_look()}"
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
            self.warn(
                f"since step {self.good_until:,} all projections are nearly the same "
                f"(spread {spread:.2f}), so nothing more is learned; stop, and try a lower --lr, "
                "more --weight-decay or a higher --tau0"
            )
            self.good_until = None  # once is enough

    def write_health(self, done: int, of: str, measures: dict[str, float]) -> dict:
        """Write a line on the health after `done` steps, `of` "random" weights or the "encoder"."""
        self._write_lines(but=0)  # lines stand in the order of their steps
        epoch = round(done / self.schedule.steps_per_epoch, 4)
        row = {"kind": HEALTH, "of": of, "step": done, "epoch": epoch, **measures}
        self.file.write(**row)
        self.health.append(row)
        return row

    def _last_look(self) -> str:
        """Write the last look for the bar."""
        looks = [row for row in self.health if row["of"] == "encoder"]
        if not looks:
            return ""
        last = looks[-1]
        knn = f", kNN {100 * last['knn_accuracy']:.1f} %" if "knn_accuracy" in last else ""
        return f"{knn}, rank {last['effective_rank']:.0f}"

    def warn(self, text: str) -> None:
        """Say on stderr that something is wrong, above the bar."""
        self.bar.write(f"warning: {text}", file=sys.stderr)

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
        text = f"{duration(seconds)}, {steps * self.schedule.batch_size / seconds:.0f} images/s"
        text += f", at most {peak_bytes(self.device) / 2**30:.2f} GiB of memory"
        if self.scaler.enabled:
            text += f", {int(self.scaler.skipped):,} steps skipped as float16 overflowed"
        return text
