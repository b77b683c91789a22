from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.core.errors import DataError, UsageError
from blemish.inference.calibration import Calibration, calibrate
from blemish.inference.part_models import ViewModels
from blemish.inference.part_rows import PartRow
from blemish.inference.parts import ApartRule, PartCalibration, TogetherRule, ViewScore

VIEWS = ("side", "top")


def seen(scores: Sequence[float | None], views: Sequence[str] = VIEWS) -> list[ViewScore]:
    return [ViewScore(view=view, score=score) for view, score in zip(views, scores, strict=True)]


def alike(scores: Sequence[float | None]) -> list[ViewScore]:
    return [ViewScore(score=score) for score in scores]


def normal(n: int, views: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1)) + rng.exponential(size=(n, views)) * [10.0**v for v in range(views)]


def together(n: int = 99, **rates: float) -> TogetherRule:
    return TogetherRule(PartCalibration(scores=normal(n), views=VIEWS), **rates)


# --- validity: of n + 1 parts in any order, at most floor(rate (n + 1)) are rejected by the n others ---


@settings(max_examples=12, deadline=None)
@given(
    st.integers(3, 14).flatmap(
        lambda n: st.lists(st.tuples(*[st.integers(-4, 4).map(float)] * 2), min_size=n + 1, max_size=n + 1)
    ),
    st.sampled_from([0.1, 0.25, 0.4, 0.5]),
    st.booleans(),
    st.booleans(),
)
def test_of_exchangeable_parts_no_more_are_rejected_than_promised(
    scores: list[tuple[float, float]], rate: float, named: bool, incomplete: bool
):
    """Exact, whatever the scores, ties included: each of the n + 1 is as likely to be the new one."""
    parts, views = np.array(scores), VIEWS if named else ()
    n = len(parts) - 1
    rate = max(rate, 1 / (n + 1))
    rejected = 0
    for i in range(n + 1):
        rule = TogetherRule(PartCalibration(scores=np.delete(parts, i, axis=0), views=views), rate=rate)
        own = [parts[i][0], None if incomplete else parts[i][1]]
        rejected += rule.decide(seen(own) if named else alike(own)).decision == "rejected"
    assert rejected <= rate * (n + 1) + 1e-9


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-4, 4).map(float)] * 3), min_size=10, max_size=30),
    st.sampled_from([0.3, 0.5]),
)
def test_bonferroni_keeps_the_promise_however_views_depend(scores: list[tuple[float, ...]], rate: float):
    """Exact as well: of each view at most a third of the rate, and the views may be copies of one another."""
    columns, names = np.array(scores).T, ("0", "1", "2")
    rejected = 0
    for i in range(len(scores)):
        known = [calibrate(others, others) for others in (np.delete(c, i) for c in columns)]
        rule = ApartRule(lambda view, k=known: k[int(view or 0)], names=names, rate=rate)
        views = [
            ViewScore(view=name, score=c[i], p_value=k.p_value(c[i]))
            for name, c, k in zip(names, columns, known, strict=True)
        ]
        rejected += rule.decide(views).decision == "rejected"
    assert rejected <= rate * len(scores) + 1e-9


def test_a_part_is_rejected_exactly_when_its_score_exceeds_the_threshold():
    rule = together(review_rate=0.2)
    for own in normal(200, seed=1) * 1.3:
        found = rule.decide(seen(own.tolist()))
        assert found.score is not None and found.threshold is not None and found.p_value is not None
        assert (found.score > found.threshold) == found.anomalous == (found.p_value <= 0.05)
        assert found.review_threshold is not None
        expected = "rejected" if found.anomalous else "accepted"
        if not found.anomalous and found.score > found.review_threshold:
            expected = "review"
        assert found.decision == expected


def test_units_of_views_make_no_difference():
    scores, own = normal(60), [3.0, 25.0]
    plain = TogetherRule(PartCalibration(scores=scores, views=VIEWS)).decide(seen(own))
    other = np.array([[1000.0, 0.01]])
    scaled = TogetherRule(PartCalibration(scores=scores * other + 7, views=VIEWS))
    found = scaled.decide(seen((np.array(own) * other + 7)[0].tolist()))
    assert (plain.p_value, plain.score) == (found.p_value, pytest.approx(found.score))


def test_a_blemish_in_the_view_with_small_scores_is_found():
    """By the largest raw score it would be lost: good ones of the other view are ten times as large."""
    rule = together()
    assert rule.decide(seen([15.0, 5.0])).decision == "rejected"
    assert rule.decide(seen([0.5, 5.0])).decision == "accepted"
    raw = TogetherRule(PartCalibration(scores=normal(99)))
    assert raw.decide(alike([15.0, 5.0])).decision == "accepted"


def test_a_worse_view_never_makes_a_part_better():
    rule = together()
    values = [rule.decide(seen([s, 6.0])).p_value for s in np.linspace(3, 30, 40)]
    assert all(b <= a for a, b in pairwise(values) if a is not None and b is not None)


# --- what is missing ---


def test_an_incomplete_part_is_never_accepted():
    rule = together()
    for own in normal(100, seed=2):
        found = rule.decide(seen([own[0], None]))
        assert (found.decision in ("review", "rejected"), found.missing) == (True, ["top"])
    assert rule.decide(seen([50.0, None])).decision == "rejected"
    assert rule.decide(seen([0.5], ["side"])).decision == "review"
    assert rule.decide(seen([None, None])).decision == "failed"


def test_of_views_that_are_not_told_apart_the_number_is_said():
    rule = TogetherRule(PartCalibration(scores=normal(39, 3)))
    found = rule.decide(alike([1.0, None]))
    assert (found.decision, found.missing) == ("review", ["2 of 3"])


@pytest.mark.parametrize(
    ("views", "text"),
    [
        (("side", "left"), "view left: is unknown; the views of a part are side, top"),
        (("side", "side"), "view side: the part has it 2 times"),
    ],
)
def test_views_that_a_part_cannot_have(views: tuple[str, str], text: str):
    with pytest.raises(DataError, match=text):
        together().decide(seen([1.0, 1.0], views))
    with pytest.raises(DataError, match="the part has 3 images, and parts have 2 views"):
        TogetherRule(PartCalibration(scores=normal(9))).decide(alike([1.0] * 3))


# --- rates ---


def one(n: int) -> Calibration:
    return calibrate(range(n), range(n))


def test_the_default_rate_is_raised_to_what_can_be_promised():
    assert together(99).rate == 0.05
    assert together(9).rate == 0.1
    assert ApartRule(lambda _: one(39), names=VIEWS).rate == 0.05
    assert ApartRule(lambda _: one(19), names=VIEWS).rate == 0.1
    assert ApartRule(lambda _: None, names=VIEWS).rate is None


@pytest.mark.parametrize(("count", "images"), [(2, 29), (3, 40), (6, 112)])
def test_at_the_lowest_rate_the_worst_part_is_rejected(count: int, images: int):
    rule = ApartRule(lambda _: one(images), count=count)
    worst = ViewScore(score=1e9, p_value=one(images).p_value(1e9))
    found = rule.decide([worst, *[ViewScore(score=0.0, p_value=1.0)] * (count - 1)])
    assert rule.rate == pytest.approx(count / (images + 1)) and rule.rate > 0.05
    assert found.decision == "rejected", f"p {found.p_value}, rate {rule.rate}"


def test_rates_that_cannot_be_promised_are_refused():
    with pytest.raises(
        UsageError, match=r"0.05: 9 calibration parts can promise 0.1 of parts .* hold out 19 good"
    ):
        together(9, rate=0.05)
    with pytest.raises(
        UsageError, match=r"0.05: 19 calibration images of a view, of 2 views, can promise 0.1"
    ):
        ApartRule(lambda _: one(19), names=VIEWS, rate=0.05)
    with pytest.raises(UsageError, match="hold out 39 good images"):
        ApartRule(lambda _: one(1), names=VIEWS)
    with pytest.raises(UsageError, match="rate 2: it must lie between 0 and 1"):
        together(9, rate=2)


def test_review_rates_that_send_nothing_are_refused():
    with pytest.raises(
        UsageError, match=r"--review-rate 0.05: must lie between the false-alarm rate, 0.05, and 1"
    ):
        together(review_rate=0.05)
    with pytest.raises(UsageError, match=r"--review-rate 0.11: so few calibration parts .* give 0.2 or more"):
        together(9, review_rate=0.11)


# --- calibrated apart ---


def test_the_smallest_p_value_counts_for_each_view():
    known = {"side": one(99), "top": calibrate(range(0, 990, 10), range(0, 990, 10))}
    rule = ApartRule(lambda view: known[str(view)], names=VIEWS, rate=0.05, review_rate=0.2)
    found = {}
    for score in (97.5, 92.5, 50.0):
        views = [ViewScore(view="side", score=score, p_value=known["side"].p_value(score))]
        views.append(ViewScore(view="top", score=10.0, p_value=0.9))
        decision = rule.decide(views)
        found[score] = decision.p_value, decision.decision, decision.rule, decision.threshold
    assert found == {
        97.5: (pytest.approx(2 * 2 / 100), "rejected", "apart", None),
        92.5: (pytest.approx(2 * 7 / 100), "review", "apart", None),
        50.0: (pytest.approx(2 * 50 / 100), "accepted", "apart", None),
    }
    missing = rule.decide([ViewScore(view="side", score=97.5, p_value=0.04)])
    assert (missing.p_value, missing.decision, missing.missing) == (0.08, "review", ["top"])


def test_without_calibration_nothing_is_decided():
    rule = ApartRule(lambda _: None, count=2)
    assert rule.decide(alike([1.0, 2.0])).decision == "unjudged"
    found = rule.decide(alike([1.0]))
    assert (found.decision, found.score, found.anomalous) == ("review", 1.0, None)


def test_without_a_number_a_part_has_the_views_that_it_has():
    rule = ApartRule(lambda _: one(99))
    views = [ViewScore(score=98.5, p_value=0.01), ViewScore(score=1.0, p_value=0.99)]
    assert [rule.decide(views[:k]).p_value for k in (1, 2)] == [0.01, 0.02]


@pytest.mark.parametrize("scores", [np.zeros((0, 2)), np.zeros(3), np.zeros((3, 1)), np.full((3, 2), np.nan)])
def test_damaged_calibrations_are_refused(scores: np.ndarray):
    with pytest.raises(DataError, match="scores of parts"):
        PartCalibration(scores=scores, views=VIEWS)


def test_of_a_part_that_failed_nothing_else_is_said():
    said = asdict(PartRow(part="a", decision="failed"))
    assert {key for key, value in said.items() if value} == {"part", "decision", "rule"}
    assert (said["missing"], said["views"]) == ([], [])
    assert {value for key, value in said.items() if not value and key not in ("missing", "views")} == {None}


def test_statistics_are_the_largest_of_standardised_scores():
    scores = np.array([[1.0, 10], [2, 30], [3, 20], [9, 20]])
    # medians 2.5 and 20; median distances from them 1 and 5
    assert PartCalibration(scores=scores, views=VIEWS).statistics.tolist() == [-1.5, 2, 0.5, 6.5]
    # of views that are not told apart: the median of all 9.5, the median distance 8
    apart = (scores.max(axis=1) - 9.5) / 8
    assert PartCalibration(scores=scores).statistics.tolist() == apart.tolist()


def test_a_view_has_the_model_that_is_given_for_it():
    models = ViewModels.of(Path("usual"), ["top=other"])
    assert [models.path(view).name for view in (None, "side", "top")] == ["usual", "usual", "other"]
