from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import reference
from conftest import save
from fakes import fake_detector
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import beta, binomtest, norm, rankdata
from sklearn.metrics import roc_auc_score, roc_curve

from blemish.core.errors import UsageError
from blemish.data.dataset import open_dataset
from blemish.metrics import resampler
from blemish.metrics.confidence import (
    Comparison,
    bootstrap_interval,
    compare_paired,
    delong,
    exact_interval,
    structural_components,
    wilson_interval,
)
from blemish.metrics.pixels import PixelPool
from blemish.metrics.resampler import PixelResampler, areas_up_to, paired_bootstrap, thin_by_rank
from blemish.metrics.roc import Roc, image_roc

PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), min_size=4, max_size=16)
"""Per image: the score of either detector, with many ties, and whether it is defective."""


def paired_scores(seed: int, n: int, gain: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated scores of two detectors on n good and n defective images; a is better by `gain`."""
    rng = np.random.default_rng(seed)
    is_defect = np.repeat([False, True], n)
    shared = rng.normal(size=2 * n) + is_defect
    return (
        shared + 0.7 * rng.normal(size=2 * n) + gain * is_defect,
        shared + 0.7 * rng.normal(size=2 * n),
        is_defect,
    )


def columns(pairs: list[tuple[int, int, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and labels, with two images of each kind at least."""
    a, b, is_defect = (np.array(column) for column in zip(*pairs, strict=True))
    is_defect[:4] = [False, False, True, True]
    return a, b, is_defect


# --- DeLong ---


def test_delong_by_hand():
    # Good 1, 3; defective 2, 4: 2 beats one good image, 4 both; 1 is below two defective ones, 3 below one.
    a, b, is_defect = [1, 3, 2, 4], [1, 2, 3, 0], [False, False, True, True]
    below, above = structural_components(a, is_defect)
    assert (below.tolist(), above.tolist()) == ([1, 2], [2, 1])
    # b: defective 3 beats both, 0 none; each good image is below one. AUROCs 3/4 and 2/4.
    # Differences: (1-2, 2-0) = (-1, 2), S = 4.5, / (m n^2 = 8); (2-1, 1-1) = (1, 0), S = 0.5, / 8.
    found = delong(a, b, is_defect)
    assert (found.a, found.b, found.difference) == (0.75, 0.5, 0.25)
    error = np.sqrt(4.5 / 8 + 0.5 / 8)
    assert found.standard_error == pytest.approx(error, abs=1e-15)
    assert found.z == pytest.approx(0.25 / error)
    assert found.p == pytest.approx(2 * norm.sf(0.25 / error))
    assert (found.low, found.high) == pytest.approx((0.25 - 1.959964 * error, 0.25 + 1.959964 * error))


def brute_force(scores: list[np.ndarray], is_defect: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs (2,) and their covariance (2, 2), pair by pair: S10 / m + S01 / n of DeLong et al. 1988."""
    m, n = int(is_defect.sum()), int((~is_defect).sum())
    psi = np.zeros((2, m, n))
    for r in range(2):
        for i, x in enumerate(scores[r][is_defect]):
            for j, y in enumerate(scores[r][~is_defect]):
                psi[r, i, j] = 1 if x > y else 0.5 if x == y else 0
    theta = psi.mean(axis=(1, 2))
    covariance = np.zeros((2, 2))
    for r in range(2):
        for s in range(2):
            for i in range(m):
                product = (psi[r, i].mean() - theta[r]) * (psi[s, i].mean() - theta[s])
                covariance[r, s] += product / (m - 1) / m
            for j in range(n):
                product = (psi[r, :, j].mean() - theta[r]) * (psi[s, :, j].mean() - theta[s])
                covariance[r, s] += product / (n - 1) / n
    return theta, covariance


@settings(max_examples=80, deadline=None)
@given(PAIRS)
def test_delong_matches_all_pairs(pairs: list[tuple[int, int, bool]]):
    a, b, is_defect = columns(pairs)
    found = delong(a, b, is_defect)
    theta, covariance = brute_force([a, b], is_defect)
    assert (found.a, found.b) == pytest.approx(theta, abs=1e-12)
    assert found.a == pytest.approx(image_roc(a, is_defect).auroc(), abs=1e-12)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.standard_error**2 == pytest.approx(variance, abs=1e-12)
    if found.standard_error == 0 and found.difference != 0:  # nothing to judge it by
        assert (found.p, found.low, found.high) == (None, None, None)
    else:
        assert 0 <= found.p <= 1
        assert found.low <= found.difference <= found.high


def test_components_are_differences_of_mid_ranks():
    scores, _, is_defect = paired_scores(1, 40)
    scores = np.round(scores * 2)
    ranks = rankdata(scores)
    below, above = structural_components(scores, is_defect)
    assert below.tolist() == (ranks[is_defect] - rankdata(scores[is_defect])).tolist()
    assert above.tolist() == (40 - (ranks[~is_defect] - rankdata(scores[~is_defect]))).tolist()


@settings(max_examples=80, deadline=None)
@given(PAIRS)
def test_swapping_detectors_flips_the_sign_and_monotone_maps_change_nothing(pairs):
    a, b, is_defect = columns(pairs)
    found, swapped = delong(a, b, is_defect), delong(b, a, is_defect)
    assert (swapped.a, swapped.b, swapped.difference) == (found.b, found.a, -found.difference)
    assert (swapped.z, swapped.p, swapped.standard_error) == (-found.z, found.p, found.standard_error)
    if found.p is None:
        assert (swapped.low, swapped.high) == (found.low, found.high) == (None, None)
    else:
        assert (swapped.low, swapped.high) == (-found.high, -found.low)
    assert delong(np.exp(a) * 1e9, np.float64(b) ** 3 - 7, is_defect) == found


def test_delong_of_equal_rankings_and_of_opposite_ones():
    a, _, is_defect = paired_scores(2, 15)
    found = delong(a, 3 * a - 1, is_defect)
    assert (found.difference, found.standard_error, found.z, found.p) == (0, 0, 0, 1)
    assert (found.low, found.high) == (0, 0)
    opposite = delong(is_defect * 1.0, is_defect * -1.0, is_defect)  # AUROC 1 and 0: no variance either
    assert (opposite.difference, opposite.standard_error, opposite.z) == (1, 0, np.inf)
    assert (opposite.p, opposite.low, opposite.high) == (None, None, None)  # of four images it would be p = 0
    constant = delong([1, 1, 1, 1], [0, 0, 1, 1], [False, False, True, True])
    assert (constant.difference, constant.z, constant.p) == (-0.5, -np.inf, None)


@pytest.mark.heavy
def test_delong_agrees_with_the_bootstrap():
    a, b, is_defect = paired_scores(3, 150, gain=0.2)
    tested = delong(a, b, is_defect)
    good, bad = np.flatnonzero(~is_defect), np.flatnonzero(is_defect)
    rng = np.random.default_rng(0)
    draws = [(rng.choice(good, good.size), rng.choice(bad, bad.size)) for _ in range(2000)]
    values = [np.array([Roc.of(s[g], s[d]).auroc() for g, d in draws]) for s in (a, b)]
    drawn = compare_paired(*values, *(Roc.of(s[good], s[bad]).auroc() for s in (a, b)))
    assert (drawn.a, drawn.b) == pytest.approx((tested.a, tested.b), abs=1e-12)
    # 2,000 draws give a standard error to 1 / sqrt(4000), 1.6 %.
    assert drawn.standard_error == pytest.approx(tested.standard_error, rel=0.05)
    assert (drawn.low, drawn.high) == pytest.approx(
        (tested.low, tested.high), abs=0.25 * tested.standard_error
    )
    assert drawn.p == pytest.approx(tested.p, abs=0.02)


def test_equal_detectors_are_called_different_one_time_in_twenty():
    p = np.array([delong(*paired_scores(seed, 50, gain=0)).p for seed in range(500)])
    # 500 tests at 5 %: 25 +- 3 * sqrt(500 * 0.05 * 0.95) = 25 +- 14.6
    assert 11 <= np.sum(p < 0.05) <= 39
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(500))


def test_delong_refuses_what_it_cannot_test():
    with pytest.raises(UsageError, match="1 good and 2 defective images"):
        delong([1, 2, 3], [1, 2, 3], [False, True, True])
    with pytest.raises(UsageError, match="0 defective"):
        delong([1, 2], [1, 2], [False, False])
    with pytest.raises(UsageError, match="one label per score"):
        delong([1, 2, 3, 4], [1, 2, 3], [False, False, True, True])
    with pytest.raises(UsageError, match="NaN"):
        delong([1, 2, 3, 4], [1, 2, 3, np.nan], [False, False, True, True])


# --- the bootstrap of images ---


def test_bootstrap_agrees_with_the_standard_error_of_a_mean():
    # One defect above 30 % of the negatives: the AUROC is then a share of the 200 negatives, with standard
    # error sqrt(0.3 * 0.7 / 200); 95 % is 1.96 of it.
    scores, is_defect = np.arange(201.0), np.arange(201) == 60
    low, high = bootstrap_interval(scores, is_defect, Roc.auroc, n=2000)
    assert low == pytest.approx(0.3 - 1.96 * np.sqrt(0.21 / 200), abs=0.007)
    assert high == pytest.approx(0.3 + 1.96 * np.sqrt(0.21 / 200), abs=0.007)


def test_bootstrap_repeats_narrows_and_stays_at_certainty():
    scores, _, is_defect = paired_scores(9, 40)
    wide = bootstrap_interval(scores, is_defect, Roc.auroc, n=200)
    assert wide == bootstrap_interval(scores, is_defect, Roc.auroc, n=200)
    assert wide != bootstrap_interval(scores, is_defect, Roc.auroc, n=200, seed=1)
    low, high = bootstrap_interval(scores, is_defect, Roc.auroc, n=200, level=0.5)
    assert wide[0] < low < image_roc(scores, is_defect).auroc() < high < wide[1]
    assert bootstrap_interval([1, 2, 3, 4], [False, False, True, True], Roc.auroc, n=20) == (1.0, 1.0)


def test_bootstrap_refuses_bad_scores_and_counts():
    with pytest.raises(UsageError, match="0 defective"):
        bootstrap_interval([1, 2], [False, False], Roc.auroc)
    with pytest.raises(UsageError, match="NaN or infinity"):
        bootstrap_interval([1, np.nan], [False, True], Roc.auroc)
    with pytest.raises(UsageError, match="bootstrap of 0"):
        bootstrap_interval([1, 2], [False, True], Roc.auroc, n=0)
    with pytest.raises(UsageError, match=r"level 1\.0"):
        bootstrap_interval([1, 2], [False, True], Roc.auroc, level=1.0)


def test_paired_by_hand():
    # Of 3 resamples a is ahead in 2 and level in 1: p = 2 (1 + 1) / (3 + 1) = 1. Ahead in all 3: 2 / 4.
    found = compare_paired(np.array([0.9, 0.8, 0.7]), np.array([0.4, 0.8, 0.2]), 0.9, 0.4)
    assert (found.difference, found.p) == (0.5, 1)
    sure = compare_paired(np.array([0.9, 0.9, 0.9]), np.array([0.4, 0.4, 0.4]), 0.9, 0.4)
    assert sure == Comparison(
        a=0.9, b=0.4, difference=0.5, standard_error=0, z=np.inf, p=0.5, low=0.5, high=0.5
    )
    equal = compare_paired(np.full(99, 0.9), np.full(99, 0.9), 0.9, 0.9)
    assert (equal.difference, equal.z, equal.p, equal.low, equal.high) == (0, 0, 1, 0, 0)


# --- intervals of pixel measures ---


def pictures(seed: int, side: int, n: int = 8, *, ties: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """n good and n defective images: maps that differ in level from image to image, one or two regions."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(2 * n):
        mask = np.zeros((side, side + 2), dtype=bool)
        if i >= n:
            mask[1 : side // 2, 2 : 3 + side // 4 + i % 3] = True
            mask[-2:, -2:] = i % 2 == 0
        values = rng.normal(size=mask.shape) + rng.normal(0, 0.5) + rng.uniform(0, 2) * mask
        made.append(((np.round(values * 2) if ties else values).astype(np.float32), mask))
    return made


def resampler_of(images: list[tuple[np.ndarray, np.ndarray]]) -> PixelResampler:
    resampler = PixelResampler()
    for values, mask in images:
        resampler.add(values, mask)
    return resampler


def naive(images: list[tuple[np.ndarray, np.ndarray]], chosen: np.ndarray) -> tuple[float, float, float]:
    """Pixel AUROC, area / 0.3 and AU-PRO / 0.3 of images laid end to end, by scikit-learn."""
    values = np.concatenate([images[i][0].ravel() for i in chosen])
    truth = np.concatenate([images[i][1].ravel() for i in chosen])
    weight = np.ones(len(values))
    at = 0
    for i in chosen:
        mask = images[i][1]
        regions, found = ndimage.label(mask, np.ones((3, 3)))  # type: ignore[misc]
        for region in range(1, found + 1):
            weight[at : at + mask.size][(regions == region).ravel()] = 1 / (regions == region).sum()
        at += mask.size
    areas = []
    for weights in (None, weight):
        fpr, tpr, _ = roc_curve(truth, values, sample_weight=weights)
        areas.append(reference.area_up_to(list(zip(fpr, tpr, strict=True)), 0.3) / 0.3)
    return float(roc_auc_score(truth, values)), *areas


@pytest.mark.parametrize("ties", [False, True])
def test_measures_of_draws_equal_those_of_whole_images_laid_end_to_end(ties: bool):
    # 12 images of 5 x 7 pixels: no value is left out, and every one is a level.
    images = pictures(0, 5, 6, ties=ties)
    resampler = resampler_of(images)
    times = resampler.draws(6)
    times[0] = 1
    found = resampler.measures(times)
    for r, row in enumerate(times):
        expected = naive(images, np.repeat(np.arange(len(images)), row))
        assert (found.auroc[r], found.limited[r], found.pro[r]) == pytest.approx(expected, abs=1e-6)


def test_thinned_measures_stay_close_to_exact_ones():
    images = pictures(1, 60)  # 3,720 pixels each, of which at most 1,024 good ones are kept
    resampler = resampler_of(images)
    times = resampler.draws(5)
    found = resampler.measures(times)
    for r, row in enumerate(times):
        expected = naive(images, np.repeat(np.arange(len(images)), row))
        assert (found.auroc[r], found.limited[r], found.pro[r]) == pytest.approx(expected, abs=5e-4)


@pytest.mark.heavy
def test_intervals_cover_the_exact_values_and_agree_with_a_naive_bootstrap():
    images = pictures(2, 8)
    intervals = resampler_of(images).intervals(n=2000)
    pool = PixelPool()
    for values, mask in images:
        pool.add(values, mask)
    exact = {
        "auroc": pool.pixel_roc().auroc(),
        "limited": pool.pixel_roc().normalised_auroc(0.3),
        "pro": pool.pro_roc().normalised_auroc(0.3),
    }
    rng = np.random.default_rng(1)
    kinds = [[i for i, (_, mask) in enumerate(images) if mask.any() == kind] for kind in (False, True)]
    drawn = [naive(images, np.concatenate([rng.choice(k, len(k)) for k in kinds])) for _ in range(200)]
    for (name, interval), column in zip(intervals.items(), np.transpose(drawn), strict=True):
        low, high = interval
        assert low < exact[name] < high
        # A 2.5 % quantile of 200 normal draws has a standard error of 0.19 of their spread.
        assert interval == pytest.approx(np.quantile(column, [0.025, 0.975]), abs=0.5 * column.std())


def test_draws_keep_the_number_of_each_kind_and_are_those_of_replacement():
    images = pictures(3, 5, n=4)
    times = resampler_of(images[::-1] + images[:2]).draws(4000)
    good = [4, 5, 6, 7, 8, 9]
    assert (times[:, good].sum(axis=1) == 6).all()
    assert (times.sum(axis=1) == 10).all()
    # One of k images is drawn Binomial(k, 1/k) times: mean 1, variance 1 - 1/k.
    assert times.mean(axis=0) == pytest.approx(1, abs=0.06)
    assert times[:, good].var(axis=0) == pytest.approx(1 - 1 / 6, abs=0.08)
    assert times[:, :4].var(axis=0) == pytest.approx(1 - 1 / 4, abs=0.08)


def test_a_single_defective_pixel_makes_an_image_defective():
    images = pictures(5, 4, n=2)
    speck = np.zeros((4, 6), dtype=bool)
    speck[1, 2] = True
    times = resampler_of([*images[:2], (images[3][0], speck), (images[2][0], speck)]).draws(50)
    assert (times[:, 2:].sum(axis=1) == 2).all()


def test_equal_seeds_pair_two_detectors():
    images = pictures(4, 20)
    worse = [
        (values + np.float32(0.3) * np.sin(np.arange(22, dtype=np.float32)), mask) for values, mask in images
    ]
    a, b = resampler_of(images), resampler_of(worse)
    assert (a.draws(50) == b.draws(50)).all()
    difference = a.measures(a.draws(500)).auroc - b.measures(b.draws(500)).auroc
    apart = a.measures(a.draws(500)).auroc - b.measures(b.draws(500, seed=1)).auroc
    assert difference.std() < 0.3 * apart.std()


@pytest.fixture(scope="module")
def laid_end_to_end() -> tuple[PixelResampler, PixelResampler, np.ndarray]:
    """Two detectors; by scikit-learn their three areas of all images and of 200 draws, (201, 2, 3)."""
    images = pictures(0, 4)  # fewer pixels than levels: nothing is lost
    noisy = [(values + np.float32(2) * values[::-1], mask) for values, mask in images]
    a, b = resampler_of(images), resampler_of(noisy)
    every = np.arange(len(images))
    draws = [every, *(np.repeat(every, times) for times in a.draws(200)[:200])]
    return a, b, np.array([[naive(images, chosen), naive(noisy, chosen)] for chosen in draws])


@pytest.mark.slow
@pytest.mark.parametrize(("measure", "index"), [("auroc", 0), ("limited", 1), ("pro", 2)])
def test_paired_bootstrap_of_maps_against_images_laid_end_to_end(measure, index: int, laid_end_to_end):
    a, b, areas = laid_end_to_end
    found = paired_bootstrap(a, b, measure, n=200)
    whole, drawn = areas[0, :, index], areas[1:, :, index]
    assert found.a == pytest.approx(whole[0], abs=1e-6)
    assert found.b == pytest.approx(whole[1], abs=1e-6)
    differences = drawn[:, 0] - drawn[:, 1]
    assert found.standard_error == pytest.approx(np.std(differences), rel=1e-3)
    assert (found.low, found.high) == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=1e-4)
    rarer = min(np.sum(np.array(differences) <= 0), np.sum(np.array(differences) >= 0))
    assert found.p == pytest.approx(min(1, 2 * (1 + rarer) / 201))
    swapped = paired_bootstrap(b, a, measure, n=200)
    assert (swapped.difference, swapped.p) == (-found.difference, found.p)


def test_paired_bootstrap_refuses_other_images():
    with pytest.raises(UsageError, match="not measured on the same images"):
        paired_bootstrap(resampler_of(pictures(0, 8)), resampler_of(pictures(0, 8, n=5)), "auroc", n=10)


def test_what_is_kept_comes_back_from_a_file(tmp_path: Path):
    before = resampler_of(pictures(3, 40))
    before.save(tmp_path / "pixels.npz")
    after = PixelResampler.load(tmp_path / "pixels.npz")
    assert after.intervals(n=50) == before.intervals(n=50)
    assert paired_bootstrap(before, after, "pro", n=20).difference == 0


def test_equal_images_leave_nothing_to_doubt_and_constant_maps_say_nothing():
    image = pictures(5, 6, n=1)
    for low, high in resampler_of(image * 5).intervals(n=50).values():
        assert high - low < 1e-9
    flat = resampler_of([(np.zeros((4, 4), np.float32), mask) for mask in (np.eye(4) > 0, np.eye(4) > 1)])
    # Chance: 1/2, and limit / 2 for areas up to a limit.
    assert flat.intervals(n=10) == {"auroc": (0.5, 0.5), "limited": (0.15, 0.15), "pro": (0.15, 0.15)}


def test_an_image_is_kept_in_20_kib():
    resampler = resampler_of(pictures(6, 150, n=1))
    kept = sum(part.nbytes for kind in (resampler._good, resampler._defective) for part in kind[1])
    assert kept == 20 * 1024


def test_thinning_by_hand(monkeypatch: pytest.MonkeyPatch):
    values = np.arange(10.0, 17.0)
    kept, lengths = thin_by_rank(values)
    assert (kept.tolist(), lengths.tolist()) == (values.tolist(), [[1] * 7])
    monkeypatch.setattr(resampler, "VALUES_PER_IMAGE", 3)
    kept, sums = thin_by_rank(values, np.array([[1, 1, 1, 1, 1, 1, 1], [1, 2, 4, 8, 16, 32, 64]]))
    # Runs of ranks 0-1, 2-3 and 4-6, and the middle of each.
    assert kept.tolist() == [11, 13, 15]
    assert sums.tolist() == [[2, 2, 3], [3, 12, 112]]
    assert thin_by_rank(values)[1].tolist() == [[2, 2, 3]]
    assert [part.size for part in thin_by_rank(np.empty(0), np.empty((2, 0)))] == [0, 0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.floats(0.01, 1),
)
def test_areas_match_trapezoid_by_trapezoid(good: list[int], bad: list[int], limit: float):
    points = reference.roc_points(list(map(float, good)), list(map(float, bad)))
    fpr, tpr = np.array(points).T
    area = areas_up_to(np.stack([fpr, fpr]), np.stack([tpr, tpr / 2]), limit)
    expected = reference.area_up_to(points, limit)
    assert area == pytest.approx([expected, expected / 2], abs=1e-12)


def test_the_resampler_refuses_what_it_cannot_measure():
    resampler = PixelResampler()
    with pytest.raises(UsageError, match="lacks good or defective pixels"):
        resampler_of([(np.zeros((2, 2)), np.zeros((2, 2), dtype=bool))]).intervals()
    with pytest.raises(UsageError, match="lacks good or defective pixels"):
        resampler_of([(np.zeros((2, 2)), np.ones((2, 2), dtype=bool))]).intervals()
    with pytest.raises(UsageError, match="NaN or infinity"):
        resampler.add(np.array([[np.nan]]), np.array([[True]]))
    with pytest.raises(UsageError, match="bool"):
        resampler.add(np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(UsageError, match="FPR limit 0"):
        resampler_of(pictures(0, 5)).intervals(0)
    with pytest.raises(UsageError, match="bootstrap of 0"):
        resampler_of(pictures(0, 5)).intervals(n=0)


# --- in an evaluation ---


@pytest.mark.usefixtures("no_report")
@pytest.mark.heavy
def test_an_evaluation_has_the_intervals_of_its_own_maps(tmp_path: Path):
    pytest.importorskip("jinja2", reason="blemish[report] is not installed")
    from blemish.evaluation.evaluate import evaluate

    rng = np.random.default_rng(0)
    images = []
    for i in range(8):
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[4 : 4 + 2 * i, 5:9] = 255 * (i >= 3)
        shade = rng.integers(0, 180, (32, 32)) + rng.integers(0, 30) * (mask > 0)
        name = f"hole/{i}.png" if i >= 3 else f"good/{i}.png"
        save(tmp_path / "data" / "test" / name, np.repeat(shade[..., None], 3, axis=2).astype(np.uint8))
        if i >= 3:
            save(tmp_path / "data" / "ground_truth" / "hole" / f"{i}_mask.png", mask)
        images.append((shade.astype(np.float32) / 255, mask > 0))
    evaluation = evaluate(
        fake_detector(), open_dataset(tmp_path / "data", need_train=False), tmp_path / "out"
    )
    expected = resampler_of(images).intervals()
    for key, name in (("pixel_auroc", "auroc"), ("pixel_auroc_fpr30", "limited"), ("aupro_fpr30", "pro")):
        interval = evaluation[f"{key}_interval95"]
        assert interval == pytest.approx(expected[name], abs=1e-6)
        assert interval[0] <= evaluation[key] <= interval[1]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == evaluation
    shutil.rmtree(tmp_path / "data" / "ground_truth")
    without = evaluate(fake_detector(), open_dataset(tmp_path / "data", need_train=False), tmp_path / "out2")
    assert without["image_auroc_interval95"] == evaluation["image_auroc_interval95"]
    for key in ("pixel_auroc", "pixel_auroc_fpr30", "aupro_fpr30"):
        assert without[f"{key}_interval95"] is None


def test_a_comparison_can_be_written_down():
    a, b, is_defect = paired_scores(7, 10)
    found = delong(a, b, is_defect)
    assert json.loads(json.dumps(asdict(found))) == asdict(found)


# --- shares ---


@pytest.mark.parametrize(("found", "n"), [(0, 1), (1, 1), (0, 20), (3, 20), (20, 20), (411, 1000)])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_of_a_share_is_wilson_s(found: int, n: int, level: float):
    expected = binomtest(found, n).proportion_ci(level, method="wilson")
    assert wilson_interval(found, n, level=level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("level", [0.01, 0.95, 1 - 1e-9])
def test_the_exact_interval_is_that_of_beta_quantiles(level: float):
    tail = (1 - level) / 2
    for found, n in [(0, 1), (1, 1), (0, 20), (3, 20), (20, 20), (411, 1000), (999, 1000), (1, 10**6)]:
        low, high = exact_interval(found, n, level=level)
        assert low == pytest.approx(beta.ppf(tail, found, n - found + 1) if found else 0, rel=1e-8)
        assert high == pytest.approx(beta.isf(tail, found + 1, n - found) if found < n else 1, rel=1e-8)
    low, high = exact_interval(7 * 10**5, 10**6, level=level)
    assert low == pytest.approx(beta.ppf(tail, 7 * 10**5, 3 * 10**5 + 1), rel=1e-8)
    assert high == pytest.approx(beta.isf(tail, 7 * 10**5 + 1, 3 * 10**5), rel=1e-8)


@pytest.mark.parametrize(("found", "n", "level"), [(0, 0, 0.9), (2, 1, 0.9), (-1, 3, 0.9), (1, 3, 1.0)])
def test_what_is_no_share_is_refused(found: int, n: int, level: float):
    with pytest.raises(UsageError):
        wilson_interval(found, n, level=level)
