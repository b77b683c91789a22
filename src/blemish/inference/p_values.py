"""One p-value from those of several models of one part, with the promise kept.

Each model has a p-value of its own, from its own calibration images. To reject a part when the smallest one
is at or below the rate breaks the promise: with K models up to K times as many good parts are rejected. Two
rules keep it however the models depend on each other, and they do: they see the same part.

    (1)  min(1, 2 / K · Σ p_k)    twice the mean (V. Vovk and R. Wang, "Combining p-values via averaging",
                                  Biometrika 2020)
    (2)  min(1, K · min p_k)      Bonferroni

Both are p-values again: of a good part they are at most `rate` with probability at most `rate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike


def twice_the_mean(p: ArrayLike) -> np.ndarray:
    """Return Eq. (1): p-values (..., K) in [0, 1] -> (...), clipped to 1. Of a single one (K = 1) itself."""
    values = np.asarray(p, dtype=np.float64)
    factor = min(2, values.shape[-1])
    return np.minimum(factor * values.mean(axis=-1), 1.0)


def bonferroni(p: ArrayLike) -> np.ndarray:
    """Return Eq. (2): p-values (..., K) in [0, 1] -> (...), clipped to 1."""
    values = np.asarray(p, dtype=np.float64)
    return np.minimum(values.shape[-1] * values.min(axis=-1), 1.0)


def combine_p_values(p_values: Sequence[float | None], how: Literal["mean", "smallest"]) -> float:
    """Combine what several models say of one part into one p-value, to be compared with the rate.

    Valid however the models depend on each other; each must be calibrated.

    Args:
        p_values: `Prediction.p_value` of each model, in any order.
        how: "mean", twice the mean: low where all models find the part odd. "smallest", the smallest one
            times their number (Bonferroni): low where one model alone finds it very odd. Decide before you
            look: the lower one of the two is no p-value.

    Returns:
        in (0, 1]: at most `rate` with probability at most `rate` for a good part.

    Raises UsageError for no p-values, for one that is None or outside of [0, 1], and for another `how`.
    """
    rules = {"mean": twice_the_mean, "smallest": bonferroni}
    if how not in rules:
        raise UsageError(f"how {how!r}: choose {' or '.join(rules)}")
    if not p_values:
        raise UsageError("no p-values to combine: give that of each model")
    values = []
    for number, p in enumerate(p_values):
        if p is None:
            raise UsageError(f"p-value {number} is None: that model has no calibration; give it good images")
        if not 0 <= p <= 1:
            raise UsageError(f"p-value {number} is {p}: it must lie between 0 and 1")
        values.append(p)
    return float(rules[how](values))
