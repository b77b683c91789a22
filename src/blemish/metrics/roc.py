"""Ranking metrics on raw scores of any range: exact, ties included, from one sort.

A larger score means more anomalous. An ROC curve is a polyline: from one distinct score to the next it
steps up by the positives and right by the negatives that share the score, in one straight segment where
both do, which gives a tied pair the weight 1/2. Only a score that some positive has can raise the curve,
so its corners are counted there alone, by binary search into the sorted negatives: the many good pixels
of a test set are sorted once and never leave float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import UsageError
from blemish.metrics.polyline import heights_at, left_heights_at

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True, eq=False)
class Roc:
    """An ROC curve, exact; make one with `Roc.of`, `image_roc` or `pixels.PixelPool`.

    Per distinct score of the positives, descending, arrays (k,): `values` the scores, `above` the number of
    negatives above that score, `above_or_equal` those not below it, `weight` the summed weight of the
    positives not below it. `n_negatives` and `n_positives` are counts.
    """

    values: np.ndarray
    above: np.ndarray
    above_or_equal: np.ndarray
    weight: np.ndarray
    n_negatives: int
    n_positives: int

    @classmethod
    def of(cls, negatives: ArrayLike, positives: ArrayLike, weights: ArrayLike | None = None) -> Roc:
        """Build the curve from scores (n,) of good things and scores (m,) of defective ones, unbounded.

        `weights` (m,), finite and above 0, say how much each positive counts; None counts them alike. Only
        their ratios matter. Floating scores keep their type, integers get a floating one. Raises
        UsageError for NaN, infinity, a single class, or shapes that do not match.
        """
        good, defective = np.ravel(negatives), np.ravel(positives)
        dtype = np.result_type(good.dtype, defective.dtype, np.float16)  # floating, and wide enough for both
        weight = None if weights is None else np.ravel(weights).astype(np.float64)
        if weight is not None and not (
            weight.shape == defective.shape and (np.isfinite(weight) & (weight > 0)).all()
        ):
            raise UsageError("weights of the positives: give one for each, finite and above 0")
        return Ranking.of(np.sort(good.astype(dtype)), defective.astype(dtype)).roc(weight)

    def auroc(self) -> float:
        """Return the area under the curve in [0, 1]: P(positive > negative) + P(equal) / 2; chance is 0.5."""
        return self.area_up_to(1.0)

    def area_up_to(self, limit: float) -> float:
        """Integrate the curve from FPR 0 to `limit` in (0, 1]; in [0, limit], chance is limit² / 2.

        Straight lines through ties, cut exactly at the limit. Raises UsageError for another limit.
        """
        check_limit(limit)
        fpr, tpr = self._vertices()
        inside = int(np.searchsorted(fpr, limit, side="right"))
        x, y = fpr[:inside], tpr[:inside]
        cut = (limit - x[-1]) * (y[-1] + heights_at(fpr, tpr, np.array([limit]))[0])
        twice = np.diff(x)
        twice *= y[1:] + y[:-1]
        return float(np.sum(twice) + cut) / 2

    def normalised_auroc(self, limit: float) -> float:
        """Return `area_up_to(limit)` / limit, in [0, 1]; chance is limit / 2 (Bergmann et al. 2021)."""
        return self.area_up_to(limit) / limit

    def mcclish(self, limit: float) -> float:
        """Correct the partial area so that chance is 0.5 and a perfect ranking 1 (McClish 1989).

        (1 + (A - c² / 2) / (c - c² / 2)) / 2 with A = `area_up_to(c)`, c the limit in (0, 1]. The
        worst ranking gets (1 - c) / (2 - c), not 0. Raises UsageError for another limit.
        """
        area, chance = self.area_up_to(limit), limit**2 / 2
        return 0.5 * (1 + (area - chance) / (limit - chance))

    def tpr_at(self, fpr: float) -> float:
        """Return the share of positives found, in [0, 1], at a false positive rate in [0, 1].

        On the polyline; where it rises vertically, the top of the rise. Raises UsageError for another rate.
        """
        if not 0 <= fpr <= 1:
            raise UsageError(f"false positive rate {fpr}: it must lie in [0, 1]")
        return float(heights_at(*self._vertices(), np.array([fpr]))[0])

    def heights(self, fpr: ArrayLike) -> np.ndarray:
        """Return `tpr_at` of many rates (k,) in [0, 1], for a plot. Raises UsageError for another rate."""
        rates = np.asarray(fpr, dtype=np.float64)
        if not ((rates >= 0) & (rates <= 1)).all():
            raise UsageError("false positive rates of a plot: they must lie in [0, 1]")
        return heights_at(*self._vertices(), rates)

    def mean_over_log_fpr(self, low: float, high: float) -> float:
        """Return the mean height of the curve over log FPR between two rates, in [0, 1].

        1 / ln(U / L) ∫ tpr(x) d ln(x) from x = L to U. On a straight piece a + b x this is
        a ln(x2 / x1) + b (x2 - x1), so the area is exact. Raises UsageError unless 0 < `low` < `high` <= 1.
        Source: Bertoldo et al., BMVC 2024 (AUPIMO), where tpr is that of one image.
        """
        if not 0 < low < high <= 1:
            raise UsageError(f"rates {low} and {high}: give 0 < low < high <= 1, such as 1e-5 and 1e-4")
        fpr, tpr = self._vertices()
        inside = slice(np.searchsorted(fpr, low, side="right"), np.searchsorted(fpr, high, side="left"))
        ends = heights_at(fpr, tpr, np.array([low]))
        # What is left of the high end there is the straight piece's, not the top of a rise at that very rate.
        last = left_heights_at(fpr, tpr, np.array([high]))
        x = np.concatenate([[low], fpr[inside], [high]])
        y = np.concatenate([ends, tpr[inside], last])
        width = np.diff(x)
        slope = np.diff(y) / np.where(width > 0, width, 1)
        pieces = (y[:-1] - slope * x[:-1]) * np.log(x[1:] / x[:-1]) + slope * width
        return float(np.sum(pieces[width > 0]) / np.log(high / low))

    def curve(self, max_points: int = 1000) -> tuple[np.ndarray, np.ndarray]:
        """Pick corners for a plot: (fpr, tpr), float64 (k,), k <= max_points, both ends included.

        Our choice: evenly spread along fpr + tpr, so that steep and flat parts keep their shape. Raises
        UsageError for fewer than 2 points.
        """
        if max_points < 2:
            raise UsageError(f"max_points {max_points}: a curve has at least its 2 ends; give 2 or more")
        fpr, tpr = self._vertices()
        distinct = np.append(True, (np.diff(fpr) > 0) | (np.diff(tpr) > 0))
        fpr, tpr = fpr[distinct], tpr[distinct]
        if len(fpr) > max_points:
            along = fpr + tpr
            kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], max_points)))
            fpr, tpr = fpr[kept], tpr[kept]
        return fpr, tpr

    def f1max(self) -> tuple[float, float]:
        """Find the best F1 of all thresholds, in [0, 1], and the highest threshold that reaches it.

        F1 = 2 TP / (TP + FP + P), calling positive what lies strictly above the threshold, as everywhere
        in blemish. Our choice: the number just below the lowest positive score that is still found.
        """
        found = self._found()
        f1 = 2 * found / (found + self.above_or_equal + self.n_positives)
        best = int(np.argmax(f1))
        return float(f1[best]), float(np.nextafter(self.values[best], self.values.dtype.type(-np.inf)))

    def average_precision(self) -> float:
        """Sum precision × rise in recall over the distinct scores; in (0, 1], chance is the prevalence.

        Stepwise, without interpolation, as scikit-learn defines it. Weights are scaled to sum to the number
        of positives, so that the prevalence is that of the counts.
        """
        found = self._found()
        precision = found / (found + self.above_or_equal)
        return float(np.sum(precision * np.diff(found, prepend=0)) / self.n_positives)

    def _found(self) -> np.ndarray:
        """Count the positives not below each value; weighted, their share times the number."""
        return self.weight * (self.n_positives / self.weight[-1])

    def _vertices(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (fpr, tpr) of the polyline, ascending from (0, 0) to (1, 1), before and after each value."""
        fpr, tpr = np.zeros((2, 2 * len(self.values) + 2))
        fpr[1:-1:2], fpr[2:-1:2], fpr[-1] = self.above, self.above_or_equal, self.n_negatives
        tpr[2:-1:2], tpr[3::2] = self.weight, self.weight
        fpr /= self.n_negatives
        tpr /= self.weight[-1]
        return fpr, tpr


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Where positives stand among negatives, whatever each of them weighs.

    Per distinct score of the positives, descending, arrays (k,): `values`, `above` and `above_or_equal` as in
    `Roc`; per positive (m,): `rank`, the index of its score in `values`.
    """

    values: np.ndarray
    above: np.ndarray
    above_or_equal: np.ndarray
    rank: np.ndarray
    n_negatives: int

    @classmethod
    def of(cls, negatives: np.ndarray, positives: np.ndarray) -> Ranking:
        """Rank positives (m,) among negatives (n,), sorted already, of one floating type."""
        ascending, inverse = np.unique(positives, return_inverse=True)
        above, above_or_equal = _count_above(negatives, ascending)
        return cls(
            values=ascending[::-1],
            above=above,
            above_or_equal=above_or_equal,
            rank=len(ascending) - 1 - inverse,
            n_negatives=negatives.size,
        )

    def with_more(self, negatives: np.ndarray) -> Ranking:
        """Return the ranking among more negatives (n,), sorted: counts are added, nothing is ranked anew."""
        above, above_or_equal = _count_above(negatives, self.values[::-1])
        return replace(
            self,
            above=self.above + above,
            above_or_equal=self.above_or_equal + above_or_equal,
            n_negatives=self.n_negatives + negatives.size,
        )

    def roc(self, weights: np.ndarray | None = None, chosen: np.ndarray | slice = slice(None)) -> Roc:
        """Build the curve of the positives, or of `chosen` ones, with `weights` (m,) or alike.

        Weights are at least 0, and not all of them 0. Raises UsageError without negatives or positives.
        """
        rank = self.rank[chosen]
        check_two_classes(self.n_negatives, rank.size)
        if rank.size * 8 < len(self.values):  # few: their own scores alone are looked at
            present, rank = np.unique(rank, return_inverse=True)
            rises = np.bincount(rank, None if weights is None else weights[chosen])
        else:
            rises = np.bincount(rank, None if weights is None else weights[chosen], len(self.values))
            present = slice(None)
        if not rises.all():
            kept = rises > 0
            present = kept if isinstance(present, slice) else present[kept]
            rises = rises[kept]
        return Roc(
            values=self.values[present],
            above=self.above[present],
            above_or_equal=self.above_or_equal[present],
            weight=np.cumsum(rises),
            n_negatives=self.n_negatives,
            n_positives=rank.size,
        )


def _count_above(negatives: np.ndarray, ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count negatives (n,), sorted, above and not below each of `ascending` (k,), from the highest down."""
    ends = np.concatenate([negatives[:1], negatives[-1:], ascending[:1], ascending[-1:]])
    if not np.isfinite(ends).all():  # sorted, NaN and the infinities stand at the ends
        raise UsageError("scores hold NaN or infinity: metrics need finite scores; check the model's weights")
    n = negatives.size
    above = n - np.searchsorted(negatives, ascending, side="right")[::-1]
    return above, n - np.searchsorted(negatives, ascending, side="left")[::-1]


def check_two_classes(n_good: int, n_defective: int) -> None:
    """Raise UsageError unless there are scores of good and of defective things."""
    if n_good == 0 or n_defective == 0:
        raise UsageError(
            f"{n_good} good and {n_defective} defective scores: the metric compares the two; "
            "add what is missing"
        )


def check_limit(limit: float) -> None:
    """Raise UsageError unless the FPR limit lies in (0, 1]."""
    if not 0 < limit <= 1:
        raise UsageError(f"FPR limit {limit}: it must lie in (0, 1]; 0.3 is the usual one")


def image_roc(scores: ArrayLike, is_defect: ArrayLike) -> Roc:
    """Build the curve of image scores (n,), unbounded, with `is_defect` bool (n,).

    Raises UsageError for NaN, infinity, a single class, labels that are not bool or lengths that differ.
    """
    good, defective = by_class(scores, is_defect)
    return Roc.of(good, defective)


def by_class(scores: ArrayLike, is_defect: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Split scores (n,) into those of good and of defective images by `is_defect`, bool (n,).

    Raises UsageError for labels that are not bool or lengths that differ.
    """
    values, defective = np.asarray(scores), np.asarray(is_defect)
    if defective.dtype != np.bool_ and defective.size:
        raise UsageError(f"labels of type {defective.dtype}: they must be bool, True for a defect")
    if values.ndim != 1 or values.shape != defective.shape:
        raise UsageError(f"{values.shape} scores and {defective.shape} labels: give one label per score")
    defective = defective.astype(bool)
    return values[~defective], values[defective]
