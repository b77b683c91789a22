"""A frozen network by its name: images in, features out. `weights` says where its numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.components.backbones import efficientnet, resnet
from blemish.methods.components.backbones.layers import Source, convolutions, freeze

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and spread of red, green and blue that images are brought to, as in the Lite package's example."""
PACKAGED = "efficientnet-lite0"
"""The name of the weights that `blemish[pretrained]` installs."""
DIGEST = " sha256:"
"""Stands between a network's name and the digest of its weights in a finished model's options."""


class Architecture(NamedTuple):
    """What is known of a network beside its weights."""

    make: Callable[[int], resnet.ResNet | efficientnet.EfficientNet]
    strides: tuple[int, ...]
    epsilon: float
    heads: tuple[str, ...]


def _resnet(plan: resnet.Plan) -> Architecture:
    return Architecture(
        lambda stride: resnet.ResNet(plan, stride), (4, 8, 16, 32), resnet.EPSILON, resnet.HEADS
    )


def _efficientnet(plan: efficientnet.Plan) -> Architecture:
    return Architecture(
        lambda stride: efficientnet.EfficientNet(plan, stride),
        (2, 4, 8, 16, 32),
        efficientnet.epsilon(plan),
        efficientnet.HEADS,
    )


ARCHITECTURES = {name: _resnet(plan) for name, plan in resnet.PLANS.items()} | {
    name: _efficientnet(plan) for name, plan in efficientnet.PLANS.items()
}
"""The networks by their name in timm."""


def architecture_name(backbone: str) -> str:
    """Return the network's name of an option `backbone`, a finished model's or a preset's.

    Raises UsageError for one that is no network's.
    """
    name = backbone.split(DIGEST)[0]
    name = "tf_efficientnet_lite0" if name == PACKAGED else name
    if name not in ARCHITECTURES:
        raise UsageError(f"--backbone {backbone}: no such network; choose {PACKAGED}, or name a file")
    return name


class Backbone(nn.Module):
    """The layers of a network up to the last stride that is asked for, never trained further.

    `channels` holds the number of features at each of `strides`. A grey image is three equal channels.
    """

    def __init__(self, name: str, strides: Sequence[int]) -> None:
        """Make the layers, with random weights. Raises UsageError for strides that it lacks."""
        super().__init__()
        known = ARCHITECTURES[name]
        if not strides or set(strides) - set(known.strides) or list(strides) != sorted(set(strides)):
            raise UsageError(
                f"--strides {' '.join(map(str, strides))}: must be some of "
                f"{', '.join(map(str, known.strides))}, ascending"
            )
        self.name, self.strides = name, tuple(strides)
        self.layers = known.make(strides[-1])
        self.channels = [self.layers.channels[stride] for stride in strides]
        for part, values in zip(("pixel_mean", "pixel_spread"), IMAGENET, strict=True):
            self.register_buffer(part, torch.tensor(values)[:, None, None], persistent=False)
        freeze(self)

    pixel_mean: Tensor
    pixel_spread: Tensor

    def normalised(self, x: Tensor) -> Tensor:
        """Images (B, 1 or 3, H, W) in [0, 1] -> (B, 3, H, W) as the layers take them."""
        return (x.expand(-1, 3, -1, -1) - self.pixel_mean) / self.pixel_spread

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 1 or 3, H, W) in [0, 1] -> (B, channels, ⌈H / stride⌉, ⌈W / stride⌉) of each stride."""
        found = dict(self.layers(self.normalised(x).contiguous(memory_format=torch.channels_last)))
        return [found[stride] for stride in self.strides]


def sources_of(network: resnet.ResNet | efficientnet.EfficientNet, *, tensorflow: bool) -> dict[str, Source]:
    """Return where each layer stands in a state dict; `tensorflow`: as efficientnet_pytorch names them."""
    layers = convolutions(network)
    if isinstance(network, resnet.ResNet):
        return resnet.sources(layers)
    if tensorflow:
        return efficientnet.tensorflow_sources(layers)
    return efficientnet.timm_sources(network, layers)


def grid_of(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return rows and columns of the features of an image of a size (H, W) at a stride."""
    return -(-size[0] // stride), -(-size[1] // stride)


def embed(features: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Bring features of several strides onto one grid, finer ones by means, coarser ones interpolated.

    Args:
        features: (B, d_i, h_i, w_i) each, finest first.
        grid: h and w.

    Returns:
        (B, d, h, w), d the sum of the d_i.
    """
    parts = []
    for part in features:
        if part.shape[2] > grid[0]:
            part = F.adaptive_avg_pool2d(part, grid)
        elif tuple(part.shape[2:]) != tuple(grid):
            part = F.interpolate(part, size=grid, mode="bilinear", align_corners=False)
        parts.append(part)
    return torch.cat(parts, dim=1)


def local_mean(features: Tensor, width: int) -> Tensor:
    """Average features (B, d, h, w) over a window of `width` (odd) places, those inside of the image."""
    if width == 1:
        return features
    return F.avg_pool2d(features, width, 1, width // 2, count_include_pad=False)
