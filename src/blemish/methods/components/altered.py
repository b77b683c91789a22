"""What methods share that learn from good images and from the same images, altered (ours).

Shapes: B images, C channels, H×W pixels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from blemish.methods.components.statistics import mean_and_variance, white_point

if TYPE_CHECKING:
    from torch import Tensor

    from blemish.methods.base import Batches
    from blemish.methods.components.distributed import Share


class GoodImages(NamedTuple):
    """What is taken of the training images before the first step; all but `white` in units of white."""

    white: Tensor
    """Their mean white point, a number. Grey levels are told of it, so that they mean the same in images that
    fill a part of their range."""
    mean: Tensor
    """(C, H, W), float64."""
    std: Tensor
    """(C, H, W), float64."""
    spread: Tensor
    """The std of all their pixels together, a number."""


def look_at(batches: Batches) -> GoodImages:
    """Take white, mean and std of the training images: batches (B, C, H, W) in [0, 1]."""
    white = torch.cat([white_point(x) for x in batches()]).mean().clamp(min=1e-3)
    mean, variance = mean_and_variance(x / white for x in batches())
    spread = (variance.mean() + mean.var(correction=0)).sqrt().clamp(min=1e-3)
    return GoodImages(white, mean, variance.sqrt(), spread)


def filled(x: Tensor, count: int) -> Tensor:
    """Repeat images (B, ...) until there are `count`, and two at least: each is altered in another way."""
    wanted = max(2, count)
    return x if len(x) >= wanted else x[torch.arange(wanted) % len(x)]


def draw_apart(share: Share) -> None:
    """Have this process go on from a seed of its own: all have the same, and would alter images alike."""
    torch.manual_seed(int(torch.randint(2**31, ())) + share.first)


def count_of(share: Share, images: int, batch_size: int) -> int:
    """Return how many images one process fills its `images` up to, of a batch of `batch_size`."""
    return math.ceil(batch_size * images / share.total)
