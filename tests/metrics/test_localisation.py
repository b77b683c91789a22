from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from blemish.core.errors import UsageError
from blemish.metrics.pixels import PIMO_RATES, PixelPool, saturated_weights
from blemish.metrics.roc import Roc

Regions = list[tuple[np.ndarray, float]]


def drawn(seed: int) -> tuple[list[np.ndarray], list[Regions]]:
    """Four small maps with many ties: two good ones, and two with regions that may overlap."""
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, 9, (5, 6)).astype(np.float32) for _ in range(4)]
    regions: list[Regions] = [[], []]
    for _ in range(2):
        masks = [rng.random((5, 6)) < 0.3 for _ in range(rng.integers(1, 4))]
        for mask in masks:
            mask[tuple(rng.integers(0, 5, 2))] = True
        regions.append([(mask, float(rng.choice([1, 2.5, 4, 100]))) for mask in masks])
    return maps, regions


def masks_of(maps: list[np.ndarray], regions: list[Regions]) -> list[np.ndarray]:
    return [
        np.logical_or.reduce([np.zeros(m.shape, bool), *(mask for mask, _ in r)])
        for m, r in zip(maps, regions, strict=True)
    ]


def pool_of(maps: list[np.ndarray], regions: list[Regions]) -> PixelPool:
    pool = PixelPool()
    for values, mask, of_image in zip(maps, masks_of(maps, regions), regions, strict=True):
        pool.add(values, mask, "dent" if of_image else "", of_image)
    return pool


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_spro_is_that_of_loops_over_thresholds_images_and_regions(seed: int):
    maps, regions = drawn(seed)
    points = reference.spro_points(maps, regions)
    for limit in (0.05, 0.3, 1.0):
        found = pool_of(maps, regions).spro_roc().area_up_to(limit)
        assert found == pytest.approx(reference.area_up_to(points, limit), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(0.001, 0.01), (0.02, 0.7), (0.1, 1.0), PIMO_RATES]))
def test_pimo_is_the_mean_over_the_logarithm_of_the_rate_on_good_images(
    seed: int, rates: tuple[float, float]
):
    maps, regions = drawn(seed)
    good = [float(v) for m in maps[:2] for v in m.ravel()]
    rocs = pool_of(maps, regions).pimo_rocs()
    assert [label for label, _ in rocs] == ["dent", "dent"]
    for (_, roc), values, mask in zip(rocs, maps[2:], masks_of(maps, regions)[2:], strict=True):
        points = reference.roc_points(good, [float(v) for v in values[mask]])
        expected = reference.mean_over_log(points, *rates)
        assert roc.mean_over_log_fpr(*rates) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.floats(-1, 8))
def test_f1_at_a_threshold_and_average_precision_count_every_pixel(seed: int, threshold: float):
    maps, regions = drawn(seed)
    masks, pool = masks_of(maps, regions), pool_of(maps, regions)
    found = pool.f1_at(threshold)
    assert found.f1 == pytest.approx(reference.segmentation_f1(maps, masks, threshold))
    values, truth = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    above = values.astype(float) > threshold
    assert found.f1 == pytest.approx(f1_score(truth, above) if above.any() else 0.0)
    if found.f1:
        harmonic = 2 / (1 / found.precision + 1 / found.recall)
        assert found.f1 == pytest.approx(harmonic)
    assert pool.pixel_roc().average_precision() == pytest.approx(average_precision_score(truth, values))


def test_pro_up_to_the_lower_rate():
    maps, regions = drawn(3)
    masks = masks_of(maps, regions)
    points = reference.pro_points(maps, masks)
    found = pool_of(maps, regions).pro_roc().normalised_auroc(0.05)
    assert found == pytest.approx(reference.area_up_to(points, 0.05) / 0.05, abs=1e-12)


def test_a_threshold_between_two_float32_values_is_taken_as_it_is():
    high = np.nextafter(np.float32(1), np.float32(2))
    pool = PixelPool()
    pool.add(np.array([[1, high]], np.float32), np.array([[False, True]]))
    assert pool.f1_at(1.0).f1 == 1.0
    assert pool.f1_at((1.0 + float(high)) / 2).f1 == 1.0
    assert pool.f1_at(float(high)).recall == 0.0
    assert pool.f1_at(1.0 - 1e-12).precision == 0.5


def test_saturation_by_hand():
    # Five pixels of one region, of which two and a half are enough; the ties share what is left by order.
    values, mask = np.array([[9, 7, 5, 3, 1, 4.0]]), np.array([[1, 1, 1, 1, 1, 0]], dtype=bool)
    assert saturated_weights(values, mask, [(mask, 2.5)]).tolist() == [0.4, 0.4, 0.2, 0, 0]
    # More than the region has: each pixel counts alike, as in PRO.
    assert saturated_weights(values, mask, [(mask, 50)]).tolist() == [0.2] * 5
    one, two = mask & (values > 4), mask & (values < 6)
    assert saturated_weights(values, mask, [(one, 1), (two, 2)]).tolist() == [1, 0, 0.5, 0.5, 0]


def test_regions_that_are_not_the_mask_are_refused():
    mask = np.array([[True, False]])
    for regions, why in (([(~mask, 1.0)], "together they must be its mask"), ([(mask, 0.0)], "above 0")):
        with pytest.raises(UsageError, match=why):
            PixelPool().add(np.zeros((1, 2)), mask, "dent", regions)
    pool = PixelPool()
    pool.add(np.zeros((1, 2)), mask, "dent")
    with pytest.raises(UsageError, match="needs the regions of every defective image"):
        pool.spro_roc()


def test_pimo_needs_good_images_and_rates_in_order():
    pool = PixelPool()
    pool.add(np.zeros((1, 2)), np.array([[True, False]]))
    with pytest.raises(UsageError, match="0 good and 1 defective"):
        pool.pimo_rocs()
    good = PixelPool()
    good.add(np.zeros((1, 2)), np.array([[False, False]]))
    for call in (good.pimo_rocs, lambda: good.f1_at(0.0)):
        with pytest.raises(UsageError, match="2 good and 0 defective"):
            call()
    for low, high in ((0, 0.1), (0.1, 0.1), (0.1, 2)):
        with pytest.raises(UsageError, match="0 < low < high <= 1"):
            Roc.of([1.0], [2.0]).mean_over_log_fpr(low, high)


def test_heights_of_a_plot_are_those_asked_for_one_by_one():
    roc = Roc.of([0.0, 1, 1, 3], [1.0, 2, 4])
    rates = [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]
    assert roc.heights(rates).tolist() == [roc.tpr_at(rate) for rate in rates]
    with pytest.raises(UsageError, match="must lie in"):
        roc.heights([0.5, 1.5])
