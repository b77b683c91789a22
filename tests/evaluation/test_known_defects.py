"""Known defects in an evaluation: apart from the test set, and told where they chose the method."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import save
from fakes import fake_detector, grey

from blemish.core.errors import DataError, ImageError
from blemish.data.dataset import open_dataset
from blemish.data.hashing import file_digest
from blemish.evaluation.evaluate import evaluate
from blemish.inference.detector import Detector

pytestmark = pytest.mark.usefixtures("quick_evaluation")


@pytest.fixture(autouse=True)
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the charts out, which take most of the time."""
    monkeypatch.setattr("blemish.report.charts.draw", lambda *_: [])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for i, level in enumerate((50, 90)):
        grey(tmp_path / "set" / "test" / "good" / f"{i}.png", level)
    grey(tmp_path / "set" / "test" / "bad" / "0.png", 200)
    return tmp_path / "set"


def known(root: Path, *, masks: bool) -> Path:
    """A part as dark as the darker good one, which is accepted, and one with a bright square of 4 x 4."""
    grey(root / "dull.png", 40)
    image = np.full((32, 32, 3), 60, np.uint8)
    image[4:8, 4:8] = 240
    save(root / "dent" / "square.png", image)
    if masks:
        mask = np.zeros((32, 32), np.uint8)
        mask[4:8, 4:8] = 255
        save(root / "dent" / "square_mask.png", mask)
        save(root / "dull_mask.png", np.zeros((32, 32), np.uint8))
    return root


def detector() -> Detector:
    return fake_detector(grey_levels=range(80, 99), false_alarm_rate=0.05)


@pytest.mark.parametrize("masks", [False, True])
def test_they_are_reported_apart(data: Path, tmp_path: Path, masks: bool):
    dataset = open_dataset(data, need_train=False)
    folder = known(tmp_path / "known", masks=masks)
    evaluation = evaluate(detector(), dataset, tmp_path / "out", known_defects=folder)
    told = evaluation["known_defects"]
    assert (told["n"], told["detection_rate"]) == (2, 0.5)
    assert told["image_auroc"] == 0.5  # one is above both good ones, one below
    assert told["pixel_auroc"] == (1.0 if masks else None)
    assert [(row["path"], row["label"], row["anomalous"]) for row in told["images"]] == [
        ("dent/square.png", "dent", True),
        ("dull.png", "known", False),
    ]
    low, high = told["detection_rate_interval95"]
    assert low < 0.5 < high
    without = evaluate(detector(), dataset, tmp_path / "without")
    assert without["known_defects"] is None
    for key in ("image_auroc", "n_defect", "detection_rate", "per_defect", "test_fingerprint"):
        assert evaluation[key] == without[key], key
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["known_defects"] == told
    page, other = ((tmp_path / name / "report.html").read_text() for name in ("out", "without"))
    assert "dent/square.png" in page
    assert "Rejected: 50.0 %" in page
    assert ("Pixel AUROC within these images: 1.000" in page) == masks
    assert "Known defects" not in other


def test_a_tested_image_that_chose_the_method_is_told(data: Path, tmp_path: Path):
    tested = data / "test" / "bad" / "0.png"
    model_file = detector().model_file
    provenance = model_file.provenance | {"known_defects": {"digests": {file_digest(tested): "mine.png"}}}
    chosen = replace(detector(), model_file=replace(model_file, provenance=provenance))
    evaluation = evaluate(chosen, open_dataset(data, need_train=False), tmp_path / "out")
    assert evaluation["chosen_by"] == [str(tested)]
    assert "1 test image is among the known defects" in (tmp_path / "out" / "report.html").read_text()


def test_one_that_cannot_be_read_ends_it_before_the_test_set_is_scored(data: Path, tmp_path: Path):
    folder, scored = known(tmp_path / "known", masks=False), []
    (folder / "cut.png").write_bytes((folder / "dull.png").read_bytes()[:-20])
    with pytest.raises(ImageError, match=r"cut\.png"):
        evaluate(
            detector(),
            open_dataset(data, need_train=False),
            tmp_path / "out",
            known_defects=folder,
            on_image=lambda: scored.append(1),
        )
    assert scored == []


def test_a_folder_that_is_none_is_refused_before_anything_is_scored(data: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        evaluate(
            detector(), open_dataset(data, need_train=False), tmp_path / "out", known_defects=tmp_path / "x"
        )
    assert not (tmp_path / "out").exists()
