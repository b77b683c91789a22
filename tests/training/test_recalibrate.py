"""`blemish recalibrate`: other sizes count, and new thresholds keep the promise for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import refused, run
from conftest import save, tiny_image
from fakes import fake_detector

from blemish.core.errors import DataError, ImageError, UsageError
from blemish.images.roi import roi_of
from blemish.inference import load
from blemish.inference.backend import Output
from blemish.inference.calibration import Calibration
from blemish.inference.counting import Counting
from blemish.inference.detector_arguments import check_region
from blemish.inference.model_file import MODEL_NAME, ModelFile, describe, load_model_file
from blemish.training import recalibrate as recalibration
from blemish.training.recalibrate import recalibrate


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "good"
    for i in range(24):
        save(folder / f"{i:03d}.png", tiny_image(i))
    return folder


@pytest.fixture(scope="module")
def trained(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PCA, of which a third is held out, with a size from the start."""
    out = tmp_path_factory.mktemp("run") / "run"
    given = ("--method", "pca", "--image-size", "32", "--components", "3", "--calibration-fraction", "0.3")
    assert run("train", "--data", good, *given, "--min-area", "2", "--device", "cpu", "--out", out) == 0
    return out


def calibrated(model_file: ModelFile) -> Calibration:
    assert model_file.calibration is not None
    return model_file.calibration


def test_a_training_is_calibrated_for_the_sizes_it_was_given(trained: Path, good: Path):
    model_file = load_model_file(trained)
    assert model_file.counting == Counting(min_area=2)
    detector = load.load(trained, device="cpu")
    learnt = {*model_file.provenance["training_digests"].values()}
    held_out = [path for path in sorted(good.iterdir()) if path.name not in learnt]
    answers = [detector.predict(path) for path in held_out]
    assert [*calibrated(model_file).scores] == pytest.approx(sorted(answer.score for answer in answers))
    assert [*calibrated(model_file).map_maxima] == [*calibrated(model_file).scores]
    assert all(answer.score <= answer.anomaly_map.max() for answer in answers)


def test_other_sizes_take_no_training(
    trained: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "new"
    assert run("recalibrate", "--model", trained, "--data", good, "--min-area", "20", "--out", out) == 0
    printed = capsys.readouterr().out.splitlines()
    old, new = load_model_file(trained), load_model_file(out)
    n = calibrated(old).n
    assert printed[0] == f"{24 - n} images left out: the model has learnt them"
    assert printed[1] == "counts: regions of 20 px or more"
    assert calibrated(new).n == n
    assert new.counting == Counting(min_area=20)
    held_out = {path.name for path in good.iterdir()} - {*old.provenance["training_digests"].values()}
    for model_file in (old, new):
        assert {*model_file.provenance["calibration_digests"].values()} == held_out
    assert (calibrated(new).scores <= calibrated(old).scores).all()
    assert {k: v.tobytes() for k, v in new.tensors.items()} == {
        k: v.tobytes() for k, v in old.tensors.items()
    }
    assert new.provenance["recalibrated"]["images"] == n
    # the same images and sizes give the same thresholds as the training
    same, _ = recalibrate(trained, good, tmp_path / "same", device="cpu")
    assert same.counting == old.counting
    np.testing.assert_allclose(calibrated(same).scores, calibrated(old).scores, rtol=1e-5)


def test_sizes_in_millimetres_and_what_cannot_be(trained: Path, good: Path, tmp_path: Path):
    found, _ = recalibrate(
        trained, good, tmp_path / "mm", sizes={"min_area": 0.5, "mm_per_px": 0.1}, device="cpu"
    )
    assert found.counting.min_area_px == pytest.approx(50)
    with pytest.raises(UsageError, match=r"--mm-per-px 0\.1: give --min-area too, whose unit it changes"):
        recalibrate(trained, good, tmp_path / "x", sizes={"mm_per_px": 0.1}, device="cpu")
    with pytest.raises(UsageError, match=r"already holds a model; choose another --out"):
        recalibrate(trained, good, tmp_path / "mm", device="cpu")
    with pytest.raises(UsageError, match=r"x\.onnx: must be a folder"):
        recalibrate(trained, good, tmp_path / "x.onnx", device="cpu")
    learnt = tmp_path / "learnt"
    learnt.mkdir()
    for name in load_model_file(trained).provenance["training_digests"].values():
        (learnt / name).write_bytes((good / name).read_bytes())
    with pytest.raises(DataError, match=r"has learnt all of its \d+ good images, which then promise nothing"):
        recalibrate(trained, learnt, tmp_path / "x", device="cpu")
    assert not (tmp_path / "x").exists()


def test_of_two_that_write_into_one_folder_the_later_one_is_refused(
    trained: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The other one has written its model while this one waited for the folder."""
    out = tmp_path / "both"

    @contextmanager
    def owned_late(folder: Path, **named: str) -> Iterator[None]:
        folder.mkdir()
        (folder / MODEL_NAME).write_bytes(b"the other's")
        yield

    monkeypatch.setattr(recalibration, "owned", owned_late)
    with pytest.raises(UsageError, match=r"already holds a model; choose another --out"):
        recalibrate(trained, good, out, device="cpu")
    assert (out / MODEL_NAME).read_bytes() == b"the other's"


def test_resuming_a_finished_run_with_other_sizes_is_refused(
    trained: Path, good: Path, capsys: pytest.CaptureFixture[str]
):
    given = ("--method", "pca", "--image-size", "32", "--components", "3", "--calibration-fraction", "0.3")
    line = refused(
        capsys,
        "train",
        "--data",
        good,
        *given,
        "--device",
        "cpu",
        "--out",
        trained,
        "--resume",
        "--min-area",
        "3",
    )
    assert "what counts was regions of 2 px or more, not regions of 3 px or more" in line


def test_an_exported_model_is_calibrated_anew(pca_onnx: Path, tmp_path: Path):
    good = tmp_path / "good"
    for i in range(100, 106):
        save(good / f"{i:03d}.png", tiny_image(i))
    out = tmp_path / "new.onnx"
    with pytest.raises(UsageError, match=r"must be a file that ends in .onnx, as the model is exported"):
        recalibrate(pca_onnx, good, tmp_path / "new", device="cpu")
    found, left_out = recalibrate(pca_onnx, good, out, sizes={"min_area": 9.0})
    assert left_out == 0
    detector = load.load(out)
    assert detector.model_file.counting == Counting(min_area=9)
    assert [*calibrated(detector.model_file).scores] == [*calibrated(found).scores]
    assert len(calibrated(found).scores) == 6


# --- regions that are given after the training ---


def left(share: float = 0.5) -> np.ndarray:
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, : round(64 * share)] = True
    return mask


def test_another_region_takes_no_training_and_the_network_sees_all(
    trained: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    mask, out = save(tmp_path / "left.png", left().astype(np.uint8) * 255), tmp_path / "new"
    assert run("recalibrate", "--model", trained, "--data", good, "--roi", mask, "--out", out) == 0
    assert "inside a region of interest of 50 % of the image" in capsys.readouterr().out
    new, old = load.load(out, device="cpu"), load.load(trained, device="cpu")
    assert new.model_file.counting == Counting(min_area=2, inner=roi_of(left()))
    assert '"format_version": 3' in describe(new.model_file)
    image = tiny_image(99)
    image[20:34, 40:56] = 0  # a hole outside
    found = new.predict(save(tmp_path / "hole.png", image))
    seen = old.predict(tmp_path / "hole.png")
    assert max(region.x1 for region in seen.regions) > 32
    assert all(region.x1 <= 32 for region in found.regions)
    np.testing.assert_array_equal(found.anomaly_map[:, :32], seen.anomaly_map[:, :32])  # nothing is covered
    assert found.score == new.model_file.counting.peak(seen.anomaly_map) < seen.score
    image[20:34, 10:26] = 0
    assert new.predict(save(tmp_path / "both.png", image)).decision == "rejected"


def test_it_narrows_the_region_of_the_training():
    counting = Counting(roi=roi_of(left()), inner=roi_of(left().T))
    np.testing.assert_array_equal(counting.inside((64, 64)), left() & left().T)
    assert "of 25 % of the image" in counting.describe()
    assert Counting.of_fields(counting.as_fields()) == counting
    with pytest.raises(ImageError, match="leaves 0 % of the image inside the model's region of interest"):
        Counting(roi=roi_of(left()), inner=roi_of(~left())).describe()


def test_a_model_that_scores_whole_images_is_refused():
    detector = fake_detector(grey_levels=(50, 100))
    check_region(detector)

    class Whole:
        def run(self, images: np.ndarray) -> Output:
            return Output(np.zeros((len(images), 4, 4), np.float32), np.zeros(len(images), np.float32))

    with pytest.raises(UsageError, match="scores the image as a whole"):
        check_region(replace(detector, backend=Whole()))
