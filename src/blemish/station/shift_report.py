"""The shift report: one page of HTML for a time, made to be read on paper.

A browser prints it, also into a PDF. There is no writer of PDF here: the light ones bring no letters beyond
Latin, so a part's name in Chinese would be lost or refused, while every browser has them.
"""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError
from blemish.record.tables import LABELS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from blemish.record.conversion import Judged
    from blemish.record.quality import Estimate, QualityFigures
    from blemish.record.store import Store
    from blemish.record.tables import Search

MOST_DEFECTS = 200
"""Confirmed defects that are listed at most."""


def shift_report(store: Store, wanted: Search, *, now: datetime, by: str | None) -> str:
    """Write the report of a time. `by` is who asked for it. Raises UsageError without a beginning."""
    if wanted.since is None:
        raise UsageError("a report needs a beginning: give `since`, and `until` for a time that is over")
    figures, models = store.quality(wanted), store.models()
    defects = []
    for judged in store.judged(replace(wanted, verdict="defect")):
        defects.append(judged)
        if len(defects) > MOST_DEFECTS:
            break
    until = wanted.until or now
    asked = [(name, getattr(wanted, name)) for name in LABELS if getattr(wanted, name)]
    used = [m for m in models if wanted.model in (None, m.digest)]
    parts = (
        f"<h1>Shift report</h1><p>{_time(wanted.since)} to {_time(until)}"
        + "".join(f", {name} {escape(value)}" for name, value in asked)
        + "</p>",
        _decisions(figures),
        _sampled(figures, store.sampling().share),
        _pareto(figures),
        _defects(defects),
        "<h2>Models in this record</h2>" + _table(("name", "SHA-256"), ((m.name, m.digest) for m in used)),
        f"<footer>Made {_time(now)}{f' by {escape(by)}' if by else ''}. Times are UTC. "
        "<span>Seen by: </span></footer>",
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Shift report</title>'
        '<link rel="stylesheet" href="../static/report.css"></head><body>'
        + "\n".join(parts)
        + "</body></html>"
    )


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(str(cell))}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _decisions(figures: QualityFigures) -> str:
    kinds = (
        ("accepted", figures.accepted),
        *((("for review", figures.review),) if figures.review else ()),
        ("rejected", figures.rejected),
        ("not decided", figures.unjudged),
        ("failed", figures.failed),
    )
    shares = ((name, n, f"{n / figures.n:.2%}" if figures.n else "–") for name, n in kinds)
    return f"<h2>{figures.n} parts</h2>" + _table(("decision", "parts", "share"), shares)


def _sampled(figures: QualityFigures, share: float) -> str:
    rows = (
        ("accepted parts that are defects", *_cells(figures.escapes)),
        ("rejected parts that are good", *_cells(figures.false_rejects)),
    )
    head = ("", "found", "judged", "share", "95 % interval")
    drawn = (
        f"{share:.2%} of the accepted parts are drawn at random for a person."
        if share
        else "No accepted part is drawn for a person now, so nothing is known of defects among them."
    )
    return (
        "<h2>What people found</h2>"
        + _table(head, rows)
        + f"<p>{drawn} {figures.sampled} were drawn in this time. "
        f"{figures.waiting} parts that were rejected, sent to review or drawn wait for a verdict.</p>"
    )


def _cells(estimate: Estimate) -> tuple[object, ...]:
    share = "–" if estimate.share is None else f"{estimate.share:.2%}"
    interval = f"{estimate.low:.2%} to {estimate.high:.2%}" if estimate.n else "–"
    return estimate.found, estimate.n, share, interval


def _pareto(figures: QualityFigures) -> str:
    total, so_far, lines = sum(n for _, n in figures.reasons), 0, []
    for reason, n in figures.reasons:
        so_far += n
        lines.append(
            f"<tr><td>{escape(reason or 'no reason given')}</td><td>{n}</td>"
            f'<td><meter min="0" max="{total}" value="{n}"></meter></td><td>{so_far / total:.0%}</td></tr>'
        )
    head = "<tr><th>reason</th><th>defects</th><th></th><th>so far</th></tr>"
    table = f"<table>{head}{''.join(lines)}</table>" if lines else "<p>No defect was confirmed.</p>"
    return f"<h2>Reasons of confirmed defects</h2>{table}"


def _defects(defects: list[Judged]) -> str:
    if not defects:
        return ""
    rows = (
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
    more = (
        f"<p>The first {MOST_DEFECTS}; the table for others has all.</p>"
        if len(defects) > MOST_DEFECTS
        else ""
    )
    head = ("time", "part", "the machine", "reason", "note", "judged by")
    return f"<h2>Confirmed defects</h2>{_table(head, rows)}{more}"
