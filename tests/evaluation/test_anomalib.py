"""The door to anomalib, with a stand-in for it (`fake_anomalib`): raw scores, our splits, our metrics."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run
from conftest import save, tiny_defect, tiny_image
from fakes import fake_detector, mean_of_channels
from PIL import Image
from sklearn.metrics import roc_auc_score

from blemish.core.errors import UsageError
from blemish.core.types import Sample
from blemish.data.dataset import Split, open_dataset, split_good
from blemish.evaluation import anomalib as peer
from blemish.evaluation.anomalib import Peer, Raw
from blemish.inference.postprocess import to_original_size

FAKE = Path(__file__).parents[1] / "fake_anomalib"


@pytest.fixture
def anomalib(monkeypatch) -> None:
    """Let this process and its children find the stand-in, and forget it afterwards."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("anomalib", "lightning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(FAKE), prepend=":")
    yield
    for name in [n for n in sys.modules if n.split(".")[0] in ("anomalib", "lightning")]:
        sys.modules.pop(name)


def brightness(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, np.float64).mean(axis=2) / 255


def scores_of(run_folder: Path) -> dict[str, float]:
    with (run_folder / "evaluation" / "scores.csv").open(newline="") as file:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(file)}


# --- a detector that asks ---


def test_answers_come_back_as_they_are_and_at_the_images_own_size(tmp_path: Path):
    wide = save(tmp_path / "wide.png", np.zeros((24, 48, 3), np.uint8))
    tall = save(tmp_path / "tall.png", np.zeros((32, 16, 3), np.uint8))
    small = np.array([[-500.0, 0.0, 500.0]], np.float32)
    answers = {wide: Raw(score=250.0, map=small), tall: Raw(score=-3.5, map=None)}
    detector = Peer(
        model_file=fake_detector(grey_levels=(255, 0)).model_file,  # calibrated on scores 0 and 1
        network=mean_of_channels,
        ask=lambda paths: [answers[p] for p in paths],
    )
    first, second = detector.predict_many(iter([wide, tall]))
    assert (first.score, second.score) == (250.0, -3.5)
    assert (first.path, second.path) == (str(wide), str(tall))
    np.testing.assert_array_equal(first.anomaly_map, to_original_size(small, (24, 48)))
    assert (first.anomaly_map.min(), first.anomaly_map.max()) == (-500, 500)
    assert second.anomaly_map.shape == (32, 16)
    assert not second.anomaly_map.any()
    # p = (1 + how many of 0 and 1 are as large) / 3
    assert (first.p_value, second.p_value) == (1 / 3, 1.0)
    assert (first.threshold, first.anomalous, second.anomalous) == (1.0, True, False)


def test_one_answer_for_each_image(tmp_path: Path):
    path = save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    model_file = fake_detector().model_file
    with pytest.raises(ValueError, match="shorter"):
        list(Peer(model_file=model_file, network=mean_of_channels, ask=lambda _: []).predict_many([path]))


# --- training and evaluating with the stand-in ---


def test_the_measures_are_ours_on_raw_scores_and_maps(
    tiny_category: Path, tmp_path: Path, anomalib, no_report
):
    evaluation = peer.train_and_evaluate("Fake", tiny_category, 3, tmp_path / "run")
    test = open_dataset(tiny_category).test
    scores = scores_of(tmp_path / "run")
    expected = {s.path.relative_to(tiny_category).as_posix(): 100 * brightness(s.path).mean() for s in test}
    assert scores == pytest.approx(expected, rel=1e-5)
    assert min(scores.values()) > 1
    defective = [s.is_defect for s in test]
    assert evaluation["image_auroc"] == pytest.approx(roc_auc_score(defective, list(expected.values())))
    blocks = [brightness(s.path).reshape(8, 8, 8, 8).mean(axis=(1, 3)).astype(np.float32) for s in test]
    maps = [to_original_size(1000 * b - 500, (64, 64)) for b in blocks]
    masks = [np.asarray(Image.open(s.mask)) > 0 if s.mask else np.zeros((64, 64), bool) for s in test]
    area = roc_auc_score(np.concatenate(masks).ravel(), np.concatenate(maps).ravel())
    assert evaluation["pixel_auroc"] == pytest.approx(area, abs=1e-4)  # float32: rounded ties
    assert max(m.max() for m in maps) > 1
    assert min(m.min() for m in maps) < 0
    assert (evaluation["method"], evaluation["preset"]) == ("anomalib:Fake", "default")


def test_it_trains_on_our_split_and_its_threshold_comes_from_the_held_out(
    tiny_category: Path, tmp_path: Path, anomalib, no_report
):
    evaluation = peer.train_and_evaluate("Fake", tiny_category, 3, tmp_path / "run")
    split = split_good(open_dataset(tiny_category), validation_fraction=0, calibration_fraction=0.1, seed=3)
    seen = json.loads((tmp_path / "run" / "anomalib" / "seen.json").read_text())
    assert seen["train"] == [str(s.path.resolve()) for s in split.train]
    assert (seen["seed"], seen["seeded"]) == (3, 3)
    assert seen["epochs"] == peer.EPOCHS  # the real engine would take 1,000
    held_out = [s.path for s in split.calibration]
    good = {str(p.resolve()) for p in (tiny_category / "train" / "good").iterdir()}
    assert set(seen["train"]) == good - {str(p.resolve()) for p in held_out}
    assert len(held_out) == 1
    # one held-out image promises 1/2 at the lowest; the threshold is its score
    assert evaluation["requested_false_alarm_rate"] == 0.5
    assert evaluation["threshold"] == pytest.approx(100 * brightness(held_out[0]).mean(), rel=1e-5)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["images"] == {"train": 11, "calibration": 1}
    assert (about["seed"], about["versions"]["anomalib"]) == (3, "0.0.1")
    assert about["result"]["seconds"] >= 0


def test_it_trains_on_the_images_that_a_method_of_ours_trains_on(
    tiny_category: Path, tmp_path: Path, anomalib
):
    from blemish.training import fit

    ours = fit.fit(tiny_category, method="pca", seed=5, device="cpu").model_file.provenance
    split = split_good(open_dataset(tiny_category), validation_fraction=0, calibration_fraction=0.1, seed=5)
    theirs = peer._model_file("Fake", "tiny", split, [Raw(score=1.0, map=None)], 5).provenance
    assert theirs["fingerprint"] == ours["fingerprint"]
    assert theirs["training_digests"] == ours["training_digests"]


def test_without_maps_there_are_no_pixel_measures(tiny_category: Path, tmp_path: Path, anomalib):
    evaluation = peer.train_and_evaluate("NoMaps", tiny_category, 0, tmp_path / "run")
    assert {k for k, v in evaluation.items() if v is None} >= {
        *("pixel_auroc", "pixel_auroc_fpr30", "pixel_auroc_fpr30_mcclish", "aupro_fpr30")
    }
    scores = scores_of(tmp_path / "run")
    defective = [not name.startswith("test/good/") for name in scores]
    assert evaluation["image_auroc"] == pytest.approx(roc_auc_score(defective, list(scores.values())))
    assert (tmp_path / "run" / "evaluation" / "report.html").exists()
    seen = json.loads((tmp_path / "run" / "anomalib" / "seen.json").read_text())
    assert seen["epochs"] == 1  # the model's own number


def test_a_leak_is_found_as_for_a_method_of_ours(tmp_path: Path, anomalib, no_report):
    data = tmp_path / "data"
    for i in range(4):
        save(data / "train" / "good" / f"{i}.png", tiny_image(i))
        save(data / "test" / "good" / f"{i}.png", tiny_image(i))
    save(data / "test" / "hole" / "0.png", tiny_defect("hole", 0)[0])
    evaluation = peer.train_and_evaluate("Fake", data, 0, tmp_path / "run")
    seen = json.loads((tmp_path / "run" / "anomalib" / "seen.json").read_text())["train"]
    assert sorted(pair[0] for pair in evaluation["leakage"]) == [Path(p).name for p in seen]
    assert len(seen) == 3


def test_the_map_of_a_picture_is_drawn_between_colours_of_good_images(tmp_path: Path, anomalib):
    first = Sample(path=save(tmp_path / "a.png", tiny_image(0)), split="train")
    split = Split(train=[first], validation=[], calibration=[first])
    held_out = [
        Raw(score=0.0, map=np.array([[1.0, 2.0, 5.0]])),
        Raw(score=0.0, map=np.array([[3.0, 4.0, 9.0]])),
    ]
    model_file = peer._model_file("Fake", "tiny", split, held_out, 0)
    # medians 2 and 4: from 3; maxima 5 and 9: their median 7 lies 4 above it, and the end three times as far
    assert model_file.display_range == (3.0, 15.0)
    assert model_file.size == (1, 3)
    assert model_file.calibration is not None
    np.testing.assert_array_equal(model_file.calibration.map_maxima, [5, 9])


# --- refusals ---


def test_a_model_that_anomalib_does_not_have(tiny_category: Path, tmp_path: Path, anomalib, capsys):
    assert peer.main(["Nope", str(tiny_category), "0", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "blemish: anomalib:Nope: anomalib has no such model; names are as in anomalib.models"


def test_without_anomalib_one_line_says_how_to_get_it(
    tiny_category: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install anomalib"):
        peer.anomalib_version()
    assert peer.main(["Fake", str(tiny_category), "0", str(tmp_path / "run")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    bench = ("bench", "--data", tiny_category, "--methods", "anomalib:Fake", "--out", tmp_path / "out")
    assert run(*bench) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("blemish bench: anomalib is not installed here; pip install anomalib")


# --- as part of a benchmark ---


@pytest.mark.slow
def test_a_bench_with_a_peer(tiny_category: Path, tmp_path: Path, anomalib, capsys):
    bench = ("bench", "--data", tiny_category, "--methods", "anomalib:Fake", "anomalib:Nope")
    assert run(*bench, "--out", tmp_path) == 1
    printed = capsys.readouterr().err.splitlines()
    (failed,) = [line for line in printed if line.startswith("failed: ")]
    assert failed.startswith("failed: anomalib:Nope on tiny, seed 0: blemish: anomalib:Nope: anomalib has no")
    content = json.loads((tmp_path / "results.json").read_text())
    (cell,) = content["cells"]
    assert (cell["method"], cell["preset"]) == ("anomalib", "Fake")
    assert cell["config"] == {"anomalib": "0.0.1"}
    assert cell["versions"]["anomalib"] == "0.0.1"
    assert cell["commands"] == [
        f"python -m blemish.evaluation.anomalib Fake {tiny_category} 0 {tmp_path / cell['run']}"
    ]
    assert min(scores_of(tmp_path / cell["run"]).values()) > 1
    assert cell["evaluation"]["pixel_auroc"] is not None
    assert "| **anomalib:Fake** | " in (tmp_path / "results.md").read_text()
