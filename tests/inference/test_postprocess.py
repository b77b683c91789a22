from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import regions_of
from scipy import ndimage

from blemish.core.errors import UsageError
from blemish.core.types import Region
from blemish.inference.postprocess import image_score, regions, to_original_size


def test_image_score_by_hand():
    values = np.arange(40, dtype=np.float32).reshape(5, 8)[::-1]
    assert image_score(values, "max") == 39
    assert image_score(values, "mean") == 19.5  # (0 + 39) / 2
    assert image_score(values, "top5") == 38.5  # 5 % of 40 pixels are 2: (38 + 39) / 2


def test_top1_is_the_mean_of_the_largest_hundredth():
    # 1 % of 400 pixels are 4: (396 + 397 + 398 + 399) / 4
    assert image_score(np.arange(400.0).reshape(20, 20), "top1") == 397.5
    assert image_score(np.arange(99.0).reshape(9, 11), "top1") == 98  # at least one


def test_top5_takes_at_least_one_pixel_and_rounds_down():
    assert image_score(np.array([[1.0, 5.0, 3.0]]), "top5") == 5
    assert image_score(np.arange(49.0).reshape(7, 7), "top5") == 47.5  # 49 // 20 = 2: (47 + 48) / 2


def test_negative_scores_keep_their_sign():
    assert image_score(np.array([[-3.0, -1.0]]), "max") == -1
    assert image_score(np.array([[-3.0, -1.0]]), "top5") == -1


def test_mean_does_not_drown_in_float32():
    # 2^24 + 1 is no float32: a float32 sum would lose every added 1.
    values = np.full((1, 1001), 1, dtype=np.float32)
    values[0, 0] = 2**24
    assert image_score(values, "mean") == (2**24 + 1000) / 1001


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(bad: float):
    values = np.zeros((3, 4))
    values[1, 2] = bad
    for use in (lambda: image_score(values, "mean"), lambda: regions(values, 0.5)):
        with pytest.raises(UsageError, match="row 1, column 2"):
            use()


def test_wrong_requests_are_refused():
    with pytest.raises(UsageError, match="median"):
        image_score(np.zeros((2, 2)), "median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="shape"):
        image_score(np.zeros((0, 2)), "max")
    with pytest.raises(UsageError, match="shape"):
        regions(np.zeros((1, 2, 2)), 0.0)
    with pytest.raises(UsageError, match="threshold"):
        regions(np.zeros((2, 2)), float("nan"))
    with pytest.raises(UsageError, match="min_area_px"):
        regions(np.zeros((2, 2)), 0.0, min_area_px=0)


def test_equal_size_is_the_identity():
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    assert np.array_equal(to_original_size(values, (5, 7)), values)


def test_enlarging_is_bilinear_with_pixel_centres():
    # Twice as wide: centres fall at -0.25, 0.25, 0.75, 1.25 of the old ones; ends are held.
    wide = to_original_size(np.array([[-4.0, 4.0]], dtype=np.float32), (1, 4))
    assert wide.dtype == np.float32
    np.testing.assert_allclose(wide, [[-4, -2, 2, 4]], atol=1e-6)
    assert to_original_size(np.zeros((3, 4)), (6, 5)).shape == (6, 5)


def test_enlarging_leaves_a_constant_and_the_range_alone():
    np.testing.assert_allclose(to_original_size(np.full((4, 4), -7.5), (9, 13)), -7.5, rtol=1e-6)
    values = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    large = to_original_size(values, (31, 17))
    assert large.max() <= values.max() + 1e-6
    assert large.min() >= values.min() - 1e-6


def test_regions_by_hand():
    values = np.array(
        [
            [0, 0, 0, 0, 0, 9],
            [0, 3, 0, 0, 0, 0],
            [0, 0, 4, 0, 0, 0],
            [0, 0, 0, 0, 2, 2],
        ],
        dtype=np.float32,
    )
    # The diagonal 3-4 is one region (8-connected); 2 is not strictly above 2.
    assert regions(values, 2.0) == [
        Region(x0=5, y0=0, x1=6, y1=1, area_px=1, peak=9.0),
        Region(x0=1, y0=1, x1=3, y1=3, area_px=2, peak=4.0),
    ]
    assert [r.area_px for r in regions(values, 1.5)] == [1, 2, 2]
    assert [r.peak for r in regions(values, 1.5, min_area_px=2)] == [4.0, 2.0]
    assert regions(values, 9.0) == []
    (first, *_) = regions(values, 2.0)
    assert [type(v) for v in (first.x0, first.area_px, first.peak)] == [int, int, float]


def test_equal_peaks_are_sorted_by_position():
    values = np.zeros((5, 5))
    values[4, 0] = values[0, 4] = values[0, 0] = values[2, 2] = 1.0
    assert [(r.y0, r.x0) for r in regions(values, 0.5)] == [(0, 0), (0, 4), (2, 2), (4, 0)]


def test_threshold_is_not_rounded_to_the_map():
    # float32(0.1) = 0.100000001... lies above 0.1, though rounding 0.1 to float32 would make them equal.
    value = np.full((1, 1), 0.1, dtype=np.float32)
    assert len(regions(value, 0.1)) == 1
    assert regions(value, float(np.float32(0.1))) == []


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.int8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-3, 3)))
def test_regions_match_flood_filling(values: np.ndarray):
    found = {(r.x0, r.y0, r.x1, r.y1, r.area_px, r.peak) for r in regions(values, 0.5)}
    expected = set()
    for pixels in regions_of(values > 0.5):
        rows, columns = zip(*pixels, strict=True)
        peak = float(max(values[pixel] for pixel in pixels))
        expected.add((min(columns), min(rows), max(columns) + 1, max(rows) + 1, len(pixels), peak))
    assert found == expected


def _labelled(values: np.ndarray, threshold: float, min_area_px: int) -> list[Region]:
    """Regions by labels of every pixel, in float64: another way to the same list."""
    above = values.astype(np.float64) > threshold
    labels, _ = ndimage.label(above, np.ones((3, 3)))
    found = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = values[labels == label]
        box = {"x0": columns.start, "y0": rows.start, "x1": columns.stop, "y1": rows.stop}
        found.append(Region(**box, area_px=inside.size, peak=float(inside.max())))
    kept = [region for region in found if region.area_px >= min_area_px]
    return sorted(kept, key=lambda region: (-region.peak, region.y0, region.x0))


def test_regions_of_runs_are_those_of_labels_in_the_same_order():
    rng = np.random.default_rng(0)
    for dtype in (np.float16, np.float32, np.float64):
        for _ in range(60):
            values = rng.choice([-1, 0, 0.1, 0.25, 1, 2], rng.integers(1, 13, 2)).astype(dtype)
            threshold = rng.choice([-np.inf, -1, 0, 0.1, float(dtype(0.1)), 0.5, 2, 1e300, np.inf])
            least = rng.integers(1, 4)
            assert regions(values, threshold, min_area_px=least) == _labelled(values, threshold, least)


def test_regions_that_wind_around_each_other():
    # Two spirals, of which many runs meet only at the very end.
    n = 41
    spiral = np.zeros((n, n), np.float32)
    for edge in range(0, n // 2, 2):
        far = n - 1 - edge
        spiral[edge, edge : far + 1] = spiral[edge : far + 1, far] = spiral[far, edge : far + 1] = 1
        spiral[edge + 2 : far + 1, edge] = spiral[edge + 2, edge : edge + 3] = 1
    noise = np.random.default_rng(0).normal(size=(60, 90)).astype(np.float32)
    for values, threshold in ((spiral, 0.5), (-spiral, -0.5), (noise, 0.0), (noise, 1.0)):
        assert regions(values, threshold) == _labelled(values, threshold, 1)
