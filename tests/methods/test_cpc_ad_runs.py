"""CPC-AD by the same commands as every method: train, stop, resume, evaluate, predict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run

import blemish
from blemish.inference import postprocess
from blemish.inference.model_file import load_model_file
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.cpc_ad_config import CpcAdConfig
from blemish.training.trainer import Trainer

SMALL = (
    *("--method", "cpc-ad", "--image-size", "32", "--patch-size", "32", "--sub-patch-size", "8"),
    *("--width", "4", "--bank", "16", "--batch-size", "3", "--epochs", "4", "--seed", "3"),
    *("--calibration-fraction", "0.2", "--device", "cpu", "--precision", "fp32"),
)


pytestmark = pytest.mark.usefixtures("single_thread", "quick_evaluation")


@pytest.fixture(scope="module")
def model(tiny_category: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cpc-ad") / "run"
    torch.set_num_threads(1)
    assert run("train", "--data", tiny_category, "--out", out, *SMALL) == 0
    return out


@pytest.mark.heavy
def test_same_seed_same_bytes_and_another_seed_others(model: Path, tiny_category: Path, tmp_path: Path):
    again, other = tmp_path / "again", tmp_path / "other"
    assert run("train", "--data", tiny_category, "--out", again, *SMALL) == 0
    assert (again / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert run("train", "--data", tiny_category, "--out", other, *SMALL, "--seed", "4") == 0
    assert (other / "model.safetensors").read_bytes() != (model / "model.safetensors").read_bytes()


@pytest.mark.heavy
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_stopped_anywhere_and_resumed_gives_the_same_bytes(
    stop_after: int, model: Path, tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Crops, flips and negatives are drawn in every step; a resumed run has to draw the same ones."""
    steps = 0
    step = Trainer._step

    def stopping(trainer: Trainer, x: torch.Tensor, share: object) -> None:
        nonlocal steps
        step(trainer, x, share)
        steps += 1
        if steps == stop_after:
            trainer.ask_to_stop()

    monkeypatch.setattr(Trainer, "_step", stopping)
    out = tmp_path / "run"
    assert run("train", "--data", tiny_category, "--out", out, *SMALL) == 130
    assert not (out / "model.safetensors").exists()
    torch.rand(5)  # whatever else a process draws
    assert run("train", "--data", tiny_category, "--out", out, *SMALL, "--resume") == 0
    assert (out / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_the_model_holds_the_bank_and_how_its_map_is_drawn(model: Path):
    model_file = load_model_file(model)
    assert model_file.method == "cpc-ad"
    assert model_file.patch_map == "linear"
    assert model_file.tensors["bank"].shape == (1, 16, 8)
    assert np.isfinite(model_file.tensors["bank"]).all()
    assert model_file.tensors["bank"].std() > 0
    # weights that follow from the options are not stored
    assert not {"sources", "weights"} & set(model_file.tensors)


def test_score_and_map_of_a_loaded_model_come_from_its_sub_patches(model: Path, tiny_category: Path):
    detector = blemish.load(model)
    path = sorted((tiny_category / "test" / "good").iterdir())[0]
    prediction = detector.predict(path)
    model_file = load_model_file(model)
    network = CpcAd(CpcAdConfig(**model_file.config), 3).eval()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in model_file.tensors.items()})
    pixels, size = blemish.images.preprocess.load(path, model_file.image_format, model_file.size)
    with torch.inference_mode():
        grid = network(torch.from_numpy(pixels)[None])[0].numpy()
    assert grid.shape == (7, 7)
    assert prediction.score == pytest.approx(
        postprocess.image_score(grid, model_file.common.image_score), rel=1e-6
    )
    blocks = postprocess.pixel_map(grid, model_file.size, "linear")
    np.testing.assert_allclose(
        prediction.anomaly_map, postprocess.to_original_size(blocks, size), rtol=1e-5, atol=1e-6
    )


def test_scores_are_the_same_to_the_bit_in_any_batch_and_order(model: Path, tiny_category: Path):
    paths = sorted((tiny_category / "test").rglob("*.png"))
    detector = blemish.load(model)
    alone = {path: detector.predict(path) for path in paths}
    for batch_size, order in ((1, paths), (3, paths), (16, paths[::-1])):
        together = replace(detector, batch_size=batch_size).predict_many(order)
        for path, prediction in zip(order, together, strict=True):
            assert prediction.score == alone[path].score
            np.testing.assert_array_equal(prediction.anomaly_map, alone[path].anomaly_map)


@pytest.mark.heavy
def test_evaluate_and_predict_take_it_as_any_model(model: Path, tiny_category: Path, tmp_path: Path):
    assert run("evaluate", "--data", tiny_category, "--model", model, "--out", tmp_path / "e") == 0
    evaluation = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert 0 <= evaluation["image_auroc"] <= 1
    assert 0 <= evaluation["pixel_auroc"] <= 1
    assert run("predict", "--model", model, "--out", tmp_path / "p", tiny_category / "test") == 0
    rows = [json.loads(line) for line in (tmp_path / "p" / "predictions.jsonl").read_text().splitlines()]
    scores = {row["path"]: row["score"] for row in rows}
    assert len(scores) == evaluation["n_good"] + evaluation["n_defect"]


def test_the_paper_preset_scores_in_blocks(tiny_category: Path, tmp_path: Path):
    out = tmp_path / "run"
    shrunk = (
        *("--preset", "paper", "--image-size", "48", "--patch-size", "32", "--sub-patch-size", "8"),
        *("--width", "2", "--epochs", "1", "--calibration-fraction", "0.2"),
    )
    options = ("--method", "cpc-ad", *shrunk, "--device", "cpu", "--precision", "fp32")
    assert run("train", "--data", tiny_category, "--out", out, *options) == 0
    model_file = load_model_file(out)
    assert model_file.patch_map == "nearest"
    assert model_file.tensors["bank"].shape == (4, 16, 8)
    assert not {"place_mean", "mean_white"} & set(model_file.tensors)


def test_what_does_not_fit_is_refused_before_training(
    tiny_category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("train", "--data", tiny_category, "--out", tmp_path / "run", *SMALL)
    line = refused(capsys, *options, "--image-size", "40")
    assert "--image-size 40x40" in line
    line = refused(capsys, *options, "--sub-patch-size", "12")
    assert "power of 2" in line
    assert not (tmp_path / "run").exists()
