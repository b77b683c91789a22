"""LSA: its density and scores by hand, what its masks let through, whole runs; nothing is drawn."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from resumed import stopped_and_resumed, trained
from torch import nn

from blemish.core.errors import TrainingError, UsageError
from blemish.data.dataset import open_dataset
from blemish.evaluation.evaluate import evaluate
from blemish.inference import load
from blemish.methods.baselines.lsa import Lsa, LsaConfig, MaskedLinear, reconstruction, standardised, surprise

pytestmark = pytest.mark.usefixtures("single_thread")

TINY = LsaConfig(
    image_size=8, steps=3, batch_size=4, width=2, latent=5, bins=6, estimator_width=3, estimator_layers=2,
    calibration_fraction=0.3,
)  # fmt: skip


def images(n=3, channels=1, seed=0):
    return torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def a_network(channels=1):
    torch.manual_seed(0)
    return Lsa(TINY, channels).eval()


def test_reconstruction_by_hand():
    x = torch.tensor([[[[1.0, 0.0]]], [[[0.5, 0.5]]]])
    assert reconstruction(x, torch.zeros_like(x)).tolist() == [1.0, 0.5]


def test_surprise_by_hand():
    # bins of (0, 1/2) and (1/2, 1), probabilities 1/4 and 3/4; their middles are 1/4 and 3/4
    logits = torch.tensor([1.0, 3.0]).log().expand(1, 2, 2)
    low, high = math.log(4), math.log(4 / 3)
    assert surprise(torch.tensor([[0.25, 0.75]]), logits).item() == pytest.approx(low + high)
    assert surprise(torch.tensor([[0.0, 1.0]]), logits).item() == pytest.approx(low + high)  # at the ends
    assert surprise(torch.tensor([[0.5, 0.375]]), logits).item() == pytest.approx(
        (low + high) / 2 + 0.75 * low + 0.25 * high
    )


def test_surprise_at_the_middles_is_the_sources_multinomial():
    torch.manual_seed(0)
    logits, bins = torch.randn(4, 5, 6), torch.randint(6, (4, 5))
    expected = -logits.log_softmax(dim=2).gather(2, bins[:, :, None]).sum(dim=(1, 2))
    torch.testing.assert_close(surprise((bins + 0.5) / 6, logits), expected)


def test_standardised_by_hand():
    found = standardised(torch.tensor([2.0, 4.0, 5.0]), torch.tensor(2.0), torch.tensor(4.0))
    assert found.tolist() == [0.0, 1.0, 1.5]


@pytest.mark.parametrize("training", [True, False])
def test_a_number_of_a_code_is_told_by_those_before_it_alone(training: bool):
    network = a_network().train(training)
    z = torch.rand(1, 5, requires_grad=True)
    said = network.estimator(z[:, :, None])  # (1, 5, bins)
    for i in range(5):
        (slope,) = torch.autograd.grad(said[0, i].square().sum(), z, retain_graph=True)
        assert not slope[0, i:].any()
        assert slope[0, :i].all()


def test_what_is_masked_never_learns():
    torch.manual_seed(0)
    layer = MaskedLinear(3, 1, 2, own=False)
    assert layer.mask.tolist() == [[0] * 3, [0] * 3, [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]
    optimizer = torch.optim.Adam(layer.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.rand(4, 3, 1)).square().sum().backward()
        optimizer.step()
    assert not layer.linear.weight[layer.mask == 0].any()


def test_the_loss_is_both_terms_and_the_density_moves_the_code():
    network, x = a_network(), images()
    errors, surprises = network.terms(x)
    assert errors.shape == surprises.shape == (3,)
    network.config = replace(TINY, density_weight=0.5)
    assert network.loss(x).item() == pytest.approx((errors + 0.5 * surprises).mean().item())
    surprises.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in network.encoder.parameters())


def test_convolutions_have_no_biases():
    network = a_network()
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert layers
    assert all(layer.bias is None for layer in layers)


def test_one_image_is_a_batch_as_well():
    network = a_network().train()
    network.loss(images(1)).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_good_images_span_one_of_each_term(monkeypatch):
    network, x = a_network(3), images(3, 3)
    errors, surprises = torch.tensor([10, 14.0, 12]), torch.tensor([20, 26.0, 20])
    monkeypatch.setattr(network, "terms", lambda _: (errors, surprises))
    network.finish(lambda: [x])
    maps, scores = network(x)
    assert not maps.any()
    assert scores.tolist() == pytest.approx([0, 2, 0.5])  # 0 + 0, 1 + 1, (12 - 10) / (14 - 10) + 0


def test_good_images_that_are_nearly_alike_do_not_make_rounding_large(monkeypatch):
    network, x = a_network(), images(2)
    monkeypatch.setattr(network, "terms", lambda _: (torch.tensor([10, 10.001]), torch.tensor([20, 26.0])))
    network.finish(lambda: [x])
    # a hundredth of 10, not 0.001
    assert network.extremes.flatten().tolist() == pytest.approx([10, 10.1, 20, 26], abs=1e-4)


@pytest.mark.heavy
def test_images_are_scored_and_pixels_have_no_figures(tiny_category, tmp_path):
    whole = trained("lsa", TINY, tiny_category, tmp_path / "whole")
    assert stopped_and_resumed("lsa", TINY, tiny_category, tmp_path / "two", 2) == whole
    detector = load.load(tmp_path / "whole", device="cpu")
    assert detector.model_file.calibration is not None
    found = evaluate(detector, open_dataset(tiny_category), tmp_path / "evaluation")
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text()) == found
    assert 0 <= found["image_auroc"] <= 1
    assert found["pixel_auroc"] is None


def test_codes_that_are_all_the_same_are_not_finished():
    network = a_network()
    for value in (0.0, math.nan):
        last = network.encoder[-1]
        assert isinstance(last, torch.nn.Linear)
        torch.nn.init.constant_(last.weight, value)
        with pytest.raises(TrainingError, match=r"^--method lsa: all images have the same code; nothing"):
            network.finish(lambda: [images()])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": (8, 12)}, "--image-size 8x12: lsa halves it 3 times; choose multiples of 8"),
        ({"bins": 1}, "--bins 1: must be 2 or larger"),
        ({"latent": 0}, "--latent 0: must be 1 or larger"),
        ({"density_weight": -1.0}, "--density-weight -1.0: must be a finite number, 0 or larger"),
    ],
)
def test_options_are_refused_in_one_line(changes, said):
    with pytest.raises(UsageError, match=f"^{said}"):
        replace(TINY, **changes)


def test_paper_preset_has_the_sources_network():
    paper = Lsa.presets["paper"]
    assert (paper.size, paper.width, paper.latent, paper.bins) == ((32, 32), 32, 64, 100)
    with torch.device("meta"):
        network = Lsa(paper, 3)
    layers = [layer for layer in network.estimator if isinstance(layer, MaskedLinear)]
    sizes = [(layer.linear.in_features, layer.linear.out_features) for layer in layers]
    assert sizes == [(64, 2048), (2048, 2048), (2048, 2048), (2048, 2048), (2048, 6400)]
