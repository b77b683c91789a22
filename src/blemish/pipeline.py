"""The one inference path: decode, convert, resize, network, map, score, regions.

A `Pipeline` owns everything but the network, which is a function from images to maps and may be run by any
library. Evaluation, prediction and every service go through it.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from blemish import images, scoring
from blemish.types import ImageError, Prediction, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from blemish.bundle import Bundle

DEFAULT_FALSE_ALARM_RATE = 0.05
"""Used when nobody asks for a rate; raised to the lowest rate that the calibration can promise."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A trained detector: `predict` one image, or `predict_many` files.

    Args:
        bundle: the model.
        network: float32 images (B, C, h, w) in [0, 1] -> float32 maps (B, h, w).
        false_alarm_rate: share of good parts that may be rejected, in (0, 1); None: 5 %, or the lowest
            that the calibration can promise if that is higher.
        allow: conversions permitted beside those of training ("channels", "depth").
        batch_size: images in a call of the network.
    """

    bundle: Bundle
    network: Callable[[np.ndarray], np.ndarray]
    false_alarm_rate: float | None = None
    allow: frozenset[str] = frozenset()
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Refuse a false-alarm rate that cannot be promised, before any image is read."""
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: must be 1 or larger")
        calibration = self.bundle.calibration
        if self.false_alarm_rate is None:
            return
        if calibration is None:
            raise UsageError(
                f"--false-alarm-rate {self.false_alarm_rate}: this model has no calibration images and so "
                "no threshold; train with --calibration-fraction above 0 or with a calibration/good folder"
            )
        calibration.threshold(self.false_alarm_rate)

    @property
    def rate(self) -> float | None:
        """The false-alarm rate in force, or None without a calibration."""
        calibration = self.bundle.calibration
        if calibration is None:
            return None
        if self.false_alarm_rate is not None:
            return self.false_alarm_rate
        return max(DEFAULT_FALSE_ALARM_RATE, calibration.lowest_rate)

    @property
    def threshold(self) -> float | None:
        """The image score above which a part is rejected, or None without a calibration."""
        calibration, rate = self.bundle.calibration, self.rate
        return None if calibration is None or rate is None else calibration.threshold(rate)

    @property
    def pixel_threshold(self) -> float | None:
        """The map value above which a pixel belongs to a region, or None without a calibration."""
        calibration, rate = self.bundle.calibration, self.rate
        return None if calibration is None or rate is None else calibration.pixel_threshold(rate)

    def at_rate(self, false_alarm_rate: float) -> Pipeline:
        """Return the same detector with another false-alarm rate."""
        return replace(self, false_alarm_rate=false_alarm_rate)

    def predict(self, image: object) -> Prediction:
        """Score one image: a path, an array (H, W) or (H, W, C), or a PIL image.

        Raises ImageError when it cannot be read or does not fit the model.
        """
        pixels, size = self._load(image)
        maps = self.network(pixels[np.newaxis])
        return self._finish(maps[0], size, str(image) if isinstance(image, (str, Path)) else None)

    def predict_many(self, paths: Iterable[Path]) -> Iterator[Prediction | ImageError]:
        """Score files in order; a file that cannot be used yields its ImageError in its place.

        Decoding runs ahead of the network by two batches at most, so memory does not grow with the number
        of files; batches fill across files, whatever their sizes.
        """
        waiting = iter(paths)
        with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool:
            ahead: deque[tuple[Path, Future]] = deque()
            while True:
                room = 2 * self.batch_size - len(ahead)
                ahead.extend((path, pool.submit(self._try_load, path)) for path in islice(waiting, room))
                if not ahead:
                    return
                now = [ahead.popleft() for _ in range(min(self.batch_size, len(ahead)))]
                yield from self._predict_batch([(path, future.result()) for path, future in now])

    def _predict_batch(
        self, loaded: list[tuple[Path, tuple[np.ndarray, tuple[int, int]] | ImageError]]
    ) -> Iterator[Prediction | ImageError]:
        readable = [item[0] for _, item in loaded if not isinstance(item, ImageError)]
        maps = iter(self.network(np.stack(readable)) if readable else ())
        for path, item in loaded:
            yield item if isinstance(item, ImageError) else self._try_finish(next(maps), item[1], str(path))

    def _load(self, source: object) -> tuple[np.ndarray, tuple[int, int]]:
        return images.load(
            source, self.bundle.image_format, self.bundle.size, allow=self.allow | self.bundle.allow
        )

    def _try_load(self, path: Path) -> tuple[np.ndarray, tuple[int, int]] | ImageError:
        try:
            return self._load(path)
        except ImageError as error:
            return error

    def _try_finish(self, small_map: np.ndarray, size: tuple[int, int], path: str) -> Prediction | ImageError:
        try:
            return self._finish(small_map, size, path)
        except ImageError as error:
            return error

    def _finish(self, small_map: np.ndarray, size: tuple[int, int], path: str | None) -> Prediction:
        if not np.isfinite(small_map).all():
            raise ImageError(
                f"{path or 'image'}: its anomaly map is not finite; its values lie far from what the model "
                f"takes, {self.bundle.image_format.describe()}: check its scale"
            )
        how = cast("scoring.ImageScore", self.bundle.image_score)
        score = scoring.image_score(small_map, how)
        pixels = scoring.pixel_map(small_map, self.bundle.size, self.bundle.patch_map)
        anomaly_map = scoring.to_original_size(pixels, size)
        calibration, threshold, level = self.bundle.calibration, self.threshold, self.pixel_threshold
        return Prediction(
            path=path,
            score=score,
            p_value=None if calibration is None else calibration.p_value(score),
            threshold=threshold,
            anomalous=None if threshold is None else score > threshold,
            anomaly_map=anomaly_map,
            regions=[] if level is None else scoring.regions(anomaly_map, level),
        )
