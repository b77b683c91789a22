"""Estimates of defects among accepted parts, where the share that is drawn was changed."""

from __future__ import annotations

import random

import pytest

from blemish.metrics.confidence import exact_interval
from blemish.record.estimates import Sample, estimate, estimate_of_samples

MONDAY = Sample(share=1.0, drawn=1000, judged=1000, found=0)
TUESDAY = Sample(share=0.01, drawn=100, judged=100, found=5)


def test_one_sample_has_its_exact_interval():
    one = estimate_of_samples([TUESDAY])
    assert one == estimate(5, 100)
    assert (one.share, one.low, one.high) == (0.05, *exact_interval(5, 100))
    nobody = estimate_of_samples([])
    assert (nobody.n, nobody.share, nobody.low, nobody.high) == (0, None, 0.0, 1.0)
    waiting = Sample(share=0.5, drawn=3, judged=0, found=0)
    assert estimate_of_samples([TUESDAY, waiting]).share == 0.05
    assert estimate_of_samples([waiting, Sample(share=0.2, drawn=3, judged=0, found=0)]) == nobody


def test_parts_count_for_as_many_as_they_stand_for():
    both = estimate_of_samples([MONDAY, TUESDAY])
    assert (both.found, both.n) == (5, 1100)
    assert both.share == pytest.approx(500 / 11_000)  # 5 · 100 defects among 1,000 + 100 · 100 parts
    assert both == estimate_of_samples([TUESDAY, MONDAY])
    # of 2 × 2 bounds each fails with a chance of 1.25 % at most; Tuesday's parts are between 7,000 and 14,000
    (low, high), (_, good) = exact_interval(5, 100, level=0.9875), exact_interval(0, 1000, level=0.9875)
    assert low * 7_000 / 8_000 < both.low < low * 10_000 / 11_000
    assert (high * 10_000 + good * 1_000) / 11_000 < both.high < (high * 14_000 + good * 1_000) / 15_000
    half = estimate_of_samples([MONDAY, Sample(share=0.01, drawn=100, judged=40, found=2)])
    assert half.share == pytest.approx(500 / 11_000)  # the 60 that wait are taken to be as the 40


def test_what_nobody_has_judged_is_not_known():
    found = estimate_of_samples([MONDAY, Sample(share=0.5, drawn=500, judged=0, found=0)])
    assert found.share == 0  # of what was judged
    assert found.low == 0
    assert 0.5 < found.high < 0.6  # all of the other 1,000, or some more, may be defects


@pytest.mark.parametrize(
    ("parts", "defects", "shares"),
    [
        ((100, 300), (0, 300), (1.0, 0.01)),  # few are drawn, so that how many there were is hardly known
        ((300, 300), (6, 0), (0.1, 0.5)),
        ((200, 50, 400), (2, 5, 40), (0.5, 1.0, 0.05)),
    ],
)
def test_the_interval_holds_the_share_often_enough(
    parts: tuple[int, ...], defects: tuple[int, ...], shares: tuple[float, ...]
):
    draw, truth, held, tries = random.Random(0), sum(defects) / sum(parts), 0, 0
    while tries < 200:
        samples = []
        for n, bad, share in zip(parts, defects, shares, strict=True):
            lots = [k for k in range(n) if draw.random() < share]
            found = sum(k < bad for k in lots)
            samples.append(Sample(share=share, drawn=len(lots), judged=len(lots), found=found))
        if all(each.drawn for each in samples):  # what left no part cannot be known of
            tries += 1
            estimated = estimate_of_samples(samples)
            assert estimated.low <= (estimated.share or 0) <= estimated.high
            held += estimated.low <= truth <= estimated.high
    assert held >= 190
