"""An alarm when good production no longer looks like calibration, with a bound on ever being false.

A p-value against calibration scores that stay fixed is uniform only on average over calibrations. Given
these scores it is not, and a bet on it wins in the long run without any change. Here ranks are taken online.

Body and beyond. c is the k-th largest of the n calibration scores, k = max(1, ⌊BEYOND (n + 1)⌋). A part above
it is *beyond*, where defects belong; the others are the *body*. Given c, the n - k calibration scores below
it and all good scores below it are independent draws of one law F.

Ranks. The smoothed rank p of a body part among the body of calibration and production before it is uniform on
[0, 1] and independent of the ranks before, whatever F (Vovk, Gammerman and Shafer 2005, ch. 8). Parts beyond
take no part in it, so rejects, few or many, cannot disturb it.

Cells. m values cut the line into m + 1 gaps, whose probabilities are Dirichlet(1, …, 1), whatever F. After
counts N a part falls into gap j with probability (1 + N_j) / (m + 1 + ΣN). So a reference of CELLS values can
be kept and later parts be counted between them: ranks get no finer, and stay exact, at a bounded size.

Beyond. A good part is beyond with the unknown probability q, and P(q > q̂) ≤ δ over the draw of the
calibration, for q̂ of `largest_share`. If a part is defective with probability at most d given all before it,
then P(beyond) ≤ r = 1 - (1 - d)(1 - q̂), unless the δ has struck.

Bets. `tilts` have mean 1 over uniform p; `stakes` have mean at most 1 if P(beyond) ≤ r. A part in the body
earns the product of both, one beyond that of its stake alone: the mean is at most 1, given all before.

Evidence. E_t = (1 - δ/α) mean over bets of Σ_k w_k Π_{i=k..t} bet_i, with Σ w_k = 1: the mean over what the
change is and over when, k, it came; where k > t the product is 1. E is a supermartingale, and by Ville's
inequality P(E ever ≥ 1/α) ≤ (α - δ) + δ = α. A change at k has to earn log(1/w_k) more, which grows as log k.

Missed defects. If a share ε of the body are defects, from the start, its law is Q ≥ (1 - ε) F, and the
density of the m calibration scores below c relative to Q is at most (1 - ε)^-m: the chance of a false alarm
grows to α (1 - ε)^-m at most. A share of defects that changes is a change, and may be told.

Differs from Vovk et al. ("Retrain or not retrain", 2021): body and beyond, cells, exponential bets and the
mean over start times are our choice; `docs/drift.md` has what they do.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

LEVEL = 0.01
"""The chance of ever alarming without a change."""
DEFECT_SHARE = 0.05
"""d: a part is defective with at most this probability, given all before it."""
BEYOND = 0.05
"""Share of the calibration scores that lie beyond c. Our choice: what is rejected by default."""
CELLS = 1024
"""Values of the reference at most; parts after that are counted between them."""
SHIFTS = (0.0, -6.0, -2.0, 2.0, 6.0, 0.0, 0.0, 0.0, 0.0)
SPREADS = (0.0, 0.0, 0.0, 0.0, 0.0, -6.0, -2.0, 2.0, 6.0)
"""λ and μ of `tilts`, one of them 0: scores that rise, fall, gather, scatter. Our choice."""
STAKES = (0.0, 0.3, 0.8)
"""(θ - r) / (1 - r) of `stakes`. Our choice."""
HIGHEST = 1e300
"""No capital grows above this; the alarm came long before."""
VERSION = 1
"""Changed with the arithmetic: states from before are not gone on from."""
_ARRAYS = ("weights", "capital", "cusum", "start")
_NUMBERS = ("seen", "p", "peak", "evidence", "alarm", "since")
UNKNOWN = 0.1
"""δ/α: the share of the level spent on q being above its bound. Our choice."""


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


class Drift:
    """Watch scores, part by part. The same scores and seed give the same state, to the bit.

    Attributes: `seen` parts so far; `p` of the last part, None for one beyond c; `evidence`, log10 of E;
    `alarm`, whether E has ever reached 1 / level; `since`, the part (from 1) from which on it then looked so;
    `peak`, the largest evidence so far.
    """

    def __init__(
        self,
        calibration_scores: Sequence[float] | np.ndarray,
        *,
        level: float = LEVEL,
        defect_share: float = DEFECT_SHARE,
        seed: int = 0,
    ) -> None:
        """Start with the scores of good images (n,), unbounded, that were not trained on.

        `level` in [1e-9, 1) is the chance of ever alarming without a change; `defect_share` in [0, 0.5] is
        the share of parts that may be defective; `seed` orders equal scores and smooths ranks. Raises
        UsageError for other values, and DataError without scores.
        """
        if not 1e-9 <= level < 1:
            raise UsageError(f"drift level {level}: must lie between 1e-9 and 1; 0.01 is 1 %")
        if not 0 <= defect_share <= 0.5:
            raise UsageError(f"defect share {defect_share}: must lie between 0 and 0.5; 0.05 is 5 %")
        self.level, self.defect_share, self.seed = level, defect_share, seed
        self.reset(calibration_scores)

    def reset(self, scores: Sequence[float] | np.ndarray) -> None:
        """Start anew with other calibration scores, of the production that counts as good from now on.

        It is another test with the same level; raises as the first.
        """
        values = np.asarray(scores, dtype=np.float64).ravel()
        if not len(values):
            raise DataError("drift: no calibration score; calibrate the model with at least 1 good image")
        if np.isnan(values).any():
            raise UsageError("drift: a calibration score is nan; check the model's calibration")
        said = (VERSION, self.level, self.defect_share, self.seed, SHIFTS, SPREADS, STAKES, values.tolist())
        self._test = hashlib.sha256(repr(said).encode()).hexdigest()
        self._random = np.random.default_rng(self.seed)
        n, k = len(values), max(1, math.floor(BEYOND * (len(values) + 1)))
        # equal scores are ordered by a second number
        pairs = sorted(zip(values.tolist(), self._random.random(n).tolist(), strict=True))
        self._limit = pairs[n - k]
        size = min(n - k, CELLS)
        kept = np.arange(size) * (n - k) // max(size, 1)
        self._edges = [pairs[i] for i in kept]
        self._weights = np.diff(np.concatenate([[-1], kept, [n - k]]))
        q = largest_share(n, k, UNKNOWN * self.level)
        self._body, self._beyond = stakes(1 - (1 - self.defect_share) * (1 - q))
        bets = (len(SHIFTS), len(STAKES))
        self._capital = np.zeros(bets)
        self._cusum = np.ones(bets)
        self._start = np.ones(bets, dtype=np.int64)
        self.seen = 0
        self.p: float | None = None
        self.peak = self.evidence = math.log10(1 - UNKNOWN)
        self.alarm = False
        self.since: int | None = None

    def update(self, score: float) -> float:
        """Take the score of the next part and return log10 of E. Raises UsageError for NaN."""
        if math.isnan(score):
            raise UsageError("drift: score nan; leave out parts that could not be scored")
        self.seen += 1
        pair = (float(score), self._random.random())
        if pair > self._limit:
            self.p, gains = None, self._beyond
        else:
            self.p = self._rank(pair)
            gains = tilts([self.p])[:, None] * self._body
        weight, later = start_weight(self.seen)
        self._capital = at_stake(self._capital, gains, weight)
        self.evidence = math.log10((1 - UNKNOWN) * (float(self._capital.sum()) / self._capital.size + later))
        self.peak = max(self.peak, self.evidence)

        self._start[self._cusum <= 1] = self.seen
        self._cusum = at_stake(np.maximum(self._cusum, 1), gains, 0)
        if not self.alarm and self.evidence >= -math.log10(self.level):
            self.alarm = True
            self.since = int(self._start.flat[self._cusum.argmax()])
        return self.evidence

    def state(self) -> dict[str, Any]:
        """Return what later parts depend on, as JSON has it, to the bit."""
        return {
            "test": self._test,
            "random": self._random.bit_generator.state,
            "edges": [list(pair) for pair in self._edges],
            **{name: getattr(self, f"_{name}").tolist() for name in _ARRAYS},
            **{name: getattr(self, name) for name in _NUMBERS},
        }

    def resume(self, state: dict[str, Any]) -> bool:
        """Go on from a state; returns whether it is one of the same test, else nothing changes."""
        if state["test"] != self._test:
            return False
        self._random.bit_generator.state = state["random"]
        self._edges = [(score, order) for score, order in state["edges"]]
        for name in _ARRAYS:
            setattr(self, f"_{name}", np.array(state[name], getattr(self, f"_{name}").dtype))
        for name in _NUMBERS:
            setattr(self, name, state[name])
        return True

    def _rank(self, pair: tuple[float, float]) -> float:
        """Rank a body part, and add it to the reference."""
        cell = bisect(self._edges, pair)
        p = rank(self._weights, cell, self._random.random())
        if len(self._edges) < CELLS:
            self._edges.insert(cell, pair)
            self._weights = np.insert(self._weights, cell, 1)
        else:
            self._weights[cell] += 1
        return p
