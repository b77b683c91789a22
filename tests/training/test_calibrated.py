"""What a finished model takes from good images: thresholds of its maps, and the colours of its overlays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.methods.metal_config import MetalConfig
from blemish.training.fit import fit

# Maps of 32x32 are drawn at the images' 64x64, by straight lines: their highest points are lower there.
TINY = MetalConfig(
    image_size=32, patch_size=8, embedding=8, hidden=16, heads=2, batch_size=4, steps=3, smoothing=(0.0, 1.0)
)


pytestmark = pytest.mark.usefixtures("single_thread")


def maps_of(data: Path, calibration: float, part: str):
    """Train, and return the detector and its maps, at the images' own size, of a part of the good images."""
    config = MetalConfig(**{**vars(TINY), "calibration_fraction": calibration})
    detector = fit(data, config=config, device="cpu", precision="fp32")
    split = split_good(open_dataset(data), validation_fraction=0, calibration_fraction=calibration, seed=0)
    return detector, [detector.predict(sample.path).anomaly_map for sample in getattr(split, part)]


@pytest.mark.parametrize(("calibration", "part"), [(0.4, "calibration"), (0.0, "train")])
def test_colours_begin_at_a_good_maps_median_and_end_three_times_as_far_as_its_peak(
    tiny_category, calibration, part
):
    detector, maps = maps_of(tiny_category, calibration, part)
    low = np.median([np.median(m) for m in maps])
    peak = np.median([m.max() for m in maps])
    assert peak > low
    assert detector.model_file.display_range == pytest.approx((low, low + 3 * (peak - low)), rel=1e-3)


def test_pixel_thresholds_come_from_the_maps_that_are_shown(tiny_category):
    detector, maps = maps_of(tiny_category, 0.4, "calibration")
    maxima = sorted(float(m.max()) for m in maps)
    assert detector.model_file.calibration.map_maxima == pytest.approx(maxima, rel=1e-3)
    assert detector.pixel_threshold == pytest.approx(maxima[-1], rel=1e-3)  # of 5 images: 1 / 6 at the lowest
