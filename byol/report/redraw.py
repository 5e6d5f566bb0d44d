"""Draws again what has changed, while runs go on (`plot_losses.py --watch`)."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from byol.errors import UserError
from byol.progress import say
from byol.run.left import goes_on

LOOK_EVERY = 5.0  # seconds
SHARE = 0.1  # of the time that drawing one thing again and again may take
FILES = ("metrics.jsonl", "metrics.partial.jsonl", "summary.json", "last.pt", "config.json")


class Redraw:
    """Makes a thing again only if a file that it is made of has changed, and not too often.

    It is made at most so often that this takes `SHARE` of the time. `last`: whether it is the last
    call, which waits for nothing.
    """

    def __init__(self) -> None:
        self.last = True
        self._made: dict[str, tuple[list, float, float, object]] = {}
        self._told: set[str] = set()

    def __call__(self, name: str, files: Iterable[Path], make: Callable[[], object]):
        stamps = [stamp(file) for file in files]
        if name in self._made:
            before, ended, took, made = self._made[name]
            waits = not self.last and time.monotonic() - ended < took / SHARE
            if before == stamps or waits:
                return made
        began = time.monotonic()
        made = make()
        ended = time.monotonic()
        self._made[name] = stamps, ended, ended - began, made
        return made

    def or_pass_over(self, name: str, files: Iterable[Path], make: Callable[[], object]) -> list:
        """Do the same for a picture: a list of it, empty with a line that says why it cannot be."""

        def attempt() -> list:
            try:
                made = [make()]
            except UserError as error:
                self.say(f"passed over  {name}: {error}")
                return []
            if not self.last:
                say(f"drawn        {name}")
            return made

        return self(name, files, attempt)

    def say(self, text: str) -> None:
        """Say each text once."""
        if text not in self._told:
            self._told.add(text)
            say(text)

    @contextlib.contextmanager
    def telling_once(self) -> Iterator[None]:
        """Write each line of stderr once, however often it is written inside."""
        with contextlib.redirect_stderr(io.StringIO()) as told:
            yield
        for line in told.getvalue().splitlines():
            if line not in self._told:
                self._told.add(line)
                print(line, file=sys.stderr)


def stamp(path: Path) -> tuple[int, int] | None:
    """Say when a file was written, and how long it is; None if there is none."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size


def looks(runs: Path, watch: bool) -> Iterator[bool]:
    """Yield whenever there may be something new to draw, and whether it is for the last time.

    Without `watch` that is once. With it, it is whenever a run below `runs` has written something,
    until at two looks in a row none goes on.
    """
    before, idle = None, 0
    while watch:
        folders = sorted(folder for folder in runs.iterdir() if folder.is_dir())
        idle = 0 if any(goes_on(folder) for folder in folders) else idle + 1
        if idle == 2:
            break
        now = {folder: [stamp(folder / name) for name in FILES] for folder in folders}
        if now != before:
            before = now
            yield False
        time.sleep(LOOK_EVERY)
    yield True
