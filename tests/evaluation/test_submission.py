"""Maps for MVTec AD 2's server: where they lie, their types, and what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from commands import refused, run
from conftest import save
from fakes import fake_detector, grey
from PIL import Image
from products import as_two_products

from blemish.cli.commands.submission import SubmissionOptions
from blemish.core.errors import DataError, ImageError, UsageError
from blemish.evaluation.submission import private_images, write_submission


@pytest.fixture
def can(tmp_path: Path) -> Path:
    """A category with a private image that has a bright square, and one of another size that has none."""
    data = tmp_path / "set" / "can"
    for place in ("train/good/0.png", "test_public/good/0.png"):
        grey(data / place, 50)
    image = np.full((32, 32, 3), 60, np.uint8)
    image[4:8, 4:12] = 240
    save(data / "test_private" / "000_regular.png", image)
    save(data / "test_private_mixed" / "001_shift_1.png", np.full((48, 64, 3), 60, np.uint8))
    return data


def test_both_kinds_of_maps_are_written_where_the_server_looks(can: Path, tmp_path: Path):
    detector = fake_detector(grey_levels=range(80, 99), false_alarm_rate=0.05)
    seen: list[int] = []
    assert write_submission(detector, can, tmp_path / "out", lambda: seen.append(1)) == len(seen) == 2
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.[tp]*"))
    assert files == [
        "anomaly_images/can/test_private/000_regular.tiff",
        "anomaly_images/can/test_private_mixed/001_shift_1.tiff",
        "anomaly_images_thresholded/can/test_private/000_regular.png",
        "anomaly_images_thresholded/can/test_private_mixed/001_shift_1.png",
    ]
    for path in private_images(can):
        place = path.relative_to(can).with_suffix("")
        expected = detector.predict(path).anomaly_map
        found = tifffile.imread(tmp_path / "out" / "anomaly_images" / "can" / f"{place}.tiff")
        assert (found.dtype, found.shape) == (np.float16, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-3)  # the scale of the model is 0 to 1
        with Image.open(tmp_path / "out" / "anomaly_images_thresholded" / "can" / f"{place}.png") as picture:
            assert picture.mode == "L"
            marks = np.asarray(picture)
        np.testing.assert_array_equal(marks, np.where(expected > detector.pixel_threshold, 255, 0))
    assert marks.max() == 0  # of the plain one


def test_huge_values_stay_finite_and_in_order(can: Path, tmp_path: Path):
    detector = fake_detector(grey_levels=range(19), network=lambda x: 1e9 * (x.mean(axis=1) - 0.5))
    write_submission(detector, can, tmp_path / "out")
    found = tifffile.imread(tmp_path / "out" / "anomaly_images" / "can" / "test_private" / "000_regular.tiff")
    assert np.isfinite(found).all()
    assert found[5, 5] > found[20, 20]


def test_two_images_whose_maps_would_have_one_name_are_refused(can: Path, tmp_path: Path):
    image = can / "test_private" / "000_regular.png"
    (can / "test_private" / "000_regular.bmp").write_bytes(image.read_bytes())
    with pytest.raises(DataError, match=r"000_regular\.png: its map would have the name of .*regular\.bmp"):
        write_submission(fake_detector(grey_levels=range(80, 99)), can, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_is_left_out_and_takes_a_product(
    can: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    detector = fake_detector(grey_levels=range(80, 99), false_alarm_rate=0.05)
    several = replace(detector, model_file=as_two_products(detector.model_file))
    monkeypatch.setattr(SubmissionOptions, "load", lambda _: several)
    (can / "test_private" / "notes.gif").write_bytes(b"GIF89a\x10\0\x10\0\xf7\0\0")
    words = ("submission", "--model", tmp_path, "--data", can, "--out", tmp_path / "out")
    assert "this model has bolt, nut; give one of them" in refused(capsys, *words)
    assert run(*words, "--product", "nut") == 0
    said = capsys.readouterr()
    assert "1 .gif" in said.err
    assert "2 images, marked at a false-alarm rate of 0.05" in said.out


def test_what_cannot_be_submitted_is_refused(can: Path, tmp_path: Path):
    detector = fake_detector(grey_levels=range(80, 99))
    with pytest.raises(UsageError, match="no threshold"):
        write_submission(fake_detector(), can, tmp_path / "out")
    with pytest.raises(DataError, match="has no test_private or test_private_mixed of MVTec AD 2"):
        write_submission(detector, tmp_path, tmp_path / "out")
    save(can / "test_private" / "002_regular.png", np.zeros((32, 32), np.uint8))
    with pytest.raises(ImageError, match="has 1 channels"):
        write_submission(detector, can, tmp_path / "out")
