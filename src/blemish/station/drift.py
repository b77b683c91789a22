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
from blemish.station.drift_equations import (
    SHIFTS,
    SPREADS,
    STAKES,
    at_stake,
    largest_share,
    rank,
    stakes,
    start_weight,
    tilts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVEL = 0.01
"""The chance of ever alarming without a change."""
DEFECT_SHARE = 0.05
"""d: a part is defective with at most this probability, given all before it."""
BEYOND = 0.05
"""Share of the calibration scores that lie beyond c. Our choice: what is rejected by default."""
CELLS = 1024
"""Values of the reference at most; parts after that are counted between them."""
VERSION = 1
"""Changed with the arithmetic: states from before are not gone on from."""
_ARRAYS = ("weights", "capital", "cusum", "start")
_NUMBERS = ("seen", "p", "peak", "evidence", "alarm", "since")
UNKNOWN = 0.1
"""δ/α: the share of the level spent on q being above its bound. Our choice."""


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
