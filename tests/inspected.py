"""Inspections for tests of the record and the station."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from blemish.record.identifiers import new_id
from blemish.record.rows import Inspection

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def part(k: int, *, rejected: bool = False, **given: Any) -> Inspection:
    """Return part P-k, k seconds after BEGIN."""
    time = BEGIN + timedelta(seconds=k)
    shared = {"score": 0.5, "p_value": 0.5, "threshold": 0.6, "anomalous": rejected, "regions": []}
    names = {"id": new_id(time), "time": time, "source": "api", "model": "0" * 64, "seconds": 0.1}
    return Inspection(**shared | names | {"part": f"P-{k}"} | given)
