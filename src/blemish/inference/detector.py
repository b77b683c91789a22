"""The one inference path: decode, convert, resize, network, map, score, regions.

A `Detector` is a model file around a backend, which runs the network, whatever library that takes.
Evaluation, prediction and every service go through it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import ImageError, UsageError
from blemish.core.types import Prediction
from blemish.images import preprocess
from blemish.images.decode import as_image
from blemish.images.regions import Regions, own_regions
from blemish.images.sources import name_of, path_of
from blemish.inference import postprocess
from blemish.inference.answers import each_answer, read_off
from blemish.inference.detector_arguments import check_many, check_options, check_rates
from blemish.inference.pipeline import run_pipeline
from blemish.inference.tiles import score_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from blemish.core.types import Sample, Tiling
    from blemish.inference.answers import Answer
    from blemish.inference.backend import Backend
    from blemish.inference.counting import Counting
    from blemish.inference.model_file import ModelFile

Prepared = tuple[np.ndarray, tuple[int, int]]
"""An image as the network sees it, float32 (C, h, w), and its own (H, W)."""
DEFAULT_FALSE_ALARM_RATE = 0.05
"""Used when nobody asks for a rate; raised to the lowest rate that the calibration can promise."""


def default_rate(lowest: float) -> float:
    """Return the rate in force where none is asked for: the usual one, or `lowest` where that is higher."""
    return max(DEFAULT_FALSE_ALARM_RATE, lowest)


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
        return default_rate(calibration.lowest_rate)

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

        Raises UsageError for a product that the model does not have.
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

        Raises UsageError for a product that the model does not have, for None where it has several, and for a
        rate that the images of the product cannot promise.
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
        return self._finish(next(each_answer(output)), size, path)

    def predict_many(
        self, images: Iterable[object], *, threads: int | None = None
    ) -> Generator[Prediction | ImageError, None, None]:
        """Score many images in order, each one as `predict` takes it.

        One that cannot be used yields its ImageError in its place. Two batches at most are decoded or scored
        ahead, so memory does not grow with the number of images; batches fill across images, whatever their
        sizes. Images in tiles come one by one. `threads` decode, and as many read maps off; None: as many as
        there are cores, two at least; they end with the last image, or at `close`. Raises UsageError, at
        once, for what is one image, or a table, and as `predict` does.
        """
        if not self.named:
            self.of(None)
        check_many(images)
        if self.model_file.tiling is not None:
            return (self._try_predict(image) for image in images)
        return run_pipeline(
            iter(images), self.try_prepare, self._scored, batch_size=self.batch_size, threads=threads
        )

    def predict_prepared(
        self, loaded: Sequence[tuple[object, Prepared | ImageError]]
    ) -> Iterator[Prediction | ImageError]:
        """Score what `try_prepare` made of files or frames in one call of the network (not for tiles).

        The network runs at once; what reads off a map runs when its prediction is taken.
        """
        finishing = list(self._scored(loaded))
        return (finish() for finish in finishing)

    def _scored(
        self, loaded: Sequence[tuple[object, Prepared | ImageError]]
    ) -> Iterator[Callable[[], Prediction | ImageError]]:
        """Call the network, then yield for each file or frame what reads off its map."""
        readable = [item[0] for _, item in loaded if not isinstance(item, ImageError)]
        answers = each_answer(self.backend.run(np.stack(readable))) if readable else iter(())
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
        score, whole = score_tiles(
            as_image(source),
            tiling,
            self.model_file,
            self.backend,
            counting=self.counting_of(path),
            allow=self.allow | self.model_file.allow,
            batch_size=self.batch_size,
            path=path,
            name=name_of(source),
        )
        return self.of(path)._decide(score, whole, whole, path)

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
        score, coarse_map = read_off(answer, self.model_file, path, counting.inside(size, name=path))
        level, whole = self.pixel_threshold, coarse_map
        counts = bool(counting.as_fields())
        if self.maps or counts or (level is not None and postprocess.may_exceed(coarse_map, level)):
            whole = postprocess.to_original_size(coarse_map, size)
        prediction = self._decide(score, coarse_map, whole, path)
        if self.maps:
            return prediction
        return replace(prediction, anomaly_map=counting.confine(coarse_map, coarse=True))

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


def _itself(error: ImageError) -> ImageError:
    return error
