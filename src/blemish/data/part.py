"""Where good images show the part, and looking at a place of it: what is planted is planted there.

Shapes: B or K images of C channels and H×W pixels. All draws come from torch's CPU generator.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CELL = 8
"""Side in pixels of the cells that are said to show the part or what surrounds it."""
COVER = (0.4979, 0.5001)
"""What covers the outside of a region of interest (`images.roi`), in images in [0, 1]: the middle of the
values, rounded down to a whole one of 8 bits or more."""
PLAIN = 5
"""Side in pixels of the smallest square of that colour that is taken for a cover. Our choice: a pixel of that
grey is in many pictures."""
MOST_COVERED = 0.75
"""Where more of the images' border is covered than this, it does not tell what surrounds the part."""


def seen_of(x: Tensor) -> Tensor:
    """Tell which pixels are not covered: images (B, C, H, W) in [0, 1] -> bool (B, 1, H, W).

    Asked where images have regions of interest. What is covered belongs to each image, however it was
    moved or resized, so it is told by its colour: all squares of `PLAIN` pixels that have the cover's.
    """
    plain = ((x > COVER[0]) & (x < COVER[1])).all(dim=1, keepdim=True).float()
    squares = -F.max_pool2d(-plain, PLAIN, 1, PLAIN // 2)
    return F.max_pool2d(squares, PLAIN, 1, PLAIN // 2) == 0


def background_of(mean: Tensor, std: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find what surrounds the part by the border of good images: plain, if it hardly varies.

    Args:
        mean, std: of the training images at each place, (C, H, W).
        seen: which places are not covered in all of them, bool (H, W); None: all.

    Returns:
        its colour (C,), and how far from it a pixel of the part lies, in the images' unit. Where nothing
        plain surrounds the part this is -1, which all pixels exceed, and the colour is the mean of all.
    """
    border = torch.ones(mean.shape[1:], dtype=torch.bool, device=mean.device)
    border[2:-2, 2:-2] = False
    if seen is not None:
        whole = border.sum()
        border &= seen
        if border.sum() < (1 - MOST_COVERED) * whole:
            return mean[:, seen].mean(dim=1), mean.new_tensor(-1.0)
    colour = mean[:, border].median(dim=1).values
    uneven = (mean[:, border] - colour[:, None]).abs().mean(dim=0).quantile(0.9)
    if uneven < 0.04 and std[:, border].mean(dim=0).quantile(0.9) < 0.06:
        return colour, colour.new_tensor(0.08)
    return mean.flatten(1).mean(dim=1), colour.new_tensor(-1.0)


def cells_of_part(x: Tensor, colour: Tensor, apart: Tensor, seen: Tensor | None = None) -> Tensor:
    """Tell which cells of `CELL`×`CELL` pixels show the part: images (B, C, H, W) -> bool (B, H', W').

    All of them where none does. Where `seen` is given, bool (B, 1, H, W), only cells with such pixels are
    meant. `colour` and `apart` are those of `background_of`.
    """
    small = F.avg_pool2d(x, min(CELL, *x.shape[2:]))
    part = (small - colour[:, None, None]).abs().mean(dim=1) > apart
    if seen is not None:
        share = F.avg_pool2d(seen.float(), min(CELL, *x.shape[2:]))[:, 0]
        counts = share >= share.flatten(1).max(dim=1).values[:, None, None].clamp(max=0.5)
        part = part & counts
        return torch.where(part.flatten(1).any(dim=1)[:, None, None], part, counts)
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
