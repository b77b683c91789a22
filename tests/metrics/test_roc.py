from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from blemish.core.errors import UsageError
from blemish.metrics.pixels import PixelPool, region_weights
from blemish.metrics.roc import Roc, image_roc

TIED = st.lists(st.integers(-3, 3), min_size=1, max_size=15)
FREE = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=15)
SCORES = TIED | FREE
LIMITS = st.floats(0.01, 1.0) | st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, 1.0])


def samples(seed: int, n: int = 400, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_defect = rng.random(n) < 0.3
    scores = rng.normal(size=n) + is_defect
    return (np.round(scores * 2) if ties else scores), is_defect


def test_curve_by_hand():
    # Descending: 5+, 4-, 3+ with 3-, 2-, 1-. Corners (0,0) (0,1/2) (1/4,1/2) (2/4,1) (1,1).
    roc = Roc.of([4, 3, 2, 1], [5, 3])
    # Pairs: 5 beats 4; 3 beats 2 and 1 and ties with 3: (4 + 2.5) / 8.
    assert roc.auroc() == 6.5 / 8
    # Up to 0.3: 0.25 * 0.5; from 0.25 to 0.3 the slope is (1 - 0.5) / 0.25 = 2, the height 0.5 -> 0.6.
    area = 0.25 * 0.5 + 0.05 * (0.5 + 0.6) / 2
    assert roc.area_up_to(0.3) == pytest.approx(area, abs=1e-15)
    assert roc.normalised_auroc(0.3) == pytest.approx(area / 0.3, abs=1e-15)
    assert roc.mcclish(0.3) == pytest.approx(0.5 * (1 + (area - 0.045) / (0.3 - 0.045)), abs=1e-15)
    assert [roc.tpr_at(x) for x in (0, 0.1, 0.25, 0.375, 0.5, 1)] == [0.5, 0.5, 0.5, 0.75, 1, 1]
    fpr, tpr = roc.curve()
    assert fpr.tolist() == [0, 0, 0.25, 0.5, 1]
    assert tpr.tolist() == [0, 0.5, 0.5, 1, 1]


def test_precision_by_hand():
    roc = Roc.of([4, 3, 2, 1], [5, 3])
    # From 5: 1 found, 0 false, F1 = 2 / (1 + 0 + 2). From 3: 2 found, 2 false, F1 = 4 / (2 + 2 + 2). Equal.
    f1, threshold = roc.f1max()
    assert f1 == 2 / 3
    assert 4 < threshold < 5
    # Recall rises by 1/2 at precision 1/1 and by 1/2 at precision 2/4.
    assert roc.average_precision() == 0.75


def test_perfect_useless_and_reversed_rankings():
    assert Roc.of([1, 2], [3, 4]).auroc() == 1
    assert Roc.of([3, 4], [1, 2]).auroc() == 0
    constant = Roc.of([7.0] * 5, [7.0] * 3)
    assert constant.auroc() == 0.5
    assert constant.normalised_auroc(0.3) == pytest.approx(0.15)  # 0.3^2 / 2 / 0.3
    assert constant.mcclish(0.3) == pytest.approx(0.5)
    assert Roc.of([1, 2], [3, 4]).mcclish(0.3) == pytest.approx(1)
    assert Roc.of([3, 4], [1, 2]).mcclish(0.3) == pytest.approx(0.7 / 1.7)  # (1 - c) / (2 - c)
    assert constant.average_precision() == 3 / 8  # the prevalence


@settings(max_examples=100, deadline=None)
@given(SCORES, SCORES, LIMITS)
def test_areas_match_brute_force(negatives: list[float], positives: list[float], limit: float):
    roc = Roc.of(negatives, positives)
    points = reference.roc_points(negatives, positives)
    assert roc.auroc() == pytest.approx(reference.auroc(negatives, positives), abs=1e-12)
    assert roc.area_up_to(limit) == pytest.approx(reference.area_up_to(points, limit), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(SCORES, st.lists(st.tuples(st.integers(-3, 3), st.floats(0.1, 9)), min_size=1, max_size=12), LIMITS)
def test_weighted_areas_match_brute_force(
    negatives: list[float], weighted: list[tuple[float, float]], limit: float
):
    positives, weights = [p for p, _ in weighted], [w for _, w in weighted]
    points = reference.roc_points(negatives, positives, weights)
    area = Roc.of(negatives, positives, weights).area_up_to(limit)
    assert area == pytest.approx(reference.area_up_to(points, limit), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_scikit_learn(seed: int, ties: bool):
    scores, is_defect = samples(seed, ties=ties)
    roc = image_roc(scores, is_defect)
    assert roc.auroc() == pytest.approx(roc_auc_score(is_defect, scores), abs=1e-12)
    assert roc.average_precision() == pytest.approx(average_precision_score(is_defect, scores), abs=1e-12)
    for c in (0.01, 0.05, 0.3, 0.7):
        theirs = roc_auc_score(is_defect, scores, max_fpr=c)  # McClish's; its inverse is the area
        assert roc.mcclish(c) == pytest.approx(theirs, abs=1e-12)
        assert roc.area_up_to(c) == pytest.approx((2 * theirs - 1) * (c - c**2 / 2) + c**2 / 2, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(SCORES, SCORES, st.floats(0.01, 0.99))
def test_any_ranking_agrees_with_scikit_learn(negatives: list[float], positives: list[float], limit: float):
    scores, is_defect = (
        np.array([*negatives, *positives]),
        np.repeat([False, True], [len(negatives), len(positives)]),
    )
    roc = image_roc(scores, is_defect)
    assert roc.auroc() == pytest.approx(roc_auc_score(is_defect, scores), abs=1e-12)
    assert roc.average_precision() == pytest.approx(average_precision_score(is_defect, scores), abs=1e-12)
    theirs = roc_auc_score(is_defect, scores, max_fpr=limit)  # McClish's; its inverse is the area
    assert roc.mcclish(limit) == pytest.approx(theirs, abs=1e-12)
    area = (2 * theirs - 1) * (limit - limit**2 / 2) + limit**2 / 2
    assert roc.area_up_to(limit) == pytest.approx(area, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_f1max_against_scikit_learn_and_its_own_threshold(ties: bool):
    scores, is_defect = samples(3, ties=ties)
    f1, threshold = image_roc(scores, is_defect).f1max()
    precision, recall, _ = precision_recall_curve(is_defect, scores)
    both = precision + recall
    theirs = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0).max()
    assert f1 == pytest.approx(theirs, abs=1e-12)
    called = scores > threshold
    hits = int((called & is_defect).sum())
    assert f1 == pytest.approx(2 * hits / (called.sum() + is_defect.sum()), abs=1e-12)


def test_f1_threshold_holds_in_float32():
    scores, is_defect = samples(4, ties=False)
    scores = scores.astype(np.float32)
    f1, threshold = image_roc(scores, is_defect).f1max()
    called = scores > np.float32(threshold)
    assert f1 == pytest.approx(2 * (called & is_defect).sum() / (called.sum() + is_defect.sum()), abs=1e-12)


def test_weighted_average_precision_against_scikit_learn():
    scores, is_defect = samples(5, ties=True)
    weights = np.random.default_rng(5).uniform(0.1, 3, int(is_defect.sum()))
    roc = Roc.of(scores[~is_defect], scores[is_defect], weights)
    every = np.ones(len(scores))
    every[is_defect] = weights / weights.mean()
    theirs = average_precision_score(is_defect, scores, sample_weight=every)
    assert roc.average_precision() == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(TIED, TIED, LIMITS)
@pytest.mark.heavy
def test_a_monotone_map_of_the_scores_changes_nothing(
    negatives: list[int], positives: list[int], limit: float
):
    roc = Roc.of(negatives, positives)
    mapped = Roc.of(np.exp(np.array(negatives)) * 1e6 - 7, np.exp(np.array(positives)) * 1e6 - 7)
    assert mapped.area_up_to(limit) == roc.area_up_to(limit)
    assert mapped.average_precision() == roc.average_precision()
    assert mapped.f1max()[0] == roc.f1max()[0]


MAPS = {
    "cube": lambda x: np.float64(x) ** 3,
    "exp": lambda x: np.exp(np.float64(x) / 50),
    "huge": lambda x: np.float64(x) * 1e300,
    "tiny, negative": lambda x: np.float64(x) * 1e-30 - 1e-27,
    "ranks": lambda x: np.searchsorted(np.unique(np.arange(-400, 401) / 4), x),
}
"""Strictly increasing on multiples of 1/4 from -100 to 100."""


@pytest.mark.parametrize("name", MAPS)
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-400, 400), min_size=2, max_size=30), st.integers(1, 29), LIMITS)
def test_measures_know_the_order_of_scores_alone(name: str, quarters: list[int], cut: int, limit: float):
    scores, cut = np.array(quarters) / 4, min(cut, len(quarters) - 1)
    roc, mapped = (Roc.of(s[:cut], s[cut:]) for s in (scores, MAPS[name](scores)))
    assert mapped.auroc() == roc.auroc()
    assert mapped.area_up_to(limit) == roc.area_up_to(limit)
    assert mapped.average_precision() == roc.average_precision()
    assert mapped.f1max()[0] == roc.f1max()[0]


def pools(seed: int, ties: bool) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """Maps, masks and labels of seven images of several sizes, two of them good."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(7):
        shape = (int(rng.integers(3, 9)), int(rng.integers(3, 9)))
        values = rng.normal(size=shape)
        maps.append((np.round(values * 2) if ties else values).astype(np.float32))
        masks.append(rng.random(shape) < (0 if i < 2 else 0.3))
        masks[-1][0, 0] = i >= 2
    return maps, masks, ["good", "good", *["dent", "hole"] * 2, "dent"]


def measured(pool: PixelPool) -> list[float]:
    """Every pixel measure that an evaluation reports."""
    pixel, pro = pool.pixel_roc(), pool.pro_roc()
    parts = [pool.pixel_roc(label).auroc() for label in ("dent", "hole")]
    return [pixel.auroc(), pixel.area_up_to(0.3), pixel.mcclish(0.3), pro.area_up_to(0.3), *parts]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.booleans(), st.permutations(range(7)), st.integers(0, 7))
def test_pixel_measures_do_not_depend_on_the_order_of_images_or_when_they_are_asked(
    seed: int, ties: bool, order: list[int], asked: int
):
    maps, masks, labels = pools(seed, ties)
    pool, other = PixelPool(), PixelPool()
    for i in range(7):
        pool.add(maps[i], masks[i], labels[i])
    for n, i in enumerate(order):
        other.add(maps[i], masks[i], labels[i])
        if n == asked and {labels[j] for j in order[: n + 1]} == set(labels):
            measured(other)
    assert measured(other) == pytest.approx(measured(pool), abs=1e-13)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_pixel_measures_equal_those_of_all_pixels_laid_out(seed: int, ties: bool):
    maps, masks, labels = pools(seed, ties)
    pool, doubled = PixelPool(), PixelPool()
    for values, mask, label in zip(maps, masks, labels, strict=True):
        pool.add(values, mask, label)
        doubled.add(np.exp2(values), mask, label)  # strictly increasing; exact for ties
    good = np.concatenate([values[~mask] for values, mask in zip(maps, masks, strict=True)])
    for label in ("dent", "hole", None):
        chosen = [v[m] for v, m, name in zip(maps, masks, labels, strict=True) if label in (None, name)]
        whole = Roc.of(good, np.concatenate(chosen))
        assert pool.pixel_roc(label).auroc() == whole.auroc()
        assert pool.pixel_roc(label).average_precision() == whole.average_precision()
        assert pool.pixel_roc(label).f1max() == whole.f1max()
    if ties:
        assert measured(doubled) == measured(pool)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**24 - 1), st.integers(0, 3), st.integers(0, 3))
def test_region_weights_match_flood_filling(bits: int, top: int, left: int):
    mask = np.zeros((9, 10), dtype=bool)
    mask[top : top + 4, left : left + 6] = np.array([bits >> i & 1 for i in range(24)], dtype=bool).reshape(
        4, 6
    )
    area = {pixel: len(region) for region in reference.regions_of(mask) for pixel in region}
    expected = [1 / area[int(r), int(c)] for r, c in np.argwhere(mask)]
    assert region_weights(mask).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(SCORES, SCORES)
def test_flipping_labels_or_scores_mirrors_the_curve(negatives: list[float], positives: list[float]):
    auroc = Roc.of(negatives, positives).auroc()
    assert Roc.of(positives, negatives).auroc() == pytest.approx(1 - auroc, abs=1e-12)
    assert Roc.of([-q for q in negatives], [-p for p in positives]).auroc() == pytest.approx(
        1 - auroc, abs=1e-12
    )


@settings(max_examples=50, deadline=None)
@given(TIED, TIED, st.randoms(use_true_random=False))
def test_order_does_not_matter(negatives: list[int], positives: list[int], random):
    roc = Roc.of(negatives, positives)
    weights = [1.0 + abs(p) for p in positives]  # equal scores share a weight: any order of them is the same
    weighted = Roc.of(negatives, positives, weights)
    shuffled, labelled = random.sample(negatives, len(negatives)), list(zip(positives, weights, strict=True))
    random.shuffle(labelled)
    again = Roc.of(shuffled, [p for p, _ in labelled])
    weighted_again = Roc.of(shuffled, [p for p, _ in labelled], [w for _, w in labelled])
    assert again.auroc() == roc.auroc()
    assert weighted_again.area_up_to(0.3) == pytest.approx(weighted.area_up_to(0.3), abs=1e-12)


def test_caller_keeps_its_arrays():
    negatives, positives = np.array([3.0, 1.0, 2.0]), np.array([9.0, 5.0])
    Roc.of(negatives, positives)
    assert negatives.tolist() == [3, 1, 2]
    assert positives.tolist() == [9, 5]


def test_thinned_curve_lies_on_the_curve_and_keeps_its_ends():
    scores, is_defect = samples(6, 5000, ties=False)
    roc = image_roc(scores, is_defect)
    fpr, tpr = roc.curve(100)
    assert 50 < len(fpr) <= 100
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    whole = set(zip(*roc.curve(10**9), strict=True))
    assert set(zip(fpr, tpr, strict=True)) <= whole
    assert np.max(np.hypot(np.diff(fpr), np.diff(tpr))) < 0.05
    assert len(roc.curve(2)[0]) == 2


def test_large_scores_are_not_rounded_to_float32():
    # 2^24 and 2^24 + 1 are one float32, yet two float64.
    assert Roc.of(np.array([2.0**24]), np.array([2.0**24 + 1])).auroc() == 1
    assert Roc.of(np.array([2.0**24], dtype=np.float32), np.array([2.0**24 + 1])).auroc() == 1
    assert Roc.of([2**24], [2**24 + 1]).auroc() == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float):
    for negatives, positives in (([1.0, bad, 0.0], [2.0, 3.0]), ([1.0], [2.0, bad, 0.0])):
        with pytest.raises(UsageError, match="NaN or infinity"):
            Roc.of(negatives, positives)


def test_a_single_class_is_refused():
    with pytest.raises(UsageError, match="3 good and 0 defective"):
        image_roc([1, 2, 3], [False] * 3)
    with pytest.raises(UsageError, match="0 good and 2 defective"):
        image_roc([1, 2], [True] * 2)
    with pytest.raises(UsageError, match="0 good and 0 defective"):
        image_roc([], [])


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.01, 30, float("nan")])
def test_limits_outside_are_refused(limit: float):
    roc = Roc.of([1], [2])
    for metric in (roc.area_up_to, roc.normalised_auroc, roc.mcclish):
        with pytest.raises(UsageError, match="FPR limit"):
            metric(limit)


def test_wrong_requests_are_refused():
    with pytest.raises(UsageError, match="bool"):
        image_roc([1, 2], [0, 1])
    with pytest.raises(UsageError, match="one label per score"):
        image_roc([1, 2, 3], [False, True])
    for weights in ([1.0], [1.0, 0.0], [1.0, np.nan]):
        with pytest.raises(UsageError, match="weights"):
            Roc.of([1], [2, 3], weights)
    with pytest.raises(UsageError, match="false positive rate"):
        Roc.of([1], [2]).tpr_at(1.5)
    with pytest.raises(UsageError, match="max_points"):
        Roc.of([1], [2]).curve(1)
