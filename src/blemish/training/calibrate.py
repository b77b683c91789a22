"""Score held-out good images with the finished network: thresholds, and the colours of overlays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import ImageError
from blemish.inference.calibration import calibrate
from blemish.inference.detector import Detector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blemish.core.types import Prediction
    from blemish.data.cache import ImageCache
    from blemish.data.dataset import Split
    from blemish.inference.backend import Backend
    from blemish.inference.model_file import ModelFile

DISPLAY_IMAGES = 64
"""Good images that fix an overlay's colours when none were held out to calibrate."""


def calibrate_model(
    model_file: ModelFile, backend: Backend, split: Split, held_out: ImageCache | None = None
) -> ModelFile:
    """Score good images with the finished model: their scores set thresholds, their maps the colours.

    The colours of an overlay begin at a good image's median and end three times as far above it as its
    highest point. Our choice: fixed by good images, so that equal colours mean equal values on every picture
    of a model. Calibration images, if there are any, say it best: they were not trained on.
    With `held_out`, the calibration images as scoring sees them, these are not decoded again.
    """
    seen = split.calibration or (split.validation or split.train)[:DISPLAY_IMAGES]
    detector = Detector(model_file=model_file, backend=backend).for_samples(seen)
    scores, maxima, medians = [], [], []
    for prediction in (
        _predict_prepared(detector, held_out) if held_out else detector.predict_many([s.path for s in seen])
    ):
        if isinstance(prediction, ImageError):
            raise prediction
        scores.append(prediction.score)
        counting = detector.counting_of(prediction.path)
        sized = counting.has_sizes  # whose score is that very value
        maxima.append(prediction.score if sized else counting.peak(prediction.anomaly_map))
        inside = counting.inside(prediction.anomaly_map.shape)
        seen_map = prediction.anomaly_map if inside is None else prediction.anomaly_map[inside]
        medians.append(float(np.median(seen_map)))
    low = float(np.median(medians))
    return replace(
        model_file,
        calibration=calibrate(np.asarray(scores), np.asarray(maxima)) if split.calibration else None,
        display_range=(low, low + 3 * (float(np.median(maxima)) - low)),
    )


def _predict_prepared(detector: Detector, images: ImageCache) -> Iterator[Prediction | ImageError]:
    """Score images that are decoded already, in the very batches of `Detector.predict_many`."""
    for start in range(0, len(images), detector.batch_size):
        numbers = np.arange(start, min(start + detector.batch_size, len(images)))
        sizes = [images.sizes[i] for i in numbers]
        prepared = zip(images.batch(numbers), sizes, strict=True)
        paths = [images.files.paths[i] for i in numbers]
        yield from detector.predict_prepared(list(zip(paths, prepared, strict=True)))
