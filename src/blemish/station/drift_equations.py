"""The equations of the drift alarm (`drift`, which has their symbols and proofs): ranks, bets, starts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SHIFTS = (0.0, -6.0, -2.0, 2.0, 6.0, 0.0, 0.0, 0.0, 0.0)
SPREADS = (0.0, 0.0, 0.0, 0.0, 0.0, -6.0, -2.0, 2.0, 6.0)
"""λ and μ of `tilts`, one of them 0: scores that rise, fall, gather, scatter. Our choice."""
STAKES = (0.0, 0.3, 0.8)
"""(θ - r) / (1 - r) of `stakes`. Our choice."""
HIGHEST = 1e300
"""No capital grows above this; the alarm came long before."""


def rank(weights: np.ndarray, cell: int, smoothing: float) -> float:
    """Return the smoothed rank of a value among a reference; 0 is the largest.

    p = (Σ_{j > i} W_j + v W_i) / Σ_j W_j

    Args:
        weights: W (m + 1,), 1 + the number of parts counted in each gap, the lowest gap first.
        cell: i, the gap of the value.
        smoothing: v in [0, 1), uniform.

    Returns:
        p in [0, 1]. Source: Vovk, Gammerman and Shafer 2005, ch. 8; with counts: the module's docstring.
    """
    return float((weights[cell + 1 :].sum() + smoothing * weights[cell]) / weights.sum())


def largest_share(n: int, k: int, chance: float) -> float:
    """Bound the share of the law above the k-th largest of n draws, exceeded with the given chance.

    q̂ solves Σ_{i < k} C(n, i) q̂^i (1 - q̂)^(n - i) = δ: above it, k draws or more fall too often.

    Args:
        n, k: 1 ≤ k ≤ n.
        chance: δ in (0, 1).

    Returns:
        q̂ in (0, 1]. Source: Clopper and Pearson 1934 (the k-th largest of uniforms is beta distributed).
    """
    i = np.arange(1, k)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - i + 1) / i))])
    low, high = 0.0, 1.0
    for _ in range(50):
        q = (low + high) / 2
        log_terms = log_choose + np.arange(k) * math.log(q) + (n - np.arange(k)) * math.log1p(-q)
        low, high = (q, high) if np.exp(log_terms).sum() > chance else (low, q)
    return high


def mean_exponential(strength: ArrayLike) -> np.ndarray:
    """Return the mean of e^(λ u) over u uniform on [0, 1]: (e^λ - 1) / λ, and 1 for λ = 0, of λ's shape."""
    strength = np.asarray(strength, dtype=np.float64)
    safe = np.where(strength == 0, 1, strength)
    return np.where(strength == 0, 1, np.expm1(safe) / safe)


_MEANS = mean_exponential(SHIFTS) * mean_exponential(SPREADS)


def tilts(p: ArrayLike) -> np.ndarray:
    """Return what the bets on the rank of a body part gain; the mean of each over uniform p is 1.

    g(p) = e^(λ p + μ |2p - 1|) / ∫ e^(λ p + μ |2p - 1|) dp, with λ of SHIFTS and μ of SPREADS

    Args:
        p: (..., 1) in [0, 1].

    Returns:
        g > 0 (..., len(SHIFTS)). Our choice: bounded, and the best bets if ranks are tilted exponentially.
    """
    p = np.asarray(p)
    return np.exp(np.multiply(SHIFTS, p) + np.multiply(SPREADS, np.abs(2 * p - 1))) / _MEANS


def stakes(r: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what bets on parts beyond c being more than r allows gain.

    (1 - θ) / (1 - r) from a body part, θ / r from one beyond; of mean at most 1 when P(beyond) ≤ r ≤ θ

    Args:
        r: in (0, 1); θ = r + (1 - r) STAKES.

    Returns:
        Both > 0, (len(STAKES),). Source: the likelihood ratio of two coins.
    """
    theta = r + (1 - r) * np.array(STAKES)
    return (1 - theta) / (1 - r), theta / r


def start_weight(part: int) -> tuple[float, float]:
    """Return the weight of a change that starts at a part, and the sum of all later ones.

    w_k = 1 / log₂(k + 1) - 1 / log₂(k + 2); the sum after k is 1 / log₂(k + 2)

    Args:
        part: k = 1, 2, …

    Returns:
        w_k and the sum, in (0, 1). Our choice: -log w_k grows as log k, hardly faster than any w must.
    """
    later = 1 / math.log2(part + 2)
    # the difference of the two fractions, without taking nearly equal numbers from each other
    return math.log1p(1 / (part + 1)) / math.log(part + 1) * later, later


def at_stake(capital: np.ndarray, gains: np.ndarray, weight: float) -> np.ndarray:
    """Return the capital at stake after a part, where a start at this part brings its own.

    S_t = (S_{t-1} + w_t) bet_t

    Args:
        capital: S_{t-1}, 0 before the first part.
        gains: bet_t, of the same shape.
        weight: w_t.

    Returns:
        S_t, of the same shape, at most HIGHEST.
    """
    return np.minimum((capital + weight) * gains, HIGHEST)
