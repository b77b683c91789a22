"""A paper's tables beside finished benchmarks: what is told of each cell, and what was not reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import refused, run

pytest.importorskip("jinja2", reason="blemish[report] is not installed")

from blemish.evaluation import paper_tables, published
from blemish.methods.registry import METHODS


def cell(
    method: str, category: str, seed: int = 0, preset: str = "default", **areas: float
) -> dict[str, Any]:
    """What a finished cell says of its areas."""
    measures = dict.fromkeys(published.CONVENTIONS) | areas
    measures.pop("parameters")
    return {"method": method, "preset": preset, "category": category, "seed": seed, "evaluation": measures}


def write(folder: Path, *cells: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"cells": cells}))


@pytest.fixture
def benches(tmp_path: Path) -> Path:
    write(
        tmp_path / "one",
        cell("metal", "mvtec/bottle", 0, pixel_auroc_fpr30_mcclish=0.9),
        cell("metal", "mvtec/bottle", 1, pixel_auroc_fpr30_mcclish=0.8),
        cell("metal", "mvtec/bottle", preset="paper-object", pixel_auroc_fpr30_mcclish=0.7),
        cell("mkd", "head_ct/head_ct", image_auroc=0.75),
        cell("pca", "mvtec/bottle", image_auroc=1.0, pixel_auroc_fpr30=0.5),
    )
    write(tmp_path / "two", cell("metal", "bottle", pixel_auroc_fpr30_mcclish=0.95))
    return tmp_path


def test_every_system_that_is_named_is_printed_and_built():
    printed = {p.method for p in published.load()}
    assert set(paper_tables.OURS) <= printed
    assert set(paper_tables.OURS.values()) <= set(METHODS)


def test_ours_stand_beside_the_printed_and_benchmarks_are_not_mixed(benches: Path):
    tables = paper_tables.tables_of("metal", paper_tables.read_results(benches))
    assert [t.table.number for t in tables] == [3, 4, 5, 6]
    assert tables[1].rows["bottle"]["MeTAL"] == paper_tables.PaperCell(
        published="0.850",
        ours=(
            "0.850 ± 0.071 (metal, 2 seeds, one)",
            "0.700 (metal:paper-object, 1 seed, one)",
            "0.950 (metal, 1 seed, two)",
        ),
    )
    assert tables[1].rows["bottle"]["VT-ADL"].ours == ()
    assert tables[2].rows["head_ct"]["MKD*"].ours == ("0.750 (mkd, 1 seed, one)",)
    assert tables[3].rows["all"]["MKD*"].ours == ()  # numbers of parameters are no figure of an evaluation
    assert all(not cell.ours for cell in tables[1].rows["mean"].values())


def test_benchmarks_whose_folders_bear_one_name_are_not_mixed(tmp_path: Path):
    for machine, area in (("old", 0.9), ("new", 0.8)):
        write(tmp_path / machine / "bench", cell("metal", "bottle", pixel_auroc_fpr30_mcclish=area))
    (_, table, *_) = paper_tables.tables_of("metal", paper_tables.read_results(tmp_path))
    assert table.rows["bottle"]["MeTAL"].ours == (
        "0.800 (metal, 1 seed, new/bench)",
        "0.900 (metal, 1 seed, old/bench)",
    )


def test_what_was_not_reached_is_said():
    results = [cell("kde", "x/bottle", image_auroc=0.9) | {"bench": "one"}]
    count, systems, categories = paper_tables.not_reached(paper_tables.tables_of("cpc-ad", results))
    # 15 categories of 4 methods, and of 7
    assert count == f"1 of {15 * 4 + 15 * 7} printed cells were measured here."
    assert systems.startswith("Systems without a figure of ours: Auto, CutPaste, CPC-AD, AE-SSIM")
    assert "KDE" not in systems
    assert categories.startswith("Categories without a figure of ours: cable, capsule, carpet")


def test_the_command_writes_a_page_and_a_text(benches: Path, capsys: pytest.CaptureFixture[str]):
    assert run("bench", "--table", "metal", "--out", benches) == 0
    assert capsys.readouterr().out == f"tables: {benches / 'table-metal.html'}\n"
    text = (benches / "table-metal.md").read_text()
    assert "| head_ct | 51.20 ± 0.358 / – |" in text
    assert "80.4 ± 0.006 / **0.750 (mkd, 1 seed, one)**" in text
    page = (benches / "table-metal.html").read_text()
    assert page.count("<table>") == 4
    assert "0.700 (metal:paper-object, 1 seed, one)" in page


def test_what_cannot_be_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = refused(capsys, "bench", "--table", "metal", "--methods", "pca", "--out", tmp_path)
    assert said == "blemish bench: --methods: --table runs nothing; give --out alone beside it"
    said = refused(capsys, "bench", "--table", "metal", "--out", tmp_path / "none")
    assert said.endswith("none: holds no results.json; name a folder of blemish bench")
    assert not (tmp_path / "none").exists()
    said = refused(capsys, "bench", "--table", "nature")
    assert said.startswith("blemish bench: --table nature: must be one of cpc-ad, metal; see blemish bench")
    (tmp_path / "results.json").write_text("[]")
    said = refused(capsys, "bench", "--table", "metal", "--out", tmp_path)
    assert said.endswith("results.json: is not what blemish bench writes; run it again")
