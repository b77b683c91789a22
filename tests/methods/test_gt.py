"""GT: its transformations and its score, by hand and against scipy; nothing is drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import digamma
from torch.nn import functional as F

from blemish.core.errors import TrainingError, UsageError
from blemish.data.dataset import open_dataset
from blemish.evaluation.evaluate import evaluate
from blemish.methods.baselines.gt import (
    KINDS,
    Gt,
    GtConfig,
    dirichlet,
    inverse_digamma,
    normality,
    transformed,
)
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

TINY = GtConfig(image_size=8, steps=2, batch_size=4, calibration_fraction=0.3)


def test_transformations_by_hand():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(transformed(x, 0), x)
    assert torch.equal(transformed(x, 1), x.rot90(1, (2, 3)))
    # moved right by one of four: what comes in is mirrored, 1 0 1 2
    assert transformed(x, 4)[0, 0, 0].tolist() == [1, 0, 1, 2]
    assert transformed(x, 8)[0, 0, 0].tolist() == [1, 2, 3, 2]
    assert transformed(x, 12)[0, 0, :, 0].tolist() == [4, 0, 4, 8]
    assert transformed(x, 24)[0, 0, :, 0].tolist() == [4, 8, 12, 8]
    assert torch.equal(transformed(x, 36), x.flip(3))
    assert torch.equal(transformed(x, 36 + 12 + 4 + 2), transformed(x.flip(3), 12 + 4 + 2))


def test_all_72_transformations_differ():
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert len({tuple(transformed(x, kind).flatten().tolist()) for kind in range(KINDS)}) == KINDS


def test_inverse_digamma_is_the_inverse():
    x = torch.tensor([0.01, 0.5, 1.0, 3.7, 200.0], dtype=torch.float64)
    assert torch.allclose(inverse_digamma(torch.digamma(x)), x, rtol=1e-9)


def test_dirichlet_is_where_the_likelihood_has_no_slope():
    samples = np.random.default_rng(0).dirichlet([2.0, 0.7, 5.0], 4000)
    log_mean = torch.from_numpy(np.log(samples).mean(0))
    alpha = dirichlet(log_mean, torch.from_numpy(samples.mean(0)), steps=400).numpy()
    # ∂/∂α_k of the mean log-likelihood: ψ(Σ α) - ψ(α_k) + l_k
    np.testing.assert_allclose(digamma(alpha.sum()) - digamma(alpha) + log_mean.numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(alpha, [2.0, 0.7, 5.0], rtol=0.1)


def test_normality_by_hand():
    log_y, alpha = torch.tensor([[[-1.0, -2.0], [-3.0, 0.0]]]), torch.tensor([[3.0, 1.0], [1.5, 2.0]])
    # 2 · -1 + 0 · -2 = -2 and 0.5 · -3 + 1 · 0 = -1.5; the mean -1.75
    assert normality(log_y, alpha).tolist() == [-1.75]


def test_loss_is_the_cross_entropy_of_the_transformation():
    torch.manual_seed(0)
    network = Gt(TINY, 1).eval()
    network.last.weight.data.zero_()
    network.last.bias.data.zero_()
    assert network.loss(torch.rand(3, 1, 8, 8)).item() == pytest.approx(np.log(72))


def test_weights_are_kept_small_where_that_is_wanted():
    torch.manual_seed(0)
    network, x = Gt(replace(TINY, weight_decay=0.5), 1).eval(), torch.rand(3, 1, 8, 8)
    torch.manual_seed(1)
    kinds = torch.randint(72, (3,))
    seen = torch.cat([transformed(x[i : i + 1], int(kind)) for i, kind in enumerate(kinds)])
    errs = F.cross_entropy(network.logits(seen), kinds).item()
    squares = sum(float(p.detach().square().sum()) for p in network.parameters())
    torch.manual_seed(1)
    assert network.loss(x).item() == pytest.approx(errs + 0.25 * squares, rel=1e-5)


def test_what_the_network_is_sure_of_is_not_cut_off():
    network = Gt(TINY, 1).eval()
    network.last.weight.data.zero_()
    network.last.bias.data.copy_(torch.arange(72.0))
    found = network.log_softmax_of_all(torch.rand(1, 1, 8, 8))
    assert found.min().item() == pytest.approx(-71.4587, abs=1e-3)  # -71 - log Σ e^-j


def test_all_are_asked_of_each_image():
    torch.manual_seed(0)
    network, x = Gt(TINY, 2).eval(), torch.rand(3, 2, 8, 8)
    found = network.log_softmax_of_all(x)
    for kind in (0, 7, 71):
        expected = network.logits(transformed(x, kind)).log_softmax(dim=-1)
        assert torch.allclose(found[:, kind], expected, atol=1e-5)


@pytest.mark.heavy
def test_images_are_scored_and_pixels_have_no_figures(tiny_category, tmp_path):
    detector = fit.fit(tiny_category, method="gt", config=TINY, out=tmp_path / "run", device="cpu")
    found = evaluate(detector, open_dataset(tiny_category), tmp_path / "evaluation")
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text()) == found
    assert 0 <= found["image_auroc"] <= 1
    for name, value in found.items():
        if name.startswith(("pixel_a", "aupro")):
            assert value is None, name
    assert detector.model_file.calibration is not None


def test_a_network_that_answers_all_alike_is_not_finished():
    network = Gt(TINY, 1).eval()
    network.last.weight.data.zero_()
    with pytest.raises(
        TrainingError, match=r"^--method gt: the network says the same of every transformation"
    ):
        network.finish(lambda: [torch.rand(2, 1, 8, 8)])


@pytest.mark.parametrize("size", [(8, 12), 10])
def test_what_cannot_be_turned_is_refused(size):
    with pytest.raises(UsageError, match=r"^--image-size \d+x\d+: gt turns images"):
        GtConfig(image_size=size)
