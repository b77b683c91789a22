"""Pre-trained networks: their layers against the libraries' own arithmetic, by the keys in a file."""

from __future__ import annotations

import numpy as np
import pytest
import reference_backbones as reference
import torch
from backbones import keys_of, random_state
from torch import Tensor

from blemish.core.errors import UsageError
from blemish.methods.components.backbones import efficientnet, network, weights
from blemish.methods.components.backbones.layers import fold, same_padding
from blemish.methods.components.backbones.network import ARCHITECTURES, Backbone, embed, local_mean

pytestmark = pytest.mark.usefixtures("single_thread")

PARAMETERS = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "wide_resnet50_2": 68_883_240,
    "efficientnet_lite0": 4_652_008, "efficientnet_b0": 5_288_548, "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994, "efficientnet_b3": 12_233_232, "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
}  # fmt: skip
"""Parameters of the whole networks, as their authors and libraries state them."""


def loaded(
    name: str, state: dict[str, Tensor], strides: tuple[int, ...], tensorflow: bool = False
) -> Backbone:
    """A backbone with a state dict's weights, whose images are normalised already."""
    backbone = Backbone(name, strides).eval()
    taken = {}
    for layer, source in network.sources_of(backbone.layers, tensorflow=tensorflow).items():
        both = weights.take(state, source, ARCHITECTURES[name].epsilon)
        taken[f"{layer}.weight"], taken[f"{layer}.bias"] = both
    backbone.layers.load_state_dict(taken)
    backbone.pixel_mean.zero_()
    backbone.pixel_spread.fill_(1)
    return backbone


def noise(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def check(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_as_many_parameters_as_stated(name: str):
    """Of the layers by their keys, plus the head that features do not need: 1,000 classes."""
    layers = keys_of(name)
    features = sum(int(np.prod(s)) for key, s in layers.items() if "running" not in key)
    plan = efficientnet.PLANS.get(name)
    last = list(layers.values())[-1][0]
    if plan is None:
        head = 1000 * (last + 1)
    else:
        wide = efficientnet.rounded(1280 * plan.width)
        head = last * wide + 2 * wide + 1000 * (wide + 1)
    assert features + head == PARAMETERS[name]


@pytest.mark.parametrize(("name", "bottleneck"), [("resnet18", False), ("resnet50", True)])
@torch.no_grad()
def test_resnets_compute_what_torchvisions_keys_say(name: str, bottleneck: bool):
    state, x = random_state(name), noise(40, 53)
    ours = loaded(name, state, (4, 8, 16, 32))(x)
    check(ours, reference.torchvision_resnet(state, x, bottleneck))


@pytest.mark.parametrize(
    ("name", "repeats"),
    [("tf_efficientnet_lite0", [1, 2, 2, 3, 3, 4, 1]), ("tf_efficientnet_b1", [2, 3, 3, 4, 4, 5, 2])],
)
@torch.no_grad()
def test_efficientnets_compute_what_tensorflows_keys_say(name: str, repeats: list[int]):
    state, x = random_state(name, True), noise(40, 53)
    ours = loaded(name, state, (2, 4, 8, 16, 32), True)(x)
    each = reference.efficientnet_pytorch(state, x, repeats, "lite" in name)
    ends = np.cumsum(repeats) - 1
    check(ours, [each[ends[i]] for i in (0, 1, 2, 4, 6)])


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b2"])
@torch.no_grad()
def test_efficientnets_compute_what_timms_keys_say(name: str):
    state, x = random_state(name), noise(40, 53)
    ours = loaded(name, state, (2, 4, 8, 16, 32))(x)
    each = reference.timm_efficientnet(state, x, "lite" in name)
    check(ours, [each[i] for i in (0, 1, 2, 4, 6)])


def test_only_the_layers_up_to_the_last_stride_are_kept():
    full, half = (sum(p.numel() for p in Backbone("resnet18", s).parameters()) for s in ((4, 32), (4, 8)))
    # stem 3·64·49 + 64; stages 1 and 2 with folded biases
    first = 4 * (64 * 64 * 9 + 64)
    second = (64 + 3 * 128) * 128 * 9 + 4 * 128 + 64 * 128 + 128
    assert half == 3 * 64 * 49 + 64 + first + second
    assert full > 10 * half


def test_features_are_frozen_and_whatever_the_channels_normalised():
    backbone = Backbone("resnet18", (4,)).eval()
    assert not any(p.requires_grad for p in backbone.parameters())
    grey = noise(32, 32, channels=1)
    assert torch.equal(backbone(grey)[0], backbone(grey.repeat(1, 3, 1, 1))[0])
    seen = []
    backbone.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(torch.full((1, 3, 32, 32), 0.5))
    # (0.5 - 0.485) / 0.229 and so on
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([0.0655, 0.1964, 0.4178], abs=1e-4)


@pytest.mark.parametrize("strides", [(), (8, 4), (4, 4), (3,), (2, 4)])
def test_strides_that_a_network_has_not_are_refused(strides: tuple[int, ...]):
    with pytest.raises(UsageError, match=r"--strides .*: must be some of 4, 8, 16, 32, ascending"):
        Backbone("resnet18", strides)


def test_folding_by_hand():
    # γ / √(σ² + ε) = 3 / √(3.75 + 0.25) = 1.5: weight 2·1.5, bias 0.5 - 4·1.5
    one = torch.ones(1)
    weight, bias = fold(torch.full((1, 1, 1, 1), 2.0), 3 * one, 0.5 * one, 4 * one, 3.75 * one, 0.25)
    assert (weight.item(), bias.item()) == (3, -5.5)


def test_same_padding_by_hand():
    # 8 pixels, kernel 3, stride 2: outputs begin at 0, 2, 4, 6 and the last one needs a ninth pixel
    assert same_padding(8, 3, 2) == (0, 1)
    assert same_padding(7, 3, 2) == (1, 1)
    assert same_padding(8, 5, 2) == (1, 2)
    assert same_padding(8, 3, 1) == (1, 1)


def test_features_come_onto_one_grid():
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    coarse = torch.tensor([[[[3.0]]]])
    ours = embed([fine, coarse], (2, 2))
    # means over 2×2: (0 + 1 + 4 + 5) / 4 and so on; one coarse place is everywhere
    assert ours[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert ours[0, 1].tolist() == [[3, 3], [3, 3]]
    # linear between the middles of two places
    between = embed([torch.tensor([[[[0.0, 4.0]]]]), torch.zeros(1, 1, 1, 4)], (1, 4))
    assert between[0, 0, 0].tolist() == [0, 1, 3, 4]


def test_local_means_leave_out_what_lies_outside():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    ours = local_mean(x, 3)[0, 0]
    assert ours[0, 0] == (0 + 1 + 3 + 4) / 4
    assert ours[1, 1] == 4
    assert local_mean(x, 1) is x
