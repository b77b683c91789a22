"""VT-ADL: its equations by hand and against torch's distributions, its networks in loops, its map."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from resumed import stopped_and_resumed, trained
from torch import distributions as dist

from blemish.core.errors import TrainingError, UsageError
from blemish.methods.baselines.vt_adl import (
    Decoder,
    Encoder,
    Mixture,
    VtAdl,
    VtAdlConfig,
    minus_log_mixture,
    squash,
)
from blemish.methods.components.functional import ssim_map

pytestmark = pytest.mark.usefixtures("single_thread")

TINY = VtAdlConfig(
    image_size=16,
    patch_size=4,
    embedding=8,
    heads=2,
    blocks=1,
    feed_forward=6,
    gaussians=3,
    steps=6,
    batch_size=4,
    calibration_fraction=0.2,
)


def a_network(config: VtAdlConfig = TINY, channels: int = 1) -> VtAdl:
    torch.manual_seed(0)
    return VtAdl(config, channels)


# --- the equations ---


def test_squash_by_hand():
    # |(3, 4)| = 5: (0.6, 0.8) · 25/26
    found = squash(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert torch.allclose(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]) * 25 / 26)


def test_minus_log_mixture_equals_torchs_distributions():
    generator = torch.Generator().manual_seed(0)
    z, mu = torch.randn(5, 4, generator=generator), torch.randn(5, 3, 4, generator=generator)
    log_var, weights = torch.rand(5, 3, 4, generator=generator), torch.randn(5, 3, generator=generator)
    gaussians = dist.Independent(dist.Normal(mu, (log_var / 2).exp()), 1)
    expected = -dist.MixtureSameFamily(dist.Categorical(logits=weights), gaussians).log_prob(z)
    assert torch.allclose(minus_log_mixture(z, weights.log_softmax(-1), mu, log_var), expected, atol=1e-5)


def test_minus_log_mixture_by_hand():
    # two Gaussians with variances 1 and e at one number: 1/4 N(2; 0, 1) + 3/4 N(2; 1, e)
    z, log_pi = torch.tensor([2.0]), torch.tensor([0.25, 0.75]).log()
    mu, log_var = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]])
    density = 0.25 * math.exp(-2) + 0.75 * math.exp(-1 / (2 * math.e)) / math.sqrt(math.e)
    expected = -math.log(density / math.sqrt(2 * math.pi))
    assert minus_log_mixture(z, log_pi, mu, log_var).item() == pytest.approx(expected, rel=1e-6)


# --- the networks ---


def test_patches_are_encoded_beside_a_class_token_that_is_left_out():
    encoder = a_network(channels=2).encoder.double()
    x = torch.rand(1, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tensors = {name: tensor.detach().numpy() for name, tensor in encoder.state_dict().items()}
    patches = [
        x[0, :, i : i + 4, j : j + 4].flatten().numpy() for i in range(0, 16, 4) for j in range(0, 16, 4)
    ]
    embedded = [reference.linear(tensors, "embed", patch) for patch in patches]
    tokens = np.array([tensors["class_token"][0, 0], *embedded]) + tensors["position"][0]
    slow = reference.transformer_block(tensors, "blocks.0", tokens, tokens, 2, "none")
    np.testing.assert_allclose(encoder(x)[0].detach().numpy(), slow[1:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("patch", [4, 8, 16, 32, 64])
def test_a_decoder_doubles_to_the_image(patch: int):
    config = VtAdlConfig(image_size=(patch, 2 * patch) if patch > 8 else 16, patch_size=patch, embedding=8)
    n = (config.size[0] // patch) * (config.size[1] // patch)
    images = Decoder(3, config)(torch.randn(2, n, 8))
    assert images.shape == (2, 3, *config.size)
    assert images.abs().max() < 1


def test_a_mixture_sees_what_is_above_0_and_its_variances_are_1_at_least():
    torch.manual_seed(0)
    mixture, z = Mixture(4, 3), torch.randn(2, 5, 4)
    log_pi, mu, log_var = mixture(z)
    assert (log_pi.shape, mu.shape, log_var.shape) == ((2, 5, 3), (2, 5, 3, 4), (2, 5, 3, 4))
    assert torch.allclose(log_pi.exp().sum(-1), torch.ones(2, 5))
    assert log_var.min() > 0
    assert torch.equal(mixture(z.clamp(min=0))[1], mu)
    k, i = 2, 1  # the numbers of a Gaussian lie together
    assert torch.allclose(mu[0, 0, k, i], mixture.mu.weight[k * 4 + i] @ z[0, 0].relu())


def test_numbers_learnt_beside_table_6():
    config = VtAdl.presets["paper"]
    decoder = Decoder(3, config)
    parts = [Encoder(3, config), decoder, Mixture(config.embedding, config.gaussians)]
    learnt = sum(p.numel() for part in parts for p in part.parameters())
    assert round(learnt / 1e6, 1) == 41.0
    # Table 6: 25 million, in whole millions; without the layer that makes one vector of all patches
    assert round((learnt - decoder.gather.weight.numel()) / 1e6, 1) == 24.2


# --- loss and map ---


def test_noise_while_it_learns():
    network, x = a_network(), torch.rand(64, 1, 16, 16)
    still = network.eval().encode(x)
    assert torch.equal(network.encode(x), still)
    noise = network.train().encode(x) - still
    assert noise.std().item() == pytest.approx(0.2, rel=0.05)


def test_loss_by_its_parts():
    network, x = a_network().eval(), torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        z = network.encode(x)
        x_hat = network.decoder(z)
        similarity = ssim_map(x, x_hat, network.valid_rows, network.valid_cols).mean().item()
        squares = sum(p.square().sum().item() for p in network.parameters())
        density = network.unlikely(z).sum().item() / 3  # of an image's patches together
        expected = 5 * (x - x_hat).square().mean().item() - 0.5 * similarity + density + 0.5e-4 * squares
        assert network.loss(x).item() == pytest.approx(expected, rel=1e-5)


def test_a_map_is_bilinear_between_patches_and_smoothed(monkeypatch):
    patches = torch.zeros(1, 16)
    patches[0, 4 * 1 + 2] = 6.0  # the second row's third
    for smoothing in (0.0, 1.0):
        network = a_network(VtAdlConfig(**{**vars(TINY), "smoothing": smoothing})).eval()
        monkeypatch.setattr(network, "unlikely", lambda _: patches)
        found = network(torch.zeros(1, 1, 16, 16))
        assert found.shape == (1, 16, 16)
        # patch i of 4 pixels has its middle between pixels 4 i + 1 and 4 i + 2
        assert divmod(found.argmax().item(), 16) in {(5, 9), (5, 10), (6, 9), (6, 10)}
        if not smoothing:
            assert found[0, 5, 10].item() == pytest.approx(6 * (7 / 8) ** 2)
            assert found[0, 5, 12].item() == pytest.approx(6 * 7 / 8 * 3 / 8)
            assert found[0, 5, 5].item() == pytest.approx(0, abs=1e-5)
        else:
            assert 2 < found[0, 5, 10] < 6 * (7 / 8) ** 2


# --- through the loop, and refusals ---


@pytest.mark.heavy
def test_a_training_stopped_and_resumed_gives_the_same_bytes(tiny_category, tmp_path):
    whole = trained("vt-adl", TINY, tiny_category, tmp_path / "whole")
    assert stopped_and_resumed("vt-adl", TINY, tiny_category, tmp_path / "parts", 3) == whole


def test_patches_that_are_all_alike_are_refused():
    network, x = a_network().eval(), torch.rand(4, 1, 16, 16)
    network.finish(lambda: [x])
    for part in (network.encoder.embed, network.encoder.blocks[0].query):
        torch.nn.init.zeros_(part.weight)
    torch.nn.init.zeros_(network.encoder.position)
    with pytest.raises(
        TrainingError, match=r"^--method vt-adl: every patch of every image is equally likely"
    ):
        network.finish(lambda: [x])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch_size": 12}, "--patch-size 12: must be 4, 8, 16, 32 or 64"),
        ({"image_size": (16, 40)}, "--image-size 16x40 is not made of patches of 16"),
        ({"image_size": 8, "patch_size": 8}, "--image-size 8: vt-adl needs 16 pixels or more"),
        ({"heads": 3}, "--embedding 128: must be a multiple of --heads 3"),
        ({"gaussians": 0}, "--gaussians 0: must be 1 or larger"),
        ({"noise": -0.1}, "--noise -0.1: must be a finite number, 0 or larger"),
    ],
)
def test_options_are_refused_in_one_line(options, said):
    with pytest.raises(UsageError, match=f"^{said}"):
        VtAdlConfig(**options)
