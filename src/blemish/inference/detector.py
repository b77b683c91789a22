"""The one inference path: decode, convert, resize, network, map, score, regions.

A `Detector` is a model file around a backend, which runs the network, whatever library that takes.
Evaluation, prediction and every service go through it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, repeat
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from blemish.core.errors import ImageError, UsageError
from blemish.core.types import Prediction
from blemish.images import preprocess
from blemish.images.decode import as_image
from blemish.images.sources import Frame, Observed, Stored, name_of, path_of
from blemish.images.tiling import Grid
from blemish.inference import postprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from blemish.core.types import Tiling
    from blemish.images.tiling import Box
    from blemish.inference.backend import Backend, Output
    from blemish.inference.model_file import ModelFile

Prepared = tuple[np.ndarray, tuple[int, int]]
"""An image as the network sees it, float32 (C, h, w), and its own (H, W)."""
Answer = tuple[np.ndarray, float | None]
"""What a network says of an image: its map (h, w), and a score of its own if it has one."""
CONVERSIONS = ("channels", "depth")
"""What `allow` may hold."""
DEFAULT_FALSE_ALARM_RATE = 0.05
"""Used when nobody asks for a rate; raised to the lowest rate that the calibration can promise."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A trained detector: `predict` one image, or `predict_many` files.

    Args:
        model_file: the model.
        backend: runs the network.
        false_alarm_rate: share of good parts that may be rejected, in (0, 1); None: 5 %, or the lowest
            that the calibration can promise if that is higher.
        allow: conversions permitted beside those of training ("channels", "depth").
        batch_size: images in a call of the network.
        maps: whether `anomaly_map` of a prediction has the size of the image. Without, it is the coarse map,
            which takes less time and memory; scores and regions are the same.
    """

    model_file: ModelFile
    backend: Backend
    false_alarm_rate: float | None = None
    allow: frozenset[str] = frozenset()
    batch_size: int = 16
    maps: bool = True

    def __post_init__(self) -> None:
        """Refuse options that cannot be honoured, before any image is read."""
        _check_options(self.false_alarm_rate, self.allow, self.batch_size)
        calibration = self.model_file.calibration
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
        calibration = self.model_file.calibration
        if calibration is None:
            return None
        if self.false_alarm_rate is not None:
            return self.false_alarm_rate
        return max(DEFAULT_FALSE_ALARM_RATE, calibration.lowest_rate)

    @property
    def threshold(self) -> float | None:
        """The image score above which a part is rejected, or None without a calibration."""
        calibration, rate = self.model_file.calibration, self.rate
        return None if calibration is None or rate is None else calibration.threshold(rate)

    @property
    def pixel_threshold(self) -> float | None:
        """The map value above which a pixel belongs to a region, or None without a calibration."""
        calibration, rate = self.model_file.calibration, self.rate
        return None if calibration is None or rate is None else calibration.pixel_threshold(rate)

    def at_rate(self, false_alarm_rate: float) -> Detector:
        """Return the same detector with another false-alarm rate."""
        return replace(self, false_alarm_rate=false_alarm_rate)

    def predict(self, image: object) -> Prediction:
        """Score one image: a path, an array (H, W) or (H, W, C), a PIL image or a frame of a film.

        Raises ImageError when it cannot be read or does not fit the model.
        """
        path = path_of(image)
        if self.model_file.tiling is not None:
            return self._predict_tiled(image, self.model_file.tiling, path)
        pixels, size = self.prepare(image)
        output = self.backend.run(pixels[np.newaxis])
        return self._finish(next(_each(output)), size, path)

    def predict_many(
        self, images: Iterable[object], *, threads: int | None = None
    ) -> Iterator[Prediction | ImageError]:
        """Score many images in order, each one as `predict` takes it.

        One that cannot be used yields its ImageError in its place. Two batches at most are decoded or scored
        ahead, so memory does not grow with the number of images; batches fill across images, whatever their
        sizes. Images in tiles come one by one. `threads` decode, and as many read maps off; None: as many as
        there are cores, two at least. Raises UsageError, at once, for what is one image, or a table.
        """
        _check_many(images)
        return self._predict_each(iter(images), threads)

    def _predict_each(
        self, waiting: Iterator[object], threads: int | None
    ) -> Iterator[Prediction | ImageError]:
        if self.model_file.tiling is not None:
            yield from map(self._try_predict, waiting)
            return
        workers = threads or max(2, os.cpu_count() or 2)
        finishing: deque[Future] = deque()
        with _pool(workers) as decoders, _pool(workers) as finishers:
            ahead: deque[tuple[object, Future]] = deque()
            while True:
                room = max(self.batch_size, 2 * self.batch_size - len(finishing)) - len(ahead)
                ahead.extend(
                    (image, decoders.submit(self.try_prepare, image)) for image in islice(waiting, room)
                )
                if not ahead:
                    break
                now = [ahead.popleft() for _ in range(min(self.batch_size, len(ahead)))]
                for finish in self._scored([(image, future.result()) for image, future in now]):
                    finishing.append(finishers.submit(finish))
                    if len(finishing) > workers:
                        yield finishing.popleft().result()
            yield from (future.result() for future in finishing)

    def predict_prepared(
        self, loaded: Sequence[tuple[object, Prepared | ImageError]]
    ) -> Iterator[Prediction | ImageError]:
        """Score what `try_prepare` made of files or frames in one call of the network (not for tiles)."""
        return (finish() for finish in self._scored(loaded))

    def _scored(
        self, loaded: Sequence[tuple[object, Prepared | ImageError]]
    ) -> Iterator[Callable[[], Prediction | ImageError]]:
        """Call the network, then yield for each file or frame what reads off its map."""
        readable = [item[0] for _, item in loaded if not isinstance(item, ImageError)]
        answers = _each(self.backend.run(np.stack(readable))) if readable else iter(())
        for image, item in loaded:
            if isinstance(item, ImageError):
                yield partial(_itself, item)
            else:
                yield partial(self._try_finish, next(answers), item[1], path_of(image))

    def _try_predict(self, image: object) -> Prediction | ImageError:
        try:
            return self.predict(image)
        except ImageError as error:
            return error

    def _predict_tiled(self, source: object, tiling: Tiling, path: str | None) -> Prediction:
        """Score an image tile by tile, a batch of them at a time: a part is as bad as its worst tile."""
        image, name = as_image(source), name_of(source)
        grid = Grid(image.shape[:2], tiling, name=name)
        scores: list[float] = []

        def cut(box: Box) -> np.ndarray:
            allow = self.allow | self.model_file.allow
            return preprocess.prepare(
                image[box], self.model_file.image_format, self.model_file.size, allow=allow, name=name
            )

        def maps() -> Iterator[np.ndarray]:
            for start in range(0, len(grid), self.batch_size):
                boxes = grid.boxes[start : start + self.batch_size]
                for answer in _each(self.backend.run(np.stack([cut(box) for box in boxes]))):
                    score, coarse_map = self._read_off(answer, path)
                    scores.append(score)
                    yield postprocess.to_original_size(coarse_map, tiling.size)

        whole = grid.stitch(maps())
        return self._decide(max(scores), whole, whole, path)

    def prepare(self, source: object) -> Prepared:
        """Take an image to float32 (C, h, w) as the network sees it, with its own (H, W). Or ImageError."""
        return preprocess.load(
            source,
            self.model_file.image_format,
            self.model_file.size,
            allow=self.allow | self.model_file.allow,
        )

    def try_prepare(self, source: object) -> Prepared | ImageError:
        """Return what `prepare` does, or the error that it raises."""
        try:
            return self.prepare(source)
        except ImageError as error:
            return error

    def _try_finish(self, answer: Answer, size: tuple[int, int], path: str | None) -> Prediction | ImageError:
        try:
            return self._finish(answer, size, path)
        except ImageError as error:
            return error

    def _finish(self, answer: Answer, size: tuple[int, int], path: str | None) -> Prediction:
        score, coarse_map = self._read_off(answer, path)
        level, whole = self.pixel_threshold, coarse_map
        if self.maps or (level is not None and postprocess.may_exceed(coarse_map, level)):
            whole = postprocess.to_original_size(coarse_map, size)
        prediction = self._decide(score, coarse_map, whole, path)
        return prediction if self.maps else replace(prediction, anomaly_map=coarse_map)

    def _read_off(self, answer: Answer, path: str | None) -> tuple[float, np.ndarray]:
        """Return the score and the coarse map of what the network said."""
        small_map, own_score = answer
        if not np.isfinite(small_map).all():
            raise ImageError(
                f"{path or 'image'}: its anomaly map is not finite; its values lie far from what the model "
                f"takes, {self.model_file.image_format.describe()}: check its scale"
            )
        how = self.model_file.common.image_score
        score = postprocess.image_score(small_map, how) if own_score is None else own_score
        return score, postprocess.pixel_map(small_map, self.model_file.size, self.model_file.patch_map)

    def _decide(
        self, score: float, coarse_map: np.ndarray, anomaly_map: np.ndarray, path: str | None
    ) -> Prediction:
        """Put what the calibration says of it beside a score and its maps."""
        calibration, threshold, level = self.model_file.calibration, self.threshold, self.pixel_threshold
        return Prediction(
            path=path,
            score=score,
            p_value=None if calibration is None else calibration.p_value(score),
            threshold=threshold,
            anomalous=None if threshold is None else score > threshold,
            anomaly_map=anomaly_map,
            coarse_map=coarse_map,
            regions=[] if level is None else postprocess.regions(anomaly_map, level),
        )


def _check_options(rate: object, allow: object, batch_size: object) -> None:
    """Refuse options of another type or name, which would be misread or passed over. Raises UsageError."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral):
        raise UsageError(f"--batch-size {batch_size}: must be a whole number")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be 1 or larger")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, Real)):
        raise UsageError(f"--false-alarm-rate {rate!r}: must be a number; 0.05 is 5 %")
    names = list(allow) if isinstance(allow, Set) else [allow]
    wrong = names if not isinstance(allow, Set) else [name for name in names if name not in CONVERSIONS]
    if wrong:
        raise UsageError(f"--allow {wrong[0]}: must be a set of: {', '.join(CONVERSIONS)}")


def _check_many(images: object) -> None:
    """Refuse one image in the place of many, whose letters, rows or keys would be taken for images."""
    one = str | bytes | bytearray | memoryview | os.PathLike | Image.Image | Frame | Stored | Observed
    if isinstance(images, one) or (isinstance(images, np.ndarray) and images.dtype.kind not in "OU"):
        what = type(images).__name__
        raise UsageError(f"predict_many: was given a {what}, not many images; give a list, or use predict")
    if not isinstance(images, Iterable) or isinstance(images, Mapping) or hasattr(images, "columns"):
        what = type(images).__name__
        raise UsageError(f"predict_many: was given a {what}, not images; give a list of paths or arrays")


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Open threads that drop what still waits when they are left early, by an error or for good."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _each(output: Output) -> Iterator[Answer]:
    """Yield what a network said, image by image."""
    scores = repeat(None) if output.scores is None else map(float, output.scores)
    return zip(output.maps, scores, strict=False)


def _itself(error: ImageError) -> ImageError:
    return error
