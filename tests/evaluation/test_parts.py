from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_detector, grey

from blemish.core.errors import DataError
from blemish.core.types import Sample
from blemish.data.dataset import Dataset
from blemish.evaluation import parts as evaluation_of_parts
from blemish.evaluation.evaluate import evaluate
from blemish.inference.detector import Detector
from blemish.inference.part_models import ViewModels, Views
from blemish.inference.part_rows import PartRow
from blemish.inference.parts import PartCalibration, TogetherRule
from blemish.metrics.roc import image_roc

GOOD_PARTS = {"a": (20, 90), "b": (30, 85), "c": (25, 100), "d": (60, 80)}  # d: its side is odd
DEFECTS = {"e": (22, 180), "f": (90, 92), "g": (24, 91)}  # the last looks good


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Views with a model each: the one of `top` is told apart by being another object."""
    root = tmp_path_factory.mktemp("parts")
    side, data, views = evaluated(root)
    return evaluate(side, data, root / "out", views=views), root / "out"


def evaluated(root: Path) -> tuple[Detector, Dataset, Views]:
    """Make the detector of the view `side`, the images of the parts, and what decides of them."""
    samples = []
    for part, levels in (GOOD_PARTS | DEFECTS).items():
        for view, level in zip(("side", "top"), levels, strict=True):
            odd = part in DEFECTS and (view == "top" or part == "f")
            path = grey(root / f"{part}_{view}.png", level)
            samples.append(
                Sample(path=path, split="test", label="dent" if odd else "good", part=part, view=view)
            )
    samples = samples[:-1]  # of g there is no top
    samples[-1] = Sample(path=samples[-1].path, split="test", label="dent", part="g", view="side")
    known = np.array([[20 + i % 15, 80 + (7 * i) % 25] for i in range(19)]) / 255
    rule = TogetherRule(PartCalibration(scores=known, views=("side", "top")), rate=0.05, review_rate=0.1)
    side, top = fake_detector(grey_levels=range(15, 55, 2)), fake_detector(grey_levels=range(80, 120, 2))
    models = ViewModels(usual=root / "side", own={"top": root / "top"})
    views = Views(models=models, detectors={root / "side": side, root / "top": top}, rule=rule)
    data = Dataset(name="d", root=root, train=[], calibration=[], test=samples, has_masks=False)
    return side, data, views


@pytest.mark.heavy
def test_parts_are_decided_and_measured_as_ones(measured: tuple[dict[str, Any], Path]):
    parts, out = measured[0]["parts"], measured[1]
    rows = [json.loads(line) for line in (out / "parts.jsonl").read_text().splitlines()]
    assert {row["part"]: (row["label"], row["decision"]) for row in rows} == {
        "a": ("good", "accepted"),
        "b": ("good", "accepted"),
        "c": ("good", "accepted"),
        "d": ("good", "rejected"),
        "e": ("dent", "rejected"),
        "f": ("dent", "rejected"),
        "g": ("dent", "review"),
    }
    assert (parts["n_good"], parts["n_defect"], parts["incomplete"], parts["rule"]) == (4, 3, 1, "together")
    assert (parts["false_alarm_rate"], parts["detection_rate"]) == (1 / 4, 2 / 3)
    assert (parts["review_rate"], parts["review_detection_rate"]) == (1 / 4, 1.0)
    low, high = parts["false_alarm_rate_interval95"]
    assert low < 1 / 4 < high
    scores, defects = [row["score"] for row in rows], [row["label"] != "good" for row in rows]
    assert parts["auroc"] == image_roc(scores, defects).auroc()
    assert [shown["part"] for shown in parts["shown"]] == ["d", "g"]


@pytest.mark.heavy
def test_figures_of_images_are_those_of_the_usual_model(measured: tuple[dict[str, Any], Path]):
    assert (measured[0]["n_good"], measured[0]["n_defect"]) == (5, 2)


@pytest.mark.heavy
def test_the_report_shows_parts_that_were_decided_wrongly(measured: tuple[dict[str, Any], Path]):
    page = (measured[1] / "report.html").read_text()
    assert "Parts of several views" in page and "promised by 19 calibration parts" in page
    for part in ("d", "g"):
        assert f"parts/{part}.png" in page and (measured[1] / f"parts/{part}.png").is_file()
    assert "missing: top" in page


def test_a_usual_model_whose_views_show_no_defect_is_refused_with_a_cure(tmp_path: Path):
    samples = []
    for part, view, label in (("a", "side", "good"), ("a", "top", "good"), ("b", "top", "dent")):
        path = grey(tmp_path / f"{part}_{view}.png", 20)
        samples.append(Sample(path=path, split="test", label=label, part=part, view=view))
    side, top = tmp_path / "side", tmp_path / "top"
    detectors = {side: fake_detector(), top: fake_detector()}
    rule = TogetherRule(PartCalibration(scores=np.array([[0.1, 0.2]]), views=("side", "top")))
    views = Views(models=ViewModels(usual=side, own={"top": top}), detectors=detectors, rule=rule)
    data = Dataset(name="d", root=tmp_path, train=[], calibration=[], test=samples, has_masks=False)
    with pytest.raises(DataError, match=r"that .*side scores 1 are good and 0 defective.*--model the model"):
        evaluate(detectors[side], data, tmp_path / "out", views=views)
    assert not (tmp_path / "out").exists()


@pytest.mark.heavy
def test_a_stop_in_the_middle_of_parts_leaves_no_half_of_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    side, data, views = evaluated(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "parts.jsonl").write_text("before\n")
    drawn = []

    def fails(row: PartRow, *_: object) -> None:
        drawn.append(row.part)
        if row.part == "c":
            raise KeyboardInterrupt

    monkeypatch.setattr(evaluation_of_parts, "draw_part", fails)
    with pytest.raises(KeyboardInterrupt):
        evaluate(side, data, tmp_path / "out", views=views)
    assert drawn == ["a", "b", "c"]
    assert (tmp_path / "out" / "parts.jsonl").read_text() == "before\n"
    assert not list((tmp_path / "out").glob(".*"))
