"""What a report shows of an evaluation: its images and its curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class ReportImage:
    """One test image of a report.

    `name` is what the caption says, such as `test/broken_large/003.png`; `label` is `GOOD` or the defect.
    `score` is unbounded and finite, `p_value` in (0, 1]; `p_value` and `anomalous` are None without a
    calibration. `overlay` and `thumbnail` (of the original) are paths relative to the report's folder,
    with forward slashes.
    """

    name: str
    label: str
    score: float
    p_value: float | None
    anomalous: bool | None
    overlay: str
    thumbnail: str | None


@dataclass(frozen=True, kw_only=True)
class ReportCurve:
    """One ROC-like curve: `fpr` and `tpr` are (N,), ascending, in [0, 1]; `area` in [0, 1] as reported."""

    name: str
    fpr: np.ndarray
    tpr: np.ndarray
    area: float
