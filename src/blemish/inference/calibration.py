"""A promised false-alarm rate instead of a magic threshold: split conformal calibration.

Score n good images that the model has never seen. If a new good image is exchangeable with them, its
rank among the n + 1 scores is uniform, so that

    p(s) = (1 + #{i : s_i >= s}) / (n + 1)

is at most `rate` with probability at most `rate`, whatever the model and the distribution of its scores
(Vovk, Gammerman and Shafer 2005; Lei, G'Sell, Rinaldo, Tibshirani and Wasserman 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """What n good images, held out of training and of early stopping, scored.

    `scores` (image scores) and `map_maxima` (the largest pixel of each map at the original size) are
    float64 (n,), ascending, each in the unit of its own kind. Made and checked by `calibrate`.
    """

    scores: np.ndarray
    map_maxima: np.ndarray

    @property
    def n(self) -> int:
        """The number of calibration images."""
        return len(self.scores)

    @property
    def lowest_rate(self) -> float:
        """The lowest false-alarm rate in (0, 1) that n images can promise: 1 / (n + 1)."""
        return 1 / (self.n + 1)

    def named_rate(self, k: int = 1) -> float:
        """Return the lowest rate in (0, 1] of rank k that has 4 digits, to be named to a person."""
        return named_rate(self.n, k)

    def p_value(self, score: float) -> float:
        """Say how extreme a score is among good images, in [1 / (n + 1), 1].

        `score` is unbounded; ties count against rejection. Raises UsageError for NaN.
        Source: p(s) of the module's docstring.
        """
        if math.isnan(score):
            raise UsageError("score nan: a p-value needs a number; check the image and the model's weights")
        at_least = self.n - int(np.searchsorted(self.scores, score, side="left"))
        return (1 + at_least) / (self.n + 1)

    def threshold(self, rate: float) -> float:
        """Return the image threshold: score > threshold exactly when p_value(score) <= rate, ties included.

        `rate` in (0, 1) is the share of good images that may be called anomalous; the threshold is in the
        unit of the score. Raises UsageError for a rate outside (0, 1) or below `lowest_rate`.
        """
        return _threshold(self.scores, rate)

    def pixel_threshold(self, rate: float) -> float:
        """Return the pixel threshold: at most a share `rate` of good images shows any region above it.

        The rule of `threshold` on the maxima of the maps, in the unit of the map; raises the same.
        """
        return _threshold(self.map_maxima, rate)

    def rank(self, rate: float) -> int:
        """Return the k of the threshold: it is the k-th largest of the n. Raises as `threshold` does."""
        return _rank(self.n, rate)

    def chance_of(self, alarms: int, images: int, rate: float) -> float:
        """Return the probability, in (0, 1], of at least `alarms` false alarms among `images` new good ones.

        As if the new images and the n of the calibration were exchangeable: then all orders of their scores
        are equally likely, and the number of new ones above the k-th largest of the n is beta-binomial with k
        and n + 1 - k. With ties it is an upper bound. A small one says that the new images are not like the
        calibration's. Raises as `threshold` does.
        """
        k, good = _rank(self.n, rate), images - alarms
        rest = self.n + 1 - k
        # C(images, j) B(j + k, images - j + rest) / B(k, rest) for j = alarms, then by ratios of neighbours
        first = -math.log(images + 1) - _log_beta(good + 1, alarms + 1)
        first += _log_beta(alarms + k, good + rest) - _log_beta(k, rest)
        j = np.arange(alarms, images)
        ratios = (images - j) / (j + 1) * ((j + k) / (images - j - 1 + rest))
        logs = first + np.concatenate([[0.0], np.cumsum(np.log(ratios))])
        return min(float(np.exp(logs).sum()), 1.0)


def calibrate(scores: ArrayLike, map_maxima: ArrayLike) -> Calibration:
    """Make a calibration of the scores of held-out good images.

    `scores` (n,) and `map_maxima` (n,), unbounded, in any order; kept sorted, as float64. Raises DataError
    without images or with lengths that differ, UsageError for NaN or infinity.
    """
    ascending = []
    for name, given in (("score", scores), ("map maximum", map_maxima)):
        values = np.array(given, dtype=np.float64)
        if values.ndim != 1 or values.size == 0:
            raise DataError(f"calibration {name}s of shape {values.shape}: hold out at least 1 good image")
        if not np.isfinite(values).all():
            wrong = int(np.flatnonzero(~np.isfinite(values))[0])
            raise UsageError(f"calibration {name} {values[wrong]} of image {wrong}: it must be finite")
        values.sort()
        values.setflags(write=False)
        ascending.append(values)
    if len(ascending[0]) != len(ascending[1]):
        raise DataError(
            f"calibration has {len(ascending[0])} scores but {len(ascending[1])} map maxima: "
            "give one of each per image"
        )
    return Calibration(scores=ascending[0], map_maxima=ascending[1])


def _log_beta(a: int, b: int) -> float:
    """Return log B(a, b) of whole numbers from 1."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _threshold(ascending: np.ndarray, rate: float) -> float:
    """Return the k-th largest value, k the number of p-values not above the rate.

    p(s) <= rate  <=>  #{s_i >= s} <= k - 1  <=>  s lies above the k-th largest s_i, ties included.
    """
    n = len(ascending)
    return float(ascending[n - _rank(n, rate)])


def _rank(n: int, rate: float) -> int:
    """Return the k of the threshold, in [1, n]. Raises UsageError for a rate that n images cannot promise."""
    k = _largest_rank(n, rate)
    if k == 0:
        raise UsageError(
            f"false-alarm rate {rate:g}: {n} calibration images can promise {named_rate(n, 1):g} at the "
            f"lowest; hold out {images_needed(rate)} good images, or ask for a higher rate"
        )
    return k


def usual(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of each column of scores (m, V), and the median distance from it, 1 for 0."""
    centre = np.median(scores, axis=0)
    spread = np.median(np.abs(scores - centre), axis=0)
    return centre, np.where(spread > 0, spread, 1.0)


def named_rate(n: int, k: int) -> float:
    """Round k / (n + 1) up to 4 digits, exactly: rounded to the nearest, it would be refused when given."""
    return -(-10_000 * k // (n + 1)) / 10_000


def _largest_rank(n: int, rate: float) -> int:
    """Find the largest k with k / (n + 1) <= rate, by the division that `p_value` does."""
    if not 0 < rate < 1:
        raise UsageError(f"false-alarm rate {rate}: it must lie between 0 and 1; 0.05 is 5 %")
    k = math.floor(rate * (n + 1))
    # The product may round across a whole number, downwards (0.29 * 100 < 29) or upwards.
    if (k + 1) / (n + 1) <= rate:
        return k + 1
    return k - 1 if k / (n + 1) > rate else k


def images_needed(rate: float) -> int:
    """Return how many calibration images a rate in (0, 1) needs: the smallest n with 1 / (n + 1) <= rate."""
    total = math.ceil(1 / Fraction(rate))
    if 1 / (total - 1) <= rate:  # the rate's binary value lies just below the 1 / total that was meant
        total -= 1
    return total - 1
