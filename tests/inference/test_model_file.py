"""The model file: exact, whole or absent, and suspicious of everything else."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from blemish.core.errors import ModelError
from blemish.core.files import remove_leftovers
from blemish.images.preprocess import ImageFormat
from blemish.inference.calibration import calibrate
from blemish.inference.load import load
from blemish.inference.model_file import (
    FORMAT_VERSION,
    ModelFile,
    find_model,
    load_model_file,
    save_model_file,
)
from blemish.inference.torch_backend import detector_of
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig

MODEL_FILE = ModelFile(
    method="metal",
    preset="default",
    config={"image_size": [32, 48], "image_score": "top5", "smoothing": 4.0, "patience": None},
    image_format=ImageFormat(dtype="uint16", channels=5, value_range=(0.0, 4095.0)),
    allow=frozenset({"channels"}),
    display_range=(0.0, 0.1 + 0.2),
    calibration=calibrate([3.0, 1 / 3, 2.0], [5.0, 4.0, 6.0]),
    provenance={"dataset": "bottle", "seed": 3, "training_digests": {"ab": "ä.png"}},
    tensors={
        "a": np.array([1 / 3, -0.0, 1e-40], np.float32),
        "b.c": np.arange(6, dtype=np.int64).reshape(2, 3),
        "empty": np.zeros((0, 2), np.float32),
    },
)


@pytest.fixture
def file(tmp_path) -> Path:
    save_model_file(tmp_path / "model.safetensors", MODEL_FILE)
    return tmp_path / "model.safetensors"


def refusal(path: Path, *words: object, read=load_model_file) -> None:
    with pytest.raises(ModelError) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text
    for word in (path, *words):
        assert str(word) in text


def with_header(path: Path, **changes: object) -> Path:
    """The file with some entries of its description replaced."""
    header = json.loads(header_of(path)) | changes
    save_file(load_file(path), path, metadata={"blemish": json.dumps(header)})
    return path


def header_of(path: Path) -> str:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]["blemish"]


# --- round trip ---


def test_round_trip_is_exact(file):
    read = load_model_file(file)
    for field in fields(ModelFile):
        if field.name not in ("tensors", "calibration"):
            assert getattr(read, field.name) == getattr(MODEL_FILE, field.name), field.name
    assert read.tensors.keys() == MODEL_FILE.tensors.keys()
    for name, tensor in MODEL_FILE.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype
        assert read.tensors[name].tobytes() == tensor.tobytes()
    # float64, ascending, not rounded: 1/3 has no exact float32
    assert read.calibration.scores.tolist() == [1 / 3, 2.0, 3.0]
    assert read.calibration.map_maxima.tolist() == [4.0, 5.0, 6.0]


def test_what_is_printed_of_a_model_holds_no_tensors():
    assert "tensors" not in repr(MODEL_FILE)


def test_without_calibration(tmp_path):
    save_model_file(tmp_path / "m", replace(MODEL_FILE, calibration=None))
    assert load_model_file(tmp_path / "m").calibration is None


def test_a_run_folder_stands_for_its_model(file):
    assert find_model(file.parent) == find_model(file) == file
    assert load_model_file(file.parent).provenance == MODEL_FILE.provenance


def test_bytes_depend_on_neither_time_nor_place_nor_order(file, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)
    other = tmp_path / "elsewhere" / "other.name"
    other.parent.mkdir()
    shuffled = replace(
        MODEL_FILE,
        tensors=dict(reversed(MODEL_FILE.tensors.items())),
        config=dict(reversed(MODEL_FILE.config.items())),
    )
    save_model_file(other, shuffled)
    assert other.read_bytes() == file.read_bytes()


# --- whole or not at all ---


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(file, monkeypatch, where):
    before = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if where == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        save_model_file(file, replace(MODEL_FILE, preset="other"))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_half_written_file_of_a_killed_run_is_in_nobodys_way(file):
    half = file.with_name(".0123456789abcdef.tmp")
    half.write_bytes(b"half")
    save_model_file(file, replace(MODEL_FILE, preset="other"))
    assert load_model_file(file.parent).preset == "other"
    remove_leftovers(file.parent)
    assert list(file.parent.iterdir()) == [file]


# --- what is not a model ---


def test_truncated_at_any_length(file):
    whole = file.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 1, 7, 8, 9, header_end // 2, header_end - 1, header_end, len(whole) - 1):
        file.write_bytes(whole[:length])
        refusal(file, "not a whole safetensors file")


def test_nothing_there(tmp_path):
    refusal(tmp_path / "model.safetensors", "no model here")
    with pytest.raises(ModelError, match="--resume"):
        load_model_file(tmp_path)  # an empty or unfinished run folder


def test_foreign_safetensors(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, file)
    refusal(file, "not a blemish model")
    save_file({"weight": np.zeros(3, np.float32)}, file, metadata={"format": "pt"})
    refusal(file, "not a blemish model")
    save_torch_file({"weight": torch.zeros(3, dtype=torch.bfloat16)}, file)  # numpy has no such type
    refusal(file, "not a blemish model")


def test_other_files_are_refused_and_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    text, pickled, torch_file = tmp_path / "a.txt", tmp_path / "b.pkl", tmp_path / "c.pt"
    text.write_text("some text, longer than the eight bytes that hold a header's length\n")
    pickled.write_bytes(pickle.dumps(Bomb()))
    torch.save(Bomb(), torch_file)
    for file in (text, pickled, torch_file):
        refusal(file, "not a whole safetensors file")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "description", ["not json", "", "[1]", "null", "{}", '{"format_version": "x"}', '{"format_version": 1}']
)
def test_damaged_description(tmp_path, description):
    file = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, file, metadata={"blemish": description})
    refusal(file, "description is damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"size": [32]},
        {"size": None},
        {"size": [32, 32]},
        {"config": {"image_size": [32]}},
        {"config": {"image_size": None}},
        {"config": {"image_size": 32, "tile_size": 8}},
        {"config": None},
        {"allow": 3},
        {"image_format": {"dtype": "uint8"}},
        {"image_format": None},
        {"display_range": []},
        {"display_range": [float("nan"), 1.0]},
        {"display_range": [0.0, float("inf")]},
    ],
)
def test_damaged_entry(file, change):
    refusal(with_header(file, **change), "description is damaged")


def test_a_calibration_that_is_not_finite(file):
    tensors = load_file(file) | {"calibration.scores": np.array([1.0, np.nan, 2.0])}
    save_file(tensors, file, metadata={"blemish": header_of(file)})
    refusal(file, "description is damaged")


def test_newer_format(file):
    refusal(with_header(file, format_version=FORMAT_VERSION + 1), FORMAT_VERSION + 1, "upgrade")


# --- a whole file whose content does not fit ---


@pytest.fixture
def model(tmp_path) -> Path:
    network = Metal(MetalConfig(image_size=32, patch_size=8, embedding=8, hidden=16, heads=2), 5)
    model_file = replace(
        MODEL_FILE,
        config={"image_size": [32, 32], "patch_size": 8, "embedding": 8, "hidden": 16, "heads": 2},
        tensors={k: v.numpy() for k, v in network.state_dict().items()},
    )
    save_model_file(tmp_path / "model.safetensors", model_file)
    return tmp_path / "model.safetensors"


def test_fitting_content_loads(model):
    assert load(model).predict(np.zeros((40, 50, 5), np.uint16)).anomaly_map.shape == (40, 50)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"method": "other"}, "method 'other'"),
        ({"config": {"image_size": 32, "later_option": 1}}, "option 'later_option'"),
        ({"config": {"image_size": 64}, "size": [64, 64]}, "weights do not fit"),
        ({"config": {"image_size": 32, "heads": "4"}}, "its options are damaged"),
        ({"config": {"image_size": 32, "heads": 0}}, "its options are damaged (--heads 0"),
    ],
)
def test_content_that_this_version_cannot_honour(model, change, word):
    refusal(with_header(model, **change), word, read=load)


def test_missing_and_additional_weights(model):
    for change in (lambda t: t.pop("mean_image"), lambda t: t.__setitem__("more", np.zeros(1))):
        model_file = load_model_file(model)
        change(model_file.tensors)
        with pytest.raises(ModelError) as error:
            detector_of(model_file, name="some/run")
        assert "some/run: its weights do not fit" in str(error.value)
        assert "\n" not in str(error.value)


def test_loading_does_not_change_the_file(model):
    before = hashlib.sha256(model.read_bytes()).hexdigest()
    load(model)
    assert hashlib.sha256(model.read_bytes()).hexdigest() == before
