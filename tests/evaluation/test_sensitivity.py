"""The sensitivity card: which images it takes, what it counts, what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refused, run
from conftest import save, tiny_image
from fakes import fake_detector

from blemish.core.errors import ImageError, UsageError
from blemish.data.dataset import Dataset, open_dataset
from blemish.evaluation import sensitivity_plan
from blemish.evaluation.evaluate import evaluate
from blemish.evaluation.sensitivity import measure, measure_into
from blemish.evaluation.sensitivity_plan import CONTRASTS, KINDS, SIZES, defects_of, planned, untouched
from blemish.inference import load
from blemish.inference.counting import Counting
from blemish.inference.detector import Detector

pytestmark = pytest.mark.usefixtures("quick_evaluation")

USUAL = len(KINDS) * len(SIZES)
FULL = sum(len(CONTRASTS) if has else 1 for has in KINDS.values()) * len(SIZES)


def textured(seed: int, side: int = 96) -> np.ndarray:
    """Noise of grey levels 60 to 119, and a black and a brighter row, so that the span is known."""
    image = np.random.default_rng(seed).integers(60, 120, (side, side, 3)).astype(np.uint8)
    image[0] = 0
    image[-1] = 150
    return image


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("goods")
    for i in range(5):
        save(root / "test" / "good" / f"{i}.png", textured(i))
    save(root / "test" / "hole" / "0.png", textured(9))
    return root


def opened(root: Path) -> Dataset:
    return open_dataset(root, need_train=False)


def bright_finder(level: int = 155) -> Detector:
    """Rejects an image with a pixel brighter than a level: mean of channels, at the image's own size."""
    return fake_detector(grey_levels=[level] * 19, side=96, false_alarm_rate=0.05)


def paths_of(root: Path) -> list[Path]:
    return untouched(bright_finder(), opened(root))


def point(card: dict[str, Any], kind: str, size: float, contrast: float | None = None) -> dict[str, Any]:
    (found,) = [p for p in card["points"] if (p["kind"], p["size"], p["contrast"]) == (kind, size, contrast)]
    return found


def test_the_plan_grows_with_the_images():
    assert len(defects_of(USUAL)) == len(defects_of(60)) == len(defects_of(4 * FULL - 1)) == USUAL
    assert len(defects_of(4 * FULL)) == len(defects_of(200)) == FULL
    assert {d.contrast for d in defects_of(60)} == {None, 0.15}
    assert {d.contrast for d in defects_of(200)} == {None, *CONTRASTS}
    with pytest.raises(UsageError, match=f"--images 19: must be {USUAL} or larger"):
        defects_of(19)


@pytest.mark.heavy
def test_what_is_found_is_counted_by_kind_size_and_contrast(goods: Path):
    seen: list[int] = []
    card = measure(bright_finder(), paths_of(goods), images=200, on_image=lambda: seen.append(1))
    assert card["planted_images"] == len(seen) == 5 * FULL
    assert (card["good_images"], card["side_px"], card["reduced_to_px"]) == (5, 96, None)
    assert card["false_alarm_rate"] == 0.05
    for p in card["points"]:
        assert p["n"] == 5
        assert 0 <= p["low"] <= p["share"] == p["found"] / p["n"] <= p["high"] <= 1
        assert p["size_px"] == max(3, round(96 * p["size"]))
    # 0.05 of the span of some 60 grey levels stays below the threshold; 119 + 0.4 * span stays below as well.
    for size in SIZES:
        assert point(card, "spot", size, 0.05)["found"] == 0
        assert point(card, "blur", size)["found"] == 0


def test_all_is_found_and_located_where_the_threshold_lies_below_every_defect(goods: Path):
    card = measure(bright_finder(0), paths_of(goods), images=60)
    assert {p["found"] for p in card["points"]} == {3}
    assert {p["located"] for p in card["points"]} == {3}


@pytest.mark.heavy
def test_bright_spots_are_found_and_dark_ones_are_not(goods: Path):
    card = measure(bright_finder(125), paths_of(goods), images=60)
    # The brightest row of every good image is above this threshold: all are rejected, located or not.
    assert {p["share"] for p in card["points"]} == {1.0}
    located = point(card, "spot", 0.2, 0.15)["located"]
    assert 0 <= located <= 3
    assert point(card, "blur", 0.05)["located"] == 0


def test_the_same_seed_gives_the_same_bits(goods: Path):
    first, again, other = (measure(bright_finder(), paths_of(goods), images=20, seed=s) for s in (1, 1, 2))
    assert json.dumps(first) == json.dumps(again)
    assert json.dumps(first) != json.dumps(other)


def test_few_images_are_not_used_twice_for_one_point(goods: Path):
    card = measure(bright_finder(), paths_of(goods)[:1], images=200)
    assert {p["n"] for p in card["points"]} == {1}
    assert card["good_images"] == 1


def test_large_images_are_reduced_and_sizes_stay_those_of_the_originals(tmp_path: Path):
    wide = np.random.default_rng(0).integers(60, 120, (300, 2048, 3)).astype(np.uint8)
    save(tmp_path / "test" / "good" / "0.png", wide)
    card = measure(bright_finder(), paths_of(tmp_path), images=20)
    assert (card["side_px"], card["reduced_to_px"]) == (300, 1024)
    big = point(card, "missing piece", 0.2)
    assert big["size_px"] == 60
    assert 0.4 * 60**2 < big["area_px"] < 2 * 60**2


def test_a_model_that_counts_from_a_size_on_sees_large_images_as_they_are(tmp_path: Path):
    """Half the pixels each way would leave a quarter of the area, too little to count."""
    wide = np.random.default_rng(0).integers(60, 120, (300, 2048, 3)).astype(np.uint8)
    save(tmp_path / "test" / "good" / "0.png", wide)
    bright = bright_finder(0)
    counting = Counting(min_area=300 * 1100)  # of 300 x 2048 px; reduced it is 150 x 1024 px
    detector = replace(bright, model_file=replace(bright.model_file, counting=counting))
    card = measure(detector, paths_of(tmp_path), images=20)
    assert (card["side_px"], card["reduced_to_px"]) == (300, None)
    assert {p["found"] / p["n"] for p in card["points"]} == {1.0}


def test_images_of_another_format_are_converted_where_that_is_permitted(tmp_path: Path):
    save(tmp_path / "test" / "good" / "0.png", textured(0))
    save(tmp_path / "test" / "good" / "1.png", textured(1)[:, :, 0])
    with pytest.raises(ImageError, match=r"1\.png: has 1 channel"):
        measure(bright_finder(), paths_of(tmp_path), images=20)
    permitted = replace(bright_finder(), allow=frozenset({"channels"}))
    assert measure(permitted, paths_of(tmp_path), images=40)["good_images"] == 2


def test_images_that_took_part_are_left_out(tiny_model: Path, tiny_category: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(tiny_category, data)
    shutil.copy(data / "train" / "good" / "000.png", data / "test" / "good" / "copy.png")
    detector = load.load(tiny_model, device="cpu")
    names = [path.name for path in untouched(detector, opened(data))]
    assert names == ["000.png", "001.png", "002.png", "003.png"]
    shutil.rmtree(data / "train")  # what the training images were is also in the model
    took_part = set(detector.model_file.provenance["training_digests"].values())
    assert ("copy.png" in [p.name for p in untouched(detector, opened(data))]) == ("000.png" not in took_part)


# --- the command, and evaluate ---


@pytest.mark.heavy
def test_the_command_writes_the_card(
    tiny_onnx: Path, tiny_category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--model", tiny_onnx, "--data", tiny_category, "--images", "20", "--out")
    assert run("sensitivity", *options, tmp_path / "a") == 0
    said = capsys.readouterr().out
    assert "20 defects were planted into 4 good images" in said
    assert "scratch, contrast 15 %" in said
    assert str(tmp_path / "a" / "sensitivity.html") in said
    card = json.loads((tmp_path / "a" / "sensitivity.json").read_text())
    assert (card["good_scored"], card["planted_images"]) == (4, 20)
    html = (tmp_path / "a" / "sensitivity.html").read_text()
    assert html.count("<figure") == len(KINDS)
    assert html.count("Planted: ") == len(KINDS)
    assert run("sensitivity", *options, tmp_path / "b") == 0
    for name in ("sensitivity.json", "sensitivity.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.heavy
def test_evaluation_has_a_card_when_it_is_asked_for(tiny_model: Path, tiny_category: Path, tmp_path: Path):
    assert run("evaluate", "--model", tiny_model, "--data", tiny_category, "--out", tmp_path) == 0
    card = json.loads((tmp_path / "evaluation.json").read_text())["sensitivity"]
    assert card["planted_images"] == 20
    assert (card["good_scored"], card["false_alarm_rate"]) == (4, 1 / 6)
    assert "Which planted defects are found?" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("no_report")
def test_evaluation_leaves_out_a_card_that_cannot_be(goods: Path, tmp_path: Path, monkeypatch):
    assert evaluate(fake_detector(side=96), opened(goods), tmp_path / "a", planted=60)["sensitivity"] is None
    assert evaluate(bright_finder(), opened(goods), tmp_path / "b")["sensitivity"] is None
    monkeypatch.setattr(sensitivity_plan.importlib.util, "find_spec", lambda _name: None)
    assert evaluate(bright_finder(), opened(goods), tmp_path / "c", planted=60)["sensitivity"] is None


def test_what_the_card_s_page_needs_is_looked_for_before_anything_is_scored(
    goods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan, scored = planned(bright_finder(), opened(goods), 60), []
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"matplotlib is missing; pip install 'blemish\[report\]'"):
        measure_into(bright_finder(), plan, tmp_path / "out", on_image=lambda: scored.append(1))
    assert scored == []


def test_what_cannot_be_is_refused_in_one_line(
    goods: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    with pytest.raises(UsageError, match="has no calibration images and so no threshold"):
        planned(fake_detector(side=96), opened(goods), 60)
    for i in range(3):
        save(tmp_path / "photos" / f"{i}.png", tiny_image(i))
    command = ("sensitivity", "--model", tiny_model, "--out", tmp_path / "out", "--data")
    said = refused(capsys, *command, tmp_path / "photos")
    assert "photos: no good test images that took no part in training or calibration; put some under" in said
    assert "--images 3: must be 20 or larger" in refused(capsys, *command, goods, "--images", "3")
    assert "--seed -1: must be at least 0" in refused(capsys, *command, goods, "--seed", "-1")
    monkeypatch.setattr(sensitivity_plan.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"planting defects needs torch; pip install 'blemish\[train\]'"):
        planned(bright_finder(), opened(goods), 60)
    assert not (tmp_path / "out").exists()
