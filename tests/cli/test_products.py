"""The commands for a model of several products: which one an image shows is said, and rows say it too."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from commands import refused, run
from conftest import save, tiny_image

METHOD = ("--method", "pca", "--image-size", "32", "--components", "3", "--calibration-fraction", "0.4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, first in (("bolt", 0), ("nut", 100)):
        for i in range(12):
            save(root / name / f"{i:02d}.png", tiny_image(first + i) // (1 if name == "bolt" else 2))
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    given = ("--products", "bolt", "nut", *METHOD)
    assert run("train", "--data", data, *given, "--device", "cpu", "--out", out) == 0
    return out


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_training_says_what_each_product_can_promise(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = ("--products", "bolt", "nut", *METHOD, "--device", "cpu")
    assert run("train", "--data", data, *given, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    for name in ("bolt", "nut"):
        assert f"{name}: calibrated on 5 good images: false-alarm rates promised from 0.1667" in printed


def test_a_manifest_says_the_product_of_each_image(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    table = data / "today.csv"
    lines = [f"{name}/{i:02d}.png,test,{name}" for i in range(3) for name in ("nut", "bolt")]
    table.write_text("\n".join(["path,split,product", *lines]))
    out = tmp_path / "out"
    assert run("predict", "--model", trained, table, "--out", out, "--device", "cpu") == 0
    rows = rows_of(out)
    assert [row["product"] for row in rows] == ["nut", "bolt"] * 3  # in the order of the rows
    assert rows[0]["threshold"] != rows[1]["threshold"]
    with (out / "predictions.csv").open() as file:
        assert [row["product"] for row in csv.DictReader(file)] == ["nut", "bolt"] * 3
    said = json.loads((out / "summary.json").read_text())
    assert {name: each["calibration_images"] for name, each in said["products"].items()} == {
        "bolt": 5,
        "nut": 5,
    }
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed[-2:]] == ["bolt", "nut"]
    # each is decided as if all images were of its product
    only = tmp_path / "only"
    assert run("predict", "--model", trained, data / "nut", "--product", "nut", "--out", only) == 0
    alone = {row["path"].rpartition("/")[2]: row for row in rows_of(only)}
    for row in rows[::2]:
        twin = alone[row["path"].rpartition("/")[2]]
        assert row["score"] == pytest.approx(twin["score"], abs=1e-4)
        assert (row["threshold"], row["decision"]) == (twin["threshold"], twin["decision"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            (),
            "00.png: no product is given: this model has bolt, nut; give one of them, by --product, or by a",
        ),
        (("--product", "cup"), "product 'cup' is unknown: this model has bolt, nut; give one of them"),
        (
            ("--product", "nut", "--false-alarm-rate", "0.05"),
            "product nut: false-alarm rate 0.05: 5 calibration",
        ),
    ],
)
def test_an_image_without_a_known_product_is_refused(
    trained: Path,
    data: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    line = refused(capsys, "predict", "--model", trained, data / "nut", *options, "--out", tmp_path / "out")
    assert said in line
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_products_can_be_calibrated_anew(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = ("--products", "bolt", "nut", "--min-area", "4", "--device", "cpu", "--out", tmp_path / "new")
    assert run("recalibrate", "--model", trained, "--data", data, *given) == 0
    assert "nut: calibrated on 5 good images" in capsys.readouterr().out
    line = refused(
        capsys, "recalibrate", "--model", trained, "--data", data / "nut", "--out", tmp_path / "no"
    )
    assert "no product is given: this model has bolt, nut" in line


def test_what_is_for_one_product_is_refused(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train = ("train", "--data", data, "--products", "bolt", "nut", "--out", tmp_path / "run")
    assert "--products: is for one machine; leave it out with --cluster" in refused(
        capsys, *train, "--cluster", "local"
    )
    views = ("--part-pattern", "(.)[.]")
    assert "several products have no parts of views; train each alone" in refused(capsys, *train, *views)
    table = data / "viewed.csv"
    table.write_text("path,split,product,part\nnut/00.png,test,nut,a\nbolt/00.png,test,bolt,b\n")
    line = refused(capsys, "predict", "--model", trained, table, "--out", tmp_path / "out", "--device", "cpu")
    assert "of several products, which decides of no parts with views; give --product" in line
    export = ("export", "--model", trained, "--out", tmp_path / "a.onnx", "--products", "bolt")
    assert "--products bolt: is for --data; leave it out" in refused(capsys, *export)


def test_parts_of_one_product_are_decided_by_its_own_images(trained: Path, data: Path, tmp_path: Path):
    for i in range(4):
        name = f"{i // 2}_{'ab'[i % 2]}.png"
        save(
            tmp_path / "nuts" / name, tiny_image(200 + i) // (2 if i < 2 else 1)
        )  # the second ones are bolts
    words = ("predict", "--model", trained, tmp_path / "nuts", "--out", tmp_path / "out", "--device", "cpu")
    names = ("--part-pattern", r"(\d)_", "--view-pattern", r"_(\w)[.]")
    assert run(*words, *names, "--product", "nut") == 0
    parts = [json.loads(line) for line in (tmp_path / "out" / "parts.jsonl").read_text().splitlines()]
    assert [part["rule"] for part in parts] == ["apart", "apart"]
    assert parts[1]["decision"] == "rejected"
    assert parts[1]["p_value"] == pytest.approx(2 / 6)  # of 5 images of nuts, twice
    assert [row["product"] for row in rows_of(tmp_path / "out")] == ["nut"] * 4
