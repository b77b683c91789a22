"""Shares that are known from judged parts, with their intervals: of one sample, and of several together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blemish.metrics.confidence import exact_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ERROR = 0.05
"""The chance at most that an interval does not hold its share."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share of parts, estimated from `n` judged ones, of which `found` are what is counted.

    `share` is None where n is 0. The 95 % interval `low` to `high` is exact for one sample, and conservative
    for several.
    """

    found: int
    n: int
    share: float | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was drawn while the plan drew `share` of the accepted parts, in (0, 1]."""

    share: float
    drawn: int
    judged: int
    """Of the drawn parts."""
    found: int
    """Defects among the judged parts."""


def estimate(found: int, n: int) -> Estimate:
    """Return the share of `found` among `n`, with its exact 95 % interval (Clopper and Pearson)."""
    low, high = exact_interval(found, n, level=1 - ERROR) if n else (0.0, 1.0)
    return Estimate(found=found, n=n, share=found / n if n else None, low=low, high=high)


def estimate_of_samples(samples: Sequence[Sample]) -> Estimate:
    """Return the share of defects among all parts from which samples were drawn, each with its own share.

    One sample is estimated as it is. Of several each counts as the parts that it stands for, drawn / share;
    each of its judged parts for as many of them as the others. The interval is conservative: it joins an
    exact interval of each sample's defects and bounds of how many parts each stands for, all of which hold
    together with a chance of 95 % at least (Bonferroni). Of a sample that nobody has judged it knows nothing.
    """
    found, n = sum(each.found for each in samples), sum(each.judged for each in samples)
    if len(samples) < 2 or n == 0:
        return estimate(found, n)
    judged = [each for each in samples if each.judged]
    defects = sum(each.drawn / each.share * each.found / each.judged for each in judged)
    error = ERROR / (2 * len(samples))
    sizes = [_sizes(each, error) for each in samples]
    shares = [
        exact_interval(each.found, each.judged, level=1 - error) if each.judged else (0.0, 1.0)
        for each in samples
    ]
    return Estimate(
        found=found,
        n=n,
        share=defects / sum(each.drawn / each.share for each in judged),
        low=1 - _largest_mean([1 - low for low, _ in shares], sizes),
        high=_largest_mean([high for _, high in shares], sizes),
    )


def _sizes(sample: Sample, error: float) -> tuple[float, float]:
    """Return bounds (low, high) of the number of parts from which a sample was drawn, each part by its lot.

    P(Bin(N, s) ≤ d) and P(Bin(N, s) ≥ d) are at most exp(-N·KL(d/N ‖ s)) on their side of d = N·s: a bound is
    where that is error / 2. Source: Hoeffding, Journal of the American Statistical Association 58, 1963,
    Theorem 1.
    """
    d, s = sample.drawn, sample.share
    if s == 1:
        return d, d

    def is_possible(size: float) -> bool:
        rest = size - d
        divergence = d * math.log(d / (size * s))
        divergence += rest * math.log(rest / (size * (1 - s))) if rest > 0 else 0.0
        return divergence < math.log(2 / error)

    likely = d / s
    high = 2 * likely
    while is_possible(high):
        high *= 2
    return _edge(is_possible, likely, d), _edge(is_possible, likely, high)


def _edge(is_possible: Callable[[float], bool], inside: float, outside: float) -> float:
    """Find by halves where what is possible ends on the way from `inside` to `outside`; on the far side."""
    if is_possible(outside):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_possible(middle) else (inside, middle)
    return outside


def _largest_mean(values: Sequence[float], weights: Sequence[tuple[float, float]]) -> float:
    """Return the largest mean of values whose weights lie between bounds (low, high).

    There the largest values have their largest weights, and the others their smallest.
    """
    order = sorted(zip(values, weights, strict=True), reverse=True)
    means = []
    for cut in range(1, len(order) + 1):
        chosen = [high if place < cut else low for place, (_, (low, high)) in enumerate(order)]
        total = sum(weight * value for weight, (value, _) in zip(chosen, order, strict=True))
        means.append(total / sum(chosen))
    return max(means)
