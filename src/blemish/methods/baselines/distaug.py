"""DistAug + KDE: contrastive features of turned squares, and how unlikely a square's are among good ones.

Source: K. Sohn, C.-L. Li, J. Yoon, M. Jin, T. Pfister, "Learning and Evaluating Representations for Deep
One-class Classification", ICLR (2021), arXiv:2011.02578: contrastive learning with distribution augmentation,
then a kernel density, on squares of an image. It is "DistAug" of CPC-AD's Table 2.

Symbols (source: here)
    A, A'      augmentation, drawn twice for each square: `views`
    DistAug    the four quarter turns of a square, each a thing of its own: `turned`
    f          features, the trunk's mean over places, of unit length for the density: `encode`
    g, φ, τ    head, code of unit length, temperature: `components/contrastive.py`, `temperature`
    γ          inverse width of the Gaussian kernel: `inverse_width`
    o          score -log (1/n) Σ_j exp(-γ |f - f_j|²) over good features f_j: `kde.outlier_score`

Shapes: B images, C channels, H×W pixels; S the side of a square; h×w scored squares, g = h·w of them; d
numbers in f; P densities, one for all places or one for each, of n good features each.

Differs from the source: the optimiser is Adam without weight decay (there SGD: rate 0.01, momentum 0.9,
weight decay 3e-4). The order of the colour jitter is fixed. γ is 10 over the variance about the mean feature
(there about one number, the mean of all components). The density keeps `bank` good features, drawn at random
(there all: 680,000 of bottle). Of the source the code for whole images was at hand, not its numbers for
squares: `paper` has those of `cutpaste`, later work of the same authors, and the map too. Its head of eight
layers and its passes are those of the code. A view shows half of a square's area or more (there half of its
side, a quarter of the area), half of the views are blurred (there none while it learns), and brightness is
multiplied (there added). The preset `default`, for one core, has images
of 128×128, a trunk that overlapping squares share, a head of two layers, a density at each place, and less
jitter. With it bottle has a pixel AUROC of 0.978 and an image AUROC of 0.994, Head CT one of 0.859.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.data.shapes import uniform
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.baselines.cutpaste import upsampling_matrix
from blemish.methods.baselines.cutpaste_augment import jitter, random_crops
from blemish.methods.baselines.cutpaste_backbones import TRUNKS, TrunkConfig, grid_of
from blemish.methods.baselines.kde import outlier_score
from blemish.methods.components.collapse import SAME, refuse_constant
from blemish.methods.components.contrastive import ContrastiveHead, contrastive_loss
from blemish.methods.components.functional import blur, grey
from blemish.methods.cpc_ad_equations import random_crops as resized_crops

if TYPE_CHECKING:
    from collections.abc import Iterator


CODE = 128
"""Numbers of a code φ."""
SMALLEST = math.sqrt(0.5)
"""Least share of a square's side that a view shows: half of its area."""
GREY, BLURRED = 0.2, 0.5
"""Shares of the views that are grey, and that are blurred."""
BANK_SEED = 0
"""Draws the good features that a density keeps."""
LEAST = 1e-2
"""The least length that features are divided by: those of a square that says nothing are rounding alone."""


@dataclass(frozen=True, kw_only=True)
class DistAugConfig(TrunkConfig):
    """The options of DistAug + KDE."""

    steps: int = 1000
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 32
    """Images in an optimiser step; a square of each, in four turns, is seen twice."""
    learning_rate: float = 3e-3
    """Adam's learning rate (its peak when the schedule is cosine)."""
    patch_size: int = 16
    """S: side of a square in pixels, a power of 2 from 8."""
    stride: int = 4
    """Pixels from one scored square to the next, a power of 2, a quarter of --patch-size at most."""
    head_layers: int = 2
    """Layers of the head before its last one."""
    temperature: float = 0.2
    """τ: the smaller, the more the nearest other squares count."""
    jitter: float = 0.1
    """Greatest change of brightness, contrast, saturation and hue of a view, in [0, 1]."""
    density: Literal["shared", "place"] = "place"
    """A density for all places, or one for each, for objects that always lie alike."""
    bank: int = 500
    """n: good features that a density keeps at most."""
    sharpness: float = 10.0
    """γ times the variance of the good features."""

    def __post_init__(self) -> None:
        """Refuse sizes that squares do not fit, and numbers that mean nothing. Raises UsageError."""
        super().__post_init__()
        self.check_counts("head_layers", "bank")
        self.check_squares(least=8, steps=4)
        for option in ("temperature", "sharpness"):
            if not 0 < getattr(self, option) < math.inf:
                raise UsageError(f"--{option} {getattr(self, option)}: must be a finite number above 0")
        if not 0 <= self.jitter <= 1:
            raise UsageError(f"--jitter {self.jitter}: must be in [0, 1]")
        _ = self.grid  # which refuses as well

    @property
    def grid(self) -> tuple[int, int]:
        """Rows h and columns w of scored squares. Raises UsageError where they leave pixels uncovered."""
        return grid_of(self.size, self.patch_size, self.stride)


# --- the equations --------------------------------------------------------------------------------------


def turned(x: Tensor) -> Tensor:
    """Distribution augmentation: squares (B, C, S, S), turned by 0°, 90°, 180° and 270° -> (4·B, C, S, S)."""
    return torch.cat([x.rot90(turns, dims=(2, 3)) for turns in range(4)])


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each square (n, C, S, S) by a Gaussian of its own σ (n,) in pixels; 0 leaves it as it is."""
    place = torch.arange(x.shape[-1], device=x.device)
    apart = (place[:, None] - place).square()
    weights = torch.exp(-apart / (2 * sigma.clamp(min=1e-3)[:, None, None].square()))
    matrix = (weights / weights.sum(dim=2, keepdim=True))[:, None]  # (n, 1, S, S)
    with torch.autocast(x.device.type, enabled=False):  # images are not rounded to bf16
        return matrix @ x @ matrix.transpose(2, 3)


def views(x: Tensor, amount: float) -> Tensor:
    """A: crop, mirror, jitter, some grey, some blurred; drawn anew for each square from torch's generator.

    Args:
        x: squares (n, C, S, S) in [0, 1].
        amount: the greatest jitter, in [0, 1].

    Returns:
        (n, C, S, S) in [0, 1].
    """
    n, _, S, _ = x.shape
    x = resized_crops(x, (S, S), SMALLEST, flip=True)
    amounts, greys = uniform(-amount, amount, n, 4).to(x.device), torch.rand(n) < GREY
    x = jitter(x, amounts, torch.ones_like(x[:, :1], dtype=torch.bool))
    x = torch.where(greys.to(x.device)[:, None, None, None], grey(x), x)
    sigma = torch.where(torch.rand(n) < BLURRED, uniform(0.1, S / 16, n), 0.0)
    return blurred(x, sigma.to(x.device)).clamp(0, 1)


def inverse_width(z: Tensor, sharpness: float) -> Tensor:
    """γ = sharpness / the variance of good features, summed over components, the mean of all densities.

    Args:
        z: unit features (P, n, d).
        sharpness: 10 in the source.

    Returns:
        A number above 0.
    """
    variance = (z - z.mean(dim=1, keepdim=True)).square().sum(dim=2).mean()
    return sharpness / variance.clamp(min=SAME**2)


def squared_distances(z: Tensor, bank: Tensor, middle: Tensor) -> Tensor:
    """|f - f_j|², as |a|² - 2 a·b + |b|² of what is left beside the bank's middle.

    Good features lie in a small part of the sphere. Without its middle the products are no larger than the
    distances, and rounding is a small part of these, whichever library sums.

    Args:
        z: unit features (P, m, d).
        bank: good unit features less their middle, (P, n, d).
        middle: the mean of the good unit features, (P, 1, d).

    Returns:
        (P, m, n) ≥ 0.
    """
    z = z - middle
    sums = z.square().sum(dim=2)[:, :, None] + bank.square().sum(dim=2)[:, None]
    return (sums - 2 * z @ bank.transpose(1, 2)).clamp(min=0)


# --- the network ----------------------------------------------------------------------------------------


class DistAug(TrainedMethod[DistAugConfig]):
    """DistAug + KDE. `forward` maps images to maps of their own size."""

    config_type = DistAugConfig
    whole_batches = True
    presets: ClassVar[dict[str, DistAugConfig]] = {
        "default": DistAugConfig(),
        "paper": DistAugConfig(
            image_size=256,
            image_score="max",
            patch_size=32,
            trunk="resnet18",
            width=64,
            head_layers=8,
            jitter=0.4,
            density="shared",
            bank=10_000,
            epochs=2048,
            learning_rate=1e-3,
            calibration_fraction=0.0,
        ),
    }

    bank: Tensor
    middle: Tensor
    gamma: Tensor
    rows: Tensor
    cols: Tensor

    def __init__(self, config: DistAugConfig, channels: int) -> None:
        super().__init__(config, channels)
        self.trunk = TRUNKS[config.trunk](channels, config.patch_size, config.width)
        d = self.trunk.outputs
        self.head = ContrastiveHead(d, layers=config.head_layers, outputs=CODE)
        places = config.grid[0] * config.grid[1] if config.density == "place" else 1
        self.register_buffer("bank", torch.zeros(places, 1, d))
        self.register_buffer("middle", torch.zeros(places, 1, d))
        self.register_buffer("gamma", torch.ones(()))
        for name, n in zip(("rows", "cols"), config.size, strict=True):
            matrix = upsampling_matrix(n, config.patch_size, config.stride, "level")
            self.register_buffer(name, matrix, persistent=False)
        self.register_load_state_dict_pre_hook(_make_room)

    @property
    def scoring_batch(self) -> int:
        """Images to score at a time: one, which bounds memory, and a score does not depend on its company."""
        return 1

    def loss(self, x: Tensor) -> Tensor:
        """Contrastive loss of a square of each image (B, C, H, W) in [0, 1], in its four turns."""
        squares = turned(random_crops(x, self.config.patch_size))
        both = torch.cat([views(squares, self.config.jitter), views(squares, self.config.jitter)])
        first, second = self.head(self.trunk(2 * both - 1)).chunk(2)
        return contrastive_loss(first, second, self.config.temperature)

    def encode(self, x: Tensor) -> Tensor:
        """Return f / |f| of each square: images (B, C, H, W) in [0, 1] -> (B, g, d)."""
        f = self.trunk.everywhere(2 * x - 1, self.config.stride).flatten(1, 2)
        return F.normalize(f.float(), dim=2, eps=LEAST)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W) ≥ 0, larger is more anomalous."""
        z = self.encode(x)
        alone = self.config.density == "place"
        z = z.transpose(0, 1) if alone else z.flatten(0, 1)[None]  # (P, m, d)
        o = outlier_score(squared_distances(z, self.bank, self.middle), self.gamma)  # (P, m)
        return blur((o.T if alone else o).reshape(-1, *self.config.grid), self.rows, self.cols)

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """Keep features of good training images, and γ. Raises TrainingError where all are the same."""
        z = torch.cat(list(self._kept(batches)), dim=1)
        apart = (z - z.mean(dim=(0, 1))).abs().max()
        refuse_constant("distaug", apart, "the network says the same of every square")
        self.gamma.copy_(inverse_width(z, self.config.sharpness))
        self.middle.copy_(z.mean(dim=1, keepdim=True))
        self.bank = z - self.middle

    def _kept(self, batches: Batches) -> Iterator[Tensor]:
        """Yield features of `bank` images, (P, 1, d), or of as many squares of each image, (1, m, d)."""
        drawn = torch.Generator().manual_seed(BANK_SEED)  # the same for every seed of the training
        images, alone = sum(len(x) for x in batches()), self.config.density == "place"
        order = torch.randperm(images, generator=drawn).tolist()
        wanted = set(order[: self.config.bank])
        each = max(1, self.config.bank // images)
        for number, x in enumerate(image for batch in batches() for image in batch.split(1)):
            if number in wanted:
                z = self.encode(x)[0]  # (g, d)
                chosen = torch.randperm(len(z), generator=drawn)[:each].to(z.device)
                yield z[:, None] if alone else z[chosen][None]


def _make_room(network: DistAug, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: how many features the bank keeps is known only from the model file."""
    if (saved := state.get(f"{prefix}bank")) is not None:
        network.bank = network.bank.new_empty(network.bank.shape[0], saved.shape[1], network.bank.shape[2])
