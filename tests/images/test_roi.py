"""Regions of interest: what is read, what is refused, where they lie at other sizes, and what is covered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import save

from blemish.core.errors import ImageError, UsageError
from blemish.images.preprocess import ImageFormat
from blemish.images.roi import Roi, read_roi, roi_of, shrink

RGB8 = ImageFormat(dtype="uint8", channels=3, value_range=(0.0, 255.0))


def half(height: int = 8, width: int = 8) -> np.ndarray:
    """The left half counts."""
    mask = np.zeros((height, width), dtype=bool)
    mask[:, : width // 2] = True
    return mask


@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 255), (np.uint16, 65535), (np.uint8, 129)])
def test_white_counts(tmp_path: Path, dtype: type, high: int):
    mask = half(30, 40)
    roi = read_roi(save(tmp_path / "mask.png", (mask * high).astype(dtype)))
    np.testing.assert_array_equal(roi.mask, mask)
    assert roi.share == 0.5
    assert Roi(roi.text) == roi


def test_polygons_count(tmp_path: Path):
    file = tmp_path / "roi.json"
    square, triangle = [[2, 1], [5, 1], [5, 4], [2, 4]], [[10, 0], [19, 0], [19, 9]]
    file.write_text(json.dumps({"size": [20, 10], "polygons": [square, triangle]}))
    mask = read_roi(file).mask
    assert mask.shape == (10, 20)
    assert mask[1:5, 2:6].all()
    assert mask[:, :10].sum() == 16
    assert (mask[0, 10], mask[0, 19], mask[8, 18], mask[9, 10]) == (True, True, True, False)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"size": [9], "polygons": []}', '{"size": [9, 9], "polygons": [[[0, 0], [1, 1]]]}',
     '{"size": [9, 9], "polygons": [[[0, 0], [1, NaN], [2, 2]]]}', '{"size": [9, 0], "polygons": [[1]]}',
     '{"size": [9.5, 9], "polygons": [[[0, 0], [9, 0], [9, 9]]]}',
     '{"size": [Infinity, 9], "polygons": [[[0, 0], [9, 0], [9, 9]]]}',
     '{"size": [9, 9], "polygons": [[[1e300, 0], [9, 0], [9, 9]]]}',
     '{"size": [9, 9], "polygons": [[[1' + 400 * "0" + ', 0], [9, 0], [9, 9]]]}', "[" * 100_000],
)  # fmt: skip
def test_other_json_is_refused(tmp_path: Path, content: str):
    (tmp_path / "roi.json").write_text(content)
    with pytest.raises(UsageError, match=r'--roi .*roi\.json: is not of the form \{"size"'):
        read_roi(tmp_path / "roi.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_roi(tmp_path / "none.json")


def test_next_to_nothing_is_refused():
    mask = np.zeros((100, 100), dtype=bool)
    mask[0, :99] = True
    with pytest.raises(UsageError, match=r"--roi m\.png: leaves 0\.99 % of the image, and 1 % is the least"):
        roi_of(mask, name="m.png")
    mask[0, 99] = True
    assert roi_of(mask).share == 0.01


def test_it_fits_every_size_of_its_aspect_and_no_other():
    roi = roi_of(half(30, 40))
    np.testing.assert_array_equal(roi.at((30, 40)), half(30, 40))
    np.testing.assert_array_equal(roi.at((90, 120)), half(90, 120))
    np.testing.assert_array_equal(roi.at((15, 20)), half(15, 20))
    assert roi.at((768, 1025)).mean() == pytest.approx(0.5, abs=0.001)  # a pixel of rounding
    with pytest.raises(ImageError, match=r"a\.png: is 30 x 30 px, .* region of interest is 40 x 30 px"):
        roi.at((30, 30), name="a.png")


def test_an_image_too_small_for_a_thin_region_is_refused():
    mask = np.zeros((100, 100), dtype=bool)
    mask[50] = True
    roi = roi_of(mask)
    assert roi.at((200, 200)).any()
    with pytest.raises(ImageError, match=r"^a\.png: is 10 x 10 px, where nothing .* 100 x 100 px; give"):
        roi.at((10, 10), name="a.png")


def test_coarse_cells_count_when_half_of_them_does():
    np.testing.assert_array_equal(shrink(half(), (4, 4)), half(4, 4))
    speck = np.zeros((8, 8), dtype=bool)
    speck[5, 6] = True
    assert np.argwhere(shrink(speck, (2, 2))).tolist() == [[1, 1]]
    assert not shrink(np.zeros((8, 8), dtype=bool), (2, 2)).any()


@pytest.mark.parametrize(
    ("dtype", "fmt", "middle"),
    [
        (np.uint8, RGB8, 127),
        (np.uint16, ImageFormat(dtype="uint16", channels=3, value_range=(0.0, 4095.0)), 2047),
        (np.float32, ImageFormat(dtype="float32", channels=3, value_range=(-1.0, 2.0)), 0.5),
        (np.uint8, ImageFormat(dtype="uint16", channels=3, value_range=(0.0, 65535.0)), 127),
    ],
)
def test_the_middle_of_the_values_covers_the_rest(dtype: type, fmt: ImageFormat, middle: float):
    image = np.ones((8, 8, 3), dtype)
    covered = roi_of(half()).cover(image, fmt)
    assert covered.dtype == dtype
    assert (covered[:, :4] == 1).all()
    assert (covered[:, 4:] == middle).all()
    assert (image == 1).all()
