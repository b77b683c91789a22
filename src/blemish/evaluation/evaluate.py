"""Evaluation: the metrics of a detector on a labelled test set, from raw scores alone.

Nothing is fitted on the test set: the threshold is the calibration's, the metrics need none.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.files import write_whole
from blemish.core.ownership import owned
from blemish.data.dataset import Dataset, check_evaluable, dataset_fingerprint, find_leakage
from blemish.data.known_defects import read_known_defects
from blemish.data.masks import check_marks, check_sizes, read_mask, read_regions
from blemish.evaluation import sensitivity, sensitivity_plan
from blemish.evaluation.image_measures import (
    false_alarm_p_value,
    per_defect,
    review_fields,
    share_rejected,
)
from blemish.evaluation.known_defects import find_chosen_by, measure_known, score_known
from blemish.evaluation.localisation import LIMIT, measure_pixels
from blemish.evaluation.parts import measure_parts, score_others, usual_images
from blemish.evaluation.pictures import predict_and_draw
from blemish.evaluation.scored import report_image, score_of, write_scores
from blemish.images.decode import container_of
from blemish.metrics.confidence import bootstrap_interval
from blemish.metrics.pixels import PixelPool
from blemish.metrics.resampler import PixelResampler
from blemish.metrics.roc import Roc, image_roc
from blemish.report.content import ReportCurve, ReportOverlap
from blemish.report.evaluation import PACKAGES, write_report
from blemish.report.html import require_packages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blemish.core.types import Sample
    from blemish.evaluation.scored import Scored
    from blemish.inference.detector import Detector
    from blemish.inference.part_models import Views

EVALUATION_NAME = "evaluation.json"
PIXELS_NAME = "pixels.npz"
"""What `blemish compare` needs to compare maps: a sample of each image's pixels."""
RESAMPLES = 1000
"""So many draws make an interval."""


def evaluate(
    detector: Detector,
    dataset: Dataset,
    out: Path,
    *,
    training_log: Path | None = None,
    choice_picture: Path | None = None,
    planted: int = 0,
    known_defects: Path | None = None,
    views: Views | None = None,
    on_image: Callable[[], None] = lambda: None,
    on_planted: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Score the test split and write evaluation.json, scores.csv, report.html and its pictures below `out`.

    For the sensitivity card so many images with planted defects, at most, are scored as well; with 0, or
    where there can be none (`sensitivity_plan.why_not`), there is no card. `on_image` is called for each test
    image, `on_planted` for each planted one. `training_log` and `choice_picture` are the run's log.csv and
    choice.png, shown where they are there. The defects of the folder `known_defects` are reported apart.
    With `views` parts are decided and measured as well, from all their images; figures of images are then of
    those alone that `detector`, the usual one, scores.

    Returns evaluation.json's content: areas and rates in [0, 1]; pixel fields are None without masks,
    rates and the threshold None without a calibration. Raises DataError when the test split lacks good or
    defective images, no mask of a kind of defect marks anything, or one is not of its image's size;
    ImageError when an image cannot be used; UsageError when another process writes `out`, and without the
    packages of `blemish[report]`; OSError when it cannot be written.
    """
    require_packages(*PACKAGES)
    parts = None if views is None else (dataset, views)
    check_evaluable(dataset)
    dataset = dataset if views is None else usual_images(dataset, views)
    for sample in dataset.test:  # a file that is no image is found now, and not after those before it
        container_of(sample.path)
    known = known_defects and (known_defects, read_known_defects(known_defects))
    check_sizes([*(dataset.test if dataset.has_masks else ()), *(known[1] if known else ())])
    if dataset.has_masks:
        check_marks(dataset.test)
    detector = detector.for_samples(dataset.test)
    with owned(out):
        return _evaluate(
            detector,
            dataset,
            out,
            training_log,
            choice_picture,
            planted,
            known,
            parts,
            on_image,
            on_planted,
        )


def _evaluate(
    detector: Detector,
    dataset: Dataset,
    out: Path,
    training_log: Path | None,
    choice_picture: Path | None,
    planted: int,
    known: tuple[Path, list[Sample]] | None,
    parts: tuple[Dataset, Views] | None,
    on_image: Callable[[], None],
    on_planted: Callable[[], None],
) -> dict[str, Any]:
    provenance = detector.model_file.provenance
    learnt, calibrating = (provenance.get(f"{part}_digests", {}) for part in ("training", "calibration"))
    used = find_leakage({digest: digest for digest in (*learnt, *calibrating)}, dataset.test)
    leaks = [(learnt[digest], tested) for digest, tested in used if digest in learnt]
    known_scored = known and score_known(detector, *known)  # first, as one that cannot be used ends it all
    scored, pool, resampler, seconds = _score_all(detector, dataset, out, on_image)
    _write_scored(out, scored, resampler if pool else None)
    others, leaks_of_others = ([], []) if parts is None else score_others(*parts, out)
    leaks += leaks_of_others
    evaluation, curves, overlap = _measure(detector, scored, pool, saturated=bool(dataset.saturations))
    evaluation |= _intervals(scored, resampler if pool else None)
    evaluation |= {"seconds_per_image": seconds / len(scored), "leakage": [list(pair) for pair in leaks]}
    evaluation |= _identity(detector, dataset)
    evaluation["sensitivity"] = _sensitivity(detector, dataset, scored, planted, on_planted)
    evaluation["known_defects"] = known_scored and measure_known(
        known_scored, [s.score for s in scored if not s.sample.is_defect]
    )
    evaluation["parts"] = parts and measure_parts(*parts, [*scored, *others], out)
    evaluation["chosen_by"] = find_chosen_by(detector, dataset.test)
    evaluation["calibrated_by"] = [tested for digest, tested in used if digest in calibrating]
    write_whole(out / EVALUATION_NAME, json.dumps(evaluation, indent=2) + "\n")
    write_report(
        out,
        title=f"{dataset.name}: {detector.model_file.method}",
        evaluation=evaluation,
        images=[report_image(s) for s in scored],
        curves=curves,
        overlap=overlap,
        training_log=training_log if training_log and training_log.exists() else None,
        facts=_facts(detector),
        choice=detector.model_file.provenance.get("choice"),
        choice_picture=_copy_beside(choice_picture, out),
    )
    return evaluation


def _score_all(
    detector: Detector, dataset: Dataset, out: Path, on_image: Callable[[], None]
) -> tuple[list[Scored], PixelPool | None, PixelResampler, float]:
    """Score the test images and write their pictures below `out`.

    Returns the scores, the pixels (None: no masks, or a method that draws no map), a sample of the pixels for
    their intervals, and the seconds that scoring took in all.
    """
    pool = PixelPool() if dataset.has_masks else None
    resampler = PixelResampler()
    scored, seconds, drawn = [], 0.0, False
    for sample, prediction, elapsed in predict_and_draw(detector, dataset, out):
        seconds += elapsed
        if pool is not None:
            height, width = prediction.anomaly_map.shape
            mask = read_mask(sample, (height, width))
            saturations = dataset.saturations
            regions = read_regions(sample, (height, width), saturations) if saturations else ()
            good = not sample.is_defect
            pool.add(prediction.anomaly_map, mask, sample.label, regions, is_good=good)
            resampler.add(prediction.anomaly_map, mask)
            drawn = drawn or bool(prediction.anomaly_map.any())
        scored.append(score_of(sample, prediction, dataset))
        on_image()
    return scored, pool if drawn else None, resampler, seconds


def _write_scored(out: Path, scored: list[Scored], resampler: PixelResampler | None) -> None:
    """Write what was scored before anything is made of it; what an earlier evaluation made goes first.

    So nobody finds an evaluation.json beside scores that it is not of, however this one ends.
    """
    (out / EVALUATION_NAME).unlink(missing_ok=True)
    write_scores(out / "scores.csv", scored)
    if resampler is not None:
        resampler.save(out / PIXELS_NAME)


def _copy_beside(picture: Path | None, out: Path) -> str | None:
    """Copy a picture of the run beside the report, and return its name there; None where there is none."""
    if picture is None or not picture.is_file():
        return None
    write_whole(out / picture.name, picture.read_bytes())
    return picture.name


def _sensitivity(
    detector: Detector, dataset: Dataset, scored: list[Scored], planted: int, on_planted: Callable[[], None]
) -> dict[str, Any] | None:
    """Measure the sensitivity card, or return None where there can be none."""
    if planted == 0 or sensitivity_plan.why_not(detector, dataset) is not None:
        return None
    paths = sensitivity_plan.untouched(detector, dataset)
    good = [s.anomalous is True for s in scored if not s.sample.is_defect]
    card = sensitivity.measure(detector, paths, images=planted, on_image=on_planted)
    return card | {"good_scored": len(good), "good_rejected": sum(good)}


def _identity(detector: Detector, dataset: Dataset) -> dict[str, str]:
    """Name what was measured: the method, and the test images by content."""
    return {
        "method": detector.model_file.method,
        "preset": detector.model_file.preset,
        "dataset": dataset.name,
        "test_fingerprint": dataset_fingerprint(replace(dataset, train=[], calibration=[])),
    }


def _measure(
    detector: Detector, scored: list[Scored], pool: PixelPool | None, *, saturated: bool
) -> tuple[dict[str, Any], list[ReportCurve], ReportOverlap | None]:
    scores = np.array([s.score for s in scored])
    defective = np.array([s.sample.is_defect for s in scored])
    image = image_roc(scores, defective)
    pixel, pro = (pool.pixel_roc(), pool.pro_roc()) if pool else (None, None)
    fields, overlap = measure_pixels(pool, pixel, pro, detector.pixel_threshold, saturated=saturated)
    evaluation: dict[str, Any] = {
        "image_auroc": image.auroc(),
        **fields,
        "image_average_precision": image.average_precision(),
        "image_f1max": image.f1max()[0],
        "requested_false_alarm_rate": detector.rate,
        "threshold": detector.threshold,
        "false_alarm_rate": share_rejected(s for s in scored if not s.sample.is_defect),
        "false_alarm_p_value": false_alarm_p_value(detector, scored),
        "detection_rate": share_rejected(s for s in scored if s.sample.is_defect),
        **review_fields(detector, scored),
        "n_good": int((~defective).sum()),
        "n_defect": int(defective.sum()),
        "per_defect": per_defect(scored, pool),
    }
    curves = [("image", image, 1.0), ("pixel", pixel, 1.0), ("PRO", pro, LIMIT)]
    shown = [(name, roc, limit, roc.curve()) for name, roc, limit in curves if roc is not None]
    drawn = [
        ReportCurve(name=name, fpr=fpr, tpr=tpr, area=roc.normalised_auroc(limit))
        for name, roc, limit, (fpr, tpr) in shown
    ]
    return evaluation, drawn, overlap


def _intervals(scored: list[Scored], resampler: PixelResampler | None) -> dict[str, list[float] | None]:
    """95 % intervals over images, by the name of the measure and `_interval95`."""
    scores, is_defect = [s.score for s in scored], [s.sample.is_defect for s in scored]
    image = bootstrap_interval(scores, is_defect, Roc.auroc, n=RESAMPLES)
    pixel = resampler.intervals(limit=LIMIT, n=RESAMPLES) if resampler else {}
    found = {
        "image_auroc": image,
        "pixel_auroc": pixel.get("auroc"),
        "pixel_auroc_fpr30": pixel.get("limited"),
        "aupro_fpr30": pixel.get("pro"),
    }
    return {f"{name}_interval95": interval and list(interval) for name, interval in found.items()}


def _facts(detector: Detector) -> dict[str, str]:
    model_file = detector.model_file
    known = model_file.provenance
    counts = known.get("images", {})
    return {
        "Method": f"{model_file.method}, preset {model_file.preset}",
        "Image format": model_file.image_format.describe(),
        "Network input": f"{model_file.size[0]}×{model_file.size[1]} px",
        "Good images": ", ".join(f"{n} {part}" for part, n in counts.items()),
        "Training set": f"{known.get('dataset', '')} (fingerprint {known.get('fingerprint', '')[:16]})",
        "Seed": str(known.get("seed", "")),
        "Options": ", ".join(f"{k} {v}" for k, v in model_file.config.items()),
        "Versions": ", ".join(f"{k} {v}" for k, v in known.get("versions", {}).items()),
    }
