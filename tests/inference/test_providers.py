"""Other execution providers than the CPU's: a fake of ONNX Runtime stands for what is not installed here."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from commands import refused
from fakes import grey

from blemish.core.errors import ModelError, UsageError
from blemish.inference.load import load
from blemish.inference.onnx_backend import OnnxBackend
from blemish.inference.providers import PROVIDERS

OTHERS = [name for name in PROVIDERS if name != "cpu"]
IMAGE = np.zeros((32, 32, 3), np.uint8)


class FakeSession:
    """Runs by the CPU, says that it runs by what it was asked for, and may be wrong."""

    asked: list[list[Any]]
    starts = True
    error = 0.0
    real = onnxruntime.InferenceSession

    def __init__(self, source: Any, options: Any, providers: list[Any]) -> None:
        names = [each if isinstance(each, str) else each[0] for each in providers]
        self.asked.append(providers)
        self.session = self.real(source, options, providers=["CPUExecutionProvider"])
        self.names = names if self.starts else ["CPUExecutionProvider"]
        self.wrong = self.error if names[0] != "CPUExecutionProvider" else 0.0

    def get_providers(self) -> list[str]:
        return self.names

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[Any]:
        return [np.asarray(each) * (1 + self.wrong) for each in self.session.run(outputs, feed)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """All providers are there, each computes what the CPU does."""
    kind = type("Fake", (FakeSession,), {"asked": []})
    monkeypatch.setattr(onnxruntime, "InferenceSession", kind)
    everything = [provider.name for provider in PROVIDERS.values()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    return kind


@pytest.mark.parametrize("provider", OTHERS)
def test_a_provider_that_is_not_there_is_refused_with_what_brings_it(
    provider: str, pca_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if PROVIDERS[provider].name in onnxruntime.get_available_providers():
        pytest.skip(f"{provider} is installed here")
    picture = grey(tmp_path / "a.png", 9)
    line = refused(capsys, "predict", "--model", pca_onnx, "--provider", provider, picture)
    assert line == (
        f"blemish predict: --provider {provider}: this onnxruntime has no {PROVIDERS[provider].name}; pip "
        f"uninstall onnxruntime, then pip install {PROVIDERS[provider].package}, or leave --provider out"
    )


@pytest.mark.parametrize("provider", OTHERS)
def test_a_provider_answers_as_the_cpu_and_is_asked_for_full_precision(
    provider: str, pca_onnx: Path, fake: type[FakeSession]
):
    detector = load(pca_onnx, provider=provider)
    assert isinstance(detector.backend, OnnxBackend)
    assert detector.backend.provider == provider
    (name, options), *rest = fake.asked[0]
    assert (name, options) == (PROVIDERS[provider].name, PROVIDERS[provider].options)
    assert rest[-1] == "CPUExecutionProvider"
    assert [each[0] for each in rest[:-1]] == (["CUDAExecutionProvider"] if provider == "tensorrt" else [])
    assert fake.asked[1] == ["CPUExecutionProvider"]  # what it is compared with
    assert detector.predict(IMAGE).score == load(pca_onnx).predict(IMAGE).score


def test_a_copy_in_a_pickle_runs_by_the_same_provider(pca_onnx: Path, fake: type[FakeSession]):
    copy = pickle.loads(pickle.dumps(load(pca_onnx, provider="openvino")))  # noqa: S301
    assert copy.backend.provider == "openvino"
    assert fake.asked[-1][0][0] == "OpenVINOExecutionProvider"


def test_a_provider_that_computes_otherwise_is_refused(pca_onnx: Path, fake: type[FakeSession]):
    fake.error = 1e-2
    with pytest.raises(
        ModelError, match=r"by --provider cuda its output differs from the CPU's by 0\.01"
    ) as said:
        load(pca_onnx, provider="cuda")
    assert "more than 0.0001; leave --provider out" in str(said.value)
    fake.error = float("nan")
    with pytest.raises(ModelError, match="differs"):
        load(pca_onnx, provider="cuda")


def test_falling_back_to_the_cpu_in_silence_is_refused(pca_onnx: Path, fake: type[FakeSession]):
    fake.starts = False
    with pytest.raises(
        UsageError, match="--provider cuda: CUDAExecutionProvider does not start on this machine"
    ):
        load(pca_onnx, provider="cuda")


def test_what_a_provider_is_not_for_is_one_line(
    pca_onnx: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(UsageError, match="--provider openvino: is for exported models"):
        load(tiny_model, provider="openvino")
    with pytest.raises(UsageError, match="no such provider; choose one of cpu, openvino, cuda, tensorrt"):
        load(pca_onnx, provider="rocm")
    shutil.copy(pca_onnx, tmp_path / "m.onnx")
    words = ("predict", "--model", pca_onnx, "--cluster", "local", "--provider", "cuda", tmp_path)
    assert "a cluster runs exported models on CPUs" in refused(capsys, *words)
