"""A model in 8 bits: which layers, thresholds of its own, and only with the data of its training."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from commands import refused, run
from conftest import save, tiny_image
from fakes import fake_detector
from onnx import TensorProto, helper, numpy_helper

import blemish
from blemish.core.errors import DataError
from blemish.core.types import Sample
from blemish.data.dataset import open_dataset
from blemish.data.part_names import PartNames
from blemish.data.split import Split, split_good
from blemish.export.int8 import _learnt, _score_all, quantise, split_of
from blemish.export.rounding import trained_layers
from blemish.inference import torch_backend
from blemish.inference.model_file import load_model_file
from blemish.inference.onnx_backend import OnnxBackend

pytestmark = pytest.mark.usefixtures("single_thread")

CaptureFixture = pytest.CaptureFixture[str]


Exported = tuple[Path, list[str]]


@contextlib.contextmanager
def exported_before(trained: Path, exported: Path) -> Iterator[None]:
    """A model in 32 bits is the one that all tests share; `tests/methods/test_planted.py` makes its own."""

    def export(model: Path, out: Path) -> None:
        assert model == trained
        shutil.copy(exported, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blemish.export.int8.export", export)
        yield


@pytest.fixture(scope="module")
def exported(
    tiny_model: Path, metal_onnx: Path, tiny_category: Path, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """The tiny model in 8 bits, and the lines that its export printed."""
    out = tmp_path_factory.mktemp("int8") / "new" / "model.onnx"
    torch.set_num_threads(1)
    with exported_before(tiny_model, metal_onnx), contextlib.redirect_stdout(io.StringIO()) as said:
        assert run("export", "--model", tiny_model, "--int8", "--data", tiny_category, "--out", out) == 0
    assert [p.name for p in out.parent.iterdir()] == ["model.onnx"]
    return out, said.getvalue().splitlines()


@pytest.fixture
def int8(exported: Exported) -> Path:
    return exported[0]


@pytest.mark.slow
def test_it_says_what_it_is_and_answers_nearly_alike(int8: Path, tiny_model: Path, tiny_category: Path):
    ours, theirs = blemish.load(tiny_model, device="cpu"), blemish.load(int8)
    assert theirs.model_file.provenance == ours.model_file.provenance | {"quantisation": "int8"}
    images = sorted((tiny_category / "test").rglob("*.png"))
    a, b = (np.array([d.predict(path).score for path in images]) for d in (ours, theirs))
    assert (a != b).all()
    assert b == pytest.approx(a, rel=0.2)


@pytest.mark.slow
def test_its_thresholds_are_those_of_the_images_that_were_held_out(
    int8: Path, tiny_model: Path, tiny_category: Path
):
    model = blemish.load(int8)
    assert isinstance(model.backend, OnnxBackend)
    model_file = load_model_file(tiny_model)
    split = split_good(
        open_dataset(tiny_category),
        validation_fraction=model_file.config["validation_fraction"],
        calibration_fraction=model_file.config["calibration_fraction"],
        seed=0,
    )
    held_out = [model.predict(sample.path) for sample in split.calibration]
    calibration = model.model_file.calibration
    assert calibration is not None
    assert calibration.scores == pytest.approx(sorted(p.score for p in held_out), rel=1e-6)
    maxima = sorted(float(p.anomaly_map.max()) for p in held_out)
    assert calibration.map_maxima == pytest.approx(maxima, rel=1e-6)
    # colours: from the median of medians to three times as far above it as the median maximum
    low = np.median([np.median(p.anomaly_map) for p in held_out])
    assert model.model_file.display_range == pytest.approx(
        (low, low + 3 * (np.median(maxima) - low)), rel=1e-6
    )
    before = model_file.calibration
    assert before is not None
    assert not np.array_equal(calibration.scores, before.scores)


@pytest.mark.slow
def test_weights_are_7_bits_so_that_16_hold_the_sum_of_two_products(int8: Path, tiny_model: Path):
    graph = onnx.load(int8).graph
    weights = [numpy_helper.to_array(entry) for entry in graph.initializer]
    rounded = [w for w in weights if w.dtype == np.int8 and w.ndim == 2]
    linear = [
        p
        for p in torch_backend.network_of(load_model_file(tiny_model), name="tiny").parameters()
        if p.ndim == 2
    ]
    assert {w.shape for w in rounded} == {tuple(p.shape[::-1]) for p in linear}
    # 2 x 255 x 64 = 32,640, and 16 bits hold 32,767
    assert max(np.abs(w.astype(int)).max() for w in rounded) in (63, 64)


@pytest.mark.heavy
def test_only_trained_weights_are_rounded():
    """Three products: by a trained weight, by a trained one transposed, and by a buffer of the same size."""
    network = torch.nn.Linear(3, 3, bias=False)
    weight = network.weight.detach().numpy()
    matrices = {"as it is": weight, "transposed": weight.T.copy(), "buffer": np.eye(3, dtype=np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x" if i == 0 else str(i), name], [str(i + 1)], name=name)
        for i, name in enumerate(matrices)
    ]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("x", "3")]
    initialisers = [numpy_helper.from_array(matrix, name) for name, matrix in matrices.items()]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], initialisers)
    assert trained_layers(graph, network) == ["as it is", "transposed"]
    assert (
        trained_layers(graph, network.requires_grad_(False)) == []
    )  # others' weights, which stay as they are


@pytest.mark.slow
def test_what_it_costs_is_printed(exported: Exported):
    out, lines = exported
    assert lines[0].startswith(f"{out}: ")
    assert lines[1].startswith("image AUROC of 10 test images: ")
    assert lines[2].startswith("pixel AUROC of 10 test images: ")
    assert lines[3].startswith("scores of good images differ by ")


def test_without_a_test_split_the_difference_of_good_scores_is_what_is_known(
    tiny_model: Path, metal_onnx: Path, tiny_category: Path, tmp_path: Path
):
    """The images count, not how their folder is called."""
    with exported_before(tiny_model, metal_onnx):
        found = quantise(tiny_model, tiny_category / "train" / "good", tmp_path / "model.onnx")
    assert (found.image_auroc, found.pixel_auroc, found.images) == (None, None, 5)
    assert 0 < found.median_difference <= found.largest_difference < 0.2


def other_data(tiny_category: Path, model: Path, root: Path, *, held_out: bool) -> Path:
    """The training's images, but for one: of those trained on, or of those held out."""
    data = root / "data"
    shutil.copytree(tiny_category / "train" / "good", data)
    split = split_of(load_model_file(model), open_dataset(data), data, model)
    part = split.calibration if held_out else split.train
    save(part[0].path, 255 - tiny_image(77))
    return data


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.heavy
def test_other_data_is_refused(
    held_out: bool,
    tiny_pca: Path,
    tiny_onnx: Path,
    tiny_category: Path,
    tmp_path: Path,
    capsys: CaptureFixture,
):
    data = other_data(tiny_category, tiny_pca, tmp_path, held_out=held_out)
    out = tmp_path / "model.onnx"
    with exported_before(tiny_pca, tiny_onnx):
        line = refused(capsys, "export", "--model", tiny_pca, "--int8", "--data", data, "--out", out)
    assert line.startswith(f"blemish export: --data {data}: ")
    assert ("calibrated the model" if held_out else f"{tiny_pca} was trained on") in line
    assert line.endswith("give that training's, whose held-out images set the thresholds")
    assert not out.exists()


def test_a_method_without_trained_layers_is_refused(
    tiny_pca: Path, tiny_onnx: Path, tiny_category: Path, tmp_path: Path, capsys: CaptureFixture
):
    options = ("--int8", "--data", tiny_category, "--out", tmp_path / "model.onnx")
    with exported_before(tiny_pca, tiny_onnx):
        line = refused(capsys, "export", "--model", tiny_pca, *options)
    assert "pca has no trained layer that 8 bits would speed up; leave --int8 out" in line
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("options", [("--int8",), ("--data", "x")])
def test_both_options_or_none(
    options: tuple[str, ...], tiny_model: Path, tmp_path: Path, capsys: CaptureFixture
):
    out = ("--out", tmp_path / "model.onnx")
    assert "--int8 needs --data" in refused(capsys, "export", "--model", tiny_model, *out, *options)


def test_parts_are_told_apart_as_in_the_training(
    tiny_model: Path, tmp_path: Path, capsys: CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    words = ("export", "--model", tiny_model, "--out", tmp_path / "model.onnx", "--part-pattern", r"(\d+)_")
    assert r"--part-pattern (\d+)_: is for --data; leave it out" in refused(capsys, *words)
    opened = {}

    def note(data: Path, **options: object) -> None:
        opened.update(options, data=data)
        raise DataError("enough")

    monkeypatch.setattr("blemish.export.int8.open_together", note)
    more = ("--int8", "--data", tmp_path, "--view-pattern", r"_(\w+)[.]")
    assert refused(capsys, *words, *more) == "blemish export: enough"
    names = PartNames(part=r"(\d+)_", view=r"_(\w+)[.]")
    assert opened == {"data": tmp_path, "layout": "auto", "names": names}


def test_suspects_that_were_not_learnt_set_no_ranges():
    good = [Sample(path=Path(name), split="train") for name in "abc"]
    split = Split(
        train=good, validation=[], calibration=[], digests={Path(name): f"digest of {name}" for name in "abc"}
    )
    model_file = fake_detector().model_file
    assert _learnt(split, model_file) == good
    dropped = {"dropped": {"digests": {"digest of b": "b.png"}}}
    assert _learnt(split, replace(model_file, provenance=dropped)) == [good[0], good[2]]


@pytest.mark.parametrize(
    ("level", "marks", "area"), [(0.0, True, None), (1.0, False, None), (1.0, True, 1.0)]
)
def test_a_pixel_area_needs_a_map_and_a_mark(level: float, marks: bool, area: float | None, tmp_path: Path):
    mask = np.zeros((32, 32), np.uint8)
    mask[4:8, 4:8] = 255
    image = save(tmp_path / "a.png", np.repeat(mask[..., None], 3, 2))
    save(tmp_path / "a_mask.png", mask * marks)
    defect = Sample(path=image, split="test", label="dent", mask=tmp_path / "a_mask.png")
    detector = fake_detector(network=lambda x: level * x.mean(axis=1))
    assert _score_all(detector, [defect], masks=True)[1] == area


def test_a_layout_is_for_the_data_and_must_be_theirs(
    tiny_model: Path, tiny_category: Path, tmp_path: Path, capsys: CaptureFixture
):
    words = ("export", "--model", tiny_model, "--out", tmp_path / "model.onnx", "--layout", "visa")
    assert "--layout visa: is for --data" in refused(capsys, *words)
    assert "is no category of visa" in refused(capsys, *words, "--int8", "--data", tiny_category)
