"""Ctrl-C ends a run between two steps, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading


class Interrupt:
    """`with Interrupt() as stop: ...` and look at `stop.asked` after each step.

    The first SIGINT or SIGTERM sets `asked`; a second one raises KeyboardInterrupt at once.
    Outside the main thread (some test runners) signals are left alone.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupt:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt("stopped at once; the last checkpoint is whole")
        self.asked = True
