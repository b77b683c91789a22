"""Summaries of spans of time, from the rows of their inspections."""

from __future__ import annotations

from bisect import bisect_right
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import UsageError
from blemish.record.rows import QUANTILES, Bucket, from_milliseconds, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime


def span_starts(since: datetime, until: datetime, number: int) -> list[int]:
    """Cut the time from `since` to `until` into equal spans; returns when they start, in milliseconds.

    Raises UsageError for no span, or an end that is not later.
    """
    begin, end = milliseconds(since), milliseconds(until)
    if number < 1 or begin >= end:
        raise UsageError(f"{number} spans from {since} to {until}: give one or more, and a later end")
    return [begin + (end - begin) * k // number for k in range(number)]


def summarize(starts: Sequence[int], rows: Iterable[Any]) -> list[Bucket]:
    """Sum up rows (time, decision, seconds, score), which come in the order of time, span by span."""
    spans = groupby(rows, key=lambda row: bisect_right(starts, row.time) - 1)
    found = {k: _bucket(starts[k], list(span)) for k, span in spans}  # one span's rows in memory at a time
    return [found.get(k) or _bucket(start, []) for k, start in enumerate(starts)]


def _bucket(start: int, rows: list[Any]) -> Bucket:
    seconds = [row.seconds for row in rows]
    scores = [row.score for row in rows if row.score is not None]
    return Bucket(
        time=from_milliseconds(start),
        n=len(rows),
        rejected=sum(row.decision == "rejected" for row in rows),
        failed=sum(row.decision == "failed" for row in rows),
        median_seconds=float(np.median(seconds)) if seconds else None,
        p99_seconds=float(np.quantile(seconds, 0.99)) if seconds else None,
        score_quantiles=tuple(np.quantile(scores, QUANTILES).tolist()) if scores else None,
    )
