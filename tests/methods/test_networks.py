"""The networks of both papers against `reference`: plain numpy, weights that leave no part idle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import reference_cutpaste
import torch
from torch import nn

from blemish.methods.baselines.cutpaste_backbones import DenseTrunk, ResNet18
from blemish.methods.components.encoders import DenseEncoder, PointBlock, PreActivationBlock, ResNetEncoder
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.cpc_ad_config import CpcAdConfig
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig
from blemish.methods.metal_encoders import Block, TokenEncoder

TINY = MetalConfig(image_size=(16, 24), patch_size=8, embedding=4, hidden=5, heads=2)
MASKINGS = ["strict", "paper", "none"]


pytestmark = pytest.mark.usefixtures("single_thread")


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter anew, norms and biases too: at their first values 1 and 0 they would hide.

    Weights within sqrt(6 / inputs) keep values near 1 from layer to layer.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            bound = math.sqrt(6 / parameter[0].numel()) if parameter.ndim > 1 else 1.0
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.copy_(torch.rand(part.num_features, generator=generator) - 0.5)
                part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
    return module.double().eval()


def tensors_of(module: nn.Module) -> reference.Tensors:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check(ours: torch.Tensor, slow: np.ndarray) -> None:
    """Equal to rounding, and not by being nothing."""
    assert ours.shape == slow.shape
    assert slow.std() > 0.05
    np.testing.assert_allclose(ours.detach().numpy(), slow, rtol=1e-9, atol=1e-9)


# --- MeTAL (Sec. 2.1, 3.2, Fig. 3 to 5) ---


@pytest.mark.parametrize("masking", MASKINGS)
def test_a_block_is_attention_and_feed_forward_each_after_a_norm_and_added_to_its_input(masking):
    block = stirred(Block(6, 3, 7))
    x, source = random(1, 5, 6), random(2, 5, 6, seed=1)
    ours = block(x, source, masking)
    named = {f"block.{name}": t for name, t in tensors_of(block).items()}
    for image, ours_of_image in zip(source.numpy(), ours, strict=True):
        check(ours_of_image, reference.transformer_block(named, "block", x[0].numpy(), image, 3, masking))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("masking", MASKINGS)
def test_a_token_encoder_embeds_adds_positions_and_ends_in_a_norm(masking, blocks):
    encoder = stirred(TokenEncoder(5, 9, 4, 8, replace(TINY, masking=masking, blocks=blocks)))
    tokens = random(2, 5, 9)
    named = {f"encoder.{name}": t for name, t in tensors_of(encoder).items()}
    for image, ours in zip(tokens.numpy(), encoder(tokens), strict=True):
        check(ours, reference.token_encoder(named, "encoder", image, blocks, 2, masking))


@pytest.mark.parametrize(
    "changes",
    [
        {"stripes": "none"},
        {"stripes": "rows", "blocks": 2},
        {"stripes": "cols", "masking": "paper"},
        {"stripes": "both", "masking": "none"},
        {"stripes": "only"},
        {"stripes": "both", "center": False},
        {"stripes": "both", "bounded_context": False},
    ],
)
def test_a_reconstruction_equals_the_papers_figures_in_loops(changes):
    network = stirred(Metal(replace(TINY, **changes), channels=2))
    with torch.no_grad():
        if network.config.center:
            network.mean_image.copy_(random(2, 16, 24, seed=1))
        if network.config.bounded_context:  # two fifths of the pixels lie outside
            network.darkest.fill_(0.2)
            network.brightest.fill_(0.8)
    x = torch.rand(2, 2, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for image, ours in zip(x.numpy(), network.reconstruct(x), strict=True):
        check(ours, reference.metal_reconstruction(tensors_of(network), network.config, image))


# --- CPC-AD's encoders (Sec. 5) ---


@pytest.mark.parametrize("side", [8, 16, 32])
def test_a_dense_encoding_equals_convolutions_in_loops(side):
    encoder = stirred(DenseEncoder(2, side, 3))
    x = random(1, 2, side, 2 * side)
    for column, ours in enumerate(encoder(x)[0, 0]):
        crop = x[0, :, :, column * side // 2 : column * side // 2 + side].numpy()
        slow = reference.dense_encoding(tensors_of(encoder), crop)
        check(ours, slow)
        assert (slow == 0).any()  # the last ReLU has something to do


def test_a_resnet_encoding_equals_convolutions_in_loops():
    encoder = stirred(ResNetEncoder(2, 16, 3))
    x = random(1, 2, 16, 24)
    for column, ours in enumerate(encoder(x)[0, 0]):
        crop = x[0, :, :, 8 * column : 8 * column + 16].numpy()
        check(ours, reference.resnet_encoding(tensors_of(encoder), crop))


# --- CutPaste's trunks (A.5; He et al. 2016) ---


@pytest.mark.parametrize("side", [8, 16, 32])
def test_a_dense_trunk_equals_convolutions_in_loops(side):
    trunk = stirred(DenseTrunk(2, side, 8))
    x = random(2, 2, side, side)
    for crop, ours in zip(x.numpy(), trunk(x), strict=True):
        check(ours, reference_cutpaste.dense_trunk(tensors_of(trunk), crop))


def test_a_resnet18_trunk_equals_convolutions_in_loops():
    trunk = stirred(ResNet18(2, 32, 3))
    x = random(2, 2, 32, 32)
    for crop, ours in zip(x.numpy(), trunk(x), strict=True):
        check(ours, reference_cutpaste.resnet18(tensors_of(trunk), crop))


def test_channels_of_a_dense_trunk_double_up_to_four_times_the_first():
    trunk = DenseTrunk(3, 32, 16)
    widths = [part[0].out_channels for part in trunk.layers if isinstance(part, nn.Sequential)]
    assert (widths, trunk.outputs) == ([16, 16, 32, 64, 64, 64], 64)


# --- what training starts from ---


def residual_blocks(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, (PointBlock, PreActivationBlock))]


@pytest.mark.parametrize(
    "make",
    [
        lambda: DenseEncoder(1, 32, 4),
        lambda: ResNetEncoder(1, 16, 4),
        lambda: CpcAd(CpcAdConfig(image_size=64), channels=1),
        lambda: CpcAd(CpcAdConfig(image_size=64, encoder="resnet18", shared_encoder=False), channels=1),
    ],
    ids=["dense", "resnet", "cpc-ad", "cpc-ad resnets"],
)  # fmt: skip
def test_residual_branches_start_at_zero(make):
    """Nothing normalises, so that only branches of zero keep the size of values from growing with depth."""
    torch.manual_seed(0)
    blocks = residual_blocks(make())
    assert len(blocks) >= 2
    for block in blocks:
        assert not block.second.weight.any()
        assert block.first.weight.std() > 0.05
        width = block.first.in_channels
        if isinstance(block, PointBlock) or isinstance(block.shortcut, nn.Identity):
            x = torch.randn(1, width, 4, 4)
            bias = 0 if block.second.bias is None else block.second.bias[:, None, None]
            assert torch.equal(block(x), x + bias)


def test_weights_start_with_a_variance_of_two_over_the_inputs():
    torch.manual_seed(0)
    encoder = ResNetEncoder(1, 16, 64)
    for convolution in (
        encoder.stem,
        encoder.stages[0].first,
        encoder.stages[2].first,
        encoder.stages[2].shortcut,
    ):
        weight = convolution.weight
        # He et al. 2015. The relative error of a standard deviation of n values is 1 / sqrt(2 n).
        assert weight.std().item() == pytest.approx(
            math.sqrt(2 / weight[0].numel()), rel=5 / math.sqrt(2 * weight.numel())
        )


@pytest.mark.parametrize("shared", [True, False])
def test_predictions_start_within_one_over_the_root_of_the_width(shared):
    """W is uniform in ± 1 / sqrt(d): a prediction starts at a third of its context's mean square."""
    torch.manual_seed(0)
    W = CpcAd(CpcAdConfig(image_size=64, shared_encoder=shared), channels=1).W.detach()
    d = W.shape[-1]
    assert d == 64
    assert W.abs().max().item() <= 1 / math.sqrt(d)
    assert W.abs().max().item() == pytest.approx(1 / math.sqrt(d), rel=1e-3)
    assert W.var().item() == pytest.approx(1 / (3 * d), rel=0.02)
    assert abs(W.mean().item()) < 0.01 / math.sqrt(d)
