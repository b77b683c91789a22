"""What a benchmark says: results.json, results.md and results.html, with published figures beside ours.

All three show the cells of one plan, and so figures of the same code, data and options only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from blemish.core.files import write_whole
from blemish.evaluation import published
from blemish.evaluation.benchmark import label_of
from blemish.report.html import DASH, MEASURES, format_area, format_seconds, write_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from blemish.evaluation.benchmark import Cell, Progress
    from blemish.evaluation.published import Published

SANITY_LINE = "pca"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measure of one method on one category: the mean over seeds, and how far it can be trusted.

    `spread` is the seeds' standard deviation (None for one seed), `low` and `high` the mean ends of the 95 %
    bootstrap intervals over test images (None where there are none).
    """

    value: float
    n: int
    spread: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """0.985, or 0.985 ± 0.003 of several seeds."""
        return format_area(self.value) + ("" if self.spread is None else f" ± {self.spread:.3f}")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A line of a chart: our figure, or a published value."""

    label: str
    value: float
    text: str
    kind: str
    note: str
    low: float | None = None
    high: float | None = None


def write_results(out: Path, cells: Sequence[Cell], progress: Progress) -> None:
    """Write results.json, results.md and results.html of the finished cells into `out`."""
    results = [
        result | {"run": cell.folder.relative_to(out).as_posix()}
        for cell in cells
        if (result := cell.result()) is not None
    ]
    known = [p for c in categories_in(results) for p in _published_for(c)]
    content = {
        "cells": results,
        "failed": progress.failed,
        "missing": [cell.name for cell in cells if cell.result() is None],
        "published": [{k: v for k, v in vars(p).items() if k != "table"} for p in known],
    }
    write_whole(out / "results.json", json.dumps(content, indent=2) + "\n")
    write_whole(out / "results.md", markdown(results, progress))
    write_page(out / "results.html", "benchmark", _page(results, cells, progress))


# --- figures ----------------------------------------------------------------------------------------------


def figure_of(results: Iterable[dict[str, Any]], measure: str) -> Figure | None:
    """Summarise a measure over the seeds of one method on one category; None where it was not measured."""
    evaluations = [r["evaluation"] for r in results if r["evaluation"][measure] is not None]
    if not evaluations:
        return None
    values = [e[measure] for e in evaluations]
    intervals = [e[f"{measure}_interval95"] for e in evaluations if e.get(f"{measure}_interval95")]
    low, high = (mean(ends) for ends in zip(*intervals, strict=True)) if intervals else (None, None)
    return Figure(
        value=mean(values),
        n=len(values),
        spread=stdev(values) if len(values) > 1 else None,
        low=low,
        high=high,
    )


def table_of(results: Sequence[dict[str, Any]], measure: str) -> dict[str, dict[str, Figure | None]]:
    """Arrange a measure by method and category, in the order of the results."""
    methods, categories = labels_in(results), categories_in(results)
    return {
        method: {
            category: figure_of(
                [r for r in results if r["category"] == category and _label(r) == method], measure
            )
            for category in categories
        }
        for method in methods
    }


def beats(row: dict[str, Figure | None], line: dict[str, Figure | None]) -> tuple[int, int]:
    """Count the categories where a method is above the sanity line, and those where both were measured."""
    pairs = [(row[c], line[c]) for c in row if c in line]
    known = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    return sum(ours.value > theirs.value for ours, theirs in known), len(known)


def labels_in(results: Iterable[dict[str, Any]]) -> list[str]:
    """List the methods in order of appearance."""
    return list(dict.fromkeys(_label(r) for r in results))


def categories_in(results: Iterable[dict[str, Any]]) -> list[str]:
    """List the categories in order of appearance."""
    return list(dict.fromkeys(r["category"] for r in results))


def _label(result: dict[str, Any]) -> str:
    return label_of(result["method"], result["preset"])


def _published_for(category: str, measures: Iterable[str] = MEASURES) -> list[Published]:
    """Find published values by the category's last name, as folders of benchmarks are called alike."""
    name = category.rsplit("/", 1)[-1]
    return [p for measure in measures for p in published.for_category(name, measure)]


# --- results.md -------------------------------------------------------------------------------------------


def markdown(results: Sequence[dict[str, Any]], progress: Progress) -> str:
    """Write the tables as Markdown: a table for each measure, one of times, and every cell."""
    lines = [_sentence(results, progress), ""]
    for measure, name in MEASURES.items():
        table = table_of(results, measure)
        if any(figure for row in table.values() for figure in row.values()):
            lines += [f"## {name}", "", *_measure_lines(table, measure, categories_in(results)), ""]
    known = [p for c in categories_in(results) for p in _published_for(c)]
    tables = {f"{p.table.paper}'s Table {p.table.number}": p.table.source for p in known}
    if tables:
        named = "; ".join(f"{name} is of {source}" for name, source in tables.items())
        lines += [
            f"Published figures are as printed; * means features learnt from other images. {named}.",
            "",
        ]
    lines += ["## Time", "", *_time_lines(results), "", "## Every cell", "", *_cell_lines(results)]
    if progress.failed:
        lines += ["", "## Failed", "", *(f"- {name}: {error}" for name, error in progress.failed.items())]
    return "\n".join(lines) + "\n"


def _sentence(results: Sequence[dict[str, Any]], progress: Progress) -> str:
    counts = {
        "method": len(labels_in(results)),
        "category": len(categories_in(results)),
        "seed": len({r["seed"] for r in results}),
    }
    plural = {"category": "categories"}
    names = [f"{n} {k if n == 1 else plural.get(k, k + 's')}" for k, n in counts.items()]
    what = f"{names[0]} on {names[1]}, {names[2]}"
    done = f"{len(results)} of {progress.total} cells are done"
    return f"{what}: {done}" + (f", {len(progress.failed)} failed." if progress.failed else ".")


def _measure_lines(
    table: dict[str, dict[str, Figure | None]], measure: str, categories: list[str]
) -> list[str]:
    line = table.get(SANITY_LINE)
    lines = _head(["method", *categories, "above PCA"])
    for method, row in table.items():
        won = "" if line is None or method == SANITY_LINE else "{} of {}".format(*beats(row, line))
        lines.append(_row([f"**{method}**", *(str(row[c] or DASH) for c in categories), won]))
    for source in dict.fromkeys(_origin(p) for c in categories for p in _published_for(c, [measure])):
        values = {c: [p for p in _published_for(c, [measure]) if _origin(p) == source] for c in categories}
        cells = [_in_areas(values[c][0]) if values[c] else DASH for c in categories]
        lines.append(_row([source, *cells, ""]))
    return lines


def _origin(p: Published) -> str:
    return f"{p.method}{'*' if p.pretrained else ''} ({p.table.paper}'s Table {p.table.number})"


def _in_areas(p: Published) -> str:
    """Show what is printed; of percent, the area that it is."""
    if p.table.unit == "fraction":
        return p.printed
    return f"{p.value:.3f}" + ("" if p.spread is None else f" ± {p.spread:.3f}")


def _time_lines(results: Sequence[dict[str, Any]]) -> list[str]:
    lines = _head(["method", *(f"{c}: training, per image" for c in categories_in(results)), "threads"])
    for method in labels_in(results):
        cells = []
        for category in categories_in(results):
            here = [r for r in results if _label(r) == method and r["category"] == category]
            training = [r["training"]["seconds"] for r in here]
            scoring = [r["evaluation"]["seconds_per_image"] for r in here]
            cells.append(
                f"{format_seconds(mean(training))}, {format_seconds(mean(scoring))}" if here else DASH
            )
        threads = sorted({r["machine"]["threads"] for r in results if _label(r) == method})
        lines.append(_row([method, *cells, "/".join(map(str, threads))]))
    return lines


def _cell_lines(results: Sequence[dict[str, Any]]) -> list[str]:
    lines = _head(["method", "category", "seed", *(f"{name} [95 %]" for name in MEASURES.values())])
    for result in results:
        shown = []
        for measure in MEASURES:
            figure = figure_of([result], measure)
            interval = f" [{figure.low:.3f}, {figure.high:.3f}]" if figure and figure.low is not None else ""
            shown.append(DASH if figure is None else f"{format_area(figure.value)}{interval}")
        lines.append(_row([_label(result), result["category"], str(result["seed"]), *shown]))
    return lines


def _head(names: list[str]) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# --- results.html -----------------------------------------------------------------------------------------


def _page(results: Sequence[dict[str, Any]], cells: Sequence[Cell], progress: Progress) -> dict[str, Any]:
    tables = {measure: table_of(results, measure) for measure in MEASURES}
    shown = {m: t for m, t in tables.items() if any(f for row in t.values() for f in row.values())}
    return {
        "title": "Benchmark",
        "sentence": _sentence(results, progress),
        "measures": {m: MEASURES[m] for m in shown},
        "tables": shown,
        "charts": {m: {c: bars_of(t, m, c) for c in categories_in(results)} for m, t in shown.items()},
        "categories": categories_in(results),
        "won": {
            m: {method: beats(row, t.get(SANITY_LINE, {})) for method, row in t.items()}
            for m, t in shown.items()
        },
        "results": results,
        "label": {r["run"]: _label(r) for r in results},
        "failed": progress.failed,
        "missing": [cell.name for cell in cells if cell.result() is None],
    }


def bars_of(table: dict[str, dict[str, Figure | None]], measure: str, category: str) -> list[Bar]:
    """Collect a chart's bars, ours and the published ones, the highest first."""
    ours = [
        Bar(
            label=method,
            value=figure.value,
            text=str(figure),
            kind="line" if method == SANITY_LINE else "ours",
            note=f"{figure.n} seed{'s' if figure.n > 1 else ''}",
            low=figure.low,
            high=figure.high,
        )
        for method, row in table.items()
        if (figure := row[category]) is not None
    ]
    if not ours:
        return []
    theirs = [
        Bar(
            label=p.method + ("*" if p.pretrained else ""),
            value=p.value,
            text=_in_areas(p),
            kind="published",
            note=f"{p.source}; {p.convention}",
        )
        for p in _published_for(category, [measure])
    ]
    return sorted([*ours, *theirs], key=lambda bar: -bar.value)
