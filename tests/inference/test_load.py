"""Opening a model of either kind: what is asked for arrives at the detector."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from blemish.core.errors import UsageError
from blemish.inference import load

ASKED = {"allow": frozenset({"depth"}), "false_alarm_rate": 0.4, "batch_size": 3}


@pytest.fixture(params=["trained", "exported"])
def model(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("tiny_model" if request.param == "trained" else "tiny_onnx")


@pytest.mark.usefixtures("single_thread")
def test_what_is_asked_for_arrives(model: Path):
    detector = load.load(model, **ASKED)
    assert {name: getattr(detector, name) for name in ASKED} == ASKED
    assert detector.rate == 0.4
    plain = load.load(str(model))
    assert (plain.allow, plain.false_alarm_rate, plain.batch_size) == (frozenset(), None, 16)
    assert plain.rate == 1 / 6  # five calibration images promise no less


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("single_thread")
def test_a_trained_model_runs_in_as_many_threads_as_asked_for(tiny_model: Path, threads: int):
    load.load(tiny_model, threads=threads)
    assert torch.get_num_threads() == threads
    load.load(tiny_model)  # none asked for: left as it is
    assert torch.get_num_threads() == threads


def test_an_exported_model_runs_in_as_many_threads_as_asked_for(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
):
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession

    def session(path: str, options: onnxruntime.SessionOptions, **others: object) -> object:
        seen.append((options.intra_op_num_threads, options.log_severity_level))
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        return real(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    load.load(tiny_onnx, threads=2)
    load.load(tiny_onnx)
    assert seen == [(2, 3), (0, 3)]  # 0: as many as there are cores; 3: errors alone are printed


def test_a_suffix_in_capitals_is_an_exported_model_too(tiny_onnx: Path, tmp_path: Path):
    copy = shutil.copy(tiny_onnx, tmp_path / "MODEL.ONNX")
    image = np.zeros((32, 32, 3), np.uint8)
    assert load.load(copy).predict(image).score == load.load(tiny_onnx).predict(image).score


def test_cuda_is_refused_where_it_cannot_be(
    tiny_model: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UsageError, match="is exported and runs on the CPU"):
        load.load(tiny_onnx, device="cuda")
    assert load.load(tiny_onnx, device="cpu").rate == 1 / 6
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no usable CUDA device"):
        load.load(tiny_model, device="cuda")
    for model in (tiny_model, tiny_onnx):
        with pytest.raises(UsageError, match="--device CPU: must be one of auto, cpu, cuda"):
            load.load(model, device="CPU")


def test_a_trained_model_without_torch_names_the_cure(
    tiny_model: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(UsageError, match="needs torch"):
        load.load(tiny_model)
    assert load.load(tiny_onnx).rate == 1 / 6  # which an exported one does not


@pytest.mark.usefixtures("single_thread", "tf32_allowed")
def test_a_trained_model_takes_no_tf32(tiny_model: Path):
    load.load(tiny_model)
    assert not torch.backends.cudnn.allow_tf32  # which torch's convolutions take unless they are told
    assert not torch.backends.cuda.matmul.allow_tf32
