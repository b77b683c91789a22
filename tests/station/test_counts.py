"""What counts, at a station: in pictures, in maps for the page, and when thresholds are made anew."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from inspected import part
from PIL import Image

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from blemish.images.draw import encode_map
from blemish.images.roi import roi_of
from blemish.inference.counting import Counting
from blemish.record.archive import Archive
from blemish.station import render
from blemish.station.recalibration import _maximum
from blemish.station.render import MapStyle

SIDE = 32
LEFT = np.arange(SIDE)[None, :].repeat(SIDE, axis=0) < SIDE // 2
HEAT = np.zeros((SIDE, SIDE), np.float32)
HEAT[4, 4], HEAT[12:16, 4:8], HEAT[20:26, 20:26] = 9, 7, 8  # a speck and a square inside, a square outside


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 3), 200, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def red(counting: Counting) -> np.ndarray:
    """Where the contour is drawn, bool (H, W)."""
    drawn = render.overlay(picture(), encode_map(HEAT), MapStyle((100.0, 200.0), 5.0, counting))
    pixels = np.asarray(Image.open(io.BytesIO(drawn)))
    return (pixels == (255, 0, 0)).all(axis=2)


def test_the_contour_is_around_what_counts():
    assert [red(Counting())[y, x] for y, x in ((4, 4), (12, 4), (20, 20))] == [True, True, True]
    assert [red(Counting(min_area=2))[y, x] for y, x in ((4, 4), (12, 4), (20, 20))] == [False, True, True]
    inside = red(Counting(min_area=2, roi=roi_of(LEFT)))
    assert [inside[y, x] for y, x in ((4, 4), (12, 4), (20, 20))] == [False, True, False]


def test_the_page_gets_the_map_of_the_inside():
    counting = Counting(roi=roi_of(LEFT))
    rows, height, width = render.raw_map(encode_map(HEAT), counting)
    values = np.frombuffer(rows, "<f4").reshape(height, width)
    np.testing.assert_array_equal(values[LEFT], HEAT[LEFT])
    assert (values[~LEFT] == 0).all()
    assert render.raw_map(encode_map(HEAT), Counting())[0] == HEAT.tobytes()


def test_a_new_name_for_a_picture_that_is_drawn_otherwise():
    names = {
        render.overlay_name(part(0), MapStyle((0.0, 1.0), 5.0, counting))
        for counting in (Counting(), Counting(min_area=2), Counting(roi=roi_of(LEFT)))
    }
    assert len(names) == 3


def test_new_thresholds_are_of_what_counts(tmp_path: Path):
    archive = Archive(tmp_path)
    row = part(0, map=archive.put(encode_map(HEAT), "map"), height=SIDE, width=SIDE)
    sized = Counting(min_area=2)
    assert [_maximum(each, row, archive) for each in (Counting(), sized)] == [9, 8]
    assert _maximum(Counting(min_area=2, roi=roi_of(LEFT)), row, archive) == 7
