"""The model card: what it says of a model, and what it refuses to say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="blemish[report] is not installed")

from commands import refused, run
from fakes import fake_detector
from products import as_two_products

from blemish.core.errors import DataError
from blemish.evaluation.products import mean_of
from blemish.inference.model_file import ModelFile, save_model_file
from blemish.report.model_card import sections_of, write_model_card
from blemish.report.sections import markdown_of

POINT = {"kind": "scratch", "contrast": 0.15, "size": 0.02, "size_px": 9, "n": 5, "found": 1, "share": 0.2}
BLUR = POINT | {"kind": "blur", "contrast": None, "size": 0.1, "size_px": 45, "found": 5, "share": 1.0}
CARD = {
    "method": "mean",
    "preset": "default",
    "threshold": fake_detector(grey_levels=range(1, 20)).threshold,
    "points": [POINT, BLUR],
    "false_alarm_rate": 0.05,
    "planted_images": 10,
    "good_images": 5,
    "good_scored": 20,
    "good_rejected": 1,
}  # fmt: skip


def model(**provenance: Any) -> ModelFile:
    found = fake_detector(grey_levels=range(1, 20)).model_file
    known = {
        "dataset": "bottle",
        "fingerprint": "ab" * 32,
        "images": {"train": 40, "calibration": 19},
        "seed": 3,
    }
    return replace(found, provenance=found.provenance | known | provenance)


def threshold_of(model_file: ModelFile) -> float:
    assert model_file.calibration is not None
    return model_file.calibration.threshold(0.05)


def measured(**changed: Any) -> dict[str, Any]:
    kinds = {
        "hole": {"n": 20, "image_auroc": 1.0, "pixel_auroc": None, "detection_rate": 0.95},
        "cr|ack": {"n": 25, "image_auroc": 0.8, "pixel_auroc": None, "detection_rate": 0.4},
    }
    empty = ("pixel_auroc", "pixel_auroc_fpr30", "pixel_auroc_fpr30_mcclish", "aupro_fpr30", "aupro_fpr5")
    empty += ("pixel_average_precision", "seg_f1", "seg_precision", "seg_recall", "aupimo", "au_spro_fpr5")
    evaluation = dict.fromkeys(empty) | {
        "method": "mean",
        "preset": "default",
        "dataset": "bottle",
        "test_fingerprint": "cd" * 32,
        "image_auroc": 0.9,
        "image_auroc_interval95": [0.85, 0.95],
        "image_f1max": 0.9,
        "requested_false_alarm_rate": 0.05,
        "threshold": fake_detector(grey_levels=range(1, 20)).threshold,
        "false_alarm_rate": 0.05,
        "false_alarm_p_value": 0.6,
        "detection_rate": 0.64,
        "seconds_per_image": 0.02,
        "n_good": 20,
        "n_defect": 45,
        "per_defect": kinds,
        "leakage": [],
        "sensitivity": CARD,
    }
    return evaluation | changed


def text_of(
    model_file: ModelFile, evaluation: dict[str, Any] | None, card: dict[str, Any] | None = None
) -> str:
    return markdown_of("x", "y", sections_of(model_file, evaluation, card))


def test_a_card_says_data_figures_limits_and_sensitivity():
    text = text_of(model(), measured(), CARD)
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        "Model",
        "Data",
        "Weights and their licence",
        "Promise on good parts",
        "Figures",
        "Sensitivity to planted defects",
        "Limits",
    ]
    assert "| Good images | 40 train, 19 calibration |" in text
    assert "| image AUROC | 0.900 | 0.85 to 0.95 |" in text
    assert "pixel AUROC up to" not in text  # not measured
    assert "of 20 good test images 1 was rejected" in text
    assert "Rates from 5.0 % on can be promised" in text
    assert "| scratch, contrast 15 % | 1 of 5 | – |" in text
    assert "Planted defects that it mostly misses: scratch, contrast 15 %, 9 px." in text
    assert r"Real defects that it mostly misses at the promised rate: cr\|ack." in text
    assert r"| cr\|ack | 25 | 40.0 % | 0.800 | – |" in text
    assert "the test set has no masks" in text


def test_what_was_not_measured_is_said():
    text = text_of(model(), None)
    assert "None yet: blemish evaluate measures them." in text
    assert "Not measured: blemish sensitivity does so." in text
    assert "Nobody has measured it on real defects yet." in text
    bare = replace(model(), calibration=None)
    assert "no threshold and no promised rate" in text_of(bare, None)


def test_leakage_and_a_broken_promise_are_limits():
    text = text_of(model(), measured(leakage=[["a", "b"]], false_alarm_rate=0.5, false_alarm_p_value=1e-5))
    assert "1 test images were learnt" in text
    assert "The promise was not kept on the test set: 10 of 20 good test images were rejected" in text
    assert "that chose the method" not in text
    text = text_of(model(), measured(chosen_by=["a.png", "b.png"]))
    assert "2 test images are among the known defects that chose the method: its figures flatter it" in text


def test_the_licence_of_weights_is_told():
    assert "no weights of others are in it" in text_of(model(), None)
    theirs = {"network": "resnet18", "source": "r.pth", "sha256": "00", "licence": "BSD-3-Clause"}
    text = text_of(model(backbone=theirs), None)
    assert "| licence | BSD-3-Clause |" in text
    assert "no weights of others" not in text


def test_figures_of_another_model_are_refused():
    for wrong, said in (
        (measured(method="pca"), "its method is pca, the model's is mean"),
        (measured(preset="paper"), "its preset is paper"),
        (measured(threshold=0.5), "its threshold is 0.5"),
        ({"method": "mean"}, "missing; write it again"),
    ):
        with pytest.raises(DataError, match=said):
            write_model_card(Path("nowhere"), model(), wrong, None)
    for card, said in (
        ({k: v for k, v in CARD.items() if k != "points"}, "sensitivity.json: points missing"),
        ({k: v for k, v in CARD.items() if k != "threshold"}, "sensitivity.json: threshold missing"),
        (CARD | {"method": "pca"}, "sensitivity.json: its method is pca, the model's is mean"),
        (CARD | {"threshold": 0.5}, "sensitivity.json: its threshold is 0.5, the model's is 0.07"),
    ):
        with pytest.raises(DataError, match=said):
            write_model_card(Path("nowhere"), model(), None, card)


def test_figures_of_products_are_looked_at_as_those_of_one_are(tmp_path: Path):
    both = as_two_products(model())
    bolt, nut = (threshold_of(both.of_product(name)) for name in ("bolt", "nut"))
    found = {"bolt": measured(threshold=bolt), "nut": measured(threshold=nut, chosen_by=["a.png"])}
    products = {"method": "mean", "preset": "default", "products": found, "mean": mean_of(found)}
    for changed, said in (
        ({}, "products.json: mean, products missing; write it again"),
        (products | {"mean": {}}, "products.json: mean: .*image_auroc.* missing"),
        (products | {"products": {"nut": measured()}}, "products.json: nut: its threshold is 0.07"),
        (products | {"products": {"nut": found["nut"] | {"method": "pca"}}}, "nut: its method is pca"),
        (products | {"products": {"nut": {}}}, "products.json: nut: .*threshold.* missing"),
        (products | {"products": {"screw": found["nut"]}}, "is of screw, the model's products are bolt, nut"),
    ):
        with pytest.raises(DataError, match=said):
            write_model_card(tmp_path / "nowhere", both, None, None, changed)
    written, _ = write_model_card(tmp_path, both, None, CARD | {"threshold": nut}, products)
    text = written.read_text()
    assert "1 test image is among the known defects that chose the method" in text
    assert not (tmp_path / "nowhere").exists()


def test_the_command_writes_both_and_takes_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save_model_file(tmp_path / "model.safetensors", model())
    assert run("card", tmp_path) == 0
    assert "None yet" in (tmp_path / "card" / "card.md").read_text()
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "evaluation.json").write_text(json.dumps(measured()))
    assert run("card", tmp_path, "--out", tmp_path / "second") == 0
    assert str(tmp_path / "second" / "card.html") in capsys.readouterr().out
    text, page = ((tmp_path / "second" / f"card.{kind}").read_text() for kind in ("md", "html"))
    assert text.startswith("# bottle: mean\n\nA detector that learnt from 40 good images and from no defect;")
    for said in ("Planted defects that it mostly misses", "image AUROC 0.900 on 65 test images"):
        assert said in text
        assert said in page
    assert "cr|ack" in page
    assert "src=" not in page
    (tmp_path / "evaluation" / "evaluation.json").write_text("{")
    assert "evaluation.json: cannot be read" in refused(capsys, "card", tmp_path)
    line = refused(capsys, "card", tmp_path, "--sensitivity", tmp_path / "gone")
    assert "evaluation.json" in line or "sensitivity.json: cannot be read" in line
