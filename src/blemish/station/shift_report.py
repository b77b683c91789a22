"""The shift report: what it says of a time. As HTML and as PDF it is written from this alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError
from blemish.record.tables import LABELS

if TYPE_CHECKING:
    from datetime import datetime

    from blemish.record.conversion import Judged
    from blemish.record.estimates import Estimate
    from blemish.record.quality import QualityFigures
    from blemish.record.store import Store
    from blemish.record.tables import Search

MOST_DEFECTS = 200
"""Confirmed defects that are listed at most."""


@dataclass(frozen=True)
class Bar:
    """A cell that shows a part of a whole as a length."""

    part: int
    whole: int


@dataclass(frozen=True, kw_only=True)
class Section:
    """A title, a table where there are rows, and a sentence below it."""

    title: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str | Bar, ...], ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ShiftReport:
    """What a report says, in its order."""

    title: str
    time: str
    sections: tuple[Section, ...]
    made: str


def shift_report(store: Store, wanted: Search, *, now: datetime, by: str | None) -> ShiftReport:
    """Sum up a time. `by` is who asks for it. Raises UsageError without a beginning."""
    if wanted.since is None:
        raise UsageError("a report needs a beginning: give `since`, and `until` for a time that is over")
    figures, models = store.quality(wanted), store.models()
    defects = []
    for judged in store.judged(replace(wanted, verdict="defect")):
        defects.append(judged)
        if len(defects) > MOST_DEFECTS:
            break
    asked = [f", {name} {getattr(wanted, name)}" for name in LABELS if getattr(wanted, name)]
    used = tuple((m.name, m.digest) for m in models if wanted.model in (None, m.digest))
    sections = (
        _decisions(figures),
        _sampled(figures, store.sampling().share),
        _pareto(figures),
        *_defects(defects),
        Section(title="Models in this record", head=("name", "SHA-256"), rows=used),
    )
    return ShiftReport(
        title="Shift report",
        time=f"{_time(wanted.since)} to {_time(wanted.until or now)}{''.join(asked)}",
        sections=sections,
        made=f"Made {_time(now)}{f' by {by}' if by else ''}. Times are UTC.",
    )


def _time(time: datetime) -> str:
    """Write a time in UTC. Raises UsageError for one of the first or last hours that a calendar has."""
    try:
        return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    except OverflowError as error:
        raise UsageError(
            f"{time.isoformat()}: is out of range in UTC; give a time of this century"
        ) from error


def _decisions(figures: QualityFigures) -> Section:
    kinds = (
        ("accepted", figures.accepted),
        *((("for review", figures.review),) if figures.review else ()),
        ("rejected", figures.rejected),
        ("not decided", figures.unjudged),
        ("failed", figures.failed),
    )
    rows = tuple((name, str(n), f"{n / figures.n:.2%}" if figures.n else "–") for name, n in kinds)
    return Section(title=f"{figures.n} parts", head=("decision", "parts", "share"), rows=rows)


def _sampled(figures: QualityFigures, share: float) -> Section:
    rows = (
        ("accepted parts that are defects", *_cells(figures.escapes)),
        ("rejected parts that are good", *_cells(figures.false_rejects)),
    )
    drawn = (
        f"{share:.2%} of the accepted parts are drawn at random for a person."
        if share
        else "No accepted part is drawn for a person now, so nothing is known of defects among them."
    )
    return Section(
        title="What people found",
        head=("", "found", "judged", "share", "95 % interval"),
        rows=rows,
        note=f"{drawn} {figures.sampled} were drawn in this time. "
        f"{figures.waiting} parts that were rejected, sent to review or drawn wait for a verdict.",
    )


def _cells(estimate: Estimate) -> tuple[str, ...]:
    share = "–" if estimate.share is None else f"{estimate.share:.2%}"
    interval = f"{estimate.low:.2%} to {estimate.high:.2%}" if estimate.n else "–"
    return str(estimate.found), str(estimate.n), share, interval


def _pareto(figures: QualityFigures) -> Section:
    total, so_far, rows = sum(n for _, n in figures.reasons), 0, []
    for reason, n in figures.reasons:
        so_far += n
        rows.append((reason or "no reason given", str(n), Bar(n, total), f"{so_far / total:.0%}"))
    return Section(
        title="Reasons of confirmed defects",
        head=("reason", "defects", "", "so far"),
        rows=tuple(rows),
        note="" if rows else "No defect was confirmed.",
    )


def _defects(defects: list[Judged]) -> tuple[Section, ...]:
    if not defects:
        return ()
    rows = tuple(
        (
            _time(each.inspection.time),
            each.inspection.part or each.inspection.path or each.inspection.id,
            each.inspection.decision,
            each.reason or "",
            each.note or "",
            each.by or "",
        )
        for each in defects[:MOST_DEFECTS]
    )
    more = f"The first {MOST_DEFECTS}; the table for others has all." if len(defects) > MOST_DEFECTS else ""
    head = ("time", "part", "the machine", "reason", "note", "judged by")
    return (Section(title="Confirmed defects", head=head, rows=rows, note=more),)
