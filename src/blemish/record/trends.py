"""Summaries of spans of time, from the rows of their inspections."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
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


class _Span:
    """What is counted of a span of time."""

    def __init__(self) -> None:
        self.decisions = Counter[str]()
        self.seconds, self.scores = array("d"), array("d")


def summarize(starts: Sequence[int], rows: Iterable[Any]) -> list[Bucket]:
    """Sum up rows (time, decision, seconds, score), which come in any order, span by span."""
    spans = [_Span() for _ in starts]
    for row in rows:
        span = spans[bisect_right(starts, row.time) - 1]
        span.decisions[row.decision] += 1
        span.seconds.append(row.seconds)
        if row.score is not None:
            span.scores.append(row.score)
    return [_bucket(start, span) for start, span in zip(starts, spans, strict=True)]


def _bucket(start: int, span: _Span) -> Bucket:
    seconds, scores = span.seconds, span.scores
    return Bucket(
        time=from_milliseconds(start),
        n=len(seconds),
        rejected=span.decisions["rejected"],
        failed=span.decisions["failed"],
        median_seconds=float(np.median(seconds)) if seconds else None,
        p99_seconds=float(np.quantile(seconds, 0.99)) if seconds else None,
        score_quantiles=tuple(np.quantile(scores, QUANTILES).tolist()) if scores else None,
    )
