"""The benchmark's results: figures by hand, tables as text, and the page as a browser shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("jinja2", reason="blemish[report] is not installed")

from blemish.evaluation import benchmark_report as page
from blemish.evaluation.benchmark import Cell, Progress
from blemish.evaluation.benchmark_report import Figure, beats, figure_of, write_results
from blemish.report.html import MEASURES

AREAS = tuple(MEASURES)


def result(
    method: str, category: str, image: float | None, *, seed: int = 0, interval: Any = None, **more: Any
) -> dict[str, Any]:
    """A finished cell with an image AUROC; other areas are None unless given."""
    evaluation = dict.fromkeys(AREAS) | {"image_auroc": image, "seconds_per_image": 0.05}
    return {
        "category": category,
        "method": method,
        "preset": "default",
        "seed": seed,
        "machine": {"threads": 2},
        "training": {"seconds": 90.0 + 20 * seed},
        "evaluation": evaluation | {"image_auroc_interval95": interval} | more,
    }


def finished(out: Path, results: list[dict[str, Any]]) -> list[Cell]:
    """Write results as a bench leaves them; returns their cells."""
    cells = []
    for one in results:
        folder = out / "cells" / one["method"] / one["category"].replace("/", "+") / str(one["seed"])
        (folder / "evaluation").mkdir(parents=True)
        (folder / "cell.json").write_text(json.dumps(one | {"seconds": 1.0}))
        (folder / "evaluation" / "report.html").write_text("<title>the report</title>")
        named = {k: one[k] for k in ("method", "preset", "category", "seed")}
        cells.append(Cell(**named, data=out, folder=folder, identity={}))
    return cells


def whole(cells: list[Cell]) -> Progress:
    return Progress(total=len(cells), finished=len(cells))


# --- figures ---


def test_a_figure_is_the_mean_of_seeds_with_their_sample_deviation():
    results = [
        result("pca", "a", 0.9, seed=0, interval=[0.8, 0.96]),
        result("pca", "a", 1.0, seed=1, interval=[0.9, 1.0]),
        result("pca", "a", 0.8, seed=2),
    ]
    figure = figure_of(results, "image_auroc")
    assert figure is not None
    assert (figure.value, figure.n) == (pytest.approx(0.9), 3)
    assert figure.spread == pytest.approx(0.1)  # sqrt((0² + 0.1² + 0.1²) / (3 - 1))
    assert (figure.low, figure.high) == (pytest.approx(0.85), pytest.approx(0.98))
    assert str(figure) == "0.900 ± 0.100"
    assert figure_of(results, "pixel_auroc") is None
    assert figure_of([], "image_auroc") is None


def test_a_figure_of_one_seed_has_no_deviation_and_of_older_evaluations_no_interval():
    figure = figure_of([result("pca", "a", 0.9996)], "image_auroc")
    assert figure == Figure(value=0.9996, n=1, spread=None, low=None, high=None)
    assert str(figure) == "> 0.999"


def figure(value: float) -> Figure:
    return Figure(value=value, n=1, spread=None, low=None, high=None)


def test_beating_the_line_is_counted_where_both_were_measured():
    row = {"a": figure(0.9), "b": figure(0.5), "c": None, "d": figure(0.4), "e": figure(1.0)}
    line = {"a": figure(0.8), "b": figure(0.5), "c": figure(0.3), "d": None}
    assert beats(row, line) == (1, 2)  # a yes; b a tie; c, d, e not of both
    assert beats(line, row) == (0, 2)
    assert beats(row, {}) == (0, 0)


def test_tables_and_bars_keep_methods_and_categories_apart():
    results = [
        result("pca", "a", 0.6),
        result("metal", "a", 0.7),
        result("metal", "b", 0.9),
        result("metal", "a", 0.9, seed=1),
    ]
    table = page.table_of(results, "image_auroc")
    assert {m: {c: f and round(f.value, 6) for c, f in row.items()} for m, row in table.items()} == {
        "pca": {"a": 0.6, "b": None},
        "metal": {"a": 0.8, "b": 0.9},
    }
    bars = page.bars_of(table, "image_auroc", "a")
    assert [(b.label, b.kind, b.note) for b in bars] == [
        ("metal", "ours", "2 seeds"),
        ("pca", "line", "1 seed"),
    ]
    assert [b.label for b in page.bars_of(table, "image_auroc", "b")] == ["metal"]


def test_published_bars_stand_among_ours_the_highest_first():
    table = page.table_of([result("pca", "x/bottle", 0.97)], "image_auroc")
    bars = page.bars_of(table, "image_auroc", "x/bottle")
    assert [(b.label, b.value, b.kind) for b in bars] == [
        ("CPC-AD", 0.998, "published"),
        ("CutPaste", 0.983, "published"),
        ("pca", 0.97, "line"),
        ("Auto", 0.95, "published"),
        ("KDE", 0.833, "published"),
    ]
    assert all("Table 1" in b.note and "chance is 0.5" in b.note for b in bars if b.kind == "published")
    empty = page.table_of([result("pca", "x/bottle", None)], "image_auroc")
    assert page.bars_of(empty, "image_auroc", "x/bottle") == []  # no chart of others' figures alone


# --- results.md and results.json ---


def test_the_tables_as_text(tmp_path: Path):
    cells = finished(
        tmp_path,
        [
            result("pca", "x/bottle", 0.8, interval=[0.7, 0.9]),
            result("pca", "x/bottle", 1.0, seed=1),
            result("pca", "head_ct", 0.75),
            result("metal", "head_ct", 0.875, pixel_auroc=0.625),
        ],
    )
    missing = Cell(
        method="metal",
        preset="paper",
        category="head_ct",
        seed=1,
        data=tmp_path,
        folder=tmp_path / "not there",
        identity={},
    )
    progress = Progress(total=5, finished=4, failed={missing.name: "blemish train: it broke"})
    write_results(tmp_path, [*cells, missing], progress)
    text = (tmp_path / "results.md").read_text()
    lines = text.splitlines()
    assert lines[0] == "2 methods on 2 categories, 2 seeds: 4 of 5 cells are done, 1 failed."
    first = lines.index("## image AUROC")
    second = lines.index("## pixel AUROC")
    assert lines[first + 2 : second - 1] == [
        "| method | x/bottle | head_ct | above PCA |",
        "|---|---|---|---|",
        "| **pca** | 0.900 ± 0.141 | 0.750 |  |",  # sqrt(0.1² + 0.1²)
        "| **metal** | – | 0.875 | 1 of 1 |",
        "| KDE (CPC-AD's Table 1) | 0.833 | – |  |",
        "| Auto (CPC-AD's Table 1) | 0.950 | – |  |",
        "| CutPaste (CPC-AD's Table 1) | 0.983 | – |  |",
        "| CPC-AD (CPC-AD's Table 1) | 0.998 | – |  |",
        "| OCGAN (MeTAL's Table 5) | – | 0.512 ± 0.004 |  |",  # printed in percent, 51.20 ± 0.358
        "| LSA (MeTAL's Table 5) | – | 0.817 ± 0.036 |  |",
        "| GT (MeTAL's Table 5) | – | 0.495 ± 0.039 |  |",
        "| MKD* (MeTAL's Table 5) | – | 0.804 ± 0.000 |  |",
        "| MeTAL squares (MeTAL's Table 5) | – | 0.814 ± 0.012 |  |",
        "| MeTAL squares + rows (MeTAL's Table 5) | – | 0.863 ± 0.040 |  |",
    ]
    assert "| **metal** | – | 0.625 | 0 of 0 |" in lines[second:]
    assert "| PaDiM* (CPC-AD's Table 2) | 0.98 | – |  |" in lines[second:]
    assert "| pca | 1.67 min, 50 ms | 90 s, 50 ms | 2 |" in lines  # the mean of 90 s and 110 s
    assert "| metal | – | 90 s, 50 ms | 2 |" in lines
    assert "| pca | x/bottle | 0 | 0.800 [0.700, 0.900] | – | – | – | – |" in lines
    assert "| metal | head_ct | 0 | 0.875 | 0.625 | – | – | – |" in lines
    assert lines[-1] == "- metal:paper on head_ct, seed 1: blemish train: it broke"
    assert "arXiv:2107.07820" in text  # whose tables these are


def test_the_results_for_machines(tmp_path: Path):
    cells = finished(tmp_path, [result("pca", "head_ct", 0.75)])
    write_results(tmp_path, cells, whole(cells))
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    (cell,) = content["cells"]
    assert cell == json.loads((cells[0].folder / "cell.json").read_text()) | {"run": "cells/pca/head_ct/0"}
    assert (content["failed"], content["missing"]) == ({}, [])
    ocgan = next(p for p in content["published"] if p["method"] == "OCGAN")
    assert ocgan["value"] == pytest.approx(0.512)
    assert (ocgan["printed"], ocgan["category"], ocgan["measure"]) == (
        "51.20 ± 0.358",
        "head_ct",
        "image_auroc",
    )
    assert "Table 5" in ocgan["source"]


def test_nothing_is_finished_yet(tmp_path: Path):
    write_results(tmp_path, [], Progress(total=2, finished=0))
    assert (
        (tmp_path / "results.md").read_text().startswith("0 methods on 0 categories, 0 seeds: 0 of 2 cells")
    )
    assert json.loads((tmp_path / "results.json").read_text())["cells"] == []
    assert "0 of 2 cells are done." in (tmp_path / "results.html").read_text()


# --- results.html in a browser ---


def full(out: Path) -> list[Cell]:
    """Three methods on three categories, one of them with published figures, two seeds, all measures."""
    values = {"pca": 0.55, "metal": 0.97, "anomalib:Padim": 0.31}
    results = []
    for method, base in values.items():
        for i, category in enumerate(("bottle", "nut 100% #1", "very_long_name_of_a_category/with_a_part")):
            for seed in (0, 1):
                value = base + 0.01 * i + 0.003 * seed
                areas = {f"{a}": value - 0.02 * k for k, a in enumerate(AREAS)} | {"image_auroc": value}
                interval = [value - 0.1, min(1.0, value + 0.05)]
                one = result(method, category, value, seed=seed, interval=interval, **areas)
                if ":" in method:
                    one |= {"method": "anomalib", "preset": "Padim"}
                results.append(one)
    results[0]["evaluation"]["image_auroc"] = 0.9999
    results[1]["evaluation"]["image_auroc"] = 0.9998
    return finished(out, results)


@pytest.mark.parametrize(
    ("width", "scheme"), [(1400, "light"), (1400, "dark"), (400, "light"), (400, "dark")]
)
def test_in_a_browser(tmp_path: Path, browser, width: int, scheme: str):
    cells = full(tmp_path)
    missing = [replace(cells[0], seed=seed, folder=tmp_path / f"missing {seed}") for seed in (2, 3)]
    failed = {missing[0].name: "blemish train: <b>broken</b>"}
    write_results(tmp_path, [*cells, *missing], Progress(total=20, finished=18, failed=failed))
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests, errors = [], []
    view.on("request", lambda request: requests.append(request.url))
    view.on("console", lambda message: errors.append(message.text))
    view.on("pageerror", lambda error: errors.append(str(error)))
    view.goto((tmp_path / "results.html").as_uri())

    assert requests == [(tmp_path / "results.html").as_uri()]
    assert errors == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert [line for line in view.inner_text("#incomplete").splitlines() if line] == [
        "Cells not there yet: 2, of which failed: 1. Run the same command again.",
        "pca on bottle, seed 2: blemish train: <b>broken</b>",
    ]
    assert view.evaluate(CLIPPED) == []
    dark = view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 23)"
    assert dark == (scheme == "dark")

    charts = view.evaluate(CHARTS)
    assert len(charts) == 3 * len(AREAS)
    for chart in charts:
        values = [bar["value"] for bar in chart]
        assert values == sorted(values, reverse=True)
        assert len({round(bar["track"], 2) for bar in chart}) == 1
        assert chart[0]["track"] > 60
        for bar in chart:
            assert bar["fill"] / bar["track"] == pytest.approx(bar["value"], abs=2e-3)
    ours = next(bar for bar in charts[0] if bar["label"] == "metal")
    # seeds 0.97 and 0.973, intervals 0.1 below and, cut at 1, 0.05 and 0.027 above
    assert ours["value"] == pytest.approx(0.9715, abs=6e-4)
    assert ours["whisker"] == pytest.approx([0.8715, 1.0], abs=2e-3)
    assert {bar["kind"] for bar in charts[0]} == {"ours", "line", "published"}
    assert len({bar["colour"] for bar in charts[0]}) == 3

    links = view.eval_on_selector_all("#cells td a", "links => links.map(a => a.href)")
    assert len(links) == len(cells)
    for link, cell in zip(links, cells, strict=True):
        assert Path(unquote(urlsplit(link).path)) == cell.folder / "evaluation" / "report.html"
    view.click("#cells tbody tr:nth-child(3) td a")
    assert view.title() == "the report"
    view.close()


CHARTS = """
[...document.querySelectorAll("ul.bars")].map(list => [...list.querySelectorAll("li")].map(bar => {
  const track = bar.querySelector(".track").getBoundingClientRect()
  const share = x => (x - track.left) / track.width
  const fill = bar.querySelector(".fill"), whisker = bar.querySelector(".whisker")?.getBoundingClientRect()
  const text = bar.querySelector(".value").textContent
  return {
    label: bar.querySelector(".label").textContent,
    value: text.startsWith(">") ? 0.9999 : parseFloat(text),
    kind: bar.className,
    track: track.width,
    fill: fill.getBoundingClientRect().width,
    colour: getComputedStyle(fill).background,
    whisker: whisker && [share(whisker.left), share(whisker.right)],
  }
}))
"""
CLIPPED = """
[...document.querySelectorAll(".bars .value, h1, h2, h3, .sentence, .key li")]
  .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != "inline")
  .map(e => e.textContent)
"""
