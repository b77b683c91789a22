"""How many uploads may wait for their answers, and how large they may be together; one more is refused."""

from __future__ import annotations

import threading

from blemish.core.errors import BlemishError

MAX_WAITING_BYTES = 2**29
"""Bytes of files that wait at most."""


class Busy(BlemishError):
    """As many requests as can wait are waiting."""


class WaitingRoom:
    """Counts the uploads that wait, and their bytes, from any thread."""

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self.capacity, self.max_bytes = capacity, max_bytes
        self.waiting, self.bytes = 0, 0
        self._counting = threading.Lock()

    def enter(self, size: int) -> None:
        """Take a place for a file of so many bytes. Raises Busy when there is none.

        A file that nothing waits beside is taken, however large it is.
        """
        with self._counting:
            if self.waiting >= self.capacity:
                raise Busy(f"{self.capacity} images wait already; send it again in a second")
            if self.bytes > 0 and self.bytes + size > self.max_bytes:
                raise Busy(f"images of {self.bytes / 1e6:.0f} MB wait already; send it again in a second")
            self.waiting, self.bytes = self.waiting + 1, self.bytes + size

    def leave(self, size: int) -> None:
        """Give the place back."""
        with self._counting:
            self.waiting, self.bytes = self.waiting - 1, self.bytes - size
