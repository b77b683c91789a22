"""The one inference path: decode, convert, resize, network, map, score, regions.

A `Detector` is a model file around a backend, which runs the network, whatever library that takes.
Evaluation, prediction and every service go through it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import ImageError, UsageError
from blemish.core.types import Prediction
from blemish.images import preprocess
from blemish.images.decode import as_image
from blemish.images.regions import Regions, own_regions
from blemish.images.roi import shrink
from blemish.images.sources import name_of, path_of
from blemish.images.tiling import Grid
from blemish.inference import postprocess
from blemish.inference.detector_arguments import check_many, check_options, check_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from blemish.core.types import Sample, Tiling
    from blemish.images.tiling import Box
    from blemish.inference.backend import Backend, Output
    from blemish.inference.counting import Counting
    from blemish.inference.model_file import ModelFile

Prepared = tuple[np.ndarray, tuple[int, int]]
"""An image as the network sees it, float32 (C, h, w), and its own (H, W)."""
Answer = tuple[np.ndarray, float | None]
"""What a network says of an image: its map (h, w), and a score of its own if it has one."""
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
        review_rate: share of good parts that may be rejected or sent to a person, above the other rate: parts
            between the two thresholds are for review; None: none is.
        allow: conversions permitted beside those of training ("channels", "depth").
        batch_size: images in a call of the network.
        maps: whether `anomaly_map` of a prediction has the size of the image. Without, it is the coarse map,
            which takes less time and memory; scores and regions are the same.
        rois: files with regions of interest of single images, by the image's path: such an image counts
            where both its own and the model's are.
        named: products of single images, by the image's path, for a model of several products.
    """

    model_file: ModelFile
    backend: Backend
    false_alarm_rate: float | None = None
    review_rate: float | None = None
    allow: frozenset[str] = frozenset()
    batch_size: int = 16
    maps: bool = True
    rois: Mapping[str, Path] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse options that cannot be honoured, before any image is read."""
        rates = {"--false-alarm-rate": self.false_alarm_rate, "--review-rate": self.review_rate}
        check_options(rates, self.allow, self.batch_size)
        if self.model_file.products:
            return  # the rates are those of the product that is chosen
        try:
            check_rates(self.model_file.calibration, rates, self.rate)
        except UsageError as error:
            if self.model_file.product is None:
                raise
            raise UsageError(f"product {self.model_file.product.name}: {error}") from error

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
    def review_threshold(self) -> float | None:
        """The image score above which a part that is not rejected goes to a person; None: none does."""
        calibration, rate = self.model_file.calibration, self.review_rate
        return None if calibration is None or rate is None else calibration.threshold(rate)

    @property
    def pixel_threshold(self) -> float | None:
        """The map value above which a pixel belongs to a region, or None without a calibration."""
        calibration, rate = self.model_file.calibration, self.rate
        return None if calibration is None or rate is None else calibration.pixel_threshold(rate)

    def at_rate(self, false_alarm_rate: float) -> Detector:
        """Return the same detector with another false-alarm rate."""
        return replace(self, false_alarm_rate=false_alarm_rate)

    def for_samples(self, samples: Iterable[Sample]) -> Detector:
        """Return the same detector, which knows the regions of interest and products that single images have.

        Raises UsageError for a product that the model has not.
        """
        known = list(samples)
        found = own_regions(known)
        named = {str(sample.path): sample.product for sample in known if sample.product is not None}
        for name in sorted({*named.values()}):
            self.for_product(name)
        both = {"rois": {**self.rois, **found}, "named": {**self.named, **named}}
        return replace(self, **both) if found or named else self

    def counting_of(self, path: str | None) -> Counting:
        """Return what counts of the image that rows name so. Raises ImageError, as `Regions.of` does."""
        counting = self.model_file.counting
        if path not in self.rois:
            return counting
        return replace(counting, roi=Regions(common=counting.roi, own=self.rois).of(path))

    def for_product(self, name: str | None) -> Detector:
        """Return the same detector for parts of one product; None: the model has but one.

        Raises UsageError for a product that the model has not, for None where it has several, and for a rate
        that the images of the product cannot promise.
        """
        model_file = self.model_file.of_product(name)
        return self if model_file is self.model_file else replace(self, model_file=model_file)

    def of(self, path: str | None) -> Detector:
        """Return the detector for the product of the image that rows name so. Raises as `for_product`."""
        return self.for_product(self.named.get(path or "")) if self.model_file.products else self

    def predict(self, image: object) -> Prediction:
        """Score one image: a path, an array (H, W) or (H, W, C), a PIL image or a frame of a film.

        Raises ImageError when it cannot be read or does not fit the model, UsageError where the model has
        several products and none was chosen (`for_product`, `for_samples`).
        """
        path = path_of(image)
        self.of(path)
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
        there are cores, two at least. Raises UsageError, at once, for what is one image, or a table, and as
        `predict` does.
        """
        if not self.named:
            self.of(None)
        check_many(images)
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
        roi = self.counting_of(path).roi
        inside = None if roi is None else roi.at(image.shape[:2], name=name)
        if roi is not None:
            image = roi.cover(image, self.model_file.image_format, name=name)
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
                answers = _each(self.backend.run(np.stack([cut(box) for box in boxes])))
                for box, answer in zip(boxes, answers, strict=True):
                    counts = None if inside is None else inside[box]
                    score, coarse_map = self._read_off(answer, path, counts)
                    if counts is None or counts.any():
                        scores.append(score)
                    yield postprocess.to_original_size(coarse_map, tiling.size)

        whole = grid.stitch(maps())
        return self.of(path)._decide(max(scores), whole, whole, path)

    def prepare(self, source: object) -> Prepared:
        """Take an image to float32 (C, h, w) as the network sees it, with its own (H, W). Or ImageError."""
        return preprocess.load(
            source,
            self.model_file.image_format,
            self.model_file.size,
            allow=self.allow | self.model_file.allow,
            roi=self.counting_of(path_of(source)).roi,
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
        own = self.of(path)
        if own is not self:
            return own._finish(answer, size, path)
        counting = self.counting_of(path)
        score, coarse_map = self._read_off(answer, path, counting.inside(size, name=path))
        level, whole = self.pixel_threshold, coarse_map
        counts = bool(counting.as_fields())
        if self.maps or counts or (level is not None and postprocess.may_exceed(coarse_map, level)):
            whole = postprocess.to_original_size(coarse_map, size)
        prediction = self._decide(score, coarse_map, whole, path)
        if self.maps:
            return prediction
        return replace(prediction, anomaly_map=counting.confine(coarse_map, coarse=True))

    def _read_off(
        self, answer: Answer, path: str | None, inside: np.ndarray | None
    ) -> tuple[float, np.ndarray]:
        """Return the score and the coarse map of what the network said; `inside` counts, (H, W), or all."""
        small_map, own_score = answer
        if not np.isfinite(small_map).all():
            raise ImageError(
                f"{path or 'image'}: its anomaly map is not finite; its values lie far from what the model "
                f"takes, {self.model_file.image_format.describe()}: check its scale"
            )
        how = self.model_file.common.image_score
        score = own_score
        if score is None:
            counts = None if inside is None else shrink(inside, small_map.shape)
            empty = counts is not None and not counts.any()  # a tile without anything that counts
            score = 0.0 if empty else postprocess.image_score(small_map, how, inside=counts)
        return score, postprocess.pixel_map(small_map, self.model_file.size, self.model_file.patch_map)

    def _decide(
        self, score: float, coarse_map: np.ndarray, anomaly_map: np.ndarray, path: str | None
    ) -> Prediction:
        """Put what the calibration says of it beside a score and its maps."""
        calibration, threshold, level = self.model_file.calibration, self.threshold, self.pixel_threshold
        counting = self.counting_of(path)
        if counting.has_sizes:
            score = counting.peak(anomaly_map, name=path)
        product = self.model_file.product
        if product is not None:
            score = product.standardise(score)
        return Prediction(
            path=path,
            product=None if product is None else product.name,
            score=score,
            p_value=None if calibration is None else calibration.p_value(score),
            threshold=threshold,
            anomalous=None if threshold is None else score > threshold,
            review_threshold=self.review_threshold,
            anomaly_map=counting.confine(anomaly_map),
            coarse_map=coarse_map,
            regions=[] if level is None else counting.regions(anomaly_map, level),
        )


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
