"""An exported model of several products decides as the one that it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from products import as_two_products

from blemish.inference import load
from blemish.inference.model_file import load_model_file, save_model_file
from blemish.inference.onnx_backend import version_bytes


def test_an_exported_model_keeps_its_products(
    tiny_model: Path, tiny_onnx: Path, tiny_category: Path, tmp_path: Path
):
    model_file = as_two_products(load_model_file(tiny_model))
    save_model_file(tmp_path / "model.safetensors", model_file)
    (tmp_path / "model.onnx").write_bytes(version_bytes(tiny_onnx, model_file))
    images = sorted(tiny_category.glob("test/*/*.png"))[::2]
    decided = set()
    for product in ("bolt", "nut"):
        exact, exported = (
            load.load(tmp_path / name, device="cpu", product=product)
            for name in ("model.safetensors", "model.onnx")
        )
        assert exact.threshold == exported.threshold
        for image in images:
            one, other = exact.predict(image), exported.predict(image)
            assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-4)
            assert (one.product, one.decision) == (other.product, other.decision) == (product, one.decision)
            decided.add((product, one.decision))
    assert ("bolt", "rejected") in decided
    assert ("nut", "rejected") not in decided
