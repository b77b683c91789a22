"""Waiting for a state, however long a busy machine takes to reach it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(true: Callable[[], Any], seconds: float = 60.0, every: float = 0.002) -> None:
    """Look `every` so many seconds; a look that costs more is worth a longer pause."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(every)
