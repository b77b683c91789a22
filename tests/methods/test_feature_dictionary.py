"""The feature dictionary: its equations against independent libraries, and the method as it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import random_state
from parity import assert_same_answers
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.export.onnx import export
from blemish.methods.baselines.feature_dictionary import (
    FeatureDictionary,
    FeatureDictionaryConfig,
    coverage_matrix,
    k_means,
    kept_axes,
    mean_distance,
    words_of,
)
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = FeatureDictionaryConfig(image_size=(32, 40), words=12, candidates=60, calibration_fraction=0.0)
REGIONS = replace(
    SMALL, strides=(4,), grid_stride=4, region=8, region_stride=8, neighbourhood=1, smoothing=0.0
)


def points(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def images(n: int, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, 32, 40, generator=torch.Generator().manual_seed(seed))


def fitted(config: FeatureDictionaryConfig, x: Tensor) -> FeatureDictionary:
    torch.manual_seed(0)
    network = FeatureDictionary(config, x.shape[1])
    network.fit(lambda: x.split(4))
    return network.eval()


def test_axes_are_those_of_scikit_learn():
    x = points(50, 6).double() * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])
    theirs = np.asarray(PCA(n_components=0.95, svd_solver="full").fit(x.numpy()).components_)
    ours = kept_axes(torch.cov(x.T, correction=0), 0.95)
    assert ours.shape == theirs.shape == (3, 6)
    np.testing.assert_allclose(np.abs(ours.numpy() @ theirs.T), np.eye(3), atol=1e-9)


def test_all_axes_are_kept_for_all_of_the_variance():
    assert kept_axes(torch.diag(torch.tensor([3.0, 2.0, 1.0]).double()), 1.0).shape == (3, 3)
    # 3 of 6 is a half, 5 of 6 is more
    assert len(kept_axes(torch.diag(torch.tensor([1.0, 3.0, 2.0]).double()), 0.5)) == 1
    assert len(kept_axes(torch.diag(torch.tensor([1.0, 3.0, 2.0]).double()), 0.51)) == 2


def test_centres_are_those_of_scikit_learn():
    x = points(80, 3).double()
    first = x[:5].numpy()
    theirs = KMeans(5, init=first, n_init=1, max_iter=50, tol=0).fit(x.numpy())  # type: ignore[arg-type]  its stubs
    np.testing.assert_allclose(k_means(x, x[:5], 50).numpy(), theirs.cluster_centers_, atol=1e-9)


def test_centres_by_hand():
    # 0 and 1 go to the first, 9 and 11 to the second; nothing is nearest to the third
    x = torch.tensor([[0.0], [1.0], [9.0], [11.0]])
    centres = k_means(x, torch.tensor([[0.0], [10.0], [99.0]]), 5)
    assert centres.flatten().tolist() == [0.5, 10, 99]


def test_words_are_the_nearest_members_each_once():
    x = torch.tensor([[0.0], [2.0], [9.0]])
    assert words_of(x, torch.tensor([[8.0], [0.9], [0.5]])).flatten().tolist() == [0, 9]


def test_distance_equals_scipy():
    x, words = points(20, 4).view(2, 10, 4), points(7, 4, seed=1)
    theirs = np.sort(cdist(x.flatten(0, 1).numpy(), words.numpy()), axis=1)[:, :3].mean(axis=1)
    np.testing.assert_allclose(mean_distance(x, words, 3).flatten().numpy(), theirs, rtol=1e-5)


def test_distance_to_a_word_is_none():
    words = 1000 + points(7, 4)
    assert mean_distance(words[None], words, 1).max() == 0


def test_a_pixel_has_the_mean_of_the_regions_that_cover_it():
    # three regions of 4 pixels, 2 apart: pixels 2 and 3 lie in two of them, 4 and 5 too
    scores = coverage_matrix(8, 4, 2) @ torch.tensor([1.0, 2.0, 6.0])
    assert scores.tolist() == [1, 1, 1.5, 1.5, 4, 4, 6, 6]


@torch.no_grad()
def test_map_is_the_distance_of_standardised_features_on_the_axes():
    x, new = images(4), images(1, seed=1)
    network = fitted(replace(SMALL, candidates=None, variance=1.0, smoothing=0.0, words=10_000), x)
    good = torch.cat([network.features(one[None])[0] for one in x]).double()
    spread = good.std(dim=0, correction=0)
    spread = torch.maximum(spread, 1e-3 * spread.max() + 1e-6)
    places = network.features(new)[0].double()
    # all axes are kept and every place is a word, so that only the spread remains
    nearest = cdist((places / spread).numpy(), (good / spread).numpy()).min(axis=1)
    assert network(new)[0, 0, 0].item() == pytest.approx(nearest[0], rel=1e-3)


@torch.no_grad()
def test_regions_are_seen_each_by_itself():
    network, x = fitted(REGIONS, images(4)), images(1, seed=1)
    assert network.features(x).shape == (1, 4 * 5, sum(network.backbone.channels))
    alone = network.backbone(x[:, :, 8:16, 24:32])[0].mean(dim=(2, 3))
    torch.testing.assert_close(network.features(x)[:, 5 + 3], alone)
    changed = x.clone()
    changed[:, :, 8:16, 24:32] = 0
    differs = (network(changed) != network(x))[0]
    assert differs[8:16, 24:32].all()
    assert differs.sum() == 64


@torch.no_grad()
def test_regions_are_seen_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch):
    network, x = fitted(REGIONS, images(4)), images(3, seed=1)
    whole = network.features(x)
    monkeypatch.setattr("blemish.methods.baselines.feature_dictionary.REGIONS", 7)
    torch.testing.assert_close(network.features(x), whole)


@torch.no_grad()
def test_regions_are_enlarged_before_the_network_sees_them():
    network, x = fitted(replace(REGIONS, region_view=24), images(4)), images(1, seed=1)
    region = F.interpolate(x[:, :, 8:16, 24:32], size=(24, 24), mode="bilinear", align_corners=False)
    alone = network.backbone(region)[0].mean(dim=(2, 3))
    torch.testing.assert_close(network.features(x)[:, 5 + 3], alone)


@torch.no_grad()
def test_features_may_be_divided_by_the_sum_of_their_sizes():
    network, x = fitted(replace(REGIONS, normalise="l1", variance=1.0), images(4)), images(1, seed=1)
    spread = fitted(REGIONS, images(4)).features(x)
    found = network.features(x)
    torch.testing.assert_close(found, spread / spread.abs().sum(dim=2, keepdim=True))
    on_axes = network.embedding(x)[0].double()
    lengths = (found[0].double() - network.mean.double()).norm(dim=1)
    torch.testing.assert_close(on_axes.norm(dim=1), lengths, rtol=1e-3, atol=1e-6)  # nothing else scales them


def test_papers_preset_has_the_parameters_of_its_table():
    paper = FeatureDictionary.presets["paper"]
    assert (paper.region, paper.region_view, paper.normalise) == (16, 224, "l1")
    assert (paper.words, paper.nearest, paper.variance, paper.region_stride) == (50, 1, 0.95, 8)
    assert paper.calibration_fraction == 0
    network = FeatureDictionary(paper, 3)
    # ResNet-18's 11,689,512 less its classifier and the factors that are folded in; Table 6 says 11.5 M, and
    # the projection, up to 512×512, comes on top
    assert sum(p.numel() for p in network.parameters()) == 11_689_512 - 513 * 1000 - 4_800


@pytest.mark.slow
@pytest.mark.usefixtures("operators_read_once")
def test_a_users_network_answers_alike_when_exported(tiny_category: Path, tmp_path: Path):
    torch.save(random_state("resnet18"), tmp_path / "resnet18.pth")
    config = replace(REGIONS, backbone=str(tmp_path / "resnet18.pth"), nearest=2, calibration_fraction=0.4)
    out = tmp_path / "run"
    fit.fit(tiny_category, method="feature-dictionary", config=config, out=out, device="cpu")
    export(out, tmp_path / "model.onnx")
    assert_same_answers(out, tmp_path / "model.onnx", sorted((tiny_category / "test").rglob("*.png")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"words": 0}, "--words 0: must be 1 or larger"),
        ({"nearest": 13}, "--nearest 13: must be --words 12 or fewer"),
        ({"variance": 0.0}, "--variance 0.0: must be above 0 and at most 1"),
        ({"region": 33}, "--region 33: must be --image-size 32 or smaller"),
        ({"region": 16, "region_stride": 3}, "--region-stride 3: regions of 16 pixels leave pixels"),
        ({"region": 8, "region_stride": 16}, "--region-stride 16"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes: dict, said: str):
    with pytest.raises(UsageError, match=said) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)
