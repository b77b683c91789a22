"""Baselines where their rules begin and end: tiny differences, sizes that just do not fit, what is saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blemish.core.errors import UsageError
from blemish.methods.baselines import kde, pca
from blemish.methods.baselines.cutpaste import CutPaste, CutPasteConfig
from blemish.methods.components import functional
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.cpc_ad_config import CpcAdConfig
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig

METAL_BLURS = {f"{kind}_{side}" for kind in ("valid", "same") for side in ("rows", "cols")} | {
    f"smooth_{side}_{i}" for side in ("rows", "cols") for i in (0, 1)
}


pytestmark = pytest.mark.usefixtures("single_thread")


def test_a_nearby_image_explains_by_its_squared_differences():
    # d² = 0.01 + 0.03 and 4: w = softmax(-2 d²); shares w_1 (1/4, 3/4) + w_2 (1, 0)
    squares = torch.tensor([[0.01, 0.03], [4.0, 0.0]], dtype=torch.float64)
    w = np.exp([-0.08, -8.0]) / np.exp([-0.08, -8.0]).sum()
    ours = kde.relevance(squares, torch.tensor(2.0, dtype=torch.float64))
    assert ours.tolist() == pytest.approx([w[0] / 4 + w[1], 3 * w[0] / 4])


def test_an_equal_image_explains_evenly():
    ours = kde.relevance(torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]), torch.tensor(0.5))
    # w = 1 and e^-1.5 over their sum; the equal one has no differences, so its share is spread evenly
    w = np.array([1, np.exp(-1.5)]) / (1 + np.exp(-1.5))
    assert ours.tolist() == pytest.approx([w[1] + w[0] / 3, w[0] / 3, w[0] / 3])


@pytest.mark.parametrize("size", [1e-8, 0.1, 10.0])
def test_axes_are_of_unit_length_however_little_images_differ(size):
    x = torch.tensor([[0.0, 0.0], [0.6 * size, 0.8 * size]], dtype=torch.float64)
    mean, axes = pca.principal_axes(x, 5)
    assert mean.tolist() == pytest.approx([0.3 * size, 0.4 * size])
    assert axes.shape == (1, 2)
    assert axes[0].abs().tolist() == pytest.approx([0.6, 0.8])


def test_axes_without_any_variance_are_zero():
    # three points on a line: the second axis has nothing to point along
    x = torch.tensor([[0.0, 0], [1, 0], [2, 0]])
    _, axes = pca.principal_axes(x, 2)
    assert axes.abs().tolist() == [[1, 0], [0, 0]]
    _, axes = pca.principal_axes(torch.ones(3, 2), 2)
    assert not axes.any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": (64, 66)}, "leave pixels uncovered"),
        ({"image_size": (66, 64)}, "leave pixels uncovered"),
        ({"image_size": (28, 64)}, "must be --patch-size 32 or larger"),
        ({"image_size": (64, 28)}, "must be --patch-size 32 or larger"),
        ({"patch_size": 8}, "power of 2, 16 or larger"),
        ({"patch_size": 48}, "power of 2, 16 or larger"),
        ({"stride": 8}, "at most an eighth"),
        ({"stride": 3}, "must be a power of 2"),
    ],
)
def test_cutpaste_sizes_that_just_do_not_fit(changes, said):
    with pytest.raises(UsageError, match=said):
        CutPasteConfig(**changes)


@pytest.mark.parametrize(
    "changes", [{"image_size": 32}, {"patch_size": 16, "stride": 2}, {"image_size": (32, 36)}]
)
def test_cutpaste_sizes_that_just_fit(changes):
    assert CutPasteConfig(**changes).grid[0] >= 5


@pytest.mark.parametrize(
    ("network", "made"),
    [
        (lambda: Metal(MetalConfig(), 1), METAL_BLURS),
        (lambda: CpcAd(CpcAdConfig(), 1), {"sources", "weights"}),
        (lambda: CutPaste(CutPasteConfig(image_size=64), 1), {"rows", "cols"}),
        (lambda: pca.Pca(pca.PcaConfig(image_size=16), 1), {"smooth_rows", "smooth_cols"}),
    ],
    ids=["metal", "cpc-ad", "cutpaste", "pca"],
)  # fmt: skip
def test_what_the_options_make_is_not_saved(network, made):
    network = network()
    assert made <= {name for name, _ in network.named_buffers()}
    assert not made & set(network.state_dict())


def test_a_gaussian_window_is_exact():
    window = functional.gaussian_window(11, 1.5)
    exact = np.exp(-(np.arange(-5.0, 6) ** 2) / (2 * 1.5**2))
    assert window.dtype == torch.float64
    np.testing.assert_allclose(window.numpy(), exact / exact.sum(), rtol=1e-14)
