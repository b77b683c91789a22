"""An exported model of several products decides as the one that it was made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from commands import refused, run
from conftest import save, tiny_image
from products import as_two_products

from blemish.core.types import Sample
from blemish.data.products import open_together
from blemish.data.split import split_good
from blemish.export import int8
from blemish.inference import load
from blemish.inference.model_file import load_model_file, save_model_file
from blemish.inference.onnx_backend import version_bytes
from blemish.training.calibrate import calibrate_model
from blemish.training.run_folder import provenance_of


def test_an_exported_model_keeps_its_products(
    tiny_pca: Path, tiny_onnx: Path, tiny_category: Path, tmp_path: Path
):
    model_file = as_two_products(load_model_file(tiny_pca))
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


@pytest.mark.usefixtures("single_thread")
def test_in_8_bits_each_product_has_thresholds_of_its_own(
    tiny_model: Path,
    metal_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """The network is the tiny one, and its products are two halves of its images, one of them darkened."""
    for i in range(12):
        name = ("bolt", "nut")[i % 2]
        save(tmp_path / "data" / name / f"{i:02d}.png", tiny_image(i) // (1 + i % 2))
    plain = load_model_file(tiny_model)
    together = open_together({name: tmp_path / "data" / name for name in ("bolt", "nut")})
    split = split_good(together, validation_fraction=0.0, calibration_fraction=0.4, seed=0)
    untrained = replace(plain, calibration=None, provenance=provenance_of("parts", split, 0))
    model_file = calibrate_model(untrained, load.load(tiny_model, device="cpu").backend, split)
    (tmp_path / "run").mkdir()
    save_model_file(tmp_path / "run" / "model.safetensors", model_file)
    exported = version_bytes(metal_onnx, model_file)
    monkeypatch.setattr(int8, "export", lambda _model, out: out.write_bytes(exported))
    out = tmp_path / "model.onnx"
    words = ("export", "--model", tmp_path / "run", "--int8", "--data", tmp_path / "data", "--out", out)
    assert run(*words, "--products", "bolt", "nut") == 0
    assert "scores of good images differ by " in capsys.readouterr().out
    for number, name in enumerate(("bolt", "nut")):
        found = load.load(out, product=name)
        held_out = [s.path for s in split.calibration if s.product == name]
        known, before = found.model_file.calibration, model_file.products[number].calibration
        assert known is not None
        assert before is not None
        assert known.scores == pytest.approx(
            sorted(found.predict(p).score for p in held_out), rel=1e-5, abs=1e-5
        )
        assert not np.array_equal(known.map_maxima, before.map_maxima)
    line = refused(capsys, *words)
    assert "has no products, and " in line
    assert "has bolt, nut (--products, or a manifest); give that training's" in line


def test_ranges_are_set_by_images_of_all_products(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(int8, "IMAGES", 5)
    good = [Sample(path=Path(f"{i}"), split="train", product="bolt" if i < 6 else "nut") for i in range(9)]
    assert int8._some_of_each(good) == [Path(name) for name in "0167"]
    assert int8._some_of_each([replace(s, product=None) for s in good]) == [Path(name) for name in "01234"]
