"""Where planted defects lie, and what shape they have: the masks that `data.planting` fills.

Shapes: K places in windows of h×w pixels; masks (K, 1, h, w) in [0, 1], 1 inside. All draws come from torch's
CPU generator. All numbers but those of sizes (NSA's) are our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = (0.02, 0.05, 0.5)
"""Least width of a place, scale of the Gamma(2) added to half of it, most width; shares of the side."""
ASPECT = 3.0
"""A place is at most this much longer than wide."""


def uniform(low: float, high: float, *shape: int) -> Tensor:
    """Draw from [low, high): a tensor of that shape."""
    return low + (high - low) * torch.rand(*shape)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where K defects lie: centres (K, 2) as rows and columns in pixels, half sizes (K, 2), angles (K,).

    `thick` (K,) is half of the width of lines in pixels; None: drawn, from a half to two.
    """

    centre: Tensor
    half: Tensor
    angle: Tensor
    thick: Tensor | None = None

    def frame(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return each pixel's coordinates in the frame of each place, 1 at its half size: (K, h, w) twice."""
        rows = torch.arange(height)[:, None] - self.centre[:, 0, None, None]
        cols = torch.arange(width)[None, :] - self.centre[:, 1, None, None]
        cos, sin = self.angle.cos()[:, None, None], self.angle.sin()[:, None, None]
        down, right = cos * rows - sin * cols, sin * rows + cos * cols
        return down / self.half[:, 0, None, None], right / self.half[:, 1, None, None]


def draw_places(count: int, height: int, width: int, side: float) -> Places:
    """Draw places with their centres inside a window; `side` is that of the whole image, in pixels."""
    least, scale, most = SIZE
    gamma = -(torch.rand(count, 2).clamp(min=1e-7).log().sum(dim=1)) * scale  # Gamma(2, scale)
    size = (least / 2 + gamma).clamp(max=most / 2) * side
    stretch = (uniform(-1, 1, count) * math.log(ASPECT) / 2).exp()
    half = torch.stack([size * stretch, size / stretch], dim=1).clamp(min=1.0)
    centre = torch.rand(count, 2) * torch.tensor([height - 1.0, width - 1.0])
    return Places(centre=centre, half=half, angle=uniform(0, math.pi, count))


def blob(places: Places, height: int, width: int) -> Tensor:
    """Draw closed shapes, from near circles to ragged stars: (K, 1, h, w), edges one or two pixels soft."""
    down, right = places.frame(height, width)
    theta, radius = torch.atan2(down, right), (down.square() + right.square()).sqrt()
    K = len(places.angle)
    edge = torch.ones(())
    for waves in (2, 3, 5, 8):
        height_of_wave = uniform(0, 0.6 / waves**0.8, K)[:, None, None]
        edge = edge + height_of_wave * (waves * theta + uniform(0, 2 * math.pi, K)[:, None, None]).cos()
    pixel = 1 / places.half.mean(dim=1)[:, None, None]
    softness = pixel * uniform(0.7, 2, K)[:, None, None]
    return ((edge.clamp(min=0.2) - radius) / softness + 0.5).clamp(0, 1)[:, None]


def box(places: Places, height: int, width: int) -> Tensor:
    """Draw rectangles: (K, 1, h, w), edges one pixel soft."""
    down, right = places.frame(height, width)
    inside = torch.maximum(
        (down.abs() - 1) * places.half[:, 0, None, None], (right.abs() - 1) * places.half[:, 1, None, None]
    )
    return (0.5 - inside).clamp(0, 1)[:, None]


def cloud(places: Places, height: int, width: int) -> Tensor:
    """Draw shapes without an edge, strongest in the middle: (K, 1, h, w)."""
    down, right = places.frame(height, width)
    return (1 - (down.square() + right.square()) / 2).clamp(min=0).square()[:, None]


def line(places: Places, height: int, width: int) -> Tensor:
    """Draw thin lines that wander: (K, 1, h, w), one to four pixels wide unless the places say how wide."""
    K, points = len(places.angle), 12
    turns = places.angle[:, None] + (0.35 * torch.randn(K, points)).cumsum(dim=1)
    length = (4 * places.half.amax(dim=1, keepdim=True)).clamp(min=6)
    steps = torch.stack([turns.sin(), turns.cos()], dim=2) * (length / points)[:, :, None]
    path = steps.cumsum(dim=1)
    path = path - path.mean(dim=1, keepdim=True) + places.centre[:, None]  # (K, points, 2)
    thick = (uniform(0.5, 2, K) if places.thick is None else places.thick)[:, None, None]
    rows, cols = torch.arange(height)[:, None], torch.arange(width)[None, :]
    nearest = torch.full((K, height, width), 1e9)
    for start, end in zip(path[:, :-1].unbind(1), path[:, 1:].unbind(1), strict=True):
        nearest = torch.minimum(nearest, _distance_to_segment(rows, cols, start, end))
    return (thick - nearest + 0.5).clamp(0, 1)[:, None]


def _distance_to_segment(rows: Tensor, cols: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distance of each pixel to a segment each: (K, h, w), pixels."""
    along = end - start  # (K, 2)
    down, right = rows - start[:, 0, None, None], cols - start[:, 1, None, None]
    length = along.square().sum(dim=1)[:, None, None].clamp(min=1e-6)
    share = (down * along[:, 0, None, None] + right * along[:, 1, None, None]) / length
    share = share.clamp(0, 1)
    down, right = down - share * along[:, 0, None, None], right - share * along[:, 1, None, None]
    return (down.square() + right.square()).sqrt()


def dots(places: Places, height: int, width: int) -> Tensor:
    """Draw a few specks near each place: (K, 1, h, w), one to three pixels wide."""
    K = len(places.angle)
    found = torch.zeros(K, height, width)
    rows, cols = torch.arange(height)[:, None], torch.arange(width)[None, :]
    for number in range(4):
        at = places.centre + places.half.amax(dim=1, keepdim=True) * torch.randn(K, 2) * (number > 0)
        radius = uniform(0.6, 1.8, K)[:, None, None] * (torch.rand(K, 1, 1) < (1.0 if number == 0 else 0.5))
        off = ((rows - at[:, 0, None, None]).square() + (cols - at[:, 1, None, None]).square()).sqrt()
        found = torch.maximum(found, (radius - off + 0.5).clamp(0, 1) * (radius > 0))
    return found[:, None]
