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
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import UsageError
from blemish.metrics.roc import Roc, by_class, image_roc

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two detectors on the same images: the measure of each, and how sure their difference is.

    `difference` is `a` - `b`; `standard_error` >= 0 is that of the difference, `low` to `high` its 95 %
    interval, all in the unit of the measure. `z` is their ratio: 0 without a difference, infinite where there
    is one without any variance: then `p`, `low` and `high` are None, as such a test cannot tell how sure it
    is. `p` is two-sided, in [0, 1].
    """

    a: float
    b: float
    difference: float
    standard_error: float
    z: float
    p: float | None
    low: float | None
    high: float | None


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
    check_resampling(n, level)
    image_roc(scores, is_defect)  # refuses bad scores before any drawing
    good, defective = by_class(scores, is_defect)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n):
        values.append(metric(Roc.of(rng.choice(good, len(good)), rng.choice(defective, len(defective)))))
    return percentile_interval(np.array(values), level)


def wilson_interval(found: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) of a share, of which `found` of `n` was seen; both in [0, 1].

    (p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n) with p = found / n and z the normal quantile.

    Raises UsageError unless 0 <= found <= n with n from 1, and for a level outside (0, 1). Source: Wilson,
    Journal of the American Statistical Association 22, 1927.
    """
    _check_share(found, n, level)
    z, p = NormalDist().inv_cdf((1 + level) / 2), found / n
    middle = p + z**2 / (2 * n)
    reach = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n)
    # At the ends the formula gives 0 or 1 up to rounding.
    return (0.0 if found == 0 else low), (1.0 if found == n else high)


def exact_interval(found: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) of a share, of which `found` of `n` was seen; both in [0, 1].

    P(Bin(n, low) ≥ found) = P(Bin(n, high) ≤ found) = (1 - level) / 2: it holds the share with a chance of
    `level` at least, whatever the share is.

    Raises as `wilson_interval`. Source: Clopper and Pearson, Biometrika 26, 1934.
    """
    _check_share(found, n, level)
    tail = (1 - level) / 2
    return _share_of_tail(found, n, tail), 1 - _share_of_tail(n - found, n, tail)


def _check_share(found: int, n: int, level: float) -> None:
    if not 0 <= found <= n or n < 1:
        raise UsageError(f"{found} of {n}: a share needs 0 <= found <= n, and n of 1 or larger")
    check_resampling(1, level)


def _share_of_tail(found: int, n: int, tail: float) -> float:
    """Find by halves the share p with P(Bin(n, p) ≥ found) = `tail`, up to 1/2; 0 where nothing was found.

    The sum ends 10 standard deviations and 100 after `found`, where its terms are below 1e-13 of it, as p is
    below the share that was found. p is exact to 1e-8 of itself for n up to a million.
    """
    if found == 0:
        return 0.0
    counts = np.arange(found, min(n, found + 100 + 10 * math.isqrt(found)) + 1)
    chosen = np.zeros(len(counts))  # log C(n, count), from ratios of neighbours
    np.cumsum(np.log((n - counts[:-1]) / counts[1:]), out=chosen[1:])
    chosen += math.lgamma(n + 1) - math.lgamma(found + 1) - math.lgamma(n - found + 1)
    low, high = 0.0, found / n  # of which the tail is 1/2 or more
    while low < (share := (low + high) / 2) < high:
        chance = np.exp(chosen + counts * math.log(share) + (n - counts) * math.log1p(-share)).sum()
        low, high = (share, high) if chance < tail else (low, share)
    return low


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
    return _count_below(defective, good), len(defective) - _count_below(good, defective)


def delong(scores_a: ArrayLike, scores_b: ArrayLike, is_defect: ArrayLike) -> Comparison:
    """Test whether two detectors have the same AUROC, from their scores of the same images.

    Var(θ_a - θ_b) = S(V10_a - V10_b) / m + S(V01_a - V01_b) / n, S the sample variance; z is taken as normal.

    Args:
        scores_a: (m + n,), unbounded, of m defective and n good images.
        scores_b: (m + n,), of the same images in the same order; the units may differ.
        is_defect: bool (m + n,).

    Where the variance is 0 and the areas differ there is no p-value and no interval: both are None. Raises as
    `image_roc`, and UsageError with fewer than 2 images of a kind. Source: DeLong et al. 1988.
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
    if error == 0 and a != b:  # as of a perfect ranking and a constant one, also of four images
        z = math.copysign(math.inf, a - b)
        return Comparison(a=a, b=b, difference=a - b, standard_error=0.0, z=z, p=None, low=None, high=None)
    reach = NormalDist().inv_cdf(0.975) * error
    return _comparison(a, b, error, (a - b - reach, a - b + reach))


def compare_paired(drawn_a: np.ndarray, drawn_b: np.ndarray, a: float, b: float) -> Comparison:
    """Compare measures `a` and `b` by their values (n,) on the same n resamples."""
    differences = drawn_a - drawn_b
    rarer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    p = float(min(1, 2 * (1 + rarer) / (differences.size + 1)))
    return _comparison(a, b, float(np.std(differences)), percentile_interval(differences, 0.95), p)


def _count_below(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Count the others below each x, and half of those that equal it."""
    others = np.sort(others)
    return (np.searchsorted(others, x, side="left") + np.searchsorted(others, x, side="right")) / 2


def _comparison(
    a: float, b: float, error: float, interval: tuple[float, float], p: float | None = None
) -> Comparison:
    """Put a comparison together; without p, it is the normal one."""
    z = (a - b) / error if error else math.copysign(math.inf, a - b) if a != b else 0.0
    p = math.erfc(abs(z) / math.sqrt(2)) if p is None else p
    low, high = interval
    return Comparison(a=a, b=b, difference=a - b, standard_error=error, z=z, p=p, low=low, high=high)


def percentile_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Return the quantiles of values (n,) that hold the share `level` of them between them."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def check_resampling(n: int, level: float) -> None:
    """Refuse a number of resamples below 1 and a level outside (0, 1). Raises UsageError."""
    if n < 1 or not 0 < level < 1:
        raise UsageError(f"bootstrap of {n} resamples at level {level}: give n >= 1 and a level in (0, 1)")
