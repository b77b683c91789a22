"""The drift alarm: exact ranks, fair bets, a bound on false alarms, and changes that are told."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from blemish.core.errors import DataError, UsageError
from blemish.station import drift, drift_equations
from blemish.station.drift import Drift

ALARM = 2.0
"""log10 of 1 / level, at the level of 1 %."""


class Fixed:
    """Random numbers that are all the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def normal(n: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=n)


def lived(watched: Drift, scores: np.ndarray) -> list[float]:
    return [watched.update(score) for score in scores]


def state_of(watched: Drift) -> tuple:
    capital, random = watched._capital.tobytes(), watched._random.bit_generator.state
    return watched._edges, watched._weights.tobytes(), capital, str(random), watched.evidence, watched.since


def told_after(watched: Drift, scores: np.ndarray) -> float:
    for part, score in enumerate(scores, start=1):
        watched.update(score)
        if watched.alarm:
            return part
    return math.inf


def interval_of(watched: Drift, score: float) -> tuple[Fraction, Fraction]:
    """What p may be for the next score: from v = 0 to v = 1."""
    weights = watched._weights
    cell = sum(edge < (score, 0.5) for edge in watched._edges)
    total = int(weights.sum())
    above, within = int(weights[cell + 1 :].sum()), int(weights[cell])
    watched.update(score)
    assert watched.p == pytest.approx((above + 0.5 * within) / total)  # as v is always 0.5
    return Fraction(above, total), Fraction(above + within, total)


@pytest.mark.parametrize("cells", [1024, 4, 3])
@pytest.mark.heavy
def test_ranks_are_uniform_and_independent_over_all_orders(monkeypatch, cells):
    """Every sequence of intervals of p is as probable as their widths say, which is uniform p's law.

    3 calibration scores (2 in the body) and 4 parts below c, in each of the 6! orders of the 6 body scores.
    With at most 3 or 4 values in the reference the last parts are only counted.
    """
    monkeypatch.setattr(drift, "CELLS", cells)
    seen: Counter[tuple[tuple[Fraction, Fraction], ...]] = Counter()
    for order in permutations(range(6)):
        watched = Drift([*order[:2], 100.0])
        watched._random = Fixed(0.5)  # type: ignore[assignment]
        seen[tuple(interval_of(watched, score) for score in order[2:])] += 1
    for intervals, count in seen.items():
        widths = math.prod(high - low for low, high in intervals)
        assert Fraction(count, math.factorial(6)) == widths
    assert len(seen) == math.prod((3, 4, 5, 6)) if cells == 1024 else len(seen) < 360


def test_counted_ranks_by_hand():
    weights = np.array([1, 3, 2])  # total 6
    assert drift_equations.rank(weights, 0, 0.0) == pytest.approx(5 / 6)  # 3 + 2 lie above
    assert drift_equations.rank(weights, 1, 0.5) == pytest.approx((2 + 1.5) / 6)
    assert drift_equations.rank(weights, 2, 0.25) == pytest.approx(0.5 / 6)


def test_bets_are_fair():
    p = (np.arange(1_000_000) + 0.5) / 1_000_000
    np.testing.assert_allclose(drift_equations.tilts(p[:, None]).mean(axis=0), 1, rtol=1e-9)
    assert drift_equations.tilts([0.3])[0] == 1
    # e^(-6 p) integrates to (1 - e^-6) / 6
    assert drift_equations.tilts([0.1])[1] == pytest.approx(math.exp(-0.6) * 6 / (1 - math.exp(-6)))
    body, beyond = drift_equations.stakes(0.2)
    for share in (0.0, 0.1, 0.2):
        assert ((1 - share) * body + share * beyond <= 1 + 1e-12).all()
    np.testing.assert_allclose(0.8 * body + 0.2 * beyond, 1)
    assert (0.7 * body + 0.3 * beyond)[1:].max() > 1.05  # and one too many pays


def test_bets_win_where_they_should():
    """Scores that rise have small p; those that scatter have p near 0 and 1."""
    high, middle, low = drift_equations.tilts([[0.02], [0.5], [0.98]])
    rises, falls, gathers, scatters = 1, 4, 5, 8
    assert high[rises] > 3 > 0.1 > low[rises]
    assert low[falls] > 3 > 0.1 > high[falls]
    assert middle[gathers] > 3 > 0.1 > low[gathers]
    assert high[scatters] > 3 > 0.1 > middle[scatters]


def test_start_weights_sum_to_one():
    weights = [drift_equations.start_weight(part)[0] for part in range(1, 1001)]
    assert weights[0] == pytest.approx(1 - 1 / math.log2(3))
    assert math.fsum(weights) + drift_equations.start_weight(1000)[1] == pytest.approx(1, abs=1e-12)


def test_capital_at_stake_by_hand():
    capital = drift_equations.at_stake(np.array([1.0, 0.0]), np.array([2.0, 0.5]), 0.5)
    assert capital.tolist() == [3.0, 0.25]  # (1 + 0.5) 2, and a start alone: 0.5 · 0.5
    assert drift_equations.at_stake(np.array([1e300]), np.array([7.0]), 0.5) == 1e300


def test_evidence_is_a_martingale_over_all_paths():
    """Two equally likely outcomes of mean gain 1: the mean of E over all 2^6 paths is 1, at every step."""
    gains = (np.array([0.5, 1.0, 1.9]), np.array([1.5, 1.0, 0.1]))
    for length in range(1, 7):
        evidence = []
        for path in product(gains, repeat=length):
            capital, later = np.zeros(3), 1.0
            for part, gain in enumerate(path, start=1):
                weight, later = drift_equations.start_weight(part)
                capital = drift_equations.at_stake(capital, gain, weight)
            evidence.append(capital.mean() + later)
        assert np.mean(evidence) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (20, 1), (100, 5), (100, 100), (5000, 250)])
def test_largest_share_is_the_quantile_of_the_beta_distribution(n, k):
    for chance in (0.001, 0.05, 0.5):
        expected = stats.beta(k, n - k + 1).ppf(1 - chance)
        assert drift_equations.largest_share(n, k, chance) == pytest.approx(expected, rel=1e-8)


def false_alarms(lives: int, parts: int, level: float, defects: float) -> int:
    random = np.random.Generator(np.random.PCG64(1))
    count = 0
    for seed in range(lives):
        scores = random.normal(size=parts) + 8 * (random.random(parts) < defects)
        watched = Drift(random.normal(size=30), level=level, seed=seed)
        count += told_after(watched, scores) < math.inf
    return count


@pytest.mark.heavy
@pytest.mark.parametrize("defects", [0.0, 0.02, 0.05])
def test_false_alarms_keep_the_level(defects):
    """As many alarms of 100 lives as a true share of 20 % would show once in 10,000 times, at most."""
    assert false_alarms(100, 200, 0.2, defects) <= stats.binom.ppf(1 - 1e-4, 100, 0.2)


def test_equal_scores_are_no_drift():
    """Scores of few values, even of one, have uniform ranks as well: mean 1/2 and variance 1/12 of 1,000."""
    for values in (1, 3):
        random = np.random.Generator(np.random.PCG64(values))
        watched = Drift(random.integers(0, values, 50))
        ranks = []
        for score in random.integers(0, values, 1000):
            watched.update(score)
            ranks += [] if watched.p is None else [watched.p]
        assert not watched.alarm
        assert len(ranks) > 700  # what equals c lies in the body or beyond by chance
        assert stats.kstest(ranks, "uniform").pvalue > 1e-4


def test_only_the_order_of_scores_counts():
    calibration, scores = normal(40, 1), normal(200, 2)
    plain, bent = Drift(calibration), Drift(np.exp(calibration) * 5 - 3)
    assert lived(plain, scores) == lived(bent, np.exp(scores) * 5 - 3)


def test_replay_gives_the_same_state_to_the_bit(monkeypatch):
    monkeypatch.setattr(drift, "CELLS", 60)  # so that some parts are counted
    calibration, scores = normal(40, 1), normal(200, 2)
    first, again = Drift(calibration, seed=3), Drift(list(calibration), seed=3)
    assert lived(first, scores) == lived(again, scores)
    assert state_of(first) == state_of(again)
    assert lived(Drift(calibration, seed=4), scores) != lived(Drift(calibration, seed=3), scores)


CHANGES = {
    "rise": (lambda x: x + 2, 30),
    "great rise": (lambda x: x + 6, 15),
    "fall": (lambda x: x - 2, 25),
    "scatter": (lambda x: 4 * x, 60),
    "gather": (lambda x: 0.25 * x, 60),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_told_soon_and_dated(name):
    change, limit = CHANGES[name]
    for seed in range(5):
        watched = Drift(normal(100, seed))
        lived(watched, normal(60, 100 + seed))
        assert not watched.alarm and watched.since is None
        assert told_after(watched, change(normal(200, 200 + seed))) <= limit
        assert watched.evidence >= ALARM
        assert watched.since is not None and abs(watched.since - 61) <= 15


def test_a_late_change_is_told():
    watched = Drift(normal(100, 1))
    lived(watched, normal(3000, 2))
    assert told_after(watched, normal(200, 3) + 2) <= 30
    assert abs((watched.since or 0) - 3001) <= 10


def test_defects_among_good_parts_are_no_drift_but_many_rejects_are():
    random = np.random.Generator(np.random.PCG64(5))
    scores = random.normal(size=2000) + 20 * (random.random(2000) < 0.05)
    watched = Drift(normal(100, 4), defect_share=0.05)
    lived(watched, scores)
    assert not watched.alarm
    assert told_after(watched, np.where(random.random(500) < 0.6, 20.0, random.normal(size=500))) <= 100


def test_the_defect_share_is_what_is_allowed_for():
    """q̂ is 14 % with 100 images: 30 % beyond are within 1 - 0.7 · 0.86 = 40 %, but not within 14 %."""
    random = np.random.Generator(np.random.PCG64(6))
    scores = np.where(random.random(1000) < 0.3, 20.0, random.normal(size=1000))
    assert told_after(Drift(normal(100, 4), defect_share=0.3), scores) == math.inf
    assert told_after(Drift(normal(100, 4), defect_share=0.0), scores) < 200


def test_the_alarm_stays_and_nothing_overflows():
    watched = Drift(normal(100, 1))
    lived(watched, np.full(3000, 50.0))
    assert 250 < watched.evidence <= 300.0
    since = watched.since
    lived(watched, normal(3000, 2))
    assert watched.alarm and watched.since == since


def test_reset_starts_anew():
    watched = Drift(normal(100, 1), seed=7)
    changed = normal(100, 3) + 5
    told_after(watched, changed)
    assert watched.alarm
    watched.reset(changed)
    assert (watched.seen, watched.alarm, watched.since, watched.p) == (0, False, None, None)
    assert state_of(watched) == state_of(Drift(changed, seed=7))
    lived(watched, normal(300, 4) + 5)
    assert not watched.alarm


def test_a_large_calibration_is_thinned(monkeypatch):
    monkeypatch.setattr(drift, "CELLS", 16)
    watched = Drift(normal(1000, 1))
    lived(watched, normal(500, 2))
    assert len(watched._edges) == 16
    assert watched._weights.sum() == 1000 - 50 + 1 + sum(normal(500, 2) <= np.sort(normal(1000, 1))[950])
    assert not watched.alarm


def test_one_calibration_score_is_enough_to_begin():
    watched = Drift([1.0])
    lived(watched, normal(200, 1))
    assert not watched.alarm


def test_what_cannot_be_watched_is_refused():
    for level in (0, 1, math.nan, -0.1):
        with pytest.raises(UsageError, match="drift level"):
            Drift([1.0], level=level)
    for share in (-0.1, 0.6, math.nan):
        with pytest.raises(UsageError, match="defect share"):
            Drift([1.0], defect_share=share)
    with pytest.raises(DataError, match="no calibration score"):
        Drift([])
    with pytest.raises(UsageError, match="nan"):
        Drift([1.0, math.nan])
    with pytest.raises(UsageError, match="nan"):
        Drift([1.0]).update(math.nan)
