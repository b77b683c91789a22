"""Rows for hooks, and hooks that are told them."""

from __future__ import annotations

from typing import Any

from blemish.watch.notify import Hook

SOON = 60.0
"""Seconds that nothing here takes; a test that waits for them has failed."""


def row(number: int) -> dict[str, Any]:
    return {"path": f"{number}.png", "score": number / 10}


def rows(n: int) -> list[dict[str, Any]]:
    return [row(i) for i in range(1, n + 1)]


def tell_all(hook: Hook, told: list[dict[str, Any]]) -> None:
    for one in told:
        hook.enqueue(one)
