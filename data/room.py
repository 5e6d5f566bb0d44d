"""A limit on the memory that many threads take at once."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class Room:
    """So much of something for all threads together: who asks for more waits until it is free.

    What is larger than all of it has its turn alone.
    """

    def __init__(self, size: int):
        self._free = self._size = size
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Wait until there is room for `amount`, and keep it inside `with`."""
        amount = min(amount, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


def give_back_memory() -> None:
    """Give freed memory back to the system: glibc keeps what each thread had, hundreds of MB."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
