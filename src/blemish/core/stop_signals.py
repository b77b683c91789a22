"""Ctrl-C and SIGTERM while something runs that has to end in order: what is in hand is finished first."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class StopSignals:
    """While inside, the first Ctrl-C or SIGTERM only asks to stop; a second one is immediate.

    Outside of the main thread, where Python hands out no signals, it does nothing.
    """

    def __init__(self, ask_to_stop: Callable[[], None] = lambda: None) -> None:
        """Call `ask_to_stop` at the first signal; `asked` says whether it came."""
        self.asked, self._ask_to_stop, self._before = False, ask_to_stop, {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._ask_to_stop()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
