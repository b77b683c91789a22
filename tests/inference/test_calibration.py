from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from blemish.core.errors import DataError, UsageError
from blemish.inference.calibration import Calibration, calibrate


def of(scores: list[float]) -> Calibration:
    return calibrate(scores, scores)


def test_a_rate_that_is_named_is_accepted():
    for n in range(19, 400):
        calibration = of([float(i) for i in range(n)])
        for k in (1, 2, n // 10 + 1):
            rate = float(f"{calibration.named_rate(k):g}")
            assert calibration.rank(rate) >= k
            assert rate < k / (n + 1) + 1e-4
        with pytest.raises(UsageError, match=f"can promise {calibration.named_rate():g} at the lowest"):
            calibration.rank(0.9 / (n + 1))
    assert of([0.0] * 20).named_rate(2) == 0.0953
    assert of([0.0] * 99).named_rate(7) == 0.07


def test_p_values_by_hand():
    calibration = of([3.0, 1.0, 2.0, 2.0])
    assert calibration.n == 4
    assert calibration.lowest_rate == 1 / 5
    assert calibration.p_value(9.0) == 1 / 5  # nothing as large: (1 + 0) / 5
    assert calibration.p_value(3.0) == 2 / 5  # the tie with 3 counts: (1 + 1) / 5
    assert calibration.p_value(2.0) == 4 / 5  # 2, 2 and 3
    assert calibration.p_value(2.5) == 2 / 5
    assert calibration.p_value(-math.inf) == 1.0


@pytest.mark.parametrize(
    ("n", "rate", "kth_largest"),
    [
        (19, 0.05, 1),  # 1 / 20 = 0.05 exactly: the largest good score
        (99, 0.07, 7),  # 0.07 * 100 = 7.000000000000001
        (99, 0.29, 29),  # 0.29 * 100 = 28.999999999999996
        (99, 0.57, 57),  # 0.57 * 100 = 56.99999999999999
        (9, 0.3, 3),
        (48, 1 / 49, 1),  # 1 / 49 * 49 = 0.9999999999999999
        (19, 0.0999999, 1),
        (99, math.nextafter(0.05, 0), 4),  # below 5 / 100, yet times 100 it rounds to 5
        (19, 0.1, 2),
        (1, 0.5, 1),
        (1, 0.999, 1),
    ],
)
def test_threshold_is_the_right_order_statistic(n: int, rate: float, kth_largest: int):
    assert of(list(range(1, n + 1))).threshold(rate) == n - kth_largest + 1


def test_image_and_pixel_thresholds_use_their_own_values():
    calibration = calibrate([1, 2, 3], [30, 10, 20])
    assert calibration.threshold(0.25) == 3.0
    assert calibration.pixel_threshold(0.25) == 30.0
    assert calibration.pixel_threshold(0.5) == 20.0  # k = 2: the second largest


def test_every_reachable_rate_is_reached():
    for n in range(1, 200):
        calibration = of(list(range(n)))
        for k in range(1, n + 1):
            assert calibration.threshold(k / (n + 1)) == n - k


def test_a_rate_that_cannot_be_promised_names_the_cure():
    calibration = of(list(range(18)))
    with pytest.raises(UsageError) as refused:
        calibration.threshold(0.05)
    # 18 images promise 1 / 19 = 0.05263…, named as a rate that is not refused; 0.05 = 1 / 20 needs 19.
    assert "18 calibration images" in str(refused.value)
    assert "0.0527" in str(refused.value)
    assert calibration.threshold(0.0527) == 17
    assert "hold out 19 good images" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match="hold out 999 good"):
        calibration.pixel_threshold(0.001)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 3000))
def test_the_number_of_images_asked_for_is_enough_and_the_least(total: int):
    with pytest.raises(UsageError) as refused:
        of([0.0]).threshold(min(1 / total, 0.499))
    needed = int(str(refused.value).split("hold out ")[1].split()[0])
    assert needed == max(total - 1, 2)  # 1 / total is promised by total - 1 images; 0.499 by 2


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_rates_outside_the_unit_interval_are_refused(rate: float):
    with pytest.raises(UsageError, match="between 0 and 1"):
        of([1.0, 2.0]).threshold(rate)


def test_bad_calibrations_are_refused():
    with pytest.raises(DataError, match="at least 1"):
        calibrate([], [])
    with pytest.raises(DataError, match="2 scores but 1 map maxima"):
        calibrate([1.0, 2.0], [1.0])
    with pytest.raises(UsageError, match="score nan of image 1"):
        calibrate([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(UsageError, match="map maximum inf of image 0"):
        calibrate([1.0], [math.inf])
    with pytest.raises(UsageError, match="nan"):
        of([1.0]).p_value(math.nan)


def test_the_given_scores_are_copied_and_kept_in_order():
    given_scores = np.array([3.0, 1.0, 2.0])
    calibration = calibrate(given_scores, given_scores)
    assert given_scores.tolist() == [3.0, 1.0, 2.0]
    assert calibration.scores.tolist() == calibration.map_maxima.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="read-only"):
        calibration.scores[0] = 9.0


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(-4, 4) | st.floats(-4, 4), min_size=1, max_size=40),
    st.integers(-5, 5) | st.floats(-5, 5),
    st.floats(0.001, 0.999) | st.sampled_from([0.05, 0.1, 0.25, 1 / 3, 0.5, 2 / 3]),
)
@pytest.mark.heavy
def test_above_the_threshold_exactly_when_p_is_at_most_the_rate(
    scores: list[float], score: float, rate: float
):
    calibration = of(scores)
    assume(rate >= calibration.lowest_rate)
    threshold = calibration.threshold(rate)
    for s in [score, *scores]:  # the calibration scores themselves are the ties
        assert (s > threshold) == (calibration.p_value(s) <= rate)


@pytest.mark.parametrize(
    ("n", "m", "rate"), [(1, 1, 0.5), (4, 3, 0.2), (4, 3, 0.5), (6, 2, 0.999), (2, 5, 0.34)]
)
def test_the_chance_of_alarms_is_the_share_of_all_orders(n: int, m: int, rate: float):
    counts = []
    for held_out in itertools.combinations(range(n + m), n):  # each equally likely
        threshold = of(list(held_out)).threshold(rate)
        counts.append(sum(s > threshold for s in set(range(n + m)) - set(held_out)))
    for alarms in range(m + 1):
        share = np.mean(np.array(counts) >= alarms)
        assert of(list(range(n))).chance_of(alarms, m, rate) == pytest.approx(share, abs=1e-12)


def test_the_chance_of_alarms_by_hand():
    # The threshold is the largest of 21: nine alarms are nine new scores before it, (20···12) / (41···33).
    by_hand = math.prod(range(12, 21)) / math.prod(range(33, 42))
    assert of(list(range(21))).chance_of(9, 20, 0.05) == pytest.approx(by_hand)
    assert of([0.0]).chance_of(0, 0, 0.5) == 1.0
    with pytest.raises(UsageError, match="hold out 19 good images"):
        of([0.0]).chance_of(1, 1, 0.05)


@pytest.mark.parametrize(
    ("n", "images", "alarms"), [(21, 60, 4), (300, 2000, 0), (300, 2000, 150), (5000, 9, 9)]
)
def test_the_chance_of_alarms_is_beta_binomial(n: int, images: int, alarms: int):
    j, k = np.arange(alarms, images + 1), math.floor(0.05 * (n + 1))
    chosen = -np.log(images + 1) - betaln(images - j + 1, j + 1)
    terms = np.exp(chosen + betaln(j + k, images - j + n + 1 - k) - betaln(k, n + 1 - k))
    assert of(list(range(n))).chance_of(alarms, images, 0.05) == pytest.approx(terms.sum(), rel=1e-9)


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (30, 0.1), (7, 0.3)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_false_alarm_rate_is_kept(n: int, rate: float, ties: bool):
    rng = np.random.default_rng(n)
    draws = 20_000
    scores = rng.normal(size=(draws, n + 1))
    if ties:
        scores = np.round(scores * 2)
    alarms = np.mean([row[n] > of(row[:n].tolist()).threshold(rate) for row in scores])
    error = 4 * math.sqrt(rate * (1 - rate) / draws)  # four standard errors of a share
    assert alarms <= rate + error
    if not ties:
        assert alarms >= rate - 1 / (n + 1) - error
        # Exactly floor(rate (n + 1)) / (n + 1) without ties: 1/20, 3/31 and 2/8.
        assert abs(alarms - {19: 1 / 20, 30: 3 / 31, 7: 2 / 8}[n]) < error
