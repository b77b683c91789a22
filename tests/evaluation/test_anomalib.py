"""The door to anomalib, with a stand-in for it (`fake_anomalib`): raw scores, our splits, our metrics."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import run
from conftest import save, tiny_defect, tiny_image
from fakes import fake_detector
from PIL import Image
from sklearn.metrics import roc_auc_score

from blemish.core.errors import UsageError
from blemish.core.types import Prediction, Sample
from blemish.data.dataset import open_dataset
from blemish.data.hashing import file_digest
from blemish.data.split import Split, split_good
from blemish.evaluation import anomalib as peer
from blemish.evaluation.anomalib import AnomalibBackend
from blemish.inference.detector import Detector
from blemish.inference.postprocess import to_original_size
from blemish.training.calibrate import calibrate_model

pytestmark = pytest.mark.usefixtures("quick_evaluation")

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


# --- a detector around somebody else's network ---


def answers(scores: list[float], maps: np.ndarray | None) -> AnomalibBackend:
    class Network:
        device = torch.device("cpu")

        def eval(self) -> Network:
            return self

        def __call__(self, batch: torch.Tensor) -> SimpleNamespace:
            assert batch.shape[1] == 3
            found = None if maps is None else torch.from_numpy(maps[: len(batch)])
            return SimpleNamespace(pred_score=torch.tensor(scores[: len(batch)]), anomaly_map=found)

    return AnomalibBackend(Network())


def test_answers_come_back_as_they_are_and_at_the_images_own_size(tmp_path: Path):
    wide = save(tmp_path / "wide.png", np.zeros((24, 48, 3), np.uint8))
    tall = save(tmp_path / "tall.png", np.zeros((32, 16, 3), np.uint8))
    small = np.array([[[-500.0, 0.0, 500.0]]], np.float32)
    calibrated = fake_detector(grey_levels=(255, 0)).model_file  # on scores 0 and 1
    first = Detector(model_file=calibrated, backend=answers([250.0], small)).predict(wide)
    second = Detector(model_file=calibrated, backend=answers([-3.5], None)).predict(tall)
    assert (first.score, second.score) == (250.0, -3.5)
    assert (first.path, second.path) == (str(wide), str(tall))
    np.testing.assert_array_equal(first.anomaly_map, to_original_size(small[0], (24, 48)))
    assert (first.anomaly_map.min(), first.anomaly_map.max()) == (-500, 500)
    assert second.anomaly_map.shape == (32, 16)
    assert not second.anomaly_map.any()
    # p = (1 + how many of 0 and 1 are as large) / 3
    assert (first.p_value, second.p_value) == (1 / 3, 1.0)
    assert (first.threshold, first.anomalous, second.anomalous) == (1.0, True, False)


def test_each_image_has_its_own_score_and_map(tmp_path: Path):
    paths = [save(tmp_path / f"{i}.png", np.zeros((32, 32, 3), np.uint8)) for i in range(3)]
    maps = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((3, 1, 4, 4), np.float32)
    detector = Detector(model_file=fake_detector().model_file, backend=answers([7.0, 8.0, 9.0], maps))
    found = [p for p in detector.predict_many(paths) if isinstance(p, Prediction)]
    assert [p.score for p in found] == [7.0, 8.0, 9.0]
    assert [float(p.anomaly_map.max()) for p in found] == [0.0, 1.0, 2.0]


def test_grey_images_become_rgb(tmp_path: Path):
    grey = np.full((2, 1, 16, 16), 0.5, np.float32)
    output = answers([1.0, 2.0], None).run(grey)  # the network asserts three channels
    assert output.maps.shape == (2, 1, 1)
    assert output.scores is not None
    assert output.scores.tolist() == [1.0, 2.0]


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
    theirs = peer._model_file("Fake", "tiny", split, 5).provenance
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


def test_colours_and_thresholds_come_from_the_held_out_images(tmp_path: Path, anomalib):
    files = [save(tmp_path / f"{i}.png", np.full((16, 48, 3), 0, np.uint8)) for i in range(2)]
    first, second = (Sample(path=f, split="train") for f in files)
    split = Split(
        train=[first], validation=[], calibration=[first, second], digests={f: file_digest(f) for f in files}
    )
    maps = np.array([[[1.0, 2.0, 5.0]], [[3.0, 4.0, 9.0]]], np.float32).repeat(16, 1).repeat(16, 2)
    described = peer._model_file("Fake", "tiny", split, 0)
    assert described.size == (16, 48)
    made = calibrate_model(described, answers([0.5, 0.25], maps[:, None]), split)
    # medians 2 and 4: from 3; maxima 5 and 9: their median 7 lies 4 above it, and the end three times as far
    assert made.display_range == (3.0, 15.0)
    assert made.calibration is not None
    np.testing.assert_array_equal(made.calibration.map_maxima, [5, 9])
    np.testing.assert_array_equal(made.calibration.scores, [0.25, 0.5])


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
