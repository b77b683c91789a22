"""Intervals and comparisons: seeds, defaults and limits, each against the draws themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blemish.core.errors import UsageError
from blemish.metrics.confidence import bootstrap_interval, compare_paired
from blemish.metrics.resampler import PixelResampler, paired_bootstrap
from blemish.metrics.roc import Roc, image_roc


def pictures(seed: int) -> PixelResampler:
    """Twelve 6x6 maps, six with a defect of four pixels that is a little brighter."""
    rng = np.random.default_rng(seed)
    resampler = PixelResampler()
    for i in range(12):
        mask = np.zeros((6, 6), dtype=bool)
        mask[2:4, 2:4] = i % 2 == 1
        resampler.add(rng.normal(size=(6, 6)) + mask, mask)
    return resampler


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("limit", [0.3, 0.5])
def test_intervals_are_quantiles_of_the_draws_of_their_seed(seed, limit):
    resampler = pictures(0)
    drawn = resampler.measures(resampler.draws(200, seed), limit)
    found = resampler.intervals(limit, n=200, seed=seed)
    assert set(found) == {"auroc", "limited", "pro"}
    for name, interval in found.items():
        assert interval == pytest.approx(np.quantile(getattr(drawn, name), [0.025, 0.975]), rel=1e-12)
    assert resampler.intervals(limit, n=200, seed=seed + 1) != found


@pytest.mark.heavy
def test_a_thousand_draws_of_seed_0_up_to_an_fpr_of_30_percent_unless_told_otherwise():
    a, b = pictures(0), pictures(1)
    assert a.intervals() == a.intervals(0.3, n=1000, seed=0)
    assert np.array_equal(a.draws(7), a.draws(7, 0))
    ones = np.ones((1, 12), dtype=np.int64)
    assert a.measures(ones).limited == a.measures(ones, 0.3).limited
    assert paired_bootstrap(a, b, "pro") == paired_bootstrap(a, b, "pro", 0.3, n=1000, seed=0)
    assert paired_bootstrap(a, b, "pro") != paired_bootstrap(a, b, "pro", 0.3, n=1000, seed=1)
    scores, labels = [1.0, 3, 5, 2, 4, 6], np.array([False] * 3 + [True] * 3)
    plain = bootstrap_interval(scores, labels, Roc.average_precision)
    assert plain == bootstrap_interval(scores, labels, Roc.average_precision, n=1000, seed=0, level=0.95)


def test_bootstrap_interval_is_of_the_level_asked_for():
    """Of two good and two defective images, every resample is one of 3 x 3 kinds with a known area."""
    scores, labels = [0.0, 2, 1, 3], np.array([False, False, True, True])
    # Redrawn good (0,0), (0,2) twice, (2,2) against (1,1), (1,3) twice, (3,3): AUROC by pairs won.
    # 0,0: 1 1 1; 0,2: 1/2 3/4 1; 2,2: 0 1/2 1; probabilities 1/4, 1/2, 1/4 either way.
    # P(0) = 1/16, P(1/2) = 2/16 + 2/16, P(3/4) = 4/16, P(1) = 7/16.
    assert image_roc(scores, labels).auroc() == 0.75
    wide = bootstrap_interval(scores, labels, Roc.auroc, n=1000, level=0.95)
    assert wide == (0.0, 1.0)  # 1/16 lies below the 2.5 % quantile
    narrow = bootstrap_interval(scores, labels, Roc.auroc, n=1000, level=0.5)
    assert narrow == (0.5, 1.0)  # the quarter lies inside P(1/2): from 1/16 to 5/16
    # so does the tenth of a level of 0.8: a level is cut off at both ends alike
    assert bootstrap_interval(scores, labels, Roc.auroc, n=1000, level=0.8) == (0.5, 1.0)


@pytest.mark.parametrize(("n", "level"), [(0, 0.95), (1, 0.0), (1, 1.0), (1, -0.1), (1, math.nan)])
def test_no_draws_and_levels_outside_are_refused(n, level):
    with pytest.raises(UsageError, match="give n >= 1 and a level in"):
        bootstrap_interval([0.0, 1], np.array([False, True]), Roc.auroc, n=n, level=level)


def test_one_draw_is_enough():
    assert bootstrap_interval([0.0, 1], np.array([False, True]), Roc.auroc, n=1) == (1.0, 1.0)
    assert pictures(0).intervals(n=1)["auroc"][0] == pictures(0).intervals(n=1)["auroc"][1]
    for nothing in (
        lambda: pictures(0).intervals(n=0),
        lambda: paired_bootstrap(pictures(0), pictures(1), "pro", n=0),
    ):
        with pytest.raises(UsageError):
            nothing()


def test_a_resampler_without_images_is_refused():
    assert PixelResampler().draws(3).shape == (3, 0)
    with pytest.raises(UsageError, match="lacks good or defective pixels"):
        PixelResampler().intervals(n=3)


@pytest.mark.parametrize(("a", "b", "z"), [(0.2, 0.5, -math.inf), (0.5, 0.2, math.inf), (0.5, 0.5, 0.0)])
def test_a_difference_without_variance_is_infinitely_sure(a, b, z):
    comparison = compare_paired(np.full(9, a), np.full(9, b), a, b)
    assert (comparison.standard_error, comparison.z, comparison.difference) == (0, z, a - b)
    assert (comparison.low, comparison.high) == (a - b, a - b)
    # nine of nine on one side: 2 (1 + 0) / 10; on both sides when all are 0: 1 at most
    assert comparison.p == (0.2 if a != b else 1)
