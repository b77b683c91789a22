"""Summaries of spans of time, from the rows of their inspections."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from blemish.core.errors import UsageError
from blemish.record.identifiers import from_milliseconds, milliseconds
from blemish.record.rows import QUANTILES, Bucket, Decision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

DECISIONS: tuple[str, ...] = get_args(Decision)
ROW = np.dtype([("time", "<i8"), ("seconds", "<f8"), ("score", "<f8"), ("decision", "<u2"), ("model", "<u2")])
"""What trends know of an inspection: the time in milliseconds, the score (nan: none), the decision as its
place in DECISIONS, and the model as a place in a list beside it. Roll-ups on disk have this form.
"""


def span_starts(since: datetime, until: datetime, number: int) -> list[int]:
    """Cut the time from `since` to `until` into equal spans; returns when they start, in milliseconds.

    Raises UsageError for no span, an end that is not later, and a span out of the calendar in UTC.
    """
    begin, end = milliseconds(since), milliseconds(until)
    if number < 1 or begin >= end:
        raise UsageError(f"{number} spans from {since} to {until}: give one or more, and a later end")
    starts = [begin + (end - begin) * k // number for k in range(number)]
    try:
        for start in (starts[0], starts[-1]):
            from_milliseconds(start)
    except OverflowError as error:
        raise UsageError(f"{since} to {until}: is out of range in UTC; give times of this century") from error
    return starts


def summarize(starts: Sequence[int], rows: np.ndarray) -> list[Bucket]:
    """Sum up rows, (n,) of ROW in any order and none before the first start, span by span."""
    times = rows["time"]
    if (times[1:] < times[:-1]).any():
        rows = rows[np.argsort(times, kind="stable")]
    ends = np.searchsorted(rows["time"], starts[1:])
    cut = [np.split(rows[name], ends) for name in ("decision", "seconds", "score")]
    return [_bucket(*span) for span in zip(starts, *cut, strict=True)]


def _bucket(start: int, decisions: np.ndarray, seconds: np.ndarray, scores: np.ndarray) -> Bucket:
    n = np.bincount(decisions, minlength=len(DECISIONS)).tolist()
    seconds, scores = np.sort(seconds), np.sort(scores[~np.isnan(scores)])  # in which quantiles are quick
    return Bucket(
        time=from_milliseconds(start),
        n=len(seconds),
        rejected=n[DECISIONS.index("rejected")],
        review=n[DECISIONS.index("review")],
        failed=n[DECISIONS.index("failed")],
        median_seconds=float(np.median(seconds)) if len(seconds) else None,
        p99_seconds=float(np.quantile(seconds, 0.99)) if len(seconds) else None,
        score_quantiles=tuple(np.quantile(scores, QUANTILES).tolist()) if len(scores) else None,
    )
