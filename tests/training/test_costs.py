"""Which candidates of `auto` fit into the time, and how many steps its members get."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blemish.methods.auto import AutoConfig
from blemish.training import costs

OPTIONS = AutoConfig(image_size=64)


@pytest.mark.parametrize("minutes", [0.1, 1, 3, 10, 30, 100])
@pytest.mark.parametrize("images", [10, 200, 5000])
def test_candidates_fit_into_their_share_of_the_time(minutes: float, images: int):
    names, steps = costs.candidates(minutes, images)
    assert names[0] == "pca"
    assert names == [name for name in costs.COSTS if name in names]
    spent = sum(costs.COSTS[n][0] + costs.COSTS[n][1] * min(images, costs.MOST_IMAGES) for n in names[1:])
    assert spent + steps * costs.STEP <= costs.SHARE * 60 * minutes
    assert ("planted" in names) == (steps > 0)


def test_ten_minutes_try_filters_and_the_network_and_more_time_more():
    ten, steps = costs.candidates(10, 200)
    assert {"pca", "filters", "filters:position-rel", "planted"} <= set(ten)
    assert steps >= 200
    assert set(ten) < set(costs.candidates(40, 200)[0]) == set(costs.COSTS) - {"padim"}
    assert set(costs.candidates(40, 200, backbone=True)[0]) == set(costs.COSTS)


def test_a_longer_time_trains_longer():
    steps = [costs.member_steps(replace(OPTIONS, minutes=m), 200) for m in (0.1, 5, 10, 20, 1000)]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (costs.LEAST_STEPS, costs.MOST_STEPS)
    named = costs.member_steps(replace(OPTIONS, minutes=10, members=("planted",)), 200)
    assert named > steps[2]  # nothing is spent on candidates
    beside_metal = costs.member_steps(replace(OPTIONS, minutes=10), 200, ("metal", "planted"))
    assert costs.LEAST_STEPS <= beside_metal < steps[2]  # which takes its own share
