"""MKD: a small network learns to say what a pre-trained one says of good images; it errs on odd ones.

Source: M. Salehi, N. Sadjadi, S. Baselizadeh, M. H. Rohban, H. R. Rabiee, "Multiresolution Knowledge
Distillation for Anomaly Detection" (CVPR 2021), arXiv:2011.11108. It is "MKD" of MeTAL's Tables 5 and 6.

Symbols (source: here)
    S, C       source network, frozen, and its cloner: `backbone`, `cloner`
    CP_i       critical points, layers whose values are compared: `strides`
    a_s, a_c   values of both at a critical point
    L_val      squared distance, the mean over values: `value_loss`
    L_dir      one less the cosine of all values together: `direction_loss`
    λ          weight that joins them: `value_weight`
    Λ          gradient of L_total with respect to the image; M its smoothed opening: `opening`

Shapes: B images, C channels, H×W pixels; a critical point has c channels of h×w values.

Its map: with `--localisation gradient` that of the source's text, one pass back through both networks. ONNX
has no gradients, so such a model cannot be exported. With `features` (ours) each place of each layer has its
own distance and cosine; that is quicker, and exported.

MeTAL's Table 6 says 15 M: VGG-16 without its classifier has 14.7 million numbers, its small cloner 0.3.

Differs from the source: S is ResNet-18 or EfficientNet-Lite0, there VGG-16; the cloner has two convolutions
of few channels before each critical point's own, and begins at a stride of 2. The source's program scores by
three of its four critical points, here all four count; its map is of guided backpropagation, here of the
plain gradient of the text; and it does not standardise MVTec AD's images for S, here they are. λ weighs
L_val, as in the program (in the text λ weighs L_dir). The gradient keeps its size; there each image's is
scaled by its own range, so that maps of two images could not be compared. The preset `default` is ours:
values are standardised by channel, and the map is that of features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.components.backbones.method import FeatureConfig, FeatureMethod
from blemish.methods.components.backbones.network import embed, local_mean
from blemish.methods.components.collapse import refuse_constant
from blemish.methods.components.functional import blur
from blemish.methods.components.statistics import spread_of
from blemish.methods.components.unet import Block, fold_all
from blemish.methods.config import TrainedConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class MkdConfig(FeatureConfig, TrainedConfig):
    """The options of MKD."""

    neighbourhood: int = 1
    """The map's values are means over this many places along a side, an odd number; 1: as they are.

    As `grid_stride`, it is of the map of features; that of the gradient has the image's size.
    """
    image_score: Literal["max", "mean", "top1", "top5"] = "top1"
    """The image score: `mean` is the source's L_total; the others take the map's largest values."""
    steps: int = 300
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 8
    """Images in an optimiser step."""
    width: int = 32
    """Channels of the cloner between its critical points."""
    value_weight: float = 0.5
    """λ: weight of the distance of values beside that of directions; the source has 0.5 for MVTec AD."""
    standardise: bool = True
    """Bring each channel of the source network to mean 0 and spread 1 over the training images (ours)."""
    localisation: Literal["features", "gradient"] = "features"
    """The map: what differs at each place (ours), or the gradient at the image (not exported)."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing. Raises UsageError."""
        super().__post_init__()
        self.check_counts("width")
        self.check_weights("value_weight")


# --- the equations --------------------------------------------------------------------------------------


def value_loss(a_s: Tensor, a_c: Tensor) -> Tensor:
    """L_val of a critical point: the mean of (a_s - a_c)²; (B, c, h, w) each -> (B,)."""
    return (a_s - a_c).square().flatten(1).mean(dim=1)


def direction_loss(a_s: Tensor, a_c: Tensor) -> Tensor:
    """L_dir of a critical point: 1 - cos(a_s, a_c); (B, c, h, w) each -> (B,) in [0, 2]."""
    return 1 - F.cosine_similarity(a_s.flatten(1), a_c.flatten(1), dim=1)


def total_loss(source: Sequence[Tensor], clone: Sequence[Tensor], weight: float) -> Tensor:
    """L_total: L_dir + λ L_val, the sums over critical points.

    Args:
        source, clone: values of both networks, (B, c_i, h_i, w_i) each.
        weight: λ ≥ 0.

    Returns:
        (B,) ≥ 0.
    """
    pairs = list(zip(source, clone, strict=True))
    found = torch.stack([direction_loss(a, b) + weight * value_loss(a, b) for a, b in pairs])
    return found.sum(dim=0)


def place_loss(a_s: Tensor, a_c: Tensor, weight: float) -> Tensor:
    """L_dir + λ L_val of the values of each place alone (ours): (B, c, h, w) each -> (B, 1, h, w)."""
    values = (a_s - a_c).square().mean(dim=1, keepdim=True)
    return 1 - F.cosine_similarity(a_s, a_c, dim=1)[:, None] + weight * values


def opening(x: Tensor) -> Tensor:
    """Remove what is smaller than a cross of five pixels: the least of each cross, then the largest.

    Args:
        x: (B, H, W).

    Returns:
        (B, H, W), nowhere larger than x.
    """
    return _largest(-_largest(-x))


def _largest(x: Tensor) -> Tensor:
    """The largest of each pixel and its four neighbours: (B, H, W), 3 pixels or more on a side."""
    tall, wide = (
        F.max_pool2d(x[:, None], side, 1, (side[0] // 2, side[1] // 2)) for side in ((3, 1), (1, 3))
    )
    return torch.maximum(tall, wide)[:, 0]


# --- the networks ---------------------------------------------------------------------------------------


class Cloner(nn.Module):
    """C: two convolutions of few channels, then one that says what S says, at each critical point."""

    def __init__(self, channels: dict[int, int], width: int) -> None:
        """`channels` are those of S by stride, ascending; the strides in between have no convolution out."""
        super().__init__()
        self.stages, self.outs = nn.ModuleList(), nn.ModuleDict()
        inputs, stride = 3, 2
        while stride <= max(channels):
            first = Block(inputs, width, stride=2 if stride == 2 else 1)
            self.stages.append(nn.Sequential(first, Block(width, width)))
            inputs = width
            if stride in channels:
                self.outs[str(stride)] = nn.Conv2d(width, channels[stride], 3, padding=1)
                inputs = channels[stride]
            stride *= 2
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  the quickest

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), as S takes them -> (B, c, ⌈H / stride⌉, ⌈W / stride⌉) of each CP_i."""
        found = []
        for i, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            if (stride := str(2 ** (i + 1))) in self.outs:
                found.append(self.outs[stride](x))
                x = found[-1].relu()
        return found


class Mkd(FeatureMethod[MkdConfig], TrainedMethod[MkdConfig]):
    """MKD. `forward` maps images to maps of their own size, and to L_total where `mean` is the score."""

    config_type = MkdConfig
    whole_batches = True
    presets: ClassVar[dict[str, MkdConfig]] = {
        "default": MkdConfig(),
        "paper": MkdConfig(
            backbone="resnet18",
            image_size=128,
            strides=(4, 8, 16, 32),
            epochs=600,
            batch_size=128,
            schedule="constant",
            width=16,
            value_weight=0.5,
            standardise=False,
            localisation="gradient",
            image_score="mean",
            calibration_fraction=0.0,
        ),
    }

    channel_mean: Tensor
    channel_spread: Tensor

    def __init__(self, config: MkdConfig, channels: int) -> None:
        super().__init__(config, channels)
        widths = dict(zip(config.strides, self.backbone.channels, strict=True))
        self.cloner = Cloner(widths, config.width)
        self.register_buffer("channel_mean", torch.zeros(sum(widths.values())))
        self.register_buffer("channel_spread", torch.ones(sum(widths.values())))
        if config.localisation == "gradient":
            self.not_exported = (
                "its map is a gradient, which ONNX does not have; train with --localisation features"
            )

    def values(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Images (B, C, H, W) in [0, 1] -> a_s and a_c of all critical points."""
        sizes = self.backbone.channels
        scale = zip(self.channel_mean.split(sizes), self.channel_spread.split(sizes), strict=True)
        source = [
            (a - mean[:, None, None]) / spread[:, None, None]
            for a, (mean, spread) in zip(self.backbone(x), scale, strict=True)
        ]
        clone = self.cloner(self.backbone.normalised(x))
        return source, [b.to(a) for a, b in zip(source, clone, strict=True)]

    def loss(self, x: Tensor) -> Tensor:
        """The mean of L_total over images (B, C, H, W) in [0, 1]."""
        return total_loss(*self.values(x), self.config.value_weight).mean()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W) ≥ 0, and L_total (B,) where `mean` is the score."""
        if self.config.localisation == "gradient":
            maps, scores = self._slope(x)
        else:
            source, clone = self.values(x)
            scores = total_loss(source, clone, self.config.value_weight)
            maps = self._places(source, clone)
        return (maps, scores) if self.config.image_score == "mean" else maps

    def _places(self, source: list[Tensor], clone: list[Tensor]) -> Tensor:
        """The mean over critical points of what differs at each place: smoothed maps (B, H, W)."""
        pairs = zip(source, clone, strict=True)
        losses = [place_loss(a, b, self.config.value_weight) for a, b in pairs]
        found = local_mean(embed(losses, self.config.grid), self.config.neighbourhood)
        return self.whole_maps(found.mean(dim=1).flatten(1))

    def _slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Λ summed over channels, smoothed and opened (B, H, W), and L_total (B,)."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_(True)
            scores = total_loss(*self.values(x), self.config.value_weight)
            (slope,) = torch.autograd.grad(scores.sum(), x)
        maps = blur(slope.abs().sum(dim=1), self.smooth_rows, self.smooth_cols)
        return opening(maps), scores.detach()

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Before training: mean and spread of each channel of S over places and images."""
        if not self.config.standardise:
            return
        parts = (self.backbone(x) for x in self.as_scored(batches))
        moments = torch.stack(
            [
                torch.stack([torch.cat([a.double().pow(k).mean((0, 2, 3)) for a in found]) for k in (1, 2)])
                for found in parts
            ]
        )  # of each image: means and means of squares
        mean, squares = moments.mean(dim=0)
        self.channel_mean.copy_(mean)
        self.channel_spread.copy_(spread_of((squares - mean**2).clamp(min=0)))

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """After training: fold the normalisation. Raises TrainingError where the output is constant."""
        fold_all(self)
        x = next(iter(batches()))[:4]
        said = self.values(torch.cat([x, 1 - x]))[1][-1]
        refuse_constant("mkd", said.std(dim=0).max(), "the network says the same of all images")
