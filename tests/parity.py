"""What it means that two models answer alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from blemish.core.errors import ImageError
from blemish.core.types import Prediction
from blemish.inference import load
from blemish.inference.onnx_backend import OnnxBackend


def assert_same_answers(trained: Path, exported: Path, images: Sequence[Path]) -> None:
    """Scores to 1e-4, maps to 1e-3 of their range, p-values, decisions and regions the same."""
    ours, theirs = load.load(trained, device="cpu"), load.load(exported)
    assert isinstance(theirs.backend, OnnxBackend)
    assert theirs.threshold == ours.threshold
    assert theirs.model_file.provenance == ours.model_file.provenance
    pairs = zip(ours.predict_many(images), theirs.predict_many(images), strict=True)
    seen = 0
    for a, b in pairs:
        assert not isinstance(a, ImageError)
        assert not isinstance(b, ImageError)
        assert b.score == pytest.approx(a.score, rel=1e-4)
        assert (b.p_value, b.anomalous) == (a.p_value, a.anomalous)
        assert b.anomaly_map.shape == a.anomaly_map.shape
        assert np.abs(b.anomaly_map - a.anomaly_map).max() <= 1e-3 * np.ptp(a.anomaly_map)
        assert_same_regions(a, b)
        seen += 1
    assert seen == len(images)


def assert_same_regions(a: Prediction, b: Prediction) -> None:
    """As many, their borders to a pixel: that is as far as a map's last bits move a contour."""
    assert len(b.regions) == len(a.regions)
    for ours, theirs in zip(*(sorted(p.regions, key=lambda r: (r.y0, r.x0)) for p in (a, b)), strict=True):
        for side in ("x0", "y0", "x1", "y1"):
            assert abs(getattr(theirs, side) - getattr(ours, side)) <= 1
        assert theirs.area_px == pytest.approx(ours.area_px, rel=0.01, abs=2)
