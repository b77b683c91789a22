"""Where good images show the part, and looking at a place of it: what is planted is planted there.

Shapes: B or K images of C channels and H×W pixels. All draws come from torch's CPU generator.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CELL = 8
"""Side in pixels of the cells that are said to show the part or what surrounds it."""


def background_of(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Find what surrounds the part by the border of good images: plain, if it hardly varies.

    Args:
        mean, std: of the training images at each place, (C, H, W).

    Returns:
        its colour (C,), and how far from it a pixel of the part lies, in the images' unit. Where nothing
        plain surrounds the part this is -1, which all pixels exceed, and the colour is the mean of all.
    """
    border = torch.ones(mean.shape[1:], dtype=torch.bool, device=mean.device)
    border[2:-2, 2:-2] = False
    colour = mean[:, border].median(dim=1).values
    uneven = (mean[:, border] - colour[:, None]).abs().mean(dim=0).quantile(0.9)
    if uneven < 0.04 and std[:, border].mean(dim=0).quantile(0.9) < 0.06:
        return colour, colour.new_tensor(0.08)
    return mean.flatten(1).mean(dim=1), colour.new_tensor(-1.0)


def cells_of_part(x: Tensor, colour: Tensor, apart: Tensor) -> Tensor:
    """Tell which cells of `CELL`×`CELL` pixels show the part: images (B, C, H, W) -> bool (B, H', W').

    All of them where none does. `colour` and `apart` are those of `background_of`.
    """
    small = F.avg_pool2d(x, min(CELL, *x.shape[2:]))
    part = (small - colour[:, None, None]).abs().mean(dim=1) > apart
    return part | ~part.flatten(1).any(dim=1)[:, None, None]


def draw_centres(part: Tensor, size: tuple[int, int], image: tuple[int, int]) -> Tensor:
    """Draw the centre of a crop in each image, on the part: rows and columns in pixels, (B, 2).

    `part` are the cells of `cells_of_part`; crops of `size` lie whole inside images of size `image`.
    """
    chosen = torch.multinomial(part.flatten(1).float().cpu(), 1)[:, 0]
    cols = part.shape[2]
    at = torch.stack([chosen // cols, chosen % cols], dim=1) + torch.rand(len(part), 2)
    at = at * min(CELL, *image)
    half = torch.tensor(size) / 2
    return torch.minimum(torch.maximum(at, half), torch.tensor(image) - half)


def views(
    centres: Tensor, size: tuple[int, int], image: tuple[int, int], turn: Tensor, zoom: Tensor
) -> Tensor:
    """Return the transform (K, 2, 3) of `planting.sample` that shows a crop around each centre.

    Args:
        centres: (K, 2), rows and columns in pixels.
        size, image: heights and widths of crop and image in pixels.
        turn: (K,), radians.
        zoom: (K,): above 1, the crop shows more than its size.
    """
    (h, w), (H, W) = size, image
    cos, sin = turn.cos() * zoom, turn.sin() * zoom
    x = torch.stack([cos * w / W, -sin * h / W, 2 * centres[:, 1] / W - 1], dim=1)
    y = torch.stack([sin * w / H, cos * h / H, 2 * centres[:, 0] / H - 1], dim=1)
    return torch.stack([x, y], dim=1)
