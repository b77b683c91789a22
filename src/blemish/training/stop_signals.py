"""Ctrl-C and SIGTERM while training: the step under way ends, and its state is saved."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class StopSignals:
    """While inside, the first Ctrl-C or SIGTERM asks the training to stop; a second one is immediate."""

    def __init__(self, ask_to_stop: Callable[[], None]) -> None:
        self.ask_to_stop, self.previous = ask_to_stop, {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for name in (signal.SIGINT, signal.SIGTERM):
            self.previous[name] = signal.signal(name, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        self.ask_to_stop()
        signal.signal(number, self.previous[number])

    def __exit__(self, *_: object) -> None:
        for name, handler in self.previous.items():
            signal.signal(name, handler)
