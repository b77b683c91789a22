"""A detector that can be worked out by hand: its map is the image itself, the mean of the channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import save

from blemish.images import decode as decoding
from blemish.images.preprocess import ImageFormat
from blemish.inference.backend import Output
from blemish.inference.calibration import calibrate
from blemish.inference.detector import Detector
from blemish.inference.model_file import ModelFile

RGB8 = ImageFormat(dtype="uint8", channels=3, value_range=(0.0, 255.0))
FLOAT = ImageFormat(dtype="float32", channels=1, value_range=(0.0, 1.0))


def mean_of_channels(x: np.ndarray) -> np.ndarray:
    return x.mean(axis=1)


@dataclass(frozen=True)
class FunctionBackend:
    """Runs a function of images (B, C, h, w) that returns maps (B, h, w)."""

    function: Callable[[np.ndarray], np.ndarray]

    def run(self, images: np.ndarray) -> Output:
        return Output(self.function(images))


def with_options(detector: Detector, **options: object) -> Detector:
    """The same detector of a model with other options."""
    model_file = detector.model_file
    return replace(detector, model_file=replace(model_file, config=model_file.config | options))


def fake_detector(
    *,
    grey_levels: Sequence[int] = (),
    grey_maxima: Sequence[int] = (),
    image_format: ImageFormat = RGB8,
    network: Callable[[np.ndarray], np.ndarray] = mean_of_channels,
    batch_size: int = 16,
    false_alarm_rate: float | None = None,
    side: int = 32,
) -> Detector:
    """A detector of `side` x `side` pixels, calibrated on good images of these uniform grey levels.

    `grey_maxima` gives their maps other maxima than their scores.
    """
    scores, maxima = (
        [float(np.float32(level) / np.float32(255)) for level in levels]
        for levels in (grey_levels, grey_maxima or grey_levels)
    )
    model_file = ModelFile(
        method="mean",
        preset="default",
        config={"image_size": side, "image_score": "max"},
        image_format=image_format,
        display_range=(0.0, 1.0),
        calibration=calibrate(scores, maxima) if scores else None,
        provenance={"training_digests": {}, "images": {"train": 3}, "seed": 0},
    )
    return Detector(
        model_file=model_file,
        backend=FunctionBackend(network),
        batch_size=batch_size,
        false_alarm_rate=false_alarm_rate,
    )


def grey(path: Path, level: int, *, side: int = 32) -> Path:
    """Write a uniform RGB image; the fake detector gives it the score level / 255."""
    return save(path, np.full((side, side, 3), level, np.uint8))


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count from now on how often each file is decoded, by the name that errors have for it."""
    decode, decoded = decoding.decode, Counter[str]()

    def counting(data: bytes, *, name: str = "image") -> np.ndarray:
        decoded[name] += 1
        return decode(data, name=name)

    monkeypatch.setattr(decoding, "decode", counting)
    return decoded
