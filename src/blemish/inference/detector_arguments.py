"""What a detector refuses of what it is given, before any image is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from blemish.core.errors import UsageError
from blemish.images.sources import Frame, Observed, Stored

if TYPE_CHECKING:
    from blemish.inference.calibration import Calibration
    from blemish.inference.detector import Detector

DEVICES = ("auto", "cpu", "cuda")
CONVERSIONS = ("channels", "depth")
"""What `allow` may hold."""


def check_device(device: str) -> None:
    """Refuse the name of a device that is none. Raises UsageError."""
    if device not in DEVICES:
        raise UsageError(f"--device {device}: must be one of {', '.join(DEVICES)}")


def check_options(rates: Mapping[str, object], allow: object, batch_size: object) -> None:
    """Refuse options of another type or name, which would be misread or passed over. Raises UsageError."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral):
        raise UsageError(f"--batch-size {batch_size}: must be a whole number")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be 1 or larger")
    for option, rate in rates.items():
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, Real)):
            raise UsageError(f"{option} {rate!r}: must be a number; 0.05 is 5 %")
    names = list(allow) if isinstance(allow, Set) else [allow]
    wrong = names if not isinstance(allow, Set) else [name for name in names if name not in CONVERSIONS]
    if wrong:
        raise UsageError(f"--allow {wrong[0]}: must be a set of: {', '.join(CONVERSIONS)}")


def check_rates(
    calibration: Calibration | None, rates: Mapping[str, float | None], in_force: float | None
) -> None:
    """Refuse rates, by option, that a calibration cannot promise; `in_force` is the false-alarm rate.

    Raises UsageError.
    """
    for option, rate in rates.items():
        if rate is not None and calibration is None:
            raise UsageError(
                f"{option} {rate}: this model has no calibration images and so no threshold; train with "
                "--calibration-fraction above 0 or with a calibration/good folder"
            )
    if calibration is None or in_force is None:
        return
    calibration.threshold(in_force)
    review_rate = rates["--review-rate"]
    if review_rate is not None:
        check_review_rate(calibration, in_force, review_rate)


def check_review_order(rate: float, review_rate: float) -> None:
    """Raise UsageError unless the review rate lies above the false-alarm rate, below 1."""
    if not rate < review_rate < 1:
        raise UsageError(
            f"--review-rate {review_rate:g}: must lie between the false-alarm rate, {rate:.3g}, and 1; "
            "raise it, or give a lower --false-alarm-rate"
        )


def check_review_rate(calibration: Calibration, rate: float, review_rate: float) -> None:
    """Refuse a review rate that sends no part to a person. Raises UsageError."""
    check_review_order(rate, review_rate)
    next_rank = calibration.rank(rate) + 1
    if calibration.rank(review_rate) < next_rank:
        raise UsageError(
            f"--review-rate {review_rate:g}: {calibration.n} calibration images cannot tell it from the "
            f"false-alarm rate, {rate:.3g}; give {calibration.named_rate(next_rank):g} or more"
        )


def check_region(detector: Detector) -> None:
    """Refuse a region that is given after the training to a model whose scores are of whole images."""
    model_file = detector.model_file
    blank = np.zeros((1, model_file.image_format.channels, *model_file.size), np.float32)
    if detector.backend.run(blank).scores is not None:
        raise UsageError(
            f"region of interest: {model_file.method} scores the image as a whole, not places of it; give "
            "the region to its training, blemish train --roi"
        )


def check_many(images: object) -> None:
    """Refuse one image in the place of many, whose letters, rows or keys would be taken for images."""
    one = str | bytes | bytearray | memoryview | os.PathLike | Image.Image | Frame | Stored | Observed
    if isinstance(images, one) or (isinstance(images, np.ndarray) and images.dtype.kind not in "OU"):
        what = type(images).__name__
        raise UsageError(f"predict_many: was given a {what}, not many images; give a list, or use predict")
    if not isinstance(images, Iterable) or isinstance(images, Mapping) or hasattr(images, "columns"):
        what = type(images).__name__
        raise UsageError(f"predict_many: was given a {what}, not images; give a list of paths or arrays")
