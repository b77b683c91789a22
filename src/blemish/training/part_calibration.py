"""Good parts, which no model has learnt, scored in all their views: what decides of parts later."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError, ImageError
from blemish.data.hashing import file_digest
from blemish.inference.part_models import digests_of_one, products_error, write_part_calibration
from blemish.inference.parts import PartCalibration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from blemish.core.types import Sample
    from blemish.data.split import Split
    from blemish.inference.detector import Detector
    from blemish.inference.part_models import ViewModels


def whole_parts(
    samples: Sequence[Sample], good: Sequence[Sample]
) -> tuple[list[list[Sample]], tuple[str, ...]]:
    """Return the parts of `samples` that have all views, by name in order, and what the views are called.

    Which views there are is seen in all `good` samples. Where they are not told apart, whole is what has as
    many images as most parts have, the more the better. Raises DataError without any.
    """
    views = tuple(sorted({s.view for s in good if s.view is not None}))
    sizes = Counter(len(members) for members in _by_part(good).values())
    count = len(views) or max(sizes, key=lambda size: (sizes[size], size), default=0)
    parts = _by_part(samples)
    whole = [parts[key] for key in sorted(parts) if len(parts[key]) == count]
    if not whole:
        named = f"; the views are {', '.join(views)}" if views else ""
        raise DataError(
            f"{len(parts)} calibration parts, of which not one has all views{named}: hold out good parts "
            "whose images are all there"
        )
    return whole, views


def _by_part(samples: Sequence[Sample]) -> dict[tuple[str, str], list[Sample]]:
    """Group samples by their parts; equal names in two splits are two parts."""
    parts: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if sample.part is not None:
            parts.setdefault((sample.part, sample.split), []).append(sample)
    return parts


def calibrates_parts(split: Split) -> bool:
    """Whether parts will be calibrated. Raises DataError, before the training, where none would be whole."""
    several = len({sample.product for sample in split.train}) > 1  # such a model decides of no parts
    named = any(sample.part for sample in split.calibration) and not several
    return named and bool(whole_parts(split.calibration, _good(split)))


def _good(split: Split) -> list[Sample]:
    return [*split.train, *split.validation, *split.calibration]


def calibrate_parts(
    detector_of: Callable[[str | None], Detector], samples: Sequence[Sample], good: Sequence[Sample]
) -> tuple[PartCalibration, list[str]]:
    """Score the parts of `samples` that have all views; returns their scores, and what they are called.

    `good` is that of `whole_parts`.

    Raises DataError without such parts, ImageError for an image that cannot be used.
    """
    whole, views = whole_parts(samples, good)
    order = [
        sample
        for members in whole
        for sample in sorted(members, key=lambda s: (s.view or "", s.path.as_posix()))
    ]
    scores = np.zeros(len(order))
    for detector, numbers in _by_detector(detector_of, order):
        own = replace(detector.for_samples(order), maps=False)
        images = [order[i].path for i in numbers]
        for i, result in zip(numbers, own.predict_many(images), strict=True):
            if isinstance(result, ImageError):
                raise result
            scores[i] = result.score
    names = [str(members[0].part) for members in whole]
    return PartCalibration(scores=scores.reshape(len(whole), -1), views=views), names


def _by_detector(
    detector_of: Callable[[str | None], Detector], samples: Sequence[Sample]
) -> list[tuple[Detector, list[int]]]:
    found: dict[int, tuple[Detector, list[int]]] = {}
    for i, sample in enumerate(samples):
        detector = detector_of(sample.view)
        found.setdefault(id(detector), (detector, []))[1].append(i)
    return list(found.values())


def save_parts(file: Path, detector: Detector, split: Split, model: bytes, *, data: str) -> None:
    """Write the `parts.json` of a model, of which `model` is the file's content, from the data set `data`.

    Raises OSError.
    """
    calibration, names = calibrate_parts(lambda _view: detector, split.calibration, _good(split))
    digests = digests_of_one(calibration, model)
    write_part_calibration(file, calibration, digests, parts=names, data=data)


def calibrate_views(
    models: ViewModels,
    detectors: Mapping[Path, Detector],
    samples: Sequence[Sample],
    file: Path,
    *,
    data: str,
) -> tuple[PartCalibration, int]:
    """Write the `parts.json` of models from good samples, without parts of which one has learnt an image.

    Returns the calibration, and how many parts were left out. Raises DataError where none is left or no
    parts are named, UsageError for a model of several products, OSError when the file cannot be written.
    """
    parts = _by_part(samples)
    if not parts:
        raise DataError(f"--data {data}: names no parts; give --part-pattern, or a manifest with parts")
    several = next((path for path, d in detectors.items() if len(d.model_file.products) > 1), None)
    if several is not None:
        raise products_error(several)
    learnt = {
        digest
        for detector in detectors.values()
        for digest in detector.model_file.provenance.get("training_digests", {})
    }
    unknown = [p for p in parts.values() if learnt.isdisjoint(file_digest(s.path) for s in p)]
    free = [sample for members in unknown for sample in members]
    if not free:
        raise DataError(
            f"--data {data}: of each of its {len(parts)} parts an image was learnt; such parts promise "
            "nothing: give parts that the models have not seen"
        )
    calibration, names = calibrate_parts(lambda view: detectors[models.path(view)], free, samples)
    digests = {view: models.digest(view or None) for view in calibration.views or ("",)}
    write_part_calibration(file, calibration, digests, parts=names, data=data)
    return calibration, len(parts) - calibration.n
