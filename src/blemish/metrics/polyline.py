"""Heights of a polyline, such as an ROC curve: corners (k,) with `fpr` and `tpr` that never fall."""

from __future__ import annotations

import numpy as np


def heights_at(fpr: np.ndarray, tpr: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the polyline's heights at x (k,), the upper one where it rises vertically."""
    right = np.searchsorted(fpr, x, side="right")
    inside = np.minimum(right, len(fpr) - 1)
    left = inside - 1
    # Where x is beyond the last corner, left and right may share their rate: the height is the last one.
    width = fpr[inside] - fpr[left]
    share = np.where(width > 0, (x - fpr[left]) / np.where(width > 0, width, 1), 1.0)
    return np.where(right == len(fpr), tpr[-1], tpr[left] + share * (tpr[inside] - tpr[left]))


def left_heights_at(fpr: np.ndarray, tpr: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the polyline's heights at x (k,) above 0, the lower one where it rises vertically."""
    right = np.searchsorted(fpr, x, side="left")
    left = right - 1
    share = (x - fpr[left]) / (fpr[right] - fpr[left])
    return tpr[left] + share * (tpr[right] - tpr[left])
