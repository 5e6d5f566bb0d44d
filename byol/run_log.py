"""What a pretraining run says of itself as it goes, and when it gives up."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from byol.config import PretrainConfig
from byol.errors import UserError
from byol.metrics import MetricsFile
from byol.run_folder import LAST, PREVIOUS

# Of the loss in float16: each overflow halves it, 2,000 good steps double it. It starts at 65,536;
# below 1 it no longer lifts small gradients, and 17 overflows had no time to recover.
LEAST_SCALE = 1.0

COLLAPSED, COLLAPSED_STEPS = 0.1, 200  # a spread below the one for as long as the other


class RunLog(MetricsFile):
    """metrics.jsonl of a run of train_byol.py.

    It has one loss and one spread for each of `outputs` (see `BYOL.outputs`); the loss of the run
    is the sum of the losses times `weights`. `scaled`: a gradient scaler is in use.
    """

    def __init__(
        self,
        run_dir: Path,
        config: PretrainConfig,
        outputs: list[str],
        weights: list[float],
        steps_per_epoch: int,
        first_step: int,
        scaled: bool,
    ):
        super().__init__(run_dir / "metrics.jsonl", keep_through=first_step)
        self.run_dir, self.config, self.outputs, self.weights = run_dir, config, outputs, weights
        self.steps_per_epoch, self.scaled = steps_per_epoch, scaled
        self.spread_until: int | None = first_step

    def add(
        self,
        bar: tqdm,
        step: int,
        lr: float,
        tau: float,
        speed: float,
        numbers: Callable[[], list[float]],
    ) -> None:
        """Write the line of `step` and show it in `bar`; warn once of a collapse.

        `numbers` (see `read_later`): means of the losses and of the spreads since the last line,
        then how many steps were skipped since the start, and the scale of the loss.

        Raises `UserError` where the loss is not finite, or float16 no longer holds the gradients.
        """
        *means, skipped, scale = numbers()
        losses, spreads = means[: len(self.outputs)], means[len(self.outputs) :]
        loss = sum(w * part for w, part in zip(self.weights, losses, strict=True))
        if not math.isfinite(loss):
            self.give_up("the loss is not finite", step, lr)
        if scale < LEAST_SCALE:
            what = f"the gradients overflow float16: {skipped:,.0f} steps were skipped"
            self.give_up(f"{what}, so the weights no longer change", step, lr)
        self._look_for_collapse(bar, step, spreads[0])
        epoch = step / self.steps_per_epoch
        self.write(
            step=step,
            epoch=round(epoch, 4),
            loss=loss,
            lr=lr,
            tau=tau,
            images_per_second=speed,
            spread=spreads[0],
            **self._by_output("loss", losses),
            **self._by_output("spread", spreads),
            **({"skipped_steps": int(skipped)} if self.scaled else {}),  # since the start
        )
        about = f"epoch {epoch:.1f}, loss {loss:.3f}, {speed:.0f} images/s"
        bar.set_postfix_str(about, refresh=False)

    def give_up(self, what: str, step: int, lr: float) -> NoReturn:
        """Raises `UserError`: what went wrong, what is saved, and what to try."""
        states = [path for name in (PREVIOUS, LAST) if (path := self.run_dir / name).exists()]
        kept = f"the last good state is {states[0]}" if states else "nothing was saved"
        other = ", or with --amp bf16 (off on a card without it)" if self.scaled else ""
        raise UserError(
            f"{what} at step {step:,}, learning rate {lr:.2g} (--lr {self.config.base_lr:g}); "
            f"{kept}; start anew with a lower --lr{other}"
        )

    def _look_for_collapse(self, bar: tqdm, step: int, spread: float) -> None:
        if spread >= COLLAPSED:
            self.spread_until = step
        elif self.spread_until is not None and step - self.spread_until >= COLLAPSED_STEPS:
            bar.write(
                f"warning: since step {self.spread_until:,} all projections are nearly the same "
                f"(spread {spread:.2f}), so nothing more is learned; stop, and try a lower --lr, "
                "more --weight-decay or a higher --tau0",
                file=sys.stderr,
            )
            self.spread_until = None  # once is enough

    def _by_output(self, name: str, values: list[float]) -> dict[str, float]:
        """Columns such as `loss_layer2.0`, where there is more than one."""
        if len(self.outputs) == 1:
            return {}
        columns = [f"{name}_{output}" for output in self.outputs]
        return dict(zip(columns, values, strict=True))
