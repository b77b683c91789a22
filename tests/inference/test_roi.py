"""A model with a region of interest: what lies outside neither is seen nor counts, trained and exported."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import refused, run
from conftest import save, tiny_image
from fakes import fake_detector, with_options
from PIL import Image

from blemish.core.errors import ImageError
from blemish.images.roi import Roi, roi_of
from blemish.inference import load
from blemish.inference.counting import Counting
from blemish.inference.detector import Detector
from blemish.inference.model_file import load_model_file, save_model_file
from blemish.inference.onnx_backend import DESCRIPTION

SIDE = 32


def left_half(side: int = SIDE) -> Roi:
    mask = np.zeros((side, side), dtype=bool)
    mask[:, : side // 2] = True
    return roi_of(mask)


def top_half(side: int = SIDE) -> Roi:
    return roi_of(left_half(side).mask.T)


def counting(detector: Detector, **what: object) -> Detector:
    return replace(detector, model_file=replace(detector.model_file, counting=Counting(**what)))  # type: ignore[arg-type]


def picture(inside: int, outside: int, side: int = SIDE) -> np.ndarray:
    """Grey of 20 with a square of 4 x 4 in either half."""
    image = np.full((side, side, 3), 20, np.uint8)
    image[8:12, 4:8], image[8:12, 24:28] = inside, outside
    return image


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("how", ["max", "top5"])
def test_what_lies_outside_changes_nothing(tmp_path: Path, how: str, tiled: bool):
    tiles = {"tile_size": 16, "tile_overlap": 0.25} if tiled else {}
    plain = with_options(fake_detector(grey_levels=(50, 100)), image_score=how, **tiles)
    detector = counting(plain, roi=left_half())
    calm, loud = (save(tmp_path / f"{v}.png", picture(200, v)) for v in (20, 255))
    first, second = detector.predict(calm), detector.predict(loud)
    assert first.score == second.score
    np.testing.assert_array_equal(first.anomaly_map, second.anomaly_map)
    assert first.regions == second.regions
    assert first.regions
    assert max(region.x1 for region in first.regions) <= SIDE // 2
    assert plain.predict(loud).score > plain.predict(calm).score
    only = detector.predict(save(tmp_path / "only.png", picture(20, 255)))
    assert (only.decision, only.regions) == ("accepted", [])
    assert only.anomaly_map[:, SIDE // 2 :].max() == only.anomaly_map[:, : SIDE // 2].min()


TILES = {"image_size": 16, "tile_size": 16, "tile_overlap": 0.25}
"""3 x 3 of them make a picture; the fake network's map of each is the tile itself."""


@pytest.mark.parametrize("more", [{}, {"roi": left_half()}])
@pytest.mark.parametrize("how", ["max", "top5", "mean"])
def test_what_lies_outside_of_a_region_given_later_does_not_decide_in_tiles(
    tmp_path: Path, how: str, more: dict[str, Roi]
):
    plain = with_options(fake_detector(grey_levels=(50, 100)), image_score=how, **TILES)
    detector = counting(plain, inner=top_half(), **more)
    calm = picture(90, 20)
    loud = calm.copy()
    loud[SIDE // 2 :] = 255
    first, second = (
        detector.predict(save(tmp_path / name, image)) for name, image in (("a.png", calm), ("b.png", loud))
    )
    assert first.score == second.score
    assert (second.decision, second.regions) == (first.decision, first.regions)
    assert plain.predict(tmp_path / "b.png").score > plain.predict(tmp_path / "a.png").score


def test_the_network_sees_in_tiles_what_lies_outside_of_a_region_given_later(tmp_path: Path):
    seen: list[np.ndarray] = []

    def network(x: np.ndarray) -> np.ndarray:
        seen.extend(x)
        return x.mean(axis=1)

    detector = counting(
        with_options(fake_detector(network=network), **TILES), roi=left_half(), inner=top_half()
    )
    detector.predict(save(tmp_path / "white.png", np.full((SIDE, SIDE, 3), 255, np.uint8)))
    assert [float(tile.mean()) for tile in seen[::2]] == pytest.approx([1, 0.5, 0.75, 1, 0.5], abs=0.01)


def test_sizes_count_inside_alone(tmp_path: Path):
    detector = counting(fake_detector(grey_levels=(50, 100)), roi=left_half(), min_area=10)
    image = picture(20, 20)
    image[8:12, 14:18] = 255  # half of its 16 pixels lie inside
    answer = detector.predict(save(tmp_path / "a.png", image))
    assert (answer.decision, answer.score) == ("accepted", pytest.approx(20 / 255))
    image[8:14, 14:18] = 255  # 12 pixels
    answer = detector.predict(save(tmp_path / "b.png", image))
    assert (answer.decision, [region.area_px for region in answer.regions]) == ("rejected", [12])
    with pytest.raises(ImageError, match="has no room for regions of 600 px or more, inside a region of"):
        counting(detector, roi=left_half(), min_area=600).predict(tmp_path / "b.png")


def test_a_good_map_above_the_threshold_everywhere_marks_the_inside_alone():
    values, roi = np.full((SIDE, SIDE), 5.0, np.float32), left_half()
    (region,) = Counting(roi=roi).regions(values, 1.0)
    assert (region.x0, region.x1, region.area_px) == (0, SIDE // 2, SIDE * SIDE // 2)
    assert Counting(roi=roi).outlined(values, 1.0).sum() == SIDE * SIDE // 2


def test_images_of_another_aspect_are_refused(tmp_path: Path):
    detector = counting(fake_detector(grey_levels=(50, 100)), roi=left_half())
    with pytest.raises(ImageError, match=r"wide\.png: is 64 x 32 px, but the model's region of interest"):
        detector.predict(save(tmp_path / "wide.png", np.zeros((32, 64, 3), np.uint8)))


def test_a_model_file_keeps_it(tmp_path: Path):
    given = counting(fake_detector(grey_levels=(50, 100)), roi=left_half(), min_area=3).model_file
    save_model_file(tmp_path / "m.safetensors", given)
    found = load_model_file(tmp_path / "m.safetensors").counting
    assert found == given.counting
    assert "inside a region of interest of 50 % of the image (mask " in found.describe()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PCA on pictures whose right half is noise; the left half counts."""
    folder = tmp_path_factory.mktemp("roi")
    rng = np.random.default_rng(0)
    for i in range(24):
        image = tiny_image(i)
        image[:, 32:] = rng.integers(0, 255, (64, 32, 3))
        save(folder / "good" / f"{i:03d}.png", image)
    save(folder / "mask.png", (left_half(64).mask * 255).astype(np.uint8))
    given = ("--method", "pca", "--image-size", "32", "--components", "3", "--calibration-fraction", "0.3")
    given += ("--roi", folder / "mask.png", "--device", "cpu", "--out", folder / "run")
    assert run("train", "--data", folder / "good", *given) == 0
    return folder


def test_a_training_learns_the_inside(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    detector = load.load(trained / "run", device="cpu")
    assert detector.model_file.counting.roi == left_half(64)
    image = tiny_image(99)
    one = detector.predict(save(tmp_path / "one.png", image))
    image[:, 32:] = 255 - image[:, 32:]
    other = detector.predict(save(tmp_path / "other.png", image))
    assert one.score == other.score
    image[20:34, 4:20] = 0
    assert detector.predict(save(tmp_path / "hole.png", image)).decision == "rejected"
    # the overlay is dark outside
    assert run("predict", "--model", trained / "run", tmp_path / "one.png", "--out", tmp_path / "out") == 0
    assert "inside a region of interest of 50 %" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "overlays" / "one.png") as overlay:
        drawn = np.asarray(overlay)
    assert drawn[:, 34:].mean() < 0.6 * drawn[:, :30].mean()


def test_a_run_of_another_region_is_not_resumed(trained: Path, capsys: pytest.CaptureFixture[str]):
    given = ("--method", "pca", "--image-size", "32", "--components", "3", "--calibration-fraction", "0.3")
    again = ("--device", "cpu", "--out", trained / "run", "--resume")
    assert "what counts was regions of any size, inside" in refused(
        capsys, "train", "--data", trained / "good", *given, *again
    )


def test_onnx_metadata_has_it(trained: Path):
    onnx = pytest.importorskip("onnx")
    from blemish.inference.onnx_backend import attach

    graph = onnx.ModelProto()
    attach(graph, load_model_file(trained / "run"), portion=None)
    described = {entry.key: entry.value for entry in graph.metadata_props}[DESCRIPTION]
    assert left_half(64).text in described


@pytest.fixture(scope="module")
def of_each(trained: Path) -> Path:
    """PCA on the same pictures by a manifest, each with the left half as its own region."""
    rows = [f"good/{i:03d}.png,train,,,mask.png" for i in range(24)]
    for name, level in (("calm", 0), ("hole", 1)):
        image = tiny_image(50)
        image[:, 32:] = 255 * level
        image[20:34, 4:20] = image[20:34, 4:20] * (1 - level)
        save(trained / f"{name}.png", image)
        rows.append(f"{name}.png,test,{'hole' if level else ''},,mask.png")
    (trained / "parts.csv").write_text("\n".join(["path,split,label,mask,roi", *rows]) + "\n")
    given = ("--method", "pca", "--image-size", "32", "--components", "3", "--calibration-fraction", "0.3")
    given += ("--device", "cpu", "--out", trained / "own")
    assert run("train", "--data", trained / "parts.csv", *given) == 0
    return trained


def test_regions_of_single_images_teach_and_calibrate_as_the_models_does(of_each: Path):
    own, common = (load_model_file(of_each / name) for name in ("own", "run"))
    assert own.counting.roi is None
    assert own.calibration is not None
    assert common.calibration is not None
    np.testing.assert_array_equal(own.calibration.scores, common.calibration.scores)
    np.testing.assert_array_equal(own.calibration.map_maxima, common.calibration.map_maxima)
    assert own.display_range == common.display_range
    assert own.provenance["fingerprint"] != common.provenance["fingerprint"]


@pytest.mark.heavy
def test_a_manifest_s_regions_reach_predict_and_evaluate(of_each: Path, capsys: pytest.CaptureFixture[str]):
    out = of_each / "predicted"
    assert run("predict", "--model", of_each / "own", of_each / "parts.csv", "--out", out) == 0
    rows = {row["path"]: row for row in map(json.loads, (out / "predictions.jsonl").read_text().splitlines())}
    assert len(rows) == 26
    hole = rows[str(of_each / "hole.png")]
    assert hole["anomalous"]
    assert max(region["x1"] for region in hole["regions"]) <= 32
    detector = load.load(of_each / "run", device="cpu")  # the same region, of the model
    for name in ("hole", "calm"):
        row = rows[str(of_each / f"{name}.png")]
        assert row["score"] == pytest.approx(detector.predict(of_each / f"{name}.png").score, rel=1e-5)
    with Image.open(out / "overlays" / "hole.png") as overlay:
        drawn = np.asarray(overlay)
    assert drawn[:, 34:].max() < 0.6 * 255  # white there, shown dark
    given = (
        "--model",
        of_each / "own",
        "--data",
        of_each / "parts.csv",
        "--no-sensitivity",
        "--device",
        "cpu",
    )
    assert run("evaluate", *given, "--out", of_each / "evaluated") == 0
    assert "failed" not in capsys.readouterr().err
    with (of_each / "evaluated" / "scores.csv").open() as file:
        scores = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores["hole.png"] == pytest.approx(hole["score"], rel=1e-5)
