"""How sure a figure is: bootstrap intervals over images, and paired tests of two detectors.

The images are what was drawn: pixels of one image are not independent, so whole images are redrawn. Good and
defective ones are redrawn apart (our choice), so that every resample has both, in the test set's proportions.

Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile interval); DeLong, DeLong
and Clarke-Pearson, Biometrics 44, 1988 (the test); Sun and Xu, IEEE Signal Processing Letters 21, 2014 (its
structural components by sorting, not by all pairs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np

from blemish.core.errors import UsageError
from blemish.metrics.roc import Roc, by_class, check_limit, checked_map, image_roc, region_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import ArrayLike

KEPT = 1024
"""Good, and defective, values of an image that `PixelResampler` keeps at most, evenly spaced in rank."""
LEVELS = 512
"""Quantiles of the kept good values, and of the kept defective ones, at which its curves are counted."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two detectors on the same images: the measure of each, and how sure their difference is.

    `difference` is `a` - `b`; `standard_error` >= 0 is that of the difference, `low` to `high` its 95 %
    interval, all in the unit of the measure. `z` is their ratio: 0 without a difference, infinite where there
    is one without any variance. `p` is two-sided, in [0, 1].
    """

    a: float
    b: float
    difference: float
    standard_error: float
    z: float
    p: float
    low: float
    high: float


def bootstrap_interval(
    scores: ArrayLike,
    is_defect: ArrayLike,
    metric: Callable[[Roc], float],
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap the percentile interval (low, high) of an image metric.

    `scores` (k,) unbounded, `is_defect` bool (k,), `metric` such as `Roc.auroc`; `n` resamples, `level` in
    (0, 1). Raises as `image_roc`, and UsageError for other values of `n` or `level`.
    """
    _check(n, level)
    image_roc(scores, is_defect)  # refuses bad scores before any drawing
    good, defective = by_class(scores, is_defect)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n):
        values.append(metric(Roc.of(rng.choice(good, len(good)), rng.choice(defective, len(defective)))))
    return _interval(np.array(values), level)


def structural_components(scores: ArrayLike, is_defect: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Count, for every image, the images of the other kind that it is ranked rightly against.

    n·V10(i) = Σ_j ψ(X_i, Y_j) and m·V01(j) = Σ_i ψ(X_i, Y_j), with ψ = 1 if X > Y, 1/2 if X = Y, else 0.

    Args:
        scores: (m + n,), unbounded; X those of the m defective images, Y those of the n good ones.
        is_defect: bool (m + n,).

    Returns:
        n·V10 (m,) and m·V01 (n,), exact multiples of 1/2; the sum of either is m·n·AUROC.

    Source: DeLong et al. 1988; the count below is the difference of mid-ranks of Sun and Xu 2014.
    """
    image_roc(scores, is_defect)  # refuses bad scores
    good, defective = by_class(scores, is_defect)
    return _won(defective, good), len(defective) - _won(good, defective)


def delong(scores_a: ArrayLike, scores_b: ArrayLike, is_defect: ArrayLike) -> Comparison:
    """Test whether two detectors have the same AUROC, from their scores of the same images.

    Var(θ_a - θ_b) = S(V10_a - V10_b) / m + S(V01_a - V01_b) / n, S the sample variance; z is taken as normal.

    Args:
        scores_a: (m + n,), unbounded, of m defective and n good images.
        scores_b: (m + n,), of the same images in the same order; the units may differ.
        is_defect: bool (m + n,).

    Raises as `image_roc`, and UsageError with fewer than 2 images of a kind. Source: DeLong et al. 1988.
    """
    (below_a, above_a), (below_b, above_b) = (
        structural_components(scores, is_defect) for scores in (scores_a, scores_b)
    )
    m, n = len(below_a), len(above_a)
    if min(m, n) < 2:
        raise UsageError(f"{n} good and {m} defective images: a variance needs at least 2 of each")
    # Counts are exact: equal rankings give a variance of exactly 0.
    variance = np.var(below_a - below_b, ddof=1) / (m * n**2) + np.var(above_a - above_b, ddof=1) / (n * m**2)
    a, b = float(below_a.sum()) / (m * n), float(below_b.sum()) / (m * n)
    error = math.sqrt(variance)
    reach = NormalDist().inv_cdf(0.975) * error
    return _compared(a, b, error, (a - b - reach, a - b + reach))


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelMeasures:
    """Of r resamples, arrays (r,) in [0, 1]: `Roc.auroc`, `normalised_auroc`, and the latter of PRO."""

    auroc: np.ndarray
    limited: np.ndarray
    pro: np.ndarray


class PixelResampler:
    """Resamples of a test set's images, for the intervals of pixel measures.

    Of an image at most `KEPT` good and `KEPT` defective values are kept, evenly spaced in rank, each with the
    weight of the pixels that it stands for: 20 KiB. A curve is counted at `LEVELS` quantiles of either kind,
    straight in between. So the measures are not exact as those of `PixelPool` are, but closer to them by far
    than any two resamples are to each other (`docs/metrics.md`).
    """

    def __init__(self) -> None:
        self._good: list[tuple[np.ndarray, np.ndarray]] = []
        self._defective: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Add one image: its map (H, W), unbounded, kept as float32, and its ground truth, bool (H, W).

        Raises UsageError as `PixelPool.add`.
        """
        values = checked_map(anomaly_map, mask)
        self._good.append(thinned(np.sort(values[~mask])))
        defective, regions = values[mask], region_weights(mask)
        order = np.argsort(defective)
        weights = np.stack([np.ones(order.size), regions[order]])
        self._defective.append(thinned(defective[order], weights))

    def draws(self, n: int, seed: int = 0) -> np.ndarray:
        """Draw how often each image is in each of n resamples: int (n, images), in the order of adding.

        Images with defective pixels and those without are drawn apart. Equal seeds and masks give equal
        draws, which pairs the measures of two detectors.
        """
        rng = np.random.default_rng(seed)
        has_defect = np.array([values.size > 0 for values, _ in self._defective], dtype=bool)
        times = np.zeros((n, has_defect.size), dtype=np.int64)
        for kind in (~has_defect, has_defect):
            if size := int(kind.sum()):
                times[:, kind] = rng.multinomial(size, np.full(size, 1 / size), n)
        return times

    def measures(self, times: np.ndarray, limit: float = 0.3) -> PixelMeasures:
        """Measure resamples that hold each image `times` (r, images); partial areas up to FPR `limit`.

        Raises UsageError for another limit, and for a resample without good or without defective pixels.
        """
        check_limit(limit)
        levels = np.unique(np.concatenate([_quantiles(self._good), _quantiles(self._defective)]))
        good, pixels, regions = (
            times @ counts
            for counts in (*_counts(self._good, 1, levels), *_counts(self._defective, 2, levels))
        )
        if not (good.any(axis=1).all() and pixels.any(axis=1).all()):
            raise UsageError("a resample of images lacks good or defective pixels; add images that have them")
        fpr, tpr, pro = (_shares_above(counts) for counts in (good, pixels, regions))
        return PixelMeasures(
            auroc=areas_up_to(fpr, tpr, 1.0),
            limited=areas_up_to(fpr, tpr, limit) / limit,
            pro=areas_up_to(fpr, pro, limit) / limit,
        )

    def save(self, path: Path) -> None:
        """Write what is kept of the images as an .npz, to compare detectors later."""
        arrays = {}
        for name, images in (("good", self._good), ("defective", self._defective)):
            arrays[f"{name}_ends"] = np.cumsum([values.size for values, _ in images])
            arrays[f"{name}_values"] = np.concatenate([values for values, _ in images])
            arrays[f"{name}_weights"] = np.concatenate([weights for _, weights in images], axis=1)
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> PixelResampler:
        """Read what `save` wrote. Raises OSError, ValueError or KeyError for something else."""
        loaded = cls()
        with np.load(path) as arrays:
            for name, images in (("good", loaded._good), ("defective", loaded._defective)):
                ends = arrays[f"{name}_ends"][:-1]
                values = np.split(arrays[f"{name}_values"], ends)
                images.extend(zip(values, np.split(arrays[f"{name}_weights"], ends, axis=1), strict=True))
        return loaded

    def intervals(
        self, limit: float = 0.3, *, n: int = 1000, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Bootstrap the 95 % percentile interval (low, high) of each of the `PixelMeasures`, by its name."""
        _check(n, 0.95)
        measures = self.measures(self.draws(n, seed), limit)
        return {name: _interval(values, 0.95) for name, values in vars(measures).items()}


def paired_bootstrap(
    a: PixelResampler,
    b: PixelResampler,
    measure: Literal["auroc", "limited", "pro"],
    limit: float = 0.3,
    *,
    n: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two detectors on the same images, added in the same order, by one of the `PixelMeasures`.

    Each of n resamples redraws the same images for both. The interval is the percentile interval of the
    difference, and p = 2 (1 + c) / (n + 1), 1 at most, with c the resamples at or beyond 0 on the rarer side.
    Raises UsageError for another number of images or another limit.
    """
    _check(n, 0.95)
    times = a.draws(n, seed)
    if not np.array_equal(times, b.draws(n, seed)):
        raise UsageError("the two detectors were not measured on the same images, in the same order")
    drawn = [getattr(r.measures(times, limit), measure) for r in (a, b)]
    whole = [float(getattr(r.measures(np.ones_like(times[:1]), limit), measure)[0]) for r in (a, b)]
    return paired(drawn[0], drawn[1], *whole)


def paired(drawn_a: np.ndarray, drawn_b: np.ndarray, a: float, b: float) -> Comparison:
    """Compare measures `a` and `b` by their values (n,) on the same n resamples, as in `paired_bootstrap`."""
    differences = drawn_a - drawn_b
    rarer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    p = float(min(1, 2 * (1 + rarer) / (differences.size + 1)))
    return _compared(a, b, float(np.std(differences)), _interval(differences, 0.95), p)


def thinned(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Keep at most `KEPT` of ascending values (m,), evenly spaced in rank, with the weights (w, m) of runs.

    Returns the middle value of each run of ranks (k,) and the run's summed weights, float32 (w, k); without
    weights its length (1, k). With m <= `KEPT` nothing is lost.
    """
    ends = np.linspace(0, values.size, min(values.size, KEPT) + 1).astype(np.int64)
    middle = (ends[:-1] + ends[1:]) // 2
    summed = np.diff(ends)[None] if weights is None else np.add.reduceat(weights, ends[:-1], axis=1)
    return values[middle], summed.astype(np.float32)


def areas_up_to(fpr: np.ndarray, tpr: np.ndarray, limit: float) -> np.ndarray:
    """Integrate polylines from FPR 0 to `limit` in (0, 1], cut exactly there: (r, k) and (r, k) -> (r,)."""
    inside = np.diff(np.minimum(fpr, limit), axis=1)
    width = np.diff(fpr, axis=1)
    slope = np.diff(tpr, axis=1) / np.where(width > 0, width, 1)
    return np.sum(inside * (tpr[:, :-1] + slope * inside / 2), axis=1)


def _quantiles(images: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    values = np.concatenate([np.empty(0, dtype=np.float32), *(values for values, _ in images)])
    return np.quantile(values, np.linspace(0, 1, LEVELS), method="lower") if values.size else values


def _counts(images: list[tuple[np.ndarray, np.ndarray]], kinds: int, levels: np.ndarray) -> np.ndarray:
    """Sum each image's weights between levels (l,): (kinds, images, l + 1)."""
    counts = np.zeros((kinds, len(images), len(levels) + 1))
    for i, (values, weights) in enumerate(images):
        place = np.searchsorted(levels, values)
        for kind, weight in enumerate(weights):
            counts[kind, i] = np.bincount(place, weight, len(levels) + 1)
    return counts


def _shares_above(counts: np.ndarray) -> np.ndarray:
    """From counts between levels (r, k) to the shares above each, from the highest down: (r, k + 1)."""
    summed = np.cumsum(counts[:, ::-1], axis=1)
    return np.pad(summed / summed[:, -1:], ((0, 0), (1, 0)))


def _won(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Count the others below each x, and half of those that equal it."""
    others = np.sort(others)
    return (np.searchsorted(others, x, side="left") + np.searchsorted(others, x, side="right")) / 2


def _compared(
    a: float, b: float, error: float, interval: tuple[float, float], p: float | None = None
) -> Comparison:
    """Put a comparison together; without p, it is the normal one."""
    z = (a - b) / error if error else math.copysign(math.inf, a - b) if a != b else 0.0
    p = math.erfc(abs(z) / math.sqrt(2)) if p is None else p
    low, high = interval
    return Comparison(a=a, b=b, difference=a - b, standard_error=error, z=z, p=p, low=low, high=high)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(n: int, level: float) -> None:
    if n < 1 or not 0 < level < 1:
        raise UsageError(f"bootstrap of {n} resamples at level {level}: give n >= 1 and a level in (0, 1)")
