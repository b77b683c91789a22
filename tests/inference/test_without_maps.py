"""A detector without maps says the same of an image: scores and regions, by a map that is not enlarged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import fake_detector, mean_of_channels, with_options

from blemish.core.types import Prediction
from blemish.images.roi import roi_of
from blemish.inference import postprocess
from blemish.inference.counting import Counting
from blemish.inference.postprocess import may_exceed, regions, to_original_size


def images(shape: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(3)]
    small = [np.full((*shape, 3), level, np.uint8) for level in (0, 153, 154, 255)]
    return small + [np.resize(block, (*shape, 3)) for block in blocks]


@pytest.mark.parametrize("levels", [(), (51, 102, 153), (250, 252, 255)])
@pytest.mark.parametrize("shape", [(16, 20), (32, 32), (70, 45), (100, 200)])
def test_scores_and_regions_are_those_with_maps(levels: tuple[int, ...], shape: tuple[int, int]):
    detector = fake_detector(grey_levels=levels, false_alarm_rate=0.3 if levels else None)
    given = images(shape)
    both = (detector.predict_many(given), replace(detector, maps=False).predict_many(given))
    for whole, coarse in zip(*both, strict=True):
        assert isinstance(whole, Prediction) and isinstance(coarse, Prediction)
        assert whole.shared_fields() == coarse.shared_fields()
        assert whole.anomaly_map.shape == shape and coarse.anomaly_map.shape == (32, 32)
        np.testing.assert_array_equal(coarse.anomaly_map, whole.coarse_map)


@pytest.mark.parametrize(("min_area", "has_region"), [(9, False), (0, True), (9, True)])
@pytest.mark.parametrize("shape", [(32, 32), (70, 70), (64, 48)])
def test_sizes_and_a_region_count_alike(min_area: int, has_region: bool, shape: tuple[int, int]):
    plain = fake_detector(grey_levels=(51, 102, 153), false_alarm_rate=0.3)
    left = roi_of(np.arange(shape[1]) < np.full((shape[0], 1), shape[1] // 2))
    counting = Counting(min_area=min_area, roi=left if has_region else None)
    detector = replace(plain, model_file=replace(plain.model_file, counting=counting))
    for image in images(shape):
        whole, coarse = (each.predict(image) for each in (detector, replace(detector, maps=False)))
        assert whole.shared_fields() == coarse.shared_fields()
        assert coarse.anomaly_map.shape == (32, 32)
        usual = replace(plain, maps=False).predict(image).anomaly_map
        side = 14 if has_region else 32  # the covered half shines through beside its edge
        np.testing.assert_array_equal(coarse.anomaly_map[:, :side], usual[:, :side])
        if has_region:
            assert (coarse.anomaly_map[:, 16:] == coarse.anomaly_map[:, :16].min()).all()


def test_only_a_map_that_may_have_regions_is_enlarged(monkeypatch: pytest.MonkeyPatch):
    enlarged, usual = [], postprocess.to_original_size
    monkeypatch.setattr(postprocess, "to_original_size", lambda m, s: enlarged.append(s) or usual(m, s))
    detector = replace(fake_detector(grey_levels=(51, 102, 153), false_alarm_rate=0.3), maps=False)
    for level in (0, 100, 200):
        detector.predict(np.full((60, 50, 3), level, np.uint8))
    assert enlarged == [(60, 50)]


def test_tiles_have_their_whole_map_all_the_same():
    detector = with_options(fake_detector(network=mean_of_channels), tile_size=32)
    image = images((70, 45))[-1]
    whole, coarse = (each.predict(image) for each in (detector, replace(detector, maps=False)))
    np.testing.assert_array_equal(whole.anomaly_map, coarse.anomaly_map)


@pytest.mark.parametrize("size", [(5, 9), (40, 40), (100, 37)])
def test_no_map_exceeds_a_threshold_unforeseen(size: tuple[int, int]):
    rng = np.random.default_rng(0)
    for scale in (1e-6, 1, 1e6):
        for _ in range(20):
            coarse = (rng.normal(size=(16, 16)) * scale).astype(np.float32)
            level = float(coarse.max())
            assert may_exceed(coarse, level)
            above = level + 1e-4 * abs(float(coarse.min()))
            if not may_exceed(coarse, above):
                assert regions(to_original_size(coarse, size), above) == []
