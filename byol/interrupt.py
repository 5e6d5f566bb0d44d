"""Signals end a run, or save it, between two steps, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading

from byol.errors import Stopped


def ignore_save_signal() -> None:
    """Outside the loop SIGUSR1 has nothing to save; without this it would end the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class Interrupt:
    """`with Interrupt() as stop: ...` and look at `stop.asked` and `stop.save_asked` after a step.

    The first SIGINT or SIGTERM sets `asked`, and `code` to the exit code; a second one raises
    `Stopped` at once. SIGUSR1 sets `save_asked`. Outside the main thread (some test runners)
    signals are left alone.
    """

    def __init__(self) -> None:
        self.asked = self.save_asked = False
        self.code = 0

    def __enter__(self) -> Interrupt:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)
            self._previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._save)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame) -> None:
        if self.asked:
            what = "stopped at once; --resume takes the last checkpoint, if there is one"
            raise Stopped(what, 128 + number)
        self.asked, self.code = True, 128 + number

    def _save(self, number: int, frame) -> None:
        self.save_asked = True
