"""Planted: a network that learnt to see defects planted into good images sees real ones (ours).

No paper has this very method. Its relatives: C.-L. Li et al., "CutPaste" (2021), arXiv:2104.04015; V.
Zavrtanik et al., "DRAEM" (2021), arXiv:2108.07610; H. Schlüter et al., "Natural Synthetic Anomalies for
Self-Supervised Anomaly Detection and Localization" (2022), arXiv:2109.15222, whose defects are the nearest.

Symbols
    x, x'       a crop of a good image, and the same crop with planted defects: `good`, `planted`
    d           mean change |x' - x| of a pixel over channels and 3×3 pixels, in grey levels: `changed`
    y           how anomalous a pixel is said to be, Eq. (1): `soft_label`
    μ, σ        mean and std of the training images at each place: `place_mean`, `place_std`

    (1)  y = clip((d - 3) / 12, 0, 1)
    (2)  loss = Σ w (softplus(f) - y f) / Σ w, w = 3 where y > 0.5 and 1 elsewhere, f the network's logit

The network is a U-Net of three inputs side by side: the image, the image standardised at each place, and the
place itself. It learns on crops and looks at whole images.

What it is blind to: see docs/papers/planted.md, where kinds of defect are left out of the training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.data import planting
from blemish.data.part import background_of, cells_of_part, draw_centres, seen_of, views
from blemish.data.shapes import uniform
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.components.altered import count_of, draw_apart, filled
from blemish.methods.components.functional import blur, smoothing_matrix
from blemish.methods.components.statistics import image_statistics
from blemish.methods.components.unet import UNet, fold_all
from blemish.methods.config import TrainedConfig

if TYPE_CHECKING:
    from blemish.methods.components.distributed import Share

CHANNELS = (16, 32, 64, 96, 128)
"""Of the U-Net's levels, at a half, a quarter, … of the image's size, times `width`."""
FLOOR = 0.03
"""Added to the std at a place, in the images' unit: where nothing varies, noise is no defect."""


@dataclass(frozen=True, kw_only=True)
class PlantedConfig(TrainedConfig):
    """The options of the network that learns from planted defects."""

    image_size: tuple[int, int] | int = 256
    """Images are resized to this: one number for a square, or height and width, in pixels."""
    aligned: bool | None = None
    """Turn and move parts so that they lie alike; None: only if good images become much more alike by it."""
    steps: int = 3000
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 32
    """Crops in an optimiser step."""
    learning_rate: float = 2e-3
    """Adam's learning rate at its peak."""
    crop_size: int = 96
    """Side in pixels of the crops that it learns on; the image's, where that is smaller."""
    width: float = 1.0
    """Channels of the network, as a multiple of 16, 32, 64, 96, 128."""
    positions: bool = True
    """Tell the network where in the image it looks; without it parts may lie at any angle."""
    kinds: Literal["all", "first", "second"] = "all"
    """Which planted defects: all kinds, or one of two families that have none in common."""
    smoothing: float = 3.0
    """σ of the map's Gaussian filter in pixels of the resized image; 0: none."""

    def __post_init__(self) -> None:
        """Refuse sizes that the network does not take. Raises UsageError."""
        super().__post_init__()
        if min(self.size) < 32:
            raise UsageError(f"--image-size {min(self.size)}: planted needs 32 pixels or more")
        if self.crop_size < 32:
            raise UsageError(f"--crop-size {self.crop_size}: must be 32 or larger")
        if not 0.25 <= self.width <= 8:
            raise UsageError(f"--width {self.width}: must be from 0.25 to 8")
        self.check_weights("smoothing")

    @property
    def kind_names(self) -> tuple[str, ...]:
        """The names of the kinds that are planted."""
        first, second = planting.FAMILIES
        return {"all": first + second, "first": first, "second": second}[self.kinds]


# --- the equations --------------------------------------------------------------------------------------


def soft_label(changed: Tensor) -> Tensor:
    """Return y = clip((d - 3) / 12, 0, 1), Eq. (1): d in grey levels, any shape."""
    return ((changed - 3) / 12).clamp(0, 1)


def weighted_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of Eq. (2) over all pixels: logits and labels of one shape -> a number."""
    weights = 1 + 2 * (labels > 0.5)
    losses = F.binary_cross_entropy_with_logits(logits, labels, weights.float(), reduction="sum")
    return losses / weights.sum()


# --- the network ----------------------------------------------------------------------------------------


class Planted(TrainedMethod[PlantedConfig]):
    """The network. `forward` maps images to smoothed logits at half of their height and width."""

    config_type = PlantedConfig
    presets: ClassVar[dict[str, PlantedConfig]] = {
        "default": PlantedConfig(),
        "quick": PlantedConfig(steps=333),
        "anywhere": PlantedConfig(positions=False),
    }

    white: Tensor
    pixel_mean: Tensor
    pixel_spread: Tensor
    place_mean: Tensor
    place_std: Tensor
    colour: Tensor
    apart: Tensor
    smooth_rows: Tensor
    smooth_cols: Tensor
    position: Tensor

    def __init__(self, config: PlantedConfig, channels: int) -> None:
        super().__init__(config, channels)
        H, W = config.size
        widths = [max(1, round(config.width * c)) for c in CHANNELS]
        self.network = UNet(2 * channels + 2 * config.positions, widths)
        self.register_buffer("white", torch.tensor(1.0))
        self.register_buffer("pixel_mean", torch.zeros(()))
        self.register_buffer("pixel_spread", torch.ones(()))
        self.register_buffer("place_mean", torch.zeros(channels, H, W))
        self.register_buffer("place_std", torch.ones(channels, H, W))
        self.register_buffer("colour", torch.zeros(channels))
        self.register_buffer("apart", torch.tensor(-1.0))
        for name, n in (("smooth_rows", H // 2), ("smooth_cols", W // 2)):
            self.register_buffer(name, smoothing_matrix(n, config.smoothing / 2), persistent=False)
        rows, cols = torch.linspace(-1, 1, H), torch.linspace(-1, 1, W)
        position = torch.stack([rows[:, None].expand(H, W), cols.expand(H, W)])
        self.register_buffer("position", position, persistent=False)

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of the crops that it learns on, in pixels."""
        H, W = self.config.size
        return min(self.config.crop_size, H), min(self.config.crop_size, W)

    def inputs(self, x: Tensor, mean: Tensor, std: Tensor, position: Tensor) -> Tensor:
        """Put side by side what the network is given: (B, 2·C + 2, h, w), or 2·C without positions.

        Images or crops (B, C, h, w), with the mean, the std and the position of their places (..., h, w).
        """
        plain = (x - self.pixel_mean) / self.pixel_spread
        standard = ((x - mean) / (std + FLOOR)).clamp(-5, 5) / 2
        kinds = [plain, standard, position.expand(x.shape[0], -1, -1, -1)]
        return torch.cat(kinds if self.config.positions else kinds[:2], dim=1)

    def loss(self, x: Tensor) -> Tensor:
        """Plant defects into a crop of each image and return Eq. (2). Images (B, C, H, W) in [0, 1]."""
        return self.loss_of_crops(x, self.config.batch_size)

    def loss_of_crops(self, x: Tensor, count: int) -> Tensor:
        """Return `loss` with so many crops at least: of few images there are several crops each."""
        x = filled(x, count) / self.white
        good, planted, corners = self.draw_crops(x)
        labels = soft_label(planting.changed(good, planted))
        (h, w), at = self.crop, corners.tolist()
        mean, std, position = (
            torch.stack([values[:, top : top + h, left : left + w] for top, left in at])
            for values in (self.place_mean, self.place_std, self.position)
        )
        logits = self.network(self.inputs(planted, mean, std, position))
        labels = F.adaptive_avg_pool2d(labels[:, None], logits.shape[1:])[:, 0]
        return weighted_loss(logits.float(), labels)

    def loss_of_share(self, x: Tensor, share: Share) -> Tensor:
        """Return the loss of one process's images; batch normalisation sees these alone."""
        draw_apart(share)
        return self.loss_of_crops(x, count_of(share, len(x), self.config.batch_size))

    @torch.no_grad()
    def draw_crops(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut a crop of each image, and plant up to three defects into most of them.

        Images (B, C, H, W) of white 1 -> good crops and planted ones (B, C, h, w), and the crops' corners
        (B, 2).
        """
        B, (h, w), image = len(x), self.crop, (x.shape[2], x.shape[3])
        seen = seen_of(x * self.white) if self.covered else None
        part = cells_of_part(x, self.colour, self.apart, seen)
        centres = draw_centres(part, self.crop, image)
        corners = (centres - torch.tensor([h, w]) / 2).round().long()
        centres = corners + torch.tensor([h, w]) / 2 + uniform(-2, 2, B, 2)
        turn, zoom = uniform(-1, 1, B) * math.radians(1), uniform(0.99, 1.01, B)
        looks = views(centres, self.crop, image, turn, zoom).to(x.device)
        good = planting.sample(x, looks, self.crop)
        gain, offset = uniform(0.97, 1.03, B, 1, 1, 1), uniform(-3, 3, B, 1, 1, 1)
        good = good * gain.to(x.device) + offset.to(x.device) / planting.LEVELS
        planted = good.clone()
        count = torch.randint(1, 4, (B,)) * (torch.rand(B) < 0.85)
        for number in range(3):
            chosen = (count > number).nonzero()[:, 0]
            if len(chosen):
                planted[chosen] = self._plant(x, part, planted[chosen], chosen)
        if seen is not None:
            planted = torch.where(planting.sample(seen.to(x), looks, self.crop) > 0.5, planted, good)
        return good, planted, corners

    def _plant(self, x: Tensor, part: Tensor, windows: Tensor, chosen: Tensor) -> Tensor:
        """Plant one defect into each window, with pieces of other images than those of `chosen`."""
        B, K, image = len(x), len(chosen), (x.shape[2], x.shape[3])
        others = (chosen + torch.randint(1, max(2, B), (K,))) % B
        centres = draw_centres(part[others], self.crop, image)
        turn, zoom = uniform(-math.pi, math.pi, K), uniform(0.7, 1.3, K)
        names = self.config.kind_names
        kinds = [names[i] for i in torch.randint(len(names), (K,)).tolist()]
        other = torch.zeros_like(windows)
        pieces = [i for i, kind in enumerate(kinds) if kind in planting.PIECES]
        if pieces:
            seen = views(centres, self.crop, image, turn, zoom)[pieces].to(x.device)
            other[pieces] = planting.sample(x[others[pieces]], seen, self.crop)
        good, other, background = windows.cpu(), other.cpu(), self.colour.cpu()  # where planting draws
        made = planting.plant(good, other, kinds=kinds, side=min(image), background=background)
        return made.to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H // 2, W // 2), logits, larger is more anomalous."""
        x = x / self.white
        logits = self.network(self.inputs(x, self.place_mean, self.place_std, self.position))
        return blur(logits, self.smooth_rows, self.smooth_cols)

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Before training: white, mean and std of the training images at each place, and background."""
        good = image_statistics(batches)
        self.white.copy_(good.white)
        self.place_mean.copy_(good.mean)
        self.place_std.copy_(good.std)
        self.pixel_mean.copy_(good.mean.mean())
        self.pixel_spread.copy_(good.spread)
        colour, apart = background_of(self.place_mean, self.place_std, self.seen_in(batches))
        self.colour.copy_(colour)
        self.apart.copy_(apart)

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """After training: fold the normalisation into the convolutions."""
        fold_all(self)
