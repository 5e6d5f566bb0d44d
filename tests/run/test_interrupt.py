"""Signals are kept until the step is done; a second one does not wait."""

import os
import signal

import pytest

from byol.errors import Stopped
from byol.run.interrupt import Interrupt


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_is_noted_and_the_second_stops_at_once(number, code):
    before = signal.getsignal(number)
    with Interrupt() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert (stop.asked, stop.code) == (True, code)
        with pytest.raises(Stopped, match="--resume") as stopped:
            os.kill(os.getpid(), number)
        assert stopped.value.code == code
    assert signal.getsignal(number) is before
