"""How far a run is: the bar, and once when it will end."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from byol.hardware.device import peak_bytes
from byol.progress import about_time, say, silent

FORECAST_FROM, FORECAST_AT = 5, 20  # steps: the first ones are slow


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
        text = f"forecast    {about_time(left)}, {when}; so far at most {memory:.1f} GiB of memory"
        on_terminal = sys.stderr.isatty()  # where a bar gives way to the line
        with tqdm.external_write_mode(sys.stderr) if on_terminal else contextlib.nullcontext():
            self.say(text)
