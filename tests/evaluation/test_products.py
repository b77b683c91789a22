"""A model of several products is measured for each of them, and the figures' mean is over products."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import refused, run
from conftest import save, tiny_defect, tiny_image

from blemish.evaluation.products import mean_of

NAMES = ("bolt", "nut")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, first in (("bolt", 0), ("nut", 100)):
        for i in range(12):
            save(root / name / "train" / "good" / f"{i:02d}.png", tiny_image(first + i) // (1 + first // 100))
        for i in range(2):
            shown = tiny_image(first + 50 + i) // (1 + first // 100)
            save(root / name / "test" / "good" / f"{i}.png", shown)
            save(root / name / "test" / "hole" / f"{i}.png", tiny_defect("hole", i)[0] // (1 + first // 100))
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    given = ("--method", "pca", "--image-size", "32", "--components", "3", "--calibration-fraction", "0.4")
    assert run("train", "--data", data, "--products", *NAMES, *given, "--device", "cpu", "--out", out) == 0
    given = ("--data", data, "--products", *NAMES, "--no-sensitivity", "--device", "cpu")
    assert run("evaluate", "--model", out, *given) == 0
    return out


@pytest.mark.heavy
def test_each_product_has_its_own_evaluation_and_all_have_a_mean(trained: Path):
    written = json.loads((trained / "evaluation" / "products.json").read_text())
    assert list(written["products"]) == list(NAMES)
    for name in NAMES:
        own = json.loads((trained / "evaluation" / "products" / name / "evaluation.json").read_text())
        assert own == written["products"][name]
        assert (own["n_good"], own["n_defect"], own["dataset"]) == (2, 2, name)
    areas = [written["products"][name]["image_auroc"] for name in NAMES]
    assert written["mean"]["image_auroc"] == pytest.approx(sum(areas) / 2)
    page = (trained / "evaluation" / "report.html").read_text()
    assert 'href="products/nut/report.html"' in page


def test_a_figure_that_one_product_lacks_has_no_mean():
    found = {"a": {"image_auroc": 0.5, "pixel_auroc": 0.5}, "b": {"image_auroc": 1.0, "pixel_auroc": None}}
    means = mean_of(found)
    assert (means["image_auroc"], means["pixel_auroc"]) == (0.75, None)


@pytest.mark.heavy
def test_the_card_has_the_products(trained: Path, tmp_path: Path):
    assert run("card", trained, "--out", tmp_path) == 0
    text = (tmp_path / "card.md").read_text()
    assert "| nut | 7 | 5 | 16.7 % |" in text
    assert "| mean |" in text
    assert "over products" in text
    assert "Nobody has measured it" not in text


def test_what_is_of_no_known_product_is_refused(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = ("evaluate", "--model", trained, "--out", tmp_path / "no", "--device", "cpu")
    line = refused(capsys, *given, "--data", data / "nut")
    assert "no product is given: this model has bolt, nut; give one of them" in line
    line = refused(capsys, *given, "--data", data, "--products", *NAMES, "--false-alarm-rate", "0.05")
    assert "product bolt: false-alarm rate 0.05: 5 calibration images" in line
    line = refused(capsys, *given, "--data", data, "--products", "nut", "--product", "nut")
    assert "the images have products of their own" in line


@pytest.mark.heavy
def test_parts_of_a_product_are_measured(trained: Path, data: Path, tmp_path: Path):
    table = data / "views.csv"
    shown = [(label, i) for label in ("good", "hole") for i in range(2)]
    rows = [f"nut/test/{label}/{i}.png,test,{label},nut,{label},{i}" for label, i in shown]
    table.write_text("\n".join(["path,split,label,product,part,view", *rows]))
    given = ("--data", table, "--out", tmp_path / "out", "--no-sensitivity", "--device", "cpu")
    assert run("evaluate", "--model", trained, *given) == 0
    written = json.loads((tmp_path / "out" / "products.json").read_text())
    parts = written["products"]["nut"]["parts"]
    assert (parts["n_good"], parts["n_defect"], parts["incomplete"]) == (1, 1, 0)
    assert (tmp_path / "out" / "products" / "nut" / "parts.jsonl").exists()
