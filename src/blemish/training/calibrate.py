"""Score held-out good images with the finished network: thresholds, and the colours of overlays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import ImageError
from blemish.inference.calibration import calibrate
from blemish.inference.detector import Detector
from blemish.inference.products import Product, ProductCalibration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from blemish.core.types import Prediction
    from blemish.data.cache import ImageCache
    from blemish.data.split import Split
    from blemish.inference.backend import Backend
    from blemish.inference.calibration import Calibration
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

    Images that have a product calibrate that alone; products of the model without an image stay as they are.
    """
    detector = Detector(model_file=replace(model_file, products=(), product=None), backend=backend)
    samples = (*split.calibration, *split.validation, *split.train)
    detector = detector.for_samples([replace(sample, product=None) for sample in samples])
    rows = _read_off(detector, [s.path for s in split.calibration], held_out)
    learnt = split.validation or split.train
    names = {s.product for s in (*split.calibration, *learnt)}
    found = {}
    for name in sorted(names, key=str):
        own = rows[[s.product == name for s in split.calibration]]
        shown = [s.path for s in learnt if s.product == name][:DISPLAY_IMAGES]
        found[name] = own, _colours(own if len(own) else _read_off(detector, shown))
    if None in found:
        own, colours = found[None]
        return replace(model_file, calibration=_calibration(own), display_range=colours)
    products = {each.product.name: each for each in model_file.products}
    products |= {str(name): _of_product(str(name), *given) for name, given in found.items()}
    ordered = tuple(products[name] for name in sorted(products))
    colours = [each.display_range for each in ordered]
    widest = min(low for low, _ in colours), max(high for _, high in colours)
    return replace(model_file, calibration=None, display_range=widest, products=ordered, product=None)


def _of_product(name: str, rows: np.ndarray, colours: tuple[float, float]) -> ProductCalibration:
    """Standardise the scores of a product's held-out images, and make its thresholds of them."""
    product = Product.of_scores(name, rows[:, 0]) if len(rows) else Product(name=name)
    scores = np.array([product.standardise(score) for score in rows[:, 0]])
    standardised = np.column_stack([scores, rows[:, 1:]])
    return ProductCalibration(product=product, calibration=_calibration(standardised), display_range=colours)


def _calibration(rows: np.ndarray) -> Calibration | None:
    return calibrate(rows[:, 0], rows[:, 1]) if len(rows) else None


def _colours(rows: np.ndarray) -> tuple[float, float]:
    low = float(np.median(rows[:, 2]))
    return low, low + 3 * (float(np.median(rows[:, 1])) - low)


def _read_off(detector: Detector, paths: Sequence[Path], decoded: ImageCache | None = None) -> np.ndarray:
    """Return of each image the score, the largest value of its map that counts and the median: (n, 3)."""
    rows = []
    for prediction in _predict_prepared(detector, decoded) if decoded else detector.predict_many(paths):
        if isinstance(prediction, ImageError):
            raise prediction
        counting = detector.counting_of(prediction.path)
        # with sizes the score is that very value
        peak = prediction.score if counting.has_sizes else counting.peak(prediction.anomaly_map)
        inside = counting.inside(prediction.anomaly_map.shape)
        seen_map = prediction.anomaly_map if inside is None else prediction.anomaly_map[inside]
        rows.append((prediction.score, peak, float(np.median(seen_map))))
    return np.array(rows, np.float64).reshape(-1, 3)


def _predict_prepared(detector: Detector, images: ImageCache) -> Iterator[Prediction | ImageError]:
    """Score images that are decoded already, in the same batches as those of `Detector.predict_many`."""
    for start in range(0, len(images), detector.batch_size):
        numbers = np.arange(start, min(start + detector.batch_size, len(images)))
        sizes = [images.sizes[i] for i in numbers]
        prepared = zip(images.batch(numbers), sizes, strict=True)
        paths = [images.files.paths[i] for i in numbers]
        yield from detector.predict_prepared(list(zip(paths, prepared, strict=True)))
