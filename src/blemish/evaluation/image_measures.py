"""What is measured of images and of kinds of defects: shares rejected, and areas of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish.core.errors import DataError, UsageError
from blemish.metrics.roc import Roc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blemish.evaluation.scored import Scored
    from blemish.inference.detector import Detector
    from blemish.metrics.pixels import PixelPool


def share_rejected(scored: Iterable[Scored]) -> float | None:
    """Return the share of images that are rejected, in [0, 1]; None where nothing decides."""
    known = [s.anomalous for s in scored if s.anomalous is not None]
    return sum(known) / len(known) if known else None


def review_fields(detector: Detector, scored: list[Scored]) -> dict[str, float | None]:
    """Return what the second threshold does: shares of parts that are not accepted; None without one."""
    shares: list[float | None] = [None, None]
    if detector.review_rate is not None:
        for kind in (False, True):
            found = [s.decision != "accepted" for s in scored if s.sample.is_defect == kind]
            shares[kind] = sum(found) / len(found) if found else None
    return {
        "requested_review_rate": detector.review_rate,
        "review_threshold": detector.review_threshold,
        "review_rate": shares[False],
        "review_detection_rate": shares[True],
    }


def false_alarm_p_value(detector: Detector, scored: list[Scored]) -> float | None:
    """The chance of so many false alarms if the good test images are like those of the calibration."""
    calibration, rate = detector.model_file.calibration, detector.rate
    if calibration is None or rate is None:
        return None
    rejected = [s.anomalous is True for s in scored if not s.sample.is_defect]
    return calibration.chance_of(sum(rejected), len(rejected), rate)


def per_defect(scored: list[Scored], pool: PixelPool | None) -> dict[str, dict[str, Any]]:
    """Each defect type against all good images, and its pixels against all good pixels."""
    good = [s.score for s in scored if not s.sample.is_defect]
    table = {}
    for label in sorted({s.sample.label for s in scored if s.sample.is_defect}):
        members = [s for s in scored if s.sample.label == label]
        table[label] = {
            "n": len(members),
            "image_auroc": Roc.of(good, [s.score for s in members]).auroc(),
            "pixel_auroc": pool and _pixel_auroc(pool, label),
            "detection_rate": share_rejected(members),
        }
    return table


def _pixel_auroc(pool: PixelPool, label: str) -> float:
    try:
        return pool.pixel_roc(label).auroc()
    except UsageError as error:
        raise DataError(
            f"ground truth of {label!r}: its masks mark nothing at all, or leave nothing good; correct them"
        ) from error
