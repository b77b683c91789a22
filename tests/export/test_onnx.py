"""An exported model says what the trained one says: from the file on disk to score, map and decision."""

from __future__ import annotations

import csv
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
from commands import refused, run
from conftest import tiny_image
from parity import assert_same_answers
from PIL import Image

import blemish
from blemish.core.errors import ImageError, ModelError, UsageError
from blemish.export import onnx as exporting
from blemish.export.onnx import export
from blemish.inference import load
from blemish.inference.onnx_backend import CALIBRATION, DESCRIPTION, load_exported
from blemish.methods.metal_config import MetalConfig
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.mark.slow
@pytest.mark.usefixtures("operators_read_once")
def test_other_images_answer_alike_and_their_export_says_nothing_of_other_libraries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    for i in range(12):  # the last four are new: a calibration image lies on a step of its own p-value
        path = tmp_path / ("good" if i < 8 else "new") / f"{i}.tif"
        path.parent.mkdir(exist_ok=True)
        wide = np.repeat(tiny_image(i)[:48, :, :1], 5, axis=2).astype(np.float32) / 255
        tifffile.imwrite(path, wide, planarconfig="contig", photometric="minisblack")
    config = MetalConfig(
        image_size=32,
        patch_size=8,
        embedding=8,
        hidden=16,
        heads=2,
        steps=2,
        gradients=True,
        calibration_fraction=0.4,
    )
    options = fit.ImageOptions(value_range=(0.0, 1.0))
    fit.fit(tmp_path / "good", config=config, out=tmp_path / "run", device="cpu", image_options=options)
    before = logging.getLogger("onnxscript").level
    caplog.clear()
    capfd.readouterr()
    export(tmp_path / "run", tmp_path / "model.onnx")
    # below a warning nothing is shown, unless somebody asks for it
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("onnxscript").level == before
    assert_same_answers(tmp_path / "run", tmp_path / "model.onnx", sorted((tmp_path / "new").iterdir()))


@pytest.fixture(
    params=[("tiny_pca", "tiny_onnx"), pytest.param(("tiny_model", "metal_onnx"), marks=pytest.mark.slow)]
)
def either(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A trained model, and its export."""
    trained, exported = map(request.getfixturevalue, request.param)
    return trained, exported


def test_predict_by_either_model_writes_the_same_table(
    either: tuple[Path, Path], tiny_category: Path, tmp_path: Path
):
    tables = []
    for model, out in zip(either, (tmp_path / "a", tmp_path / "b"), strict=True):
        assert run("predict", "--model", model, "--out", out, tiny_category / "test") == 0
        with (out / "predictions.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) == 10
    for a, b in zip(*tables, strict=True):
        assert float(b["score"]) == pytest.approx(float(a["score"]), rel=1e-4)
        assert {k: v for k, v in a.items() if k not in ("score", "regions")} == {
            k: v for k, v in b.items() if k not in ("score", "regions")
        }


def test_rgba_files_answer_alike(either: tuple[Path, Path], tmp_path: Path):
    path = tmp_path / "rgba.png"
    rgba = np.dstack([tiny_image(3), np.full((64, 64), 255, np.uint8)])
    Image.fromarray(rgba).save(path)
    assert_same_answers(*either, [path])


@pytest.mark.heavy
def test_an_exported_model_runs_where_torch_is_not(tiny_onnx: Path, tiny_category: Path, tmp_path: Path):
    image = next((tiny_category / "test" / "hole").iterdir())
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from blemish.cli.main import main\n"
        f"code = main(['predict', '--model', {str(tiny_onnx)!r}, '--out', {str(tmp_path / 'out')!r}, "
        f"{str(image)!r}])\n"
        "assert code == 0, code\n"
        "assert not {'torch', 'accelerate', 'safetensors', 'onnx'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trained_model_without_torch_is_one_line(tiny_model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs torch; pip install 'blemish\[train\]'"):
        load.load(tiny_model)


@pytest.mark.parametrize(
    ("missing", "extra"),
    [("torch", "train"), ("accelerate.utils", "train"), ("jinja2", "report"), ("x", "all")],
)
def test_what_is_not_installed_is_named_with_what_brings_it(
    missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def train(_: list[str]) -> int:
        raise ModuleNotFoundError(name=missing)

    monkeypatch.setattr("blemish.cli.commands.train.train", train)
    line = refused(capsys, "train")
    assert line == f"blemish train: {missing} is missing; pip install 'blemish[{extra}]'"


def test_batches_and_threads_do_not_matter(tiny_onnx: Path, tiny_category: Path):
    images = sorted((tiny_category / "test").rglob("*.png"))
    detectors = [load_exported(tiny_onnx, batch_size=n, threads=1) for n in (1, 3, 16)]
    scores = [[p.score for p in d.predict_many(images) if not isinstance(p, ImageError)] for d in detectors]
    assert len(scores[0]) == len(images)
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)
    assert scores[2] == pytest.approx(scores[0], rel=1e-5)


def test_the_name_must_say_onnx(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Also in 8 bits, before any work: the name may be that of the trained model itself."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"trained")
    for more in ((), ("--int8", "--data", tmp_path / "none")):
        line = refused(capsys, "export", "--model", tiny_model, "--out", model, *more)
        assert line.endswith("model.safetensors: an exported model's name ends in .onnx")
    assert model.read_bytes() == b"trained"


def changed(tiny_onnx: Path, out: Path, **metadata: str | None) -> Path:
    """Copy an exported model with other metadata; None removes an entry."""
    graph = onnx.load(tiny_onnx)
    kept = {p.key: p.value for p in graph.metadata_props} | metadata
    del graph.metadata_props[:]
    for key, value in kept.items():
        if value is not None:
            entry = graph.metadata_props.add()
            entry.key, entry.value = key, value
    onnx.save(graph, out)
    return out


BROKEN = {
    "no such file": (lambda source, out: out, "there is no model here"),
    "cut short": (lambda s, o: save_bytes(o, s.read_bytes()[:1000]), "onnxruntime cannot run it"),
    "not ONNX": (lambda s, o: save_bytes(o, b"hello"), "onnxruntime cannot run it"),
    "no description": (lambda s, o: changed(s, o, **{DESCRIPTION: None}), "no blemish model"),
    "damaged description": (lambda s, o: changed(s, o, **{DESCRIPTION: "{"}), "description is damaged"),
    "damaged calibration": (lambda s, o: changed(s, o, **{CALIBRATION: "["}), "calibration is damaged"),
    "newer": (lambda s, o: newer(s, o), "newer than this blemish"),
    "description of another kind": (
        lambda s, o: changed(s, o, **{DESCRIPTION: "[]"}),
        "description is damaged",
    ),
    "scores that are none": (
        lambda s, o: changed(s, o, **{CALIBRATION: '{"calibration.scores": "x"}'}),
        "calibration is damaged",
    ),
    "empty": (lambda s, o: save_bytes(o, b""), "onnxruntime cannot run it"),
    "a later opset": (lambda s, o: of_version(s, o, opset=99), "opset"),
    "a later format of ONNX": (lambda s, o: of_version(s, o, ir=99), "IR version: 99"),
    "another size": (
        lambda s, o: described(s, o, size=[32, 64]),
        r"takes images \(3, 32, 32\), its description",
    ),
    "other channels": (lambda s, o: described(s, o, channels=1), r"its description says \(1, 32, 32\)"),
    "a folder": (lambda s, o: folder(o), "there is no model here"),
}


def save_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def header_of(source: Path) -> dict[str, Any]:
    return json.loads({p.key: p.value for p in onnx.load(source).metadata_props}[DESCRIPTION])


def newer(source: Path, out: Path) -> Path:
    return changed(source, out, **{DESCRIPTION: json.dumps(header_of(source) | {"format_version": 99})})


def described(source: Path, out: Path, *, size: list[int] | None = None, channels: int = 3) -> Path:
    header = header_of(source)
    header["size"] = header["config"]["image_size"] = size or header["size"]
    header["image_format"]["channels"] = channels
    return changed(source, out, **{DESCRIPTION: json.dumps(header)})


def of_version(source: Path, out: Path, *, opset: int | None = None, ir: int | None = None) -> Path:
    graph = onnx.load(source)
    graph.ir_version = ir or graph.ir_version
    graph.opset_import[0].version = opset or graph.opset_import[0].version
    return save_bytes(out, graph.SerializeToString())


def folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_exported_model_is_one_line_at_every_door(
    name: str, tiny_onnx: Path, tiny_category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make, message = BROKEN[name]
    path = make(tiny_onnx, tmp_path / "broken.onnx")
    with pytest.raises(ModelError, match=message) as caught:
        blemish.load(path)
    assert "\n" not in str(caught.value)
    out = ("--out", tmp_path / "out")
    doors = (
        ("predict", "--model", path, *out, tiny_category / "test"),
        ("evaluate", "--model", path, *out, "--data", tiny_category),
        ("watch", "--model", path, *out, "--folder", tiny_category / "test"),
    )
    for door in doors:
        assert re.search(message, refused(capsys, *door))
        assert not (tmp_path / "out").exists()


def test_a_foreign_graph_is_refused(tmp_path: Path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [other])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="no blemish model"):
        load_exported(tmp_path / "other.onnx")


# --- what it says ---


@pytest.mark.parametrize("name", ["torch.onnx", "onnxscript.optimizer", "onnx_ir.passes", "onnxruntime"])
def test_what_libraries_warn_of_is_kept_back_and_errors_are_not(name: str, caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger(name)
    with exporting._quiet():
        logger.warning("of no use to anybody")
        logger.error("of use")
    logger.warning("afterwards")
    assert [record.getMessage() for record in caplog.records] == ["of use", "afterwards"]
