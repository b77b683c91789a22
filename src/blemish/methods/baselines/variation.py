"""Variation model: a pixel that lies further from its mean than it usually varies is anomalous.

Source: C. Steger, M. Ulrich, C. Wiedemann, "Machine Vision Algorithms and Applications", 2nd ed., Wiley-VCH
2018; the rule is HALCON's `prepare_variation_model`. The baseline of the MVTec AD paper (P. Bergmann et al.,
"MVTec AD", CVPR 2019, Sec. 4.1.5).

Symbols: c an image, i and v mean and standard deviation of good images at each pixel, a and b the absolute
and the relative threshold. A pixel is rejected when |c - i| > max(a, b v), which is
|c - i| / max(v, a/b) > b: the left side is the map, a/b the option `floor`.

Differs from the source: objects are not aligned first, so an object that moves has a large v and hides
its blemishes; images are resized; all training images are used instead of 30. RGB becomes grey, as there;
of other channels the one that deviates most counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, Method
from blemish.methods.components.functional import grey
from blemish.methods.components.statistics import mean_and_variance
from blemish.methods.config import DetectorConfig


@dataclass(frozen=True, kw_only=True)
class VariationConfig(DetectorConfig):
    """The options of the variation model."""

    image_score: Literal["max", "mean", "top1", "top5"] = "max"
    """The image score: `max` rejects an image when one pixel is rejected; or the map's mean, or its top."""
    floor: float = 5 / 255
    """a/b: least standard deviation of a pixel, as a share of the full range; HALCON's defaults say 5/255."""

    def __post_init__(self) -> None:
        """Refuse a floor that divides by zero. Raises UsageError."""
        super().__post_init__()
        if not 0 < self.floor < math.inf:
            raise UsageError(f"--floor {self.floor}: must be a finite number above 0")


def deviation(c: Tensor, i: Tensor, v: Tensor, floor: float) -> Tensor:
    """|c - i| / max(v, a/b): how many of its usual variations a pixel lies off its mean.

    Args:
        c: images (B, C, H, W) in [0, 1].
        i, v: mean and standard deviation of good images (C, H, W).
        floor: a/b, above 0, in units of the values.

    Returns:
        (B, C, H, W) ≥ 0, unbounded.
    """
    return (c - i).abs() / v.clamp(min=floor)


class Variation(Method[VariationConfig]):
    """The variation model. `forward` maps images to deviations."""

    config_type = VariationConfig
    presets: ClassVar[dict[str, VariationConfig]] = {"default": VariationConfig()}

    mean: Tensor
    spread: Tensor

    def __init__(self, config: VariationConfig, channels: int) -> None:
        super().__init__(config, channels)
        shape = (1 if channels == 3 else channels, *config.size)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Take mean and standard deviation of each pixel from the training images (batches (B, C, H, W))."""
        mean, variance = mean_and_variance(grey(x) for x in batches())
        self.mean.copy_(mean)
        self.spread.copy_(variance.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W) ≥ 0: the deviation, largest over channels."""
        return deviation(grey(x), self.mean, self.spread, self.config.floor).amax(dim=1)
