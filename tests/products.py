"""A model of one product as a model of two, without a training."""

from __future__ import annotations

import dataclasses

import numpy as np

from blemish.inference.calibration import calibrate
from blemish.inference.model_file import ModelFile
from blemish.inference.products import Product, ProductCalibration


def as_two_products(plain: ModelFile) -> ModelFile:
    """Return the model with the products bolt, calibrated as it was, and nut, whose good parts score more."""
    assert plain.calibration is not None
    raw, maxima = plain.calibration.scores, plain.calibration.map_maxima
    products = []
    for name, more in (("bolt", 0.0), ("nut", 1000.0)):
        product = Product.of_scores(name, raw + more)
        scores = np.array([product.standardise(score) for score in raw + more])
        known = calibrate(scores, maxima + more)
        products.append(
            ProductCalibration(product=product, calibration=known, display_range=(0.0, 1.0 + more))
        )
    return dataclasses.replace(plain, calibration=None, products=tuple(products))
