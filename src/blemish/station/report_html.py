"""The shift report as one page of HTML, made to be read on paper."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from blemish.station.shift_report import Bar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blemish.station.shift_report import Section, ShiftReport


LONGEST_WORD = 16
"""Letters of a word that is never broken."""


def report_html(report: ShiftReport) -> str:
    """Write a report; its looks are in `static/report.css`."""
    parts = (
        f"<h1>{escape(report.title)}</h1><p>{escape(report.time)}</p>",
        *map(_section, report.sections),
        f"<footer>{escape(report.made)} <span>Seen by: </span></footer>",
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(report.title)}</title>'
        '<link rel="stylesheet" href="../static/report.css"></head><body>'
        + "\n".join(parts)
        + "</body></html>"
    )


def _section(section: Section) -> str:
    table = _table(section.head, section.rows) if section.rows else ""
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    return f"<h2>{escape(section.title)}</h2>{table}{note}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str | Bar]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _cell(cell: str | Bar) -> str:
    if isinstance(cell, Bar):
        return f'<td><meter min="0" max="{cell.whole}" value="{cell.part}"></meter></td>'
    is_long = max(map(len, cell.split()), default=0) > LONGEST_WORD
    return f"<td{' class=long' if is_long else ''}>{escape(cell)}</td>"
