"""Signals: the first one lets the step finish, the second one stops at once."""

from __future__ import annotations

import signal
import threading

from byol.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """Notes signals: `with Interrupt() as stop: ...`, and look at `stop.asked` after a step.

    The first SIGINT, SIGTERM or SIGHUP (of a closed terminal) sets `asked`, and `code` to the exit
    code. A second one raises `Stopped` at once. Outside the main thread (some test runners) signals
    are left alone.
    """

    def __init__(self) -> None:
        self.asked = False
        self.code = 0

    def __enter__(self) -> Interrupt:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                ignored = signal.getsignal(number) == signal.SIG_IGN
                if not (number == signal.SIGHUP and ignored):  # as `nohup` asks for
                    self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame) -> None:
        if self.asked:
            what = "stopped at once; --resume takes the last checkpoint, if there is one"
            raise Stopped(what, 128 + number)
        self.asked, self.code = True, 128 + number
