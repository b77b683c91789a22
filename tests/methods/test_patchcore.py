"""PatchCore: its equations against loops, and the method as it learns, is saved, exported and scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference_backbones as reference
import torch
from backbones import random_state
from parity import assert_same_answers
from scipy.spatial.distance import cdist
from torch import Tensor

from blemish.core.errors import UsageError
from blemish.export.onnx import export
from blemish.methods.baselines.patchcore import (
    PatchCore,
    PatchCoreConfig,
    greedy_coreset,
    image_score,
    nearest_members,
)
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = PatchCoreConfig(image_size=(32, 40), bank=20, candidates=200, projection=16, calibration_fraction=0.0)


def points(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def images(n: int, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, 32, 40, generator=torch.Generator().manual_seed(seed))


def fitted(config: PatchCoreConfig, x: Tensor) -> PatchCore:
    torch.manual_seed(0)
    network = PatchCore(config, x.shape[1])
    network.fit(lambda: x.split(4))
    return network.eval()


def test_coreset_equals_loops():
    candidates = points(40, 5)
    ours = greedy_coreset(candidates, 12, 7).tolist()
    assert ours == reference.greedy_coreset(candidates.numpy().astype(float), 12, 7)


def test_coreset_by_hand():
    # from 0 the farthest is 10; then 6 is 4 from 10, and 4 is 4 from 0: the first of the two; then 6
    line = torch.tensor([[0.0], [1.0], [4.0], [6.0], [10.0]])
    assert greedy_coreset(line, 4, 0).tolist() == [0, 4, 2, 3]


def test_equal_candidates_are_each_chosen_once():
    assert sorted(greedy_coreset(torch.ones(5, 3), 5, 2).tolist()) == [0, 1, 2, 3, 4]


def test_the_nearest_members_are_those_of_scipy():
    x, bank = points(60, 4).view(2, 30, 4), points(20, 4, seed=1)
    theirs = cdist(x.flatten(0, 1).numpy(), bank.numpy()).argmin(axis=1)
    assert nearest_members(x, bank).flatten().tolist() == theirs.tolist()
    assert nearest_members(bank, bank).tolist() == list(range(20))


@pytest.mark.parametrize("b", [1, 3, 8])
def test_weighted_score_equals_loops(b: int):
    x, bank = points(2 * 5, 4).view(2, 5, 4), points(8, 4, seed=1)
    members = nearest_members(x, bank)
    ours = image_score(x, (x - bank[members]).norm(dim=2), members, bank, b)
    theirs = [reference.patchcore_score(one.double().numpy(), bank.double().numpy(), b) for one in x]
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_weighted_score_by_hand():
    # m* = 0 is 2 from the place at -2; its two nearest are itself and 1, which is 3 from the place
    bank = torch.tensor([[0.0], [1.0], [9.0]])
    x = torch.tensor([[[-2.0]]])
    distance, member = torch.tensor([[2.0]]), torch.tensor([[0]])
    ours = image_score(x, distance, member, bank, 2)
    assert ours.item() == pytest.approx(2 * (1 - np.exp(2) / (np.exp(2) + np.exp(3))), abs=1e-5)


def test_a_far_place_does_not_overflow():
    bank, x = torch.tensor([[0.0], [1.0]]), torch.tensor([[[1000.0]]])
    ours = image_score(x, torch.tensor([[999.0]]), torch.tensor([[1]]), bank, 2)
    # e^-1000 + e^-999 in a ratio of 1 to e: 1 - 1 / (1 + e)
    assert ours.item() == pytest.approx(999 * np.e / (1 + np.e), rel=1e-4)


@torch.no_grad()
def test_map_is_the_distance_to_the_nearest_candidate():
    x, new = images(4), images(2, seed=1)
    everything = replace(SMALL, bank=10_000, candidates=None, smoothing=0.0)
    network = fitted(everything, x)
    assert len(network.bank) == 4 * 4 * 5  # all places of all images
    good = torch.cat([network.features(one[None])[0] for one in x])
    spread = good.double().std(dim=0, correction=0).float()
    torch.testing.assert_close(network.spread, torch.maximum(spread, 1e-3 * spread.max() + 1e-6))
    spread = network.spread
    test = torch.cat([network.features(one[None]) for one in new])
    exact = "donot_use_mm_for_euclid_dist"
    nearest = torch.cdist(test / spread, good / spread, compute_mode=exact).amin(dim=2).view(2, 4, 5)
    maps = network(new)
    assert maps.shape == (2, 32, 40)
    # at a corner nothing is interpolated
    torch.testing.assert_close(maps[:, 0, 0], nearest[:, 0, 0], rtol=1e-3, atol=1e-3)


def test_candidates_are_as_many_of_each_image_and_bounded():
    x = images(6)
    network = PatchCore(replace(SMALL, candidates=50), 3)
    assert len(network._candidates(lambda: x.split(4))) == 6 * 8  # 50 / 6 of each, rounded down
    assert len(network._candidates(lambda: x[:1].split(4))) == 4 * 5  # all of one image
    in_order = torch.cat([network.features(one[None])[0] for one in x])
    torch.testing.assert_close(network.draw_features(lambda: x.split(4), None), in_order)
    share = fitted(replace(SMALL, bank=None, bank_share=0.25, candidates=None), x)
    assert len(share.bank) == 6 * 4 * 5 // 4


@torch.no_grad()
def test_the_papers_preset_scores_images_by_equation_7():
    network = fitted(replace(SMALL, reweighting=3), images(4))
    new = images(2, seed=1)
    maps, scores = network(new)
    assert maps.shape == (2, 32, 40)
    places = (network.features(new) / network.spread).double().numpy()
    expected = [reference.patchcore_score(one, network.bank.double().numpy(), 3) for one in places]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-3)
    paper = PatchCore.presets["paper"]
    assert (paper.reweighting, paper.bank, paper.bank_share, paper.strides) == (9, None, 0.1, (8, 16))
    assert paper.calibration_fraction == 0


@pytest.mark.slow
@pytest.mark.usefixtures("operators_read_once")
def test_a_users_network_and_scores_of_its_own_answer_alike_when_exported(
    tiny_category: Path, tmp_path: Path
):
    torch.save(random_state("efficientnet_b0"), tmp_path / "efficientnet_b0.pth")
    file = str(tmp_path / "efficientnet_b0.pth")
    config = replace(SMALL, backbone=file, strides=(4, 8), reweighting=3, calibration_fraction=0.4)
    detector = fit.fit(tiny_category, method="patchcore", config=config, out=tmp_path / "run", device="cpu")
    assert export(tmp_path / "run", tmp_path / "model.onnx") < 1e-4
    images = sorted((tiny_category / "test").rglob("*.png"))
    assert_same_answers(tmp_path / "run", tmp_path / "model.onnx", images)
    pixels, _ = detector.prepare(images[0])
    scores = detector.backend.run(pixels[None]).scores
    assert scores is not None
    assert detector.predict(images[0]).score == pytest.approx(scores[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bank": 0}, "--bank 0: must be 1 or larger"),
        ({"bank_share": 0.0}, "--bank-share 0.0: must be above 0 and at most 1"),
        ({"bank_share": 1.1}, "--bank-share 1.1"),
        ({"candidates": 0}, "--candidates 0"),
        ({"projection": 0}, "--projection 0"),
        ({"reweighting": -1}, "--reweighting -1: must be 0 or larger"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes: dict, said: str):
    with pytest.raises(UsageError, match=said) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)
