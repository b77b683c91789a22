"""What of a map counts: the level of the largest region, by hand, by brute force, and what follows of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import save
from fakes import fake_detector, grey
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from blemish.core.errors import ImageError, UsageError
from blemish.inference.calibration import calibrate
from blemish.inference.counting import Counting
from blemish.inference.detector import Detector
from blemish.inference.model_file import describe, load_model_file, save_model_file


def brute_force(values: np.ndarray, counting: Counting) -> float:
    """Try every value of the map, from the top."""
    for level in np.unique(values)[::-1]:
        labels, _ = ndimage.label(values >= level, structure=np.ones((3, 3)))
        for number, (down, across) in enumerate(ndimage.find_objects(labels), start=1):
            length = math.hypot(down.stop - down.start, across.stop - across.start)
            if (labels == number).sum() >= counting.min_area_px and length >= counting.min_length_px:
                return float(level)
    raise AssertionError("the whole map is too small")


def test_the_peak_by_hand():
    # A speck of 9, a bar of 3 pixels at 5 and 4 (level 4 joins them), and ground of 0.
    values = np.zeros((6, 8), np.float32)
    values[0, 0] = 9
    values[3, 2:5] = (5, 5, 4)
    assert Counting().peak(values) == 9
    assert Counting(min_area=2).peak(values) == 5
    assert Counting(min_area=3).peak(values) == 4
    assert Counting(min_area=4).peak(values) == 0
    # lengths of boxes: speck 1.41, bar at 5: root of 1 + 4 = 2.24, at 4: root of 1 + 9 = 3.16
    assert Counting(min_length=2.2).peak(values) == 5
    assert Counting(min_length=2.3).peak(values) == 4
    assert Counting(min_length=3.2).peak(values) == 0
    # 0.5 mm per pixel: 0.75 mm² are 3 pixels, 1.1 mm are 2.2
    assert Counting(min_area=0.75, mm_per_px=0.5).peak(values) == 4
    assert Counting(min_length=1.1, mm_per_px=0.5).peak(values) == 5


@given(
    values=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 6)
    ),
    area=st.integers(0, 12),
    length=st.integers(0, 6),
    threshold=st.integers(-1, 6),
)
def test_the_peak_lies_above_a_threshold_exactly_when_a_region_that_counts_does(
    values: np.ndarray, area: int, length: int, threshold: int
):
    counting = Counting(min_area=area, min_length=length)
    if values.size < area or math.hypot(*values.shape) < length:
        with pytest.raises(ImageError, match=r"x.png: .* has no room for regions of"):
            counting.peak(values, name="x.png")
        return
    peak, found = counting.peak(values), counting.regions(values, threshold)
    assert peak == brute_force(values, counting)
    assert (peak > threshold) == bool(found)
    marked = counting.outlined(values, threshold)
    assert marked.sum() == sum(region.area_px for region in found)
    assert not (marked & ~(values > threshold)).any()


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"min_area": -1}, "--min-area -1: must be 0 or larger"),
        ({"min_length": math.nan}, "--min-length nan: must be 0 or larger"),
        ({"min_area": math.inf}, "--min-area inf"),
        ({"mm_per_px": 0}, "--mm-per-px 0: must be larger than 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, float], said: str):
    with pytest.raises(UsageError, match=said):
        Counting(**sizes)


def test_it_says_what_counts():
    assert Counting().describe() == "regions of any size"
    assert Counting(min_area=20).describe() == "regions of 20 px or more"
    both = Counting(min_area=0.5, min_length=2, mm_per_px=0.05).describe()
    assert both == "regions of 0.5 mm² or more and a length of 2 mm or more (0.05 mm per pixel)"


def sized(detector: Detector, **sizes: float) -> Detector:
    return replace(detector, model_file=replace(detector.model_file, counting=Counting(**sizes)))


def test_a_speck_is_accepted_and_a_region_is_rejected(tmp_path: Path):
    picture = np.full((32, 32, 3), 20, np.uint8)
    picture[2:4, 2:4] = 250  # 4 pixels
    speck = save(tmp_path / "speck.png", picture)
    picture[10:14, 10:14] = 200  # 16 pixels
    both = save(tmp_path / "both.png", picture)
    plain = fake_detector(grey_levels=(50, 100))
    detector = sized(plain, min_area=5)
    assert [plain.predict(path).decision for path in (speck, both)] == ["rejected", "rejected"]
    assert [detector.predict(path).decision for path in (speck, both)] == ["accepted", "rejected"]
    assert detector.predict(speck).score == pytest.approx(20 / 255)
    found = detector.predict(both)
    assert found.score == pytest.approx(200 / 255)
    assert [(region.x0, region.area_px) for region in found.regions] == [(10, 16)]
    assert len(plain.predict(both).regions) == 2
    with pytest.raises(ImageError, match=r"a.png: 32 x 32 px has no room for regions of 2000 px or more"):
        sized(plain, min_area=2000).predict(grey(tmp_path / "a.png", 9))


def test_a_model_file_remembers_what_counts_and_others_stay_as_they_were(tmp_path: Path):
    plain = fake_detector(grey_levels=(50, 100)).model_file
    assert '"format_version": 1' in describe(plain)
    assert "counting" not in describe(plain)
    given = replace(plain, counting=Counting(min_area=7.5, mm_per_px=0.1))
    assert '"format_version": 2' in describe(given)
    save_model_file(tmp_path / "m.safetensors", given)
    assert load_model_file(tmp_path / "m.safetensors").counting == given.counting


def test_calibrated_with_sizes_the_promise_is_kept_and_without_it_is_not():
    # Maps of noise with specks: the thresholds of maxima are those of specks, far above what regions reach.
    rng, counting = np.random.default_rng(0), Counting(min_area=4)
    maps = rng.normal(size=(400, 12, 12)).astype(np.float32)
    peaks = np.array([counting.peak(each) for each in maps])
    assert (peaks < maps.max(axis=(1, 2))).mean() > 0.9
    threshold = calibrate(peaks[:199], peaks[:199]).threshold(0.1)
    assert np.mean(peaks[199:] > threshold) == pytest.approx(0.1, abs=0.05)
