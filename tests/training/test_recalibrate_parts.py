"""`blemish recalibrate` of a model of parts with several views: images and parts in one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import refused, run
from conftest import save, tiny_image

from blemish.data.hashing import file_digest
from blemish.data.part_names import PartNames
from blemish.inference import load
from blemish.inference.model_file import MODEL_NAME, load_model_file
from blemish.inference.part_models import ViewModels, make_views, read_part_calibration
from blemish.training.recalibrate import recalibrate

VIEWS = ("side", "top")
NAMES = PartNames(part=r"(\d+)_", view=r"_(\w+)\.")
PATTERNS = ("--part-pattern", NAMES.part, "--view-pattern", str(NAMES.view))
GIVEN = ("--method", "pca", "--image-size", "32", "--components", "3", "--device", "cpu")


def write_parts(folder: Path, first: int, last: int) -> Path:
    for part in range(first, last):
        for i, view in enumerate(VIEWS):
            save(folder / f"{part:03d}_{view}.png", tiny_image(2 * part + i))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("data") / "good", 0, 12)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "valve"
    held = ("--calibration-fraction", "0.4")
    assert run("train", "--data", photos, *GIVEN, *held, *PATTERNS, "--out", out) == 0
    return out


def parts_of(file: Path) -> dict:
    return json.loads(file.read_text())


def test_parts_are_calibrated_with_their_images(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, out = write_parts(shutil.copytree(photos, tmp_path / "more"), 20, 29), tmp_path / "new"
    assert run("recalibrate", "--model", trained, "--data", data, *PATTERNS, "--out", out) == 0
    printed = capsys.readouterr().out.splitlines()
    learnt = load_model_file(trained).provenance["training_digests"].values()
    free = {f"{part:03d}" for part in (*range(12), *range(20, 29))} - {name[:3] for name in learnt}
    content = parts_of(out / "parts.json")
    assert set(content["parts"]) == free and len(content["scores"]) == len(free) > 9
    assert content["models"] == dict.fromkeys(VIEWS, file_digest(out / MODEL_NAME))
    models = ViewModels(usual=out)
    detector = load.load(out, device="cpu")
    views = make_views(models, {out: detector})
    assert views.rule.carried_by == len(free)
    paths = [data / f"{content['parts'][0]}_{view}.png" for view in VIEWS]
    assert content["scores"][0] == pytest.approx([detector.predict(path).score for path in paths])
    assert printed[0] == (
        f"{len(learnt)} images left out: the model has learnt them, or another image of their part"
    )
    assert any(f"calibrated on {len(free)} good parts of 2 views (side, top)" in line for line in printed)
    calibration = detector.model_file.calibration
    assert calibration is not None and calibration.n == 2 * len(free)


def test_a_part_of_which_one_image_was_learnt_is_left_out(trained: Path, photos: Path, tmp_path: Path):
    """Its other images resemble what was learnt, and would promise too much."""
    data = write_parts(tmp_path / "data", 20, 24)
    name = next(iter(load_model_file(trained).provenance["training_digests"].values()))
    shutil.copy(photos / name, data / "099_side.png")
    save(data / "099_top.png", tiny_image(999))
    found, left_out = recalibrate(trained, data, tmp_path / "new", names=NAMES, device="cpu")
    assert left_out == 2
    assert found.calibration is not None and found.calibration.n == 8
    assert parts_of(tmp_path / "new" / "parts.json")["parts"] == ["020", "021", "022", "023"]


def test_a_part_without_all_views_calibrates_images_alone(trained: Path, tmp_path: Path):
    data = write_parts(tmp_path / "data", 20, 24)
    (data / "023_top.png").unlink()
    found, _ = recalibrate(trained, data, tmp_path / "new", names=NAMES, device="cpu")
    assert found.calibration is not None and found.calibration.n == 7
    assert parts_of(tmp_path / "new" / "parts.json")["parts"] == ["020", "021", "022"]


def test_other_sizes_count_for_parts_too(trained: Path, tmp_path: Path):
    data = write_parts(tmp_path / "data", 20, 24)
    scores = []
    for name, sizes in (("a", {"min_area": 2.0}), ("b", {"min_area": 200.0})):
        recalibrate(trained, data, tmp_path / name, sizes=sizes, names=NAMES, device="cpu")
        scores.append(sum(map(sum, parts_of(tmp_path / name / "parts.json")["scores"])))
    assert scores[1] < scores[0]


def test_of_an_exported_model_the_file_lies_beside_it(tmp_path: Path, pca_onnx: Path):
    data, out = write_parts(tmp_path / "data", 200, 204), tmp_path / "new.onnx"
    recalibrate(pca_onnx, data, out, names=NAMES)
    models = ViewModels(usual=out)
    assert models.calibration_file == tmp_path / "new.parts.json"
    assert read_part_calibration(models.calibration_file, models).n == 4


def test_a_manifest_tells_the_parts(trained: Path, tmp_path: Path):
    data = write_parts(tmp_path / "data", 20, 24)
    lines = [f"{path.name},train,{path.name[:3]},{path.stem[4:]}" for path in sorted(data.glob("*.png"))]
    (data / "m.csv").write_text("\n".join(["path,split,part,view", *lines]))
    recalibrate(trained, data / "m.csv", tmp_path / "new", device="cpu")
    assert parts_of(tmp_path / "new" / "parts.json")["views"] == ["side", "top"]


def test_without_parts_it_is_said_that_parts_are_not_calibrated(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, out = write_parts(tmp_path / "data", 20, 24), tmp_path / "new"
    assert run("recalibrate", "--model", trained, "--data", data, "--out", out) == 0
    assert not (out / "parts.json").exists()
    assert (
        f"not calibrated: parts with several views, which {trained / 'parts.json'} decides of; give "
        "--part-pattern, or calibrate them by `blemish parts`"
    ) in capsys.readouterr().out.splitlines()


def test_views_with_models_of_their_own_are_calibrated_by_blemish_parts(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write_parts(tmp_path / "data", 20, 24)
    model = shutil.copytree(trained, tmp_path / "valve")
    content = parts_of(model / "parts.json")
    content["models"]["top"] = "0" * 64
    (model / "parts.json").write_text(json.dumps(content))
    line = refused(
        capsys, "recalibrate", "--model", model, "--data", data, *PATTERNS, "--out", tmp_path / "new"
    )
    assert line == (
        f"blemish recalibrate: {model / 'parts.json'}: decides by models of other views too; recalibrate "
        "each model without --part-pattern, then calibrate the parts by "
        "`blemish parts --view-model VIEW=MODEL`"
    )
    assert not (tmp_path / "new").exists()


def test_no_whole_part_is_refused_before_anything_is_written(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write_parts(tmp_path / "data", 20, 22)
    for name in ("020_top.png", "021_side.png"):
        (data / name).unlink()
    given = ("--model", trained, "--data", data, *PATTERNS, "--out", tmp_path / "new")
    assert "of which not one has all views" in refused(capsys, "recalibrate", *given)
    assert not (tmp_path / "new").exists()
    given = ("--model", trained, "--data", data, "--view-pattern", NAMES.view, "--out", tmp_path / "new")
    assert "give --part-pattern too" in refused(capsys, "recalibrate", *map(str, given))
