"""The measures of where: all pixel measures of an evaluation, from one pool that is ranked once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.metrics.pixels import PIMO_RATES
from blemish.report.content import ReportOverlap

if TYPE_CHECKING:
    from blemish.metrics.pixels import PixelPool
    from blemish.metrics.roc import Roc

LIMIT = 0.3
"""The FPR up to which both papers' field reports partial areas."""
LOW_LIMIT = 0.05
"""The FPR up to which MVTec AD 2 and MVTec LOCO report them: at 30 % of false pixels no map is of use."""
PLOTTED = np.geomspace(1e-6, 1, 121)
"""The rates at which the overlap per image is drawn: 20 a decade."""
FIELDS = (
    *("pixel_auroc", "pixel_auroc_fpr30", "pixel_auroc_fpr30_mcclish", "aupro_fpr30"),
    *("aupro_fpr5", "pixel_average_precision", "pixel_threshold", "seg_f1", "seg_precision", "seg_recall"),
    *("aupimo", "aupimo_per_defect", "au_spro_fpr5", "au_spro_fpr5_per_defect"),
)
"""The fields of evaluation.json that need masks."""


def measure_pixels(
    pool: PixelPool | None, pixel: Roc | None, pro: Roc | None, threshold: float | None, *, saturated: bool
) -> tuple[dict[str, Any], ReportOverlap | None]:
    """Return all `FIELDS`, each None where it cannot be had, and what the plot of AUPIMO shows.

    `pixel` and `pro` are the pool's curves, all None without masks; `threshold` that of pixels, from good
    images alone, None without a calibration. With `saturated`, the pool has regions with their saturations.
    """
    fields: dict[str, Any] = dict.fromkeys(FIELDS)
    fields["pixel_threshold"] = threshold
    if pool is None or pixel is None or pro is None:
        return fields, None
    fields |= {
        "pixel_auroc": pixel.auroc(),
        "pixel_auroc_fpr30": pixel.normalised_auroc(LIMIT),
        "pixel_auroc_fpr30_mcclish": pixel.mcclish(LIMIT),
        "aupro_fpr30": pro.normalised_auroc(LIMIT),
        "aupro_fpr5": pro.normalised_auroc(LOW_LIMIT),
        "pixel_average_precision": pixel.average_precision(),
    }
    if threshold is not None:
        found = pool.f1_at(threshold)
        fields |= {"seg_f1": found.f1, "seg_precision": found.precision, "seg_recall": found.recall}
    images = [(label, roc.mean_over_log_fpr(*PIMO_RATES), roc) for label, roc in pool.pimo_rocs()]
    fields |= _mean_and_per_label("aupimo", [(label, area) for label, area, _ in images])
    if saturated:
        fields |= _saturated(pool, sorted({label for label, _, _ in images}))
    overlap = ReportOverlap(
        fpr=PLOTTED,
        overlaps=np.stack([roc.heights(PLOTTED) for _, _, roc in images]),
        areas=np.array([area for _, area, _ in images]),
        rates=PIMO_RATES,
    )
    return fields, overlap


def _mean_and_per_label(name: str, areas: list[tuple[str, float]]) -> dict[str, Any]:
    labels = sorted({label for label, _ in areas})
    per_label = {of: float(np.mean([area for label, area in areas if label == of])) for of in labels}
    return {name: float(np.mean([area for _, area in areas])), f"{name}_per_defect": per_label}


def _saturated(pool: PixelPool, labels: list[str]) -> dict[str, Any]:
    return {
        "au_spro_fpr5": pool.spro_roc().normalised_auroc(LOW_LIMIT),
        "au_spro_fpr5_per_defect": {
            label: pool.spro_roc(label).normalised_auroc(LOW_LIMIT) for label in labels
        },
    }
