"""Whatever a user gets wrong is one line that names it and its cure: no traceback, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from commands import QUICK, refused, run
from conftest import save, tiny_image
from safetensors.numpy import save_file

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

CaptureFixture = pytest.CaptureFixture[str]


def good_folder(folder: Path, n: int = 6) -> Path:
    for i in range(n):
        save(folder / f"{i}.png", tiny_image(i))
    return folder


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200] if path.exists() else b"\x89PNG\r\n\x1a\n")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels to show for it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    parts = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def cut(path: Path) -> None:
    path.write_bytes(save(path, tiny_image(50)).read_bytes()[:-200])


def text(path: Path) -> None:
    path.write_text("I am no picture")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def speck(path: Path) -> None:
    save(path, np.zeros((1, 1, 3), np.uint8))


def bomb(path: Path) -> None:
    path.write_bytes(png_header(30_000, 30_000))


def deep(path: Path) -> None:
    save(path, np.full((64, 64), 999, np.uint16))


def four_channels(path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (64, 64, 4)).astype(np.uint8)
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig", extrasamples=(0, 0, 0))


def not_a_number(path: Path) -> None:
    array = np.full((64, 64), 0.5, np.float32)
    array[3, 4] = np.nan
    tifffile.imwrite(path, array)


# (how to make it, what the line says, a part of the cure)
BAD_IMAGES = [
    (cut, "truncated", "save it again"),
    (text, "is not an image blemish can read", "give PNG, JPEG"),
    (empty, "is not an image blemish can read", "give PNG, JPEG"),
    (speck, "1 x 1 px has a side below 16 px", "give a larger image"),
    (bomb, "30000 x 30000 px is more than", "cut it into parts"),
    (deep, "uint16", "save"),
    (four_channels, "4 channels", "save"),
    (not_a_number, "1 values are NaN or infinite, the first at row 3, column 4", "replace them"),
]
each_bad_image = pytest.mark.parametrize(("make", "said", "cure"), BAD_IMAGES)


@each_bad_image
def test_a_bad_image_among_the_good_ones_stops_the_training(
    make: Callable[[Path], None], said: str, cure: str, tmp_path: Path, capsys: CaptureFixture
):
    bad = good_folder(tmp_path / "data") / "z.png"
    make(bad)
    line = refused(capsys, "train", "--data", tmp_path / "data", "--out", tmp_path / "run", *QUICK)
    assert str(bad) in line
    assert said.replace("4 channels", "4-channel") in line
    assert cure in line
    assert not (tmp_path / "run" / "model.safetensors").exists()


@each_bad_image
def test_a_bad_image_is_a_row_of_the_predictions_and_the_rest_is_done(
    make: Callable[[Path], None],
    said: str,
    cure: str,
    tiny_model: Path,
    tmp_path: Path,
    capsys: CaptureFixture,
):
    bad = good_folder(tmp_path / "in", 3) / "1.png"
    make(bad)
    assert run("predict", "--model", tiny_model, "--out", tmp_path / "p", tmp_path / "in") == 1
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "p" / "predictions.jsonl").read_text().splitlines()]
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert shown.err == f"failed: {rows[1]['error']}\n"
    assert rows[1]["error"].startswith(f"{bad}: ")
    assert said in rows[1]["error"]
    assert cure in rows[1]["error"]


@each_bad_image
def test_a_bad_test_image_stops_the_evaluation(
    make: Callable[[Path], None],
    said: str,
    cure: str,
    tiny_category: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: CaptureFixture,
):
    shutil.copytree(tiny_category / "test", tmp_path / "data" / "test")
    bad = tmp_path / "data" / "test" / "hole" / "001.png"
    make(bad)
    line = refused(
        capsys, "evaluate", "--model", tiny_model, "--data", tmp_path / "data", "--out", tmp_path / "e"
    )
    assert str(bad) in line
    assert said in line
    assert cure in line
    assert not (tmp_path / "e" / "evaluation.json").exists()


def test_nan_pixels_among_float_images(tmp_path: Path, capsys: CaptureFixture):
    data, rng = tmp_path / "data", np.random.default_rng(0)
    data.mkdir()
    for i in range(6):
        tifffile.imwrite(data / f"{i}.tiff", rng.random((32, 32), np.float32))
    as_they_are = ("--no-exposure",)  # scaled by its own white point, any flat image is an ordinary one
    assert run("train", "--data", data, "--out", tmp_path / "run", *QUICK, *as_they_are) == 0
    not_a_number(data / "3.tiff")
    said = refused(capsys, "train", "--data", data, "--out", tmp_path / "again", *QUICK)
    assert f"{data / '3.tiff'}: 1 values are NaN" in said
    tifffile.imwrite(data / "4.tiff", np.full((32, 32), 1e30, np.float32))
    assert run("predict", "--model", tmp_path / "run", "--out", tmp_path / "p", data) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"failed: {data / '3.tiff'}: 1 values are NaN")
    assert lines[1].startswith(f"failed: {data / '4.tiff'}: its anomaly map is not finite")
    with (tmp_path / "p" / "predictions.csv").open() as file:
        assert len(file.readlines()) == 7


def test_float_images_outside_0_1_need_a_declared_range(tmp_path: Path, capsys: CaptureFixture):
    (tmp_path / "data").mkdir()
    for i in range(6):
        tifffile.imwrite(tmp_path / "data" / f"{i}.tiff", np.full((32, 32), 20.0 + i, np.float32))
    options = ["--data", tmp_path / "data", "--out", tmp_path / "run", *QUICK]
    assert "declare the range with --value-range LOW HIGH" in refused(capsys, "train", *options)
    assert "lower first" in refused(capsys, "train", *options, "--value-range", "30", "10")


# --- data sets ---


def test_an_empty_folder(tiny_model: Path, tmp_path: Path, capsys: CaptureFixture):
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "out")
    train = refused(capsys, "train", "--data", tmp_path / "empty", *out)
    assert f"{tmp_path / 'empty'}: 0 good image(s) to train on; at least 2 are needed" in train
    evaluate = refused(capsys, "evaluate", "--model", tiny_model, "--data", tmp_path / "empty", *out)
    assert f"{tmp_path / 'empty'}: holds no image" in evaluate
    predict = refused(capsys, "predict", "--model", tiny_model, tmp_path / "empty", *out)
    assert f"{tmp_path / 'empty'}: holds no image; give images" in predict
    assert not (tmp_path / "out").exists()


def test_too_few_images(tmp_path: Path, capsys: CaptureFixture):
    data = good_folder(tmp_path / "data", 1)
    line = refused(capsys, "train", "--data", data, "--out", tmp_path / "run", *QUICK)
    assert f"{data}: 1 good image(s) to train on; at least 2 are needed, add some" in line
    good_folder(data, 2)
    line = refused(capsys, "train", "--data", data, "--out", tmp_path / "run", *QUICK)
    assert "no training image left after 1 to validate and 1 to calibrate; give 3 different" in line


def test_no_folder_of_good_images(tmp_path: Path, capsys: CaptureFixture):
    good_folder(tmp_path / "data" / "train" / "ok")
    line = refused(capsys, "train", "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert f"{tmp_path / 'data' / 'train' / 'ok'}: train/ may hold only good/" in line
    line = refused(capsys, "train", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in line


def test_a_test_set_without_good_or_without_defective_images(
    tiny_model: Path, tmp_path: Path, capsys: CaptureFixture
):
    good_folder(tmp_path / "data" / "test" / "good")
    options = ["--model", tiny_model, "--data", tmp_path / "data", "--out", tmp_path / "e"]
    assert "6 good and 0 defective test images" in refused(capsys, "evaluate", *options)
    (tmp_path / "data" / "test" / "good").rename(tmp_path / "data" / "test" / "hole")
    assert "0 good and 6 defective test images" in refused(capsys, "evaluate", *options)


def wide(path: Path) -> None:
    save(path, np.zeros((64, 65), np.uint8))


def shaded(path: Path) -> None:
    save(path, np.full((64, 64), 128, np.uint8))


def coloured(path: Path) -> None:
    save(path, np.random.default_rng(0).integers(0, 2, (64, 64, 3)).astype(np.uint8) * 255)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (wide, "65x64 px but"),
        (shaded, "value 128; a mask has only 0 and 1, or 0 and 255"),
        (coloured, "3 channels, a mask has 1"),
        (text, "is not an image"),
        (Path.unlink, "has no mask; add"),
    ],
)
def test_a_bad_mask_stops_the_evaluation(
    make: Callable[[Path], None],
    said: str,
    tiny_category: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: CaptureFixture,
):
    shutil.copytree(tiny_category, tmp_path / "data")
    mask = tmp_path / "data" / "ground_truth" / "line" / "001_mask.png"
    make(mask)
    options = ["--model", tiny_model, "--data", tmp_path / "data", "--out", tmp_path / "e"]
    line = refused(capsys, "evaluate", *options)
    assert said in line
    assert str(mask) in line
    assert not (tmp_path / "e" / "evaluation.json").exists()


# --- models ---


def no_model(path: Path, _: bytes) -> None:
    path.unlink(missing_ok=True)


def text_model(path: Path, _: bytes) -> None:
    path.write_text("weights")


def empty_model(path: Path, _: bytes) -> None:
    path.write_bytes(b"")


def cut_model(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def headless_model(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[:100])


def foreign_model(path: Path, _: bytes) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, path)


def damaged_model(path: Path, _: bytes) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, path, metadata={"blemish": "{"})


def newer_model(path: Path, _: bytes) -> None:
    header = json.dumps({"format_version": 999})
    save_file({"weight": np.zeros(3, np.float32)}, path, metadata={"blemish": header})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_model, "there is no model here"),
        (text_model, "not a whole safetensors file"),
        (empty_model, "not a whole safetensors file"),
        (cut_model, "not a whole safetensors file"),
        (headless_model, "not a whole safetensors file"),
        (foreign_model, "not a blemish model; train one"),
        (damaged_model, "its description is damaged"),
        (newer_model, "upgrade blemish"),
    ],
)
def test_a_wrong_model_file(
    make: Callable[[Path, bytes], None],
    said: str,
    tiny_category: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: CaptureFixture,
):
    model = tmp_path / "model.safetensors"
    make(model, (tiny_model / "model.safetensors").read_bytes())
    image, out = tiny_category / "test" / "good" / "000.png", ("--out", tmp_path / "out")
    for command in (("predict", image, *out), ("evaluate", "--data", tiny_category, *out)):
        line = refused(capsys, *command, "--model", model)
        assert f"{model}: " in line
        assert said in line
    assert not (tmp_path / "out").exists()


# --- options ---


@pytest.mark.parametrize(
    ("option", "values", "said"),
    [
        ("--epochs", ["0"], "must be 1 or larger"),
        ("--epochs", ["-3"], "must be 1 or larger"),
        ("--steps", ["0"], "must be 1 or larger"),
        ("--batch-size", ["0"], "must be 1 or larger"),
        ("--batch-size", ["-1"], "must be 1 or larger"),
        ("--learning-rate", ["nan"], "must be a finite number above 0"),
        ("--learning-rate", ["inf"], "must be a finite number above 0"),
        ("--learning-rate", ["0"], "must be a finite number above 0"),
        ("--learning-rate", ["-0.1"], "must be a finite number above 0"),
        ("--image-size", ["0"], "must be 1 or larger"),
        ("--image-size", ["32", "-32"], "must be 1 or larger"),
        ("--patience", ["0"], "must be 1 or larger"),
        ("--patience", ["3", "--validation-fraction", "0"], "needs validation images"),
        ("--min-epochs", ["-1"], "must be 0 or larger"),
        ("--patch-size", ["0"], "must be 1 or larger"),
        ("--heads", ["0"], "must be 1 or larger"),
        ("--heads", ["3"], "must be a multiple of --heads 3"),
        ("--embedding", ["0"], "must be 1 or larger"),
        ("--hidden", ["-5"], "must be 1 or larger"),
        ("--blocks", ["0"], "must be 1 or larger"),
        ("--seed", ["-1"], "must be at least 0"),
        ("--seed", ["99999999999999999999999"], "below 2**63"),
        ("--validation-fraction", ["1"], "must be at least 0 and below 1"),
        ("--calibration-fraction", ["-0.1"], "must be at least 0 and below 1"),
        ("--calibration-fraction", ["nan"], "must be at least 0 and below 1"),
        ("--channels", ["2"], ""),
        ("--bit-depth", ["9"], ""),
        ("--bit-depth", ["12"], "is uint8, but --bit-depth 12 is for uint16"),
        ("--value-range", ["0", "1"], "is uint8, but --value-range is for uint16 and float32"),
    ],
)
def test_absurd_training_options(
    option: str, values: list[str], said: str, tiny_category: Path, tmp_path: Path, capsys: CaptureFixture
):
    options = ["--data", tiny_category, "--out", tmp_path / "run", *QUICK, option, *values]
    line = refused(capsys, "train", *options)
    assert said in line
    assert option.lstrip("-").replace("-", " ") in line.replace("-", " ")
    assert not (tmp_path / "run").exists()


def test_an_image_size_that_patches_do_not_fill(tiny_category: Path, capsys: CaptureFixture):
    options = ("--method", "metal", "--image-size", "100", "--patch-size", "16")
    line = refused(capsys, "train", "--data", tiny_category, *options)
    assert "--image-size 100x100 cannot be cut into patches of 16: choose multiples of 16" in line


def test_an_image_size_that_no_memory_holds(tiny_category: Path, tmp_path: Path, capsys: CaptureFixture):
    options = ["--data", tiny_category, "--out", tmp_path / "run", "--image-size", "160000000"]
    assert "not enough memory; lower --batch-size or --image-size" in refused(capsys, "train", *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--false-alarm-rate", "2"], "false-alarm rate 2.0: it must lie between 0 and 1"),
        (["--false-alarm-rate", "0"], "between 0 and 1"),
        (["--false-alarm-rate", "-0.1"], "between 0 and 1"),
        (["--false-alarm-rate", "nan"], "between 0 and 1"),
        (["--false-alarm-rate", "0.01"], "5 calibration images can promise 0.1667 at the lowest"),
        (["--batch-size", "0"], "--batch-size 0: must be 1 or larger"),
        (["--allow", "anything"], "allow"),
    ],
)
def test_absurd_prediction_options(
    options: list[str], said: str, tiny_model: Path, tmp_path: Path, capsys: CaptureFixture
):
    image = save(tmp_path / "a.png", tiny_image(0))
    line = refused(capsys, "predict", "--model", tiny_model, image, "--out", tmp_path / "p", *options)
    assert said in line
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "--port 70000: must be 0 to 65535"),
        (["--port", "-1"], "--port -1: must be 0 to 65535"),
        (["--capacity", "0"], "--capacity 0: must be 1 or larger"),
        (["--max-megabytes", "0"], "--max-megabytes 0: must be 1 or larger"),
        (["--max-megapixels", "-5"], "--max-megapixels -5: must be 1 or larger"),
        (["--time-limit", "0"], "--time-limit 0.0: must be a finite number above 0"),
        (["--time-limit", "nan"], "--time-limit nan: must be a finite number above 0"),
        (["--time-limit", "inf"], "--time-limit inf: must be a finite number above 0"),
    ],
)
def test_absurd_station_options(options: list[str], said: str, tmp_path: Path, capsys: CaptureFixture):
    station = ("serve", "--model", tmp_path / "none", "--folder", tmp_path / "station")
    assert said in refused(capsys, *station, *options)
    assert not (tmp_path / "station").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_cuda_is_refused_not_replaced(
    tiny_category: Path, tiny_model: Path, tmp_path: Path, capsys: CaptureFixture
):
    out, image = ("--out", tmp_path / "out"), tiny_category / "test" / "good" / "000.png"
    commands: list[tuple[Any, ...]] = [
        ("train", "--data", tiny_category, *QUICK),
        ("predict", "--model", tiny_model, image),
        ("evaluate", "--model", tiny_model, "--data", tiny_category),
    ]
    for command in commands:
        line = refused(capsys, *command, *out, "--device", "cuda")
        assert "--device cuda: this machine has no usable CUDA device; use --device cpu or auto" in line
    assert not (tmp_path / "out").exists()


# --- places that cannot be written ---


def commands_into(out: Path, data: Path, model: Path) -> list[tuple[Any, ...]]:
    return [
        ("train", "--data", data, *QUICK, "--out", out),
        ("predict", "--model", model, data / "test", "--out", out),
        ("evaluate", "--model", model, "--data", data, "--out", out),
    ]


def test_a_file_where_the_folder_should_be(
    tiny_category: Path, tiny_model: Path, tmp_path: Path, capsys: CaptureFixture
):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for out, named in ((taken, taken), (taken / "below", taken)):
        for command in commands_into(out, tiny_category, tiny_model):
            line = refused(capsys, *command)
            assert str(named) in line
            assert "choose another --out" in line
    assert taken.read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this machine")
def test_a_place_where_nothing_can_be_made(tiny_category: Path, tiny_model: Path, capsys: CaptureFixture):
    for command in commands_into(Path("/proc/blemish"), tiny_category, tiny_model):
        line = refused(capsys, *command)
        assert "/proc/blemish: " in line
        assert "choose another --out" in line


def test_a_full_disk_is_not_said_to_be_where_nothing_is_written(
    capsys: CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Without --out a command has a place of its own, which an error of writing does not always name."""

    def full(_arguments: list[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("blemish.cli.commands.predict.predict", full)
    line = refused(capsys, "predict", "--model", "run", "images")
    assert line.startswith("blemish predict: its output: No space left on device")


@pytest.mark.parametrize("free_kib", [0, 60, 160, 250])
def test_a_full_disk(
    free_kib: int, small_disk: Path, tiny_category: Path, tiny_model: Path, capsys: CaptureFixture
):
    (small_disk / "fill").write_bytes(bytes((300 - free_kib) * 1024))
    many = small_disk.parent / "many"  # more than the disk holds, even empty
    for i in range(40):
        save(many / f"{i}.png", tiny_image(i))
    train, _, evaluate = commands_into(small_disk / "out", tiny_category, tiny_model)
    predict = ("predict", "--model", tiny_model, many, "--out", small_disk / "out")
    for command in (train, predict, evaluate)[: 3 if free_kib < 100 else 2]:
        line = refused(capsys, *command)
        assert f"{small_disk / 'out'}" in line
        assert "No space left on device; free some space, or choose another --out" in line
        # nothing half written takes up what is left
        assert [p for p in small_disk.rglob("*.tmp") if p.stat().st_size] == []
        assert not (small_disk / "out" / "model.safetensors").exists()
        shutil.rmtree(small_disk / "out")
