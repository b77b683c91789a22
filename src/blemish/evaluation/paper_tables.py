"""A paper's tables with our figures beside its own: what was measured here, and what was not reached.

Ours are those of finished benchmarks: each results.json in a folder or below it. Two of them are never mixed:
of two benchmarks with the same method on the same category both figures are shown, each with its folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blemish.core.errors import DataError
from blemish.core.files import write_whole
from blemish.evaluation import published
from blemish.evaluation.benchmark import label_of
from blemish.evaluation.benchmark_report import figure_of
from blemish.report.html import DASH, write_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from blemish.evaluation.published import Published, Table

PAPERS = {"cpc-ad": "CPC-AD", "metal": "MeTAL"}
"""A paper by the name that a command has for it."""

OURS = {
    "AE-L2": "ae-l2",
    "AE-SSIM": "ae-ssim",
    "AnoGAN": "anogan",
    "Auto": "ae-l2",
    "CPC-AD": "cpc-ad",
    "CutPaste": "cutpaste",
    "DistAug": "distaug",
    "FCDD": "fcdd",
    "Feature dictionary": "feature-dictionary",
    "GT": "gt",
    "KDE": "kde",
    "MKD": "mkd",
    "MeTAL": "metal",
    "MeTAL squares + rows": "metal",
    "OCGAN": "ocgan",
    "PaDiM": "padim",
    "SSIM-AE": "ae-ssim",
    "Student-teacher": "student-teacher",
    "Texture inspection": "texture-inspection",
    "VT-ADL": "vt-adl",
    "Variation model": "variation",
    "f-AnoGAN": "f-anogan",
    "l2-AE": "ae-l2",
}
"""Our method of the same system, by the papers' headings; a system without one is not built here."""


@dataclass(frozen=True, kw_only=True)
class PaperCell:
    """One printed number, and what was measured here: one text a benchmark, or none."""

    published: str
    ours: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table as it is shown: `rows` are cells by category and method; a cell that is not printed lacks."""

    table: Table
    methods: tuple[str, ...]
    rows: dict[str, dict[str, PaperCell]]


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Read the cells of all results.json in a folder and below, each with its benchmark's folder, `bench`.

    That is its path below this one. Raises DataError where there is none, and for one that cannot be read.
    """
    files = sorted(folder.rglob("results.json"))
    if not files:
        raise DataError(f"{folder}: holds no results.json; name a folder of blemish bench")
    found = []
    for file in files:
        try:
            cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
            place = file.parent.relative_to(folder).as_posix()
            bench = file.parent.name if place == "." else place
            found += [cell | {"bench": bench} for cell in cells]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: is not what blemish bench writes; run it again") from error
    return found


def tables_of(paper: str, results: Sequence[dict[str, Any]]) -> list[PaperTable]:
    """Put what was measured here beside each number of a paper, `cpc-ad` or `metal`, table by table."""
    found = []
    for table in (table for table in published.TABLES if table.paper == PAPERS[paper]):
        rows: dict[str, dict[str, PaperCell]] = {}
        numbers = [p for p in published.load() if p.table == table]
        for p in numbers:
            star = "*" if p.pretrained else ""
            rows.setdefault(p.category, {})[p.method + star] = PaperCell(
                published=p.printed, ours=_ours(p, results)
            )
        methods = dict.fromkeys(method for row in rows.values() for method in row)
        found.append(PaperTable(table=table, methods=tuple(methods), rows=rows))
    return found


def _ours(p: Published, results: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Say what was measured of a printed number's system on its category, one text a benchmark and preset."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in results:
        if cell["method"] == OURS.get(p.method) and cell["category"].rsplit("/", 1)[-1] == p.category:
            groups.setdefault((cell["bench"], label_of(cell["method"], cell["preset"])), []).append(cell)
    texts = []
    for (bench, label), cells in groups.items():
        figure = figure_of(cells, p.measure) if p.measure in cells[0]["evaluation"] else None
        if figure is not None:
            seeds = f"{figure.n} seed{'s' if figure.n > 1 else ''}"
            texts.append(f"{figure} ({label}, {seeds}, {bench})")
    return tuple(texts)


def not_reached(tables: Sequence[PaperTable]) -> list[str]:
    """Say in lines which cells have no figure of ours: systems without any, then categories."""
    cells = [(m, c, cell) for t in tables for c, row in t.rows.items() for m, cell in row.items()]
    cells = [each for each in cells if not each[1].endswith("mean")]
    reached = [(method, category) for method, category, cell in cells if cell.ours]
    lines = [f"{len(reached)} of {len(cells)} printed cells were measured here."]
    for what, place in (("Systems", 0), ("Categories", 1)):
        there = {each[place] for each in reached}
        missing = dict.fromkeys(str(each[place]) for each in cells if each[place] not in there)
        if missing:
            lines.append(f"{what} without a figure of ours: {', '.join(missing)}.")
    return lines


def markdown(paper: str, tables: Sequence[PaperTable]) -> str:
    """Write a paper's tables as Markdown: in each cell what is printed, a slash, and ours."""
    lines = [f"# {PAPERS[paper]}: its tables, and ours beside them", ""]
    lines += [
        "In each cell: as printed / measured here (method, seeds, benchmark). * learnt from other images.",
        "",
        *not_reached(tables),
        "",
    ]
    for shown in tables:
        table = shown.table
        lines += [f"## Table {table.number}: {table.title}", "", f"{table.source}. {table.comment}", ""]
        lines += [f"| | {' | '.join(shown.methods)} |", "|" + "---|" * (len(shown.methods) + 1)]
        for category, row in shown.rows.items():
            texts = [_text(row.get(method)) for method in shown.methods]
            lines.append(f"| {category} | {' | '.join(texts)} |")
        lines.append("")
    return "\n".join(lines)


def _text(cell: PaperCell | None) -> str:
    if cell is None:
        return DASH
    return f"{cell.published} / {'; '.join(f'**{one}**' for one in cell.ours) or DASH}"


def write_tables(paper: str, folder: Path) -> Path:
    """Write table-PAPER.md and table-PAPER.html of the benchmarks in a folder; returns the latter's path.

    Raises DataError for a folder without results, UsageError without the packages of `blemish[report]`.
    """
    tables = tables_of(paper, read_results(folder))
    write_whole(folder / f"table-{paper}.md", markdown(paper, tables))
    content = {
        "title": f"{PAPERS[paper]}'s tables",
        "sentence": "What the paper prints, and what was measured here.",
        "lines": not_reached(tables),
        "tables": tables,
    }
    return write_page(folder / f"table-{paper}.html", "paper_tables", content)
