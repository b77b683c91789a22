"""The defects that one has, measured beside the test set and never mixed with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import ImageError
from blemish.data.dataset import find_leakage
from blemish.data.masks import read_mask
from blemish.metrics.confidence import wilson_interval
from blemish.metrics.pixels import PixelPool
from blemish.metrics.roc import Roc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from blemish.core.types import Sample
    from blemish.inference.detector import Detector


@dataclass(frozen=True, kw_only=True)
class KnownScored:
    """The known defects with what a detector says of them.

    `rows` have path, label, score, p_value and anomalous, by name. `pixel_auroc` tells marked pixels from all
    others of the same images, None without masks or maps.
    """

    rows: list[dict[str, Any]]
    pixel_auroc: float | None


def score_known(detector: Detector, folder: Path, known: Sequence[Sample]) -> KnownScored:
    """Score the known defects of a folder, one or more.

    Raises ImageError for one that cannot be used, DataError for a mask that is none.
    """
    pool, rows, marked = PixelPool(), [], False
    for sample, found in zip(known, detector.predict_many([s.path for s in known]), strict=True):
        if isinstance(found, ImageError):
            raise found
        if sample.mask is not None:
            height, width = found.anomaly_map.shape
            mask = read_mask(sample, (height, width))
            pool.add(found.anomaly_map, mask, sample.label, is_good=False)
            marked = marked or bool(mask.any() and found.anomaly_map.any())
        rows.append(
            {
                "path": sample.path.relative_to(folder).as_posix(),
                "label": sample.label,
                "score": found.score,
                "p_value": found.p_value,
                "anomalous": found.anomalous,
            }
        )
    return KnownScored(rows=rows, pixel_auroc=pool.pixel_roc().auroc() if marked else None)


def measure_known(known: KnownScored, good_scores: Sequence[float]) -> dict[str, Any]:
    """Return what evaluation.json says of them: the image AUROC is against good test images' scores."""
    rows = known.rows
    decided = [row["anomalous"] for row in rows if row["anomalous"] is not None]
    return {
        "n": len(rows),
        "image_auroc": Roc.of(list(good_scores), [row["score"] for row in rows]).auroc(),
        "pixel_auroc": known.pixel_auroc,
        "detection_rate": float(np.mean(decided)) if decided else None,
        "detection_rate_interval95": list(wilson_interval(sum(decided), len(decided))) if decided else None,
        "images": rows,
    }


def find_chosen_by(detector: Detector, test: Sequence[Sample]) -> list[str]:
    """Return the test images that took part in the choice of the model's method: its figures flatter it."""
    digests = detector.model_file.provenance.get("known_defects", {}).get("digests", {})
    return [tested for _, tested in find_leakage(digests, test)] if digests else []
