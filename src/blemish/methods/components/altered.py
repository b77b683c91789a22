"""What methods share that learn from good images and from the same images, altered (ours).

Shapes: B images, C channels, H×W pixels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from blemish.methods.components.distributed import Share


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
