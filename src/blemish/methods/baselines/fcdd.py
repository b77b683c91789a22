"""FCDD: a fully convolutional network is drawn to 0 on good images and away from it on made defects.

Source: P. Liznerski, L. Ruff, R. A. Vandermeulen, B. J. Franks, M. Kloft, K.-R. Müller, "Explainable Deep
One-Class Classification" (ICLR 2021), arXiv:2007.01760. It is "FCDD*" of CPC-AD's Table 2.

Symbols (source: here)
    φ(X)       what the network says at each place: `values`
    A(X)       its pseudo-Huber loss: `pseudo_huber`; the map before it is upsampled
    y, Y       1 for an image, or for a pixel, that was made anomalous
    A'(X)      A spread over the pixels by a Gaussian at the middle of each receptive field, Algorithm 1:
               `spread_matrix`
    confetti   coloured and white squares, blurred and added to a good image: `confetti`

Shapes: B images, C channels, H×W pixels; h×w places of the grid; d features of a place.

Half of the images of a step are made anomalous. The network is a frozen pre-trained one, and three
convolutions that learn.

Differs from the source: the frozen layers are of ResNet-18 or EfficientNet-Lite0, there of VGG-11, and their
features are standardised. Adam, there stochastic descent with momentum. Images keep their colours; there each
one's contrast is normalised. Labels of pixels are compared on the grid, before upsampling. The Gaussian ends
at 4 σ, there at the receptive field of 62 pixels, and pixels near the border, which fewer places reach, are
scaled up; a place is spread from the middle of its own pixels, from which the middle of what it sees may be
half a stride away. Images are not cut, coloured or made noisy while it learns, weights do not decay, and the
rate falls by a cosine (there by 1.5 % in each epoch). Without anomalies the outputs are drawn to 1, and no
layer that learns has a bias: drawn to 0, all weights would vanish. The preset `default` is ours: planted
defects (`blemish.data.planting`), the pixels that they changed, and features of three strides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.data import planting
from blemish.data.part import background_of, cells_of_part, draw_centres, seen_of
from blemish.data.shapes import Places, box, draw_places, uniform
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.components.altered import filled
from blemish.methods.components.backbones.method import FeatureConfig, FeatureMethod
from blemish.methods.components.collapse import refuse_constant
from blemish.methods.components.functional import blur, gaussian_spread, smoothing_matrix
from blemish.methods.components.statistics import mean_and_variance, spread_of
from blemish.methods.components.unet import Block, fold_all
from blemish.methods.config import TrainedConfig

CHANGED = 3.0
"""Grey levels, of the mean over channels and 3×3 pixels, from which on a pixel counts as changed."""
LEAST = 1e-6
"""The least distance that a logarithm is taken of."""


@dataclass(frozen=True, kw_only=True)
class FcddConfig(FeatureConfig, TrainedConfig):
    """The options of FCDD."""

    neighbourhood: int = 1
    """Features are means over this many places along a side, an odd number; 1: as they are."""
    smoothing: float = 8.0
    """σ of the Gaussian that spreads a place's value over pixels, in pixels of the resized image."""
    steps: int = 300
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 8
    """Images in an optimiser step."""
    width: int = 64
    """Channels of the convolutions that learn."""
    anomalies: Literal["planted", "confetti", "none"] = "planted"
    """What half of the images are given: planted defects (ours), the source's confetti, or nothing."""
    labels: Literal["pixels", "images"] = "pixels"
    """What is said to be anomalous: the pixels that were changed, or the whole image."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing. Raises UsageError."""
        super().__post_init__()
        self.check_counts("width")
        if self.smoothing < 1:
            raise UsageError(f"--smoothing {self.smoothing}: must be 1 or larger")


# --- the equations --------------------------------------------------------------------------------------


def pseudo_huber(values: Tensor) -> Tensor:
    """A = √(φ² + 1) - 1 of any shape, ≥ 0 (Sec. 3)."""
    return (values.square() + 1).sqrt() - 1


def image_loss(A: Tensor, y: Tensor) -> Tensor:
    """Mean over images of (1 - y) a - y log(1 - e^-a), a the mean of an image's A (Sec. 3).

    Args:
        A: (B, h, w) ≥ 0.
        y: 1 for anomalous images, 0 for good ones, (B,).
    """
    a = A.flatten(1).mean(dim=1)
    return ((1 - y) * a + y * repulsion(a)).mean()


def pixel_loss(A: Tensor, Y: Tensor) -> Tensor:
    """Mean over images of mean((1 - Y) A), less log(1 - e^-mean(Y A)) where any Y is above 0 (Sec. 4.2).

    Args:
        A: (B, h, w) ≥ 0.
        Y: share of each place that is anomalous, in [0, 1], (B, h, w).
    """
    good, bad = ((1 - Y) * A).flatten(1).mean(dim=1), (Y * A).flatten(1).mean(dim=1)
    return (good + (Y.flatten(1).amax(dim=1) > 0) * repulsion(bad)).mean()


def repulsion(a: Tensor) -> Tensor:
    """-log(1 - e^-a), which is large near 0; of any shape, a ≥ 0."""
    return -torch.log(-torch.expm1(-a.clamp(min=LEAST)))


def confetti(x: Tensor) -> Tensor:
    """Add squares to good images: 8 to 54 of 224 pixels wide, at any angle, of one colour or white, blurred.

    Where they hardly change an image by being added they are subtracted.

    Args:
        x: images (K, C, H, W) in [0, 1].

    Returns:
        (K, C, H, W) in [0, 1].
    """
    (C, H, W), scale = x.shape[1:], min(x.shape[2:]) / 224
    noise = torch.zeros(x.shape)
    for own in noise:
        for often, coloured in ((0.9, True), (0.6, False)):  # squares of an image, about
            n = max(1, int(torch.poisson(torch.tensor(often))))
            places = Places(
                centre=torch.rand(n, 2) * torch.tensor([H - 1.0, W - 1.0]),
                half=(uniform(4, 27, n, 1) * scale).expand(-1, 2),
                angle=uniform(-math.pi / 4, math.pi / 4, n),
            )
            colour = torch.rand(n, C, 1, 1) if coloured else torch.ones(n, C, 1, 1)
            own += (box(places, H, W) * colour).amax(dim=0)
    noise = blur(noise, smoothing_matrix(H, 5 * scale), smoothing_matrix(W, 5 * scale)).to(x)
    more, less = (x + noise).clamp(0, 1), (x - noise).clamp(0, 1)
    by_more, by_less = ((made - x).abs().flatten(1).mean(dim=1) for made in (more, less))
    turned = (by_more < 0.025) & (by_less > by_more)
    return torch.where(turned[:, None, None, None], less, more)


def spread_matrix(n: int, stride: int, sigma: float) -> Tensor:
    """Spread the values of a line's places over its n pixels by Gaussians, Algorithm 1.

    As if the receptive field of place j had its middle where its pixels have it: stride·j + (stride - 1) / 2.

    Args:
        n: pixels.
        stride: from one place to the next.
        sigma: σ, in pixels.

    Returns:
        (n, ⌈n / stride⌉), rows of sum 1.
    """
    middles = stride * torch.arange(-(-n // stride), dtype=torch.float64) + (stride - 1) / 2
    weights = gaussian_spread(n, middles, sigma, max(4 * sigma, stride))
    return (weights / weights.sum(dim=1, keepdim=True)).float()


# --- the method -----------------------------------------------------------------------------------------


class Fcdd(FeatureMethod[FcddConfig], TrainedMethod[FcddConfig]):
    """FCDD. `forward` maps images to maps of their own size."""

    config_type = FcddConfig
    whole_batches = True
    presets: ClassVar[dict[str, FcddConfig]] = {
        "default": FcddConfig(),
        "paper": FcddConfig(
            backbone="resnet18",
            image_size=224,
            strides=(8,),
            smoothing=12.0,
            epochs=2000,  # 200 of ten passes each
            batch_size=128,
            width=512,
            anomalies="confetti",
            labels="images",
            image_score="mean",
            calibration_fraction=0.0,
        ),
    }

    feature_mean: Tensor
    feature_spread: Tensor
    colour: Tensor
    apart: Tensor
    spread_rows: Tensor
    spread_cols: Tensor

    def __init__(self, config: FcddConfig, channels: int) -> None:
        super().__init__(config, channels)
        d, biased = sum(self.backbone.channels), config.anomalies != "none"
        blocks = [Block(d, config.width), Block(config.width, config.width)]
        self.head = nn.Sequential(*blocks, nn.Conv2d(config.width, 1, 1, bias=biased))
        self.head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  the quickest
        if not biased:
            for block in blocks:
                for layer in (block.convolution, block.normalisation):
                    assert layer.bias is not None
                    nn.init.zeros_(layer.bias).requires_grad_(False)
        self.register_buffer("feature_mean", torch.zeros(d))
        self.register_buffer("feature_spread", torch.ones(d))
        self.register_buffer("colour", torch.zeros(channels))
        self.register_buffer("apart", torch.tensor(-1.0))
        for name, n in zip(("spread_rows", "spread_cols"), config.size, strict=True):
            matrix = spread_matrix(n, config.grid_stride, config.smoothing)
            self.register_buffer(name, matrix, persistent=False)

    def values(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> φ, (B, h, w); without anomalies less 1."""
        features = (self.features(x) - self.feature_mean) / self.feature_spread
        phi = self.head(features.transpose(1, 2).unflatten(2, self.config.grid))[:, 0].float()
        return phi - 1 if self.config.anomalies == "none" else phi

    def loss(self, x: Tensor) -> Tensor:
        """Make half of the images (B, C, H, W) in [0, 1] anomalous, and return the loss."""
        if self.config.anomalies == "none":
            return pseudo_huber(self.values(x)).mean()
        x = filled(x, self.config.batch_size)
        half = len(x) // 2
        with torch.no_grad():
            made = self.make_anomalous(x)
            Y = F.adaptive_avg_pool2d((planting.changed(x[:half], made) > CHANGED).float(), self.config.grid)
        A = pseudo_huber(self.values(torch.cat([made, x[half:]])))
        Y = torch.cat([Y, torch.zeros_like(A[half:])])
        y = (torch.arange(len(x), device=x.device) < half).to(A)
        return pixel_loss(A, Y) if self.config.labels == "pixels" else image_loss(A, y)

    def make_anomalous(self, x: Tensor) -> Tensor:
        """Alter the first half of images (B, C, H, W), which may take from the others: (B // 2, C, H, W)."""
        good = x[: len(x) // 2]
        seen = seen_of(good) if self.covered else None
        made = confetti(good) if self.config.anomalies == "confetti" else self._plant(good, x, seen)
        return made if seen is None else torch.where(seen, made, good)

    def _plant(self, good: Tensor, x: Tensor, seen: Tensor | None) -> Tensor:
        """Plant up to three defects into each good image, with pieces of all images `x`."""
        K, H, W = len(good), *x.shape[2:]
        part, count = cells_of_part(good, self.colour, self.apart, seen), torch.randint(1, 4, (K,))
        made = good.cpu().clone()
        for number in range(3):
            chosen = (count > number).nonzero()[:, 0]
            if not len(chosen):
                break
            places = draw_places(len(chosen), H, W, min(H, W))
            places = replace(places, centre=draw_centres(part[chosen], (1, 1), (H, W)))
            kinds = [list(planting.KINDS)[int(i)] for i in torch.randint(len(planting.KINDS), chosen.shape)]
            others = (chosen + torch.randint(1, len(x), chosen.shape)) % len(x)
            made[chosen] = planting.plant(
                made[chosen],
                x[others].cpu(),
                kinds=kinds,
                side=min(H, W),
                background=self.colour.cpu(),
                places=places,
            )
        return made.to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps A' (B, H, W) ≥ 0, larger is more anomalous."""
        return blur(pseudo_huber(self.values(x)), self.spread_rows, self.spread_cols)

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Before training: mean and spread of the features, and what surrounds the part."""
        mean, variance = mean_and_variance(self.features(x).flatten(0, 1) for x in self.as_scored(batches))
        self.feature_mean.copy_(mean)
        self.feature_spread.copy_(spread_of(variance))
        mean, variance = mean_and_variance(batches())
        colour, apart = background_of(mean.float(), variance.sqrt().float(), self.seen_in(batches))
        self.colour.copy_(colour)
        self.apart.copy_(apart)

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """After training: fold the normalisation. Raises TrainingError where the output is constant."""
        fold_all(self)
        x = next(iter(batches()))[:4]
        said = self.values(torch.cat([x, 1 - x]))
        refuse_constant("fcdd", said.std(dim=0).max(), "the network says the same of all images")
