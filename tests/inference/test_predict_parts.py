from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import files_of, refused, run
from conftest import save, tiny_image
from PIL import Image

from blemish.data.part_names import PartNames
from blemish.images import draw
from blemish.inference import predict_parts
from blemish.inference.model_file import load_model_file
from blemish.inference.part_models import ViewModels, read_part_calibration
from blemish.inference.part_rows import picture_names

PARTS, VIEWS = 26, ("side", "top")
NAMED = ("--part-pattern", r"(\d+)_", "--view-pattern", r"_(\w+)[.]")
FEW = ("--method", "pca", "--image-size", "32", "--calibration-fraction", "0.4", "--device", "cpu")


def write_part(
    folder: Path, part: str, seed: int, *, blemished: str = "", views: tuple[str, ...] = VIEWS
) -> None:
    for i, view in enumerate(views):
        image = tiny_image(seed + 1000 * i)
        if view == blemished:
            image[20:44, 20:44] = 255 - image[20:44, 20:44]
        save(folder / f"{part}_{view}.png", image)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "good"
    for part in range(PARTS):
        write_part(folder, f"{part:02}", part)
    return folder


@pytest.fixture(scope="module")
def model(good: Path) -> Path:
    """A run of PCA that was told the parts."""
    out = good.parent / "run"
    assert run("train", "--data", good, "--out", out, *FEW, *NAMED) == 0
    return out


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good part, one with a blemish on top, and one whose top is missing."""
    folder = tmp_path_factory.mktemp("asked")
    write_part(folder, "71", 71)
    write_part(folder, "72", 72, blemished="top")
    write_part(folder, "73", 73, views=("side",))
    return folder


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_training_calibrates_parts_of_which_nothing_was_learnt(model: Path, good: Path):
    found = json.loads((model / "parts.json").read_text())
    learnt = load_model_file(model).provenance["training_digests"].values()
    assert (found["views"], len(found["scores"]), found["format_version"]) == (list(VIEWS), 11, 1)
    assert sorted(found["models"]) == list(VIEWS)
    assert len(learnt) == 2 * (PARTS - 11)
    assert not {name.split("_")[0] for name in learnt} & set(found["parts"])
    calibration = read_part_calibration(model / "parts.json", ViewModels(usual=model))
    assert calibration.scores.tolist() == found["scores"]


def test_a_row_for_each_part_beside_rows_of_images(model: Path, asked: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert run("predict", "--model", model, "--out", out, *NAMED, asked) == 0
    plain = tmp_path / "plain"
    assert run("predict", "--model", model, "--out", plain, asked) == 0
    images = rows_of(out / "predictions.jsonl")
    assert images == rows_of(plain / "predictions.jsonl")
    parts = {row["part"]: row for row in rows_of(out / "parts.jsonl")}
    assert [(p, r["decision"], r["missing"]) for p, r in parts.items()] == [
        ("71", "accepted", []),
        ("72", "rejected", []),
        ("73", "review", ["top"]),
    ]
    by_path = {row["path"]: row for row in images}
    for row in parts.values():
        for view in row["views"]:
            own = by_path[view["path"]]
            assert view == {"view": view["view"]} | {name: own[name] for name in view if name != "view"}
        assert row["rule"] == "together" and row["threshold"] is not None
        with Image.open(out / row["picture"]) as picture:
            assert picture.height > 300 and picture.width > 600
    with (out / "parts.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(r["part"], r["decision"], r["n_views"], r["missing"]) for r in table][1:] == [
        ("72", "rejected", "2", ""),
        ("73", "review", "1", "top"),
    ]
    summary = json.loads((out / "summary.json").read_text())["parts"]
    assert {k: summary[k] for k in ("parts", "anomalous", "review", "incomplete", "failed")} == {
        "parts": 3, "anomalous": 1, "review": 1, "incomplete": 1, "failed": 0,
    }  # fmt: skip
    assert summary["promise"].endswith("promised by 11 calibration parts")


def test_views_with_models_of_their_own(
    model: Path, good: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Calibrated apart, then together; both models are the same one here, under two names."""
    runs = [shutil.copytree(model, tmp_path / name) for name in VIEWS]
    for each in runs:
        (each / "parts.json").unlink()
    own = ("--model", runs[0], "--view-model", f"top={runs[1]}")
    assert run("predict", *own, "--out", tmp_path / "apart", "--false-alarm-rate", "0.2", *NAMED, asked) == 0
    rows = rows_of(tmp_path / "apart" / "parts.jsonl")
    assert [(r["decision"], r["rule"], r["threshold"]) for r in rows] == [
        ("accepted", "apart", None),
        ("rejected", "apart", None),
        ("review", "apart", None),
    ]
    assert rows[1]["p_value"] == pytest.approx(2 * min(v["p_value"] for v in rows[1]["views"]))
    capsys.readouterr()
    assert run("parts", *own, "--data", good, "--device", "cpu", *NAMED) == 0
    told = capsys.readouterr().out
    assert "15 parts left out" in told
    assert "calibrated on 11 good parts of 2 views (side, top): false-alarm rates of parts" in told
    assert run("predict", *own, "--out", tmp_path / "together", *NAMED, asked) == 0
    assert [r["rule"] for r in rows_of(tmp_path / "together" / "parts.jsonl")] == ["together"] * 3
    known, other = (
        json.loads((model / "parts.json").read_text()),
        json.loads((runs[0] / "parts.json").read_text()),
    )
    np.testing.assert_allclose(other["scores"], known["scores"], rtol=1e-5)


def test_an_image_that_cannot_be_used_is_a_missing_view(model: Path, asked: Path, tmp_path: Path):
    (tmp_path / "71_top.png").write_bytes(b"no image")
    shutil.copy(asked / "71_side.png", tmp_path)
    assert run("predict", "--model", model, "--out", tmp_path / "out", *NAMED, tmp_path / "71*.png") == 1
    (row,) = rows_of(tmp_path / "out" / "parts.jsonl")
    assert (row["decision"], row["missing"], row["error"]) == ("review", ["top"], None)
    lines = ["path,split,part,view", "71_side.png,test,a,side", "71_top.png,test,a,top"]
    (tmp_path / "shown.csv").write_text("\n".join(lines))
    assert run("predict", "--model", model, "--out", tmp_path / "again", tmp_path / "shown.csv") == 1
    (named,) = rows_of(tmp_path / "again" / "parts.jsonl")
    assert (named["part"], named["p_value"]) == ("a", row["p_value"])
    assert "71_top.png" in row["views"][1]["error"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--part-pattern", r"\d+"), r"--part-pattern \d+: has 0 groups; put round brackets"),
        (("--part-pattern", "(x)"), "--part-pattern (x) does not find anything in its name"),
        (("--view-pattern", "(x)"), "--view-pattern (x): is for views of parts"),
        (("--views", "2"), "--views: is for parts of several images; give --part-pattern too"),
        ((*NAMED, "--view-model", "top"), "--view-model top: must be VIEW=MODEL"),
        ((*NAMED, "--views", "2"), "says which views there are; leave it out"),
        (
            (*NAMED, "--false-alarm-rate", "0.05"),
            "rate 0.05: 11 calibration parts can promise 0.0834",
        ),
        ((*NAMED, "--parts", "nothing.json"), "nothing.json: cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    model: Path,
    asked: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    text: str,
):
    told = refused(capsys, "predict", asked, "--model", model, "--out", tmp_path / "out", *options)
    assert text in told
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_a_calibration_of_another_model_is_refused(
    model: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = shutil.copytree(model, tmp_path / "other")
    content = json.loads((other / "parts.json").read_text())
    content["models"]["top"] = "0" * 64
    (other / "parts.json").write_text(json.dumps(content))
    told = refused(capsys, "predict", "--model", other, "--out", tmp_path / "out", *NAMED, asked)
    assert "parts.json: calibrates parts by another model of the view top than" in told
    (other / "parts.json").write_text(json.dumps(content | {"models": {"side": content["models"]["side"]}}))
    told = refused(capsys, "predict", "--model", other, "--out", tmp_path / "out", *NAMED, asked)
    assert "is no calibration of parts (models: must be of its views" in told
    (other / "parts.json").write_text("{}")
    told = refused(capsys, "predict", "--model", other, "--out", tmp_path / "out", *NAMED, asked)
    assert "is no calibration of parts ('format_version')" in told


@pytest.mark.parametrize("where", ["in the second model's images", "in the parts"])
def test_a_stopped_run_of_parts_goes_on_to_the_same_files(
    where: str, model: Path, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    top = shutil.copytree(model, tmp_path / "top")
    (top / "parts.json").unlink()
    batches = ("--batch-size", "2")
    asks = ("predict", "--model", model, "--view-model", f"top={top}", *NAMED, *batches, asked)
    assert run(*asks, "--out", tmp_path / "whole") == 0
    out, write_map = tmp_path / "out", draw.write_map
    with monkeypatch.context() as stop:
        if where == "in the parts":
            stop.setattr(predict_parts, "write_parts", stopped)
        else:  # three images of the side, two of the top
            stop.setattr(
                draw,
                "write_map",
                lambda path, m: write_map(path, m) if "72_t" not in str(path) else stopped(),
            )
        assert run(*asks, "--out", out) == 130
    n = 5 if where == "in the parts" else 4
    assert len(rows_of(out / "predictions.jsonl")) == n
    assert run(*asks, "--out", out, "--resume") == 0
    assert files_of(out) == files_of(tmp_path / "whole")


def stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_parts_need_good_parts(model: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "names no parts; give --part-pattern" in refused(capsys, "parts", "--model", model, "--data", good)
    for i, view in enumerate(("side", "top", "left")):
        write_part(tmp_path, view, i, views=(view,))
    names = ("--part-pattern", r"(\w+)_", *NAMED[2:])
    told = refused(capsys, "train", "--data", tmp_path, "--out", tmp_path / "run", *FEW, *names)
    assert "1 calibration parts, of which not one has all views" in told


def test_an_exported_model_beside_its_run_has_a_calibration_of_its_own(model: Path):
    beside = [
        ViewModels(usual=model / name).calibration_file.name for name in ("model.onnx", "model.safetensors")
    ]
    assert beside == ["model.parts.json", "parts.json"]
    assert ViewModels(usual=model).calibration_file == model / "parts.json"


def test_parts_that_differ_in_case_alone_have_two_pictures_where_case_does_not_count(
    model: Path, asked: Path, tmp_path: Path
):
    """As on Windows and macOS."""
    for part, source in (("A1", "71"), ("a1", "72"), ("b2", "73")):
        shutil.copy(asked / f"{source}_side.png", tmp_path / f"{part}_side.png")
    named = ("--part-pattern", r"(\w+)_", *NAMED[2:])
    assert run("predict", "--model", model, "--out", tmp_path / "out", *named, tmp_path / "*.png") == 0
    pictures = {row["part"]: row["picture"] for row in rows_of(tmp_path / "out" / "parts.jsonl")}
    assert len({name.casefold() for name in pictures.values()}) == 3
    assert pictures["b2"] == "parts/b2.png"
    assert all((tmp_path / "out" / name).is_file() for name in pictures.values())


def test_names_of_pictures():
    assert picture_names(["17"]) == {"17": "parts/17.png"}
    odd = picture_names(["a/b", "a b", "..", "零件"]).values()
    assert len(set(odd)) == 4
    assert all("/" not in name.removeprefix("parts/") for name in odd)
    assert PartNames(part="(a/b)").of("x/a/b/1.png")[0] == "a/b"
