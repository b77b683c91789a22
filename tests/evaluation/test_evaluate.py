from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="blemish[report] is not installed")
pytest.importorskip("matplotlib", reason="blemish[report] is not installed")

from conftest import save
from fakes import fake_detector, grey
from pictures import mvtec_loco
from PIL import Image
from reference import area_up_to, spro_points
from scipy import ndimage
from scipy.integrate import trapezoid
from sklearn import metrics as sk

from blemish.cli.commands.evaluate import EvaluateOptions, evaluate_into
from blemish.core.errors import DataError, ImageError, UsageError
from blemish.data.dataset import Dataset, open_dataset
from blemish.data.masks import read_regions
from blemish.evaluation.evaluate import RESAMPLES, evaluate
from blemish.evaluation.scored import write_scores
from blemish.inference import load
from blemish.inference.detector import Detector
from blemish.metrics.resampler import PixelResampler

pytestmark = pytest.mark.usefixtures("quick_evaluation")

CONTRACT = {
    "image_auroc",
    "pixel_auroc",
    "pixel_auroc_fpr30",
    "pixel_auroc_fpr30_mcclish",
    "aupro_fpr30",
    "image_f1max",
    "false_alarm_rate",
    "false_alarm_p_value",
    "detection_rate",
    "seconds_per_image",
    "n_good",
    "n_defect",
    "per_defect",
    "sensitivity",
}
PIXEL_FIELDS = ("pixel_auroc", "pixel_auroc_fpr30", "pixel_auroc_fpr30_mcclish", "aupro_fpr30", "aupro_fpr5")
PIXEL_FIELDS += ("pixel_average_precision", "seg_f1", "seg_precision", "seg_recall", "aupimo")


@pytest.fixture(scope="module")
def detector(tiny_model: Path) -> Detector:

    return load.load(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category on which the fake detector is right often, not always: noise, with brighter defects."""
    root = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(3)

    def noise() -> np.ndarray:
        return rng.integers(0, 180, (40, 40, 3)).astype(np.uint8)

    for i in range(7):
        save(root / "test" / "good" / f"{i}.png", noise())
    for kind, size, bright in (("blot", 9, 15), ("speck", 3, 40)):
        for i in range(4):
            picture, mask = noise(), np.zeros((40, 40), np.uint8)
            for top, left in ((5 + i, 6), (22, 20 + 2 * i)):  # two regions each
                picture[top : top + size, left : left + size] += np.uint8(bright)
                mask[top : top + size, left : left + size] = 255
            save(root / "test" / kind / f"{i}.png", picture)
            save(root / "ground_truth" / kind / f"{i}_mask.png", mask)
    return root


def opened(root: Path) -> Dataset:
    return open_dataset(root, need_train=False)


def trapezoids_up_to(limit: float, fpr: np.ndarray, tpr: np.ndarray) -> float:
    end = np.interp(limit, fpr, tpr)
    inside = fpr < limit
    return float(trapezoid(np.append(tpr[inside], end), np.append(fpr[inside], limit)))


def expected_of(detector: Detector, root: Path) -> dict[str, Any]:
    """All the metrics once more, by scikit-learn and scipy, from maps asked for one by one."""
    labels, scores, rejected, maps, masks = [], [], [], [], []
    for path in sorted((root / "test").rglob("*.png")):
        prediction = detector.predict(path)
        labels.append(path.parent.name)
        scores.append(prediction.score)
        rejected.append(prediction.anomalous)
        maps.append(prediction.anomaly_map)
        mask = root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        masks.append(np.asarray(Image.open(mask)) > 0 if mask.exists() else np.zeros(maps[-1].shape, bool))
    kind, score, alarm = np.array(labels), np.array(scores), np.array(rejected)
    bad = kind != "good"
    truth, pixels = np.stack(masks).ravel(), np.stack(maps).ravel()
    weight = np.ones((len(masks), *masks[0].shape))
    for i, mask in enumerate(masks):
        regions, n = ndimage.label(mask, np.ones((3, 3)))  # type: ignore[misc]
        for region in range(1, n + 1):
            weight[i][regions == region] = 1 / (regions == region).sum()
    fpr, tpr, _ = sk.roc_curve(truth, pixels, drop_intermediate=False)
    false, pro, _ = sk.roc_curve(truth, pixels, sample_weight=weight.ravel(), drop_intermediate=False)
    return {
        "image_auroc": sk.roc_auc_score(bad, score),
        "image_average_precision": sk.average_precision_score(bad, score),
        "image_f1max": max(sk.f1_score(bad, score >= t) for t in score),
        "pixel_auroc": sk.roc_auc_score(truth, pixels),
        "pixel_auroc_fpr30": trapezoids_up_to(0.3, fpr, tpr) / 0.3,
        "pixel_auroc_fpr30_mcclish": sk.roc_auc_score(truth, pixels, max_fpr=0.3),
        "aupro_fpr30": trapezoids_up_to(0.3, false, pro) / 0.3,
        "aupro_fpr5": trapezoids_up_to(0.05, false, pro) / 0.05,
        "pixel_average_precision": sk.average_precision_score(truth, pixels),
        "pixel_threshold": detector.pixel_threshold,
        "seg_f1": sk.f1_score(truth, pixels > np.float64(detector.pixel_threshold or 0)),
        "seg_precision": sk.precision_score(truth, pixels > np.float64(detector.pixel_threshold or 0)),
        "seg_recall": sk.recall_score(truth, pixels > np.float64(detector.pixel_threshold or 0)),
        "au_spro_fpr5": None,
        "false_alarm_rate": alarm[~bad].mean(),
        "detection_rate": alarm[bad].mean(),
        "n_good": (~bad).sum(),
        "n_defect": bad.sum(),
        "per_defect": {
            name: {
                "n": (kind == name).sum(),
                "image_auroc": sk.roc_auc_score(bad[(kind == name) | ~bad], score[(kind == name) | ~bad]),
                "pixel_auroc": sk.roc_auc_score(
                    *_pixels_of_one(kind == name, np.stack(masks), np.stack(maps))
                ),
                "detection_rate": alarm[kind == name].mean(),
            }
            for name in sorted({*kind[bad]})
        },
    }


def _pixels_of_one(chosen: np.ndarray, masks: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores of the pixels that are good, or are the defects of the chosen images."""
    kept = ~masks | chosen[:, None, None]
    return masks[kept], maps[kept]


def check(evaluation: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        if value is None:
            assert evaluation[key] is None, key
        elif key == "per_defect":
            assert set(evaluation[key]) == set(value)
            for name, of_one in value.items():
                assert evaluation[key][name] == pytest.approx(of_one, abs=1e-9), name
        else:
            assert evaluation[key] == pytest.approx(value, abs=1e-9), key


# --- the numbers ---


@pytest.mark.usefixtures("no_report")
def test_the_file_has_the_contract_s_fields_and_the_tiny_model_s_numbers(
    detector: Detector, tiny_category: Path, tmp_path: Path
):
    # One image at a time, as the expected maps are; batches differ in the last bit.
    one_by_one = replace(detector, batch_size=1)
    returned = evaluate(one_by_one, open_dataset(tiny_category), tmp_path)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written == returned
    assert set(written) >= CONTRACT
    check(written, expected_of(detector, tiny_category))
    assert written["image_auroc"] == 1.0  # holes and lines are plain
    assert (written["n_good"], written["n_defect"]) == (4, 6)
    assert written["seconds_per_image"] > 0
    assert (written["threshold"], written["requested_false_alarm_rate"]) == (detector.threshold, 1 / 6)
    assert written["leakage"] == []


@pytest.mark.usefixtures("no_report")
def test_the_numbers_where_the_detector_errs(noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.evaluation.evaluate.RESAMPLES", RESAMPLES)
    # Maxima: good ones 167 to 175, defective ones 169 to 200, so that no metric is 0 or 1.
    detector = fake_detector(grey_levels=range(160, 179), side=40, batch_size=4, false_alarm_rate=0.3)
    evaluation = evaluate(detector, opened(noisy), tmp_path)
    check(evaluation, expected_of(detector, noisy))
    for key in ("image_auroc", "image_f1max", "false_alarm_rate", "detection_rate", *PIXEL_FIELDS):
        assert 0 < evaluation[key] < 1, key
    low, high = evaluation["image_auroc_interval95"]
    assert low <= evaluation["image_auroc"] <= high
    assert RESAMPLES == 1000
    assert evaluation["requested_false_alarm_rate"] == 0.3
    calibration, n = detector.model_file.calibration, evaluation["n_good"]
    alarms = round(evaluation["false_alarm_rate"] * n)
    assert evaluation["false_alarm_p_value"] == calibration.chance_of(alarms, n, 0.3)
    assert evaluation["per_defect"]["blot"] != evaluation["per_defect"]["speck"]


@pytest.mark.usefixtures("no_report")
def test_regions_count_as_found_by_the_data_sets_saturations(tmp_path: Path):
    dataset = opened(mvtec_loco(tmp_path / "loco"))
    detector = replace(fake_detector(side=16), allow=frozenset({"channels"}))
    evaluation = evaluate(detector, dataset, tmp_path / "out")
    maps = [detector.predict(sample.path).anomaly_map for sample in dataset.test]
    regions = [read_regions(sample, (16, 16), dataset.saturations) for sample in dataset.test]
    area = area_up_to(spro_points(maps, regions), 0.05)
    assert evaluation["au_spro_fpr5"] == pytest.approx(area / 0.05)
    assert list(evaluation["au_spro_fpr5_per_defect"]) == ["logical_anomalies", "structural_anomalies"]


def test_without_masks_pixel_fields_are_null(noisy: Path, tmp_path: Path):
    shutil.copytree(noisy / "test", tmp_path / "data" / "test")
    detector = fake_detector(grey_levels=range(160, 179), side=40, false_alarm_rate=0.3)
    evaluation = evaluate(detector, opened(tmp_path / "data"), tmp_path / "out")
    assert [evaluation[key] for key in PIXEL_FIELDS] == [None] * len(PIXEL_FIELDS)
    assert [d["pixel_auroc"] for d in evaluation["per_defect"].values()] == [None, None]
    expected = expected_of(detector, noisy)
    for key in ("image_auroc", "image_f1max", "false_alarm_rate", "detection_rate"):
        assert evaluation[key] == pytest.approx(expected[key])


@pytest.mark.usefixtures("no_report")
def test_without_calibration_rates_and_threshold_are_null(noisy: Path, tmp_path: Path):
    evaluation = evaluate(fake_detector(side=40), opened(noisy), tmp_path)
    for key in ("threshold", "requested_false_alarm_rate", "false_alarm_rate", "detection_rate"):
        assert evaluation[key] is None
    assert [d["detection_rate"] for d in evaluation["per_defect"].values()] == [None, None]
    assert evaluation["image_auroc"] == pytest.approx(
        expected_of(fake_detector(grey_levels=(1,), side=40), noisy)["image_auroc"]
    )
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert {(row["p_value"], row["anomalous"]) for row in csv.DictReader(file)} == {("", "")}


@pytest.mark.heavy
def test_the_second_rate_has_its_figures_and_its_badge(noisy: Path, tmp_path: Path):
    base = fake_detector(grey_levels=range(160, 179), side=40, false_alarm_rate=0.1)
    detector = replace(base, review_rate=0.4)
    found, before = (evaluate(d, opened(noisy), tmp_path / str(k)) for k, d in enumerate((detector, base)))
    assert found["requested_review_rate"] == 0.4
    assert found["review_threshold"] == detector.review_threshold
    with (tmp_path / "0" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for key, defect in (("review_rate", False), ("review_detection_rate", True)):
        decisions = [row["decision"] for row in rows if (row["label"] != "good") == defect]
        assert found[key] == np.mean([decision != "accepted" for decision in decisions])
        assert "review" in decisions
    assert (found["false_alarm_rate"], found["seg_f1"]) == (before["false_alarm_rate"], before["seg_f1"])
    assert (before["review_rate"], before["requested_review_rate"]) == (None, None)
    pages = [(tmp_path / name / "report.html").read_text() for name in ("0", "1")]
    assert [("for review</span>" in page, "Defects not accepted" in page) for page in pages] == [
        (True, True),
        (False, False),
    ]


@pytest.mark.usefixtures("no_report")
def test_metrics_are_of_raw_scores_and_ignore_the_threshold(noisy: Path, tmp_path: Path):
    strict = fake_detector(grey_levels=range(160, 179), side=40, false_alarm_rate=0.05)
    results = [evaluate(strict.at_rate(rate), opened(noisy), tmp_path / str(rate)) for rate in (0.05, 0.9)]
    at_the_rate = {"pixel_threshold", "seg_f1", "seg_precision", "seg_recall"}
    for key in ("image_auroc", "image_average_precision", "image_f1max", *(set(PIXEL_FIELDS) - at_the_rate)):
        assert results[0][key] == results[1][key]
    assert results[0]["pixel_threshold"] > results[1]["pixel_threshold"]
    assert results[0]["detection_rate"] < results[1]["detection_rate"]


# --- the other files ---


@pytest.mark.usefixtures("no_report")
def test_scores_csv_lists_every_image(detector: Detector, tiny_category: Path, tmp_path: Path):
    evaluate(detector, open_dataset(tiny_category), tmp_path)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "score", "p_value", "anomalous", "decision"]
    paths = sorted((tiny_category / "test").rglob("*.png"))
    assert [row["path"] for row in rows] == [p.relative_to(tiny_category).as_posix() for p in paths]
    for row, path in zip(rows, paths, strict=True):
        prediction = detector.predict(path)
        assert row["label"] == path.parent.name
        assert float(row["score"]) == pytest.approx(prediction.score, rel=1e-5, abs=5e-5)  # spreads
        assert float(row["p_value"]) == prediction.p_value
        assert row["anomalous"] == str(prediction.anomalous).lower()


@pytest.mark.usefixtures("no_report")
def test_two_runs_write_the_same_scores_byte_for_byte(
    detector: Detector, tiny_category: Path, tmp_path: Path
):
    for name in ("a", "b"):
        evaluate(detector, open_dataset(tiny_category), tmp_path / name)
    first, second = ((tmp_path / name / "scores.csv").read_bytes() for name in ("a", "b"))
    assert first == second
    assert len(first) > 300


@pytest.mark.heavy
def test_the_report_is_written_and_its_pictures_exist(
    detector: Detector, tiny_category: Path, tiny_model: Path, tmp_path: Path
):
    evaluate(detector, open_dataset(tiny_category), tmp_path, training_log=tiny_model / "log.csv")
    html = (tmp_path / "report.html").read_text()
    assert "metal" in html
    shown = set(re.findall(r'(?:src|href)="((?:overlays|thumbnails)/[^"]+)"', html))
    assert len(shown) >= 10
    assert [name for name in shown if not (tmp_path / name).is_file()] == []
    assert len(list((tmp_path / "overlays").rglob("*.png"))) == 10


@pytest.mark.usefixtures("no_report")
def test_on_image_counts_them(noisy: Path, tmp_path: Path):
    seen: list[int] = []
    evaluate(fake_detector(side=40), opened(noisy), tmp_path, on_image=lambda: seen.append(1))
    assert len(seen) == 15


@pytest.mark.heavy
def test_names_that_are_not_utf_8_are_evaluated(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        grey(tmp_path / "data" / "test" / "good" / name, 9)
    except OSError as error:
        pytest.skip(f"this file system takes UTF-8 names only: {error}")
    grey(tmp_path / "data" / "test" / "hole" / "0.png", 200)
    evaluate(fake_detector(), opened(tmp_path / "data"), tmp_path / "out")
    assert b"test/good/caf\xe9.png,good," in (tmp_path / "out" / "scores.csv").read_bytes()
    assert (tmp_path / "out" / "report.html").is_file()


# --- what it warns of and refuses ---


@pytest.mark.usefixtures("no_report")
def test_a_training_image_among_the_test_images_is_reported(
    detector: Detector, tiny_category: Path, tmp_path: Path
):
    data = tmp_path / "data"
    shutil.copytree(tiny_category / "test", data / "test")
    # Which images were trained on is the split's choice: take all, and see calibration's named apart.
    for i in range(12):
        shutil.copy(
            tiny_category / "train" / "good" / f"{i:03d}.png", data / "test" / "good" / f"copy{i}.png"
        )
    evaluation = evaluate(detector, opened(data), tmp_path / "out")
    trained = sorted(detector.model_file.provenance["training_digests"].values())
    assert len(trained) == 7  # 12 good images less 5 of calibration
    assert sorted(name for name, _ in evaluation["leakage"]) == trained
    for name, tested in evaluation["leakage"]:
        assert Path(tested) == data / "test" / "good" / f"copy{int(name[:3])}.png"
    copies = {str(path) for path in (data / "test" / "good").glob("copy*.png")}
    assert set(evaluation["calibrated_by"]) == copies - {tested for _, tested in evaluation["leakage"]}


@pytest.mark.parametrize(("kept", "said"), [("good", "2 good and 0 def"), ("hole", "0 good and 2 def")])
@pytest.mark.usefixtures("no_report")
def test_a_test_set_of_one_kind_is_refused_before_anything_is_written(kept: str, said: str, tmp_path: Path):
    for i in range(2):
        grey(tmp_path / "data" / "test" / kept / f"{i}.png", 40 * i)
    with pytest.raises(DataError, match=said):
        evaluate(fake_detector(), opened(tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_report")
def test_a_file_that_is_no_image_is_found_before_any_is_scored(noisy: Path, tmp_path: Path):
    shutil.copytree(noisy, tmp_path / "data")
    last = max(path for path in (tmp_path / "data" / "test").rglob("*.png"))
    last.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=re.escape(str(last))):
        evaluate(fake_detector(side=40), opened(tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_report")
def test_an_unreadable_test_image_stops_the_evaluation(noisy: Path, tmp_path: Path):
    shutil.copytree(noisy, tmp_path / "data")
    (tmp_path / "data" / "test" / "good" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match=r"good/3\.png: "):
        evaluate(fake_detector(side=40), opened(tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.usefixtures("no_report")
def test_a_mask_of_another_size_is_found_before_any_image_is_scored(noisy: Path, tmp_path: Path):
    shutil.copytree(noisy, tmp_path / "data")
    save(tmp_path / "data" / "ground_truth" / "blot" / "2_mask.png", np.zeros((40, 41), np.uint8))
    with pytest.raises(
        DataError, match=r"2_mask\.png: 41x40 px but .*2\.png is 40x40; .* save the mask anew"
    ):
        evaluate(fake_detector(side=40), opened(tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    known = shutil.copytree(noisy / "test" / "blot", tmp_path / "known")
    for path in sorted(known.iterdir()):
        save(path.with_name(f"{path.stem}_mask.png"), np.zeros((41, 40), np.uint8))
    with pytest.raises(DataError, match=r"0_mask\.png: 40x41 px but .*0\.png is 40x40"):
        evaluate(fake_detector(side=40), opened(noisy), tmp_path / "out", known_defects=known)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_report")
def test_masks_that_mark_nothing_are_refused_by_name(noisy: Path, tmp_path: Path):
    shutil.copytree(noisy, tmp_path / "data")
    for i in range(4):
        save(tmp_path / "data" / "ground_truth" / "blot" / f"{i}_mask.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(DataError, match=r"blot/0_mask\.png: marks nothing, nor do the 3 other"):
        evaluate(fake_detector(side=40), opened(tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out").exists()  # before anything was scored


def test_what_an_evaluation_needs_is_looked_for_before_anything_is_scored(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"matplotlib is missing; pip install 'blemish\[report\]'"):
        evaluate(fake_detector(side=40), opened(noisy), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_report")
def test_an_evaluation_that_fails_late_leaves_its_scores_and_no_figures_of_others(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    evaluate(fake_detector(side=40), opened(noisy), tmp_path)
    before = (tmp_path / "scores.csv").read_text()
    pixels = (tmp_path / "pixels.npz").read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise DataError("late")

    monkeypatch.setattr("blemish.evaluation.evaluate._measure", fails)
    with pytest.raises(DataError, match="late"):
        evaluate(fake_detector(side=40, network=lambda x: 1 - x.mean(axis=1)), opened(noisy), tmp_path)
    assert (tmp_path / "scores.csv").read_text() != before
    assert (tmp_path / "pixels.npz").read_bytes() != pixels
    assert not (tmp_path / "evaluation.json").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["scores.csv", "pixels.npz"])
def test_scores_and_pixels_are_written_whole_or_not_at_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / name
    path.write_bytes(b"before")
    full = OSError(errno.ENOSPC, "No space left on device")

    def fails(*_: object, **__: object) -> None:
        raise full

    if name == "scores.csv":
        monkeypatch.setattr("blemish.evaluation.scored.TableWriter", fails)
        wrote = partial(write_scores, path, [])
    else:
        sampled = PixelResampler()
        sampled.add(np.ones((2, 2)), np.eye(2, dtype=bool))
        monkeypatch.setattr(np, "savez", fails)
        wrote = partial(sampled.save, path)
    with pytest.raises(OSError, match="No space"):
        wrote()
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("beside", ["model.safetensors", "other.safetensors"])
def test_the_log_beside_a_model_is_shown_only_where_it_is_of_its_run(
    beside: str, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "folder"
    folder.mkdir()
    for each in (beside, "log.csv", "choice.png"):
        (folder / each).touch()
    shown: dict[str, object] = {}

    def note(*_: object, **options: object) -> None:
        shown.update(options)
        raise DataError("enough")

    monkeypatch.setattr(EvaluateOptions, "load", lambda *_, **__: fake_detector(side=40))
    monkeypatch.setattr("blemish.evaluation.evaluate.evaluate", note)
    options = EvaluateOptions(model=folder / beside, data=noisy)
    with pytest.raises(DataError, match="enough"):
        evaluate_into(options, tmp_path / "out", folder)
    of_run = beside == "model.safetensors"
    assert shown["training_log"] == (folder / "log.csv" if of_run else None)
    assert shown["choice_picture"] == (folder / "choice.png" if of_run else None)


@pytest.mark.usefixtures("no_report")
def test_a_defect_that_looks_good_counts_as_missed(tmp_path: Path):
    # Scores by hand: good 10, 20, 30; defects 15, 25, 200, 200 (/255). Pairs won by the defect: 15 beats 1
    # of 3, 25 beats 2, 200 beats 3, twice: 9 of 12. Calibrated at 22: rejected are 25, 200, 200 and 30.
    for level in (10, 20, 30):
        grey(tmp_path / "data" / "test" / "good" / f"{level}.png", level)
    for i, level in enumerate((15, 25, 200, 200)):
        grey(tmp_path / "data" / "test" / "hole" / f"{i}.png", level)
    evaluation = evaluate(
        fake_detector(grey_levels=(22,), false_alarm_rate=0.5), opened(tmp_path / "data"), tmp_path / "out"
    )
    assert evaluation["image_auroc"] == pytest.approx(9 / 12)
    assert evaluation["detection_rate"] == pytest.approx(3 / 4)
    assert evaluation["false_alarm_rate"] == pytest.approx(1 / 3)
    # Best F1: from 15 on, 4 found and 2 false (20, 30): 8 / 10; from 25 on, 3 found and 1 false: 6 / 8.
    assert evaluation["image_f1max"] == pytest.approx(0.8)


@pytest.mark.usefixtures("no_report")
def test_a_manifest_is_evaluated_as_its_folder_is(noisy: Path, tmp_path: Path):
    lines = ["path,split,label,mask"]
    for path in sorted((noisy / "test").rglob("*.png")):
        kind = path.parent.name
        mask = "" if kind == "good" else noisy / "ground_truth" / kind / f"{path.stem}_mask.png"
        lines.append(f"{path},test,{kind},{mask}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    detector = fake_detector(grey_levels=range(160, 179), side=40)
    of_folder = evaluate(detector, opened(noisy), tmp_path / "a")
    of_list = evaluate(detector, opened(tmp_path / "list.csv"), tmp_path / "b")
    differs = {key for key in of_folder if of_folder[key] != of_list[key]}
    assert differs <= {"seconds_per_image", "dataset"}
