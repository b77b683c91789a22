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
    review: bool = False
    """Whether the part is neither accepted nor rejected: a person looks at it."""


@dataclass(frozen=True, kw_only=True)
class ReportCurve:
    """One ROC-like curve: `fpr` and `tpr` are (N,), ascending, in [0, 1]; `area` in [0, 1] as reported."""

    name: str
    fpr: np.ndarray
    tpr: np.ndarray
    area: float


@dataclass(frozen=True, kw_only=True)
class ReportOverlap:
    """The overlap of each defective image, over the rate of false positive pixels on good images.

    `fpr` (k,) ascending, above 0; `overlaps` (n, k) in [0, 1]; `areas` (n,), AUPIMO of each image: the mean
    overlap over the logarithm of the rate between the two `rates`.
    """

    fpr: np.ndarray
    overlaps: np.ndarray
    areas: np.ndarray
    rates: tuple[float, float]
