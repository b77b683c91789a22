"""Made defects of CutPaste: a piece of a good crop, jittered, pasted elsewhere into the same crop.

Source: C.-L. Li, K. Sohn, J. Yoon, T. Pfister, "CutPaste" (2021), Sec. 2.1, 2.2 and A.2; see `cutpaste.py`.

Shapes: B crops, C channels, H×W pixels. Places and sizes are (rows, columns) in pixels; a crop spans 0 to H
and 0 to W, and the centre of its first pixel lies at (0.5, 0.5). All draws come from torch's CPU generator.

Of images with a region of interest (ours), crops lie on what counts, and pieces are taken from it and put on
it: the cover would give them away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blemish.data.part import cells_of_part, draw_centres, seen_of
from blemish.data.shapes import uniform

if TYPE_CHECKING:
    from collections.abc import Callable

AREA = (0.02, 0.15)
"""Of a CutPaste rectangle: share of the crop's area (A.2)."""
ASPECT = (0.3, 3.3)
"""Of a CutPaste rectangle: width over height, drawn below 1 or above 1 with equal chance (A.2)."""
SCAR_WIDTH, SCAR_LENGTH = (2, 16), (10, 25)
"""Of a scar, in pixels of a crop of 64×64 (A.2)."""
SCAR_ANGLE = 45
"""A scar is turned by at most this, in degrees, either way (A.2)."""
JITTER = 0.1
"""Greatest intensity of the colour jitter (A.2)."""
TRIES = 8
"""Pieces that are drawn of a crop of which a part does not count: the one that counts most is kept (ours)."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Rectangles that are cut and pasted, one for each crop: whole pixels, so that a cut is a copy."""

    size: Tensor
    """(B, 2): height and width before turning."""
    source: Tensor
    """(B, 2): the centre of where it is cut out, upright."""
    target: Tensor
    """(B, 2): the centre of where it is pasted."""
    angle: Tensor
    """(B,): by which it is turned, in radians."""

    def to(self, device: torch.device) -> Pieces:
        """Return the same on a device."""
        return Pieces(**{name: value.to(device) for name, value in vars(self).items()})


def draw_rectangles(n: int, H: int, W: int) -> Pieces:
    """Draw the n rectangles of CutPaste for crops of H×W: `AREA`, `ASPECT`, anywhere inside, upright."""
    area = uniform(*AREA, n) * H * W
    aspect = torch.where(torch.rand(n) < 0.5, uniform(ASPECT[0], 1, n), uniform(1, ASPECT[1], n))
    size = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], dim=1).round()
    return _placed(size, torch.zeros(n), H, W)


def draw_scars(n: int, H: int, W: int) -> Pieces:
    """Draw the n scars of CutPaste-Scar for crops of H×W: long, thin, turned, anywhere inside."""
    scale = min(H, W) / 64
    length, width = uniform(*SCAR_LENGTH, n), uniform(*SCAR_WIDTH, n)
    size = (scale * torch.stack([length, width], dim=1)).round()
    return _placed(size, uniform(-1, 1, n) * math.radians(SCAR_ANGLE), H, W)


def _placed(size: Tensor, angle: Tensor, H: int, W: int) -> Pieces:
    """Place rectangles (n, 2), turned by angles (n,), at random, whole inside the crop."""
    room = torch.tensor([H, W])
    size = torch.minimum(size.clamp(min=1), room)
    cos, sin = angle.cos().abs()[:, None], angle.sin().abs()[:, None]
    spans = torch.minimum(size * cos + size.flip(1) * sin, room)  # of the turned rectangle
    corner = (torch.rand(len(size), 2) * (room - size + 1)).floor()
    pasted = torch.rand(len(size), 2) * (room - spans + 1)
    # only an upright rectangle has to lie on the pixels' grid
    pasted = torch.where(angle[:, None] == 0, pasted.floor(), torch.minimum(pasted, room - spans))
    return Pieces(size=size, source=corner + size / 2, target=pasted + spans / 2, angle=angle)


def cut(x: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """Move and turn each crop so that its piece lies where it is to be pasted.

    The value at p is that at source + R(-angle)(p - target), from the nearest pixel: interpolation would blur
    the piece, and the blur alone would give it away (ours).

    Args:
        x: crops (B, C, H, W).
        pieces: a rectangle for each.

    Returns:
        the moved crops (B, C, H, W), of use where `inside`; and `inside` (B, 1, H, W), true in the piece.
    """
    B, C, H, W = x.shape
    rows = torch.arange(H, device=x.device)[:, None] + 0.5 - pieces.target[:, :1, None]  # (B, H, 1)
    cols = torch.arange(W, device=x.device)[None, :] + 0.5 - pieces.target[:, 1:, None]  # (B, 1, W)
    cos, sin = pieces.angle.cos()[:, None, None], pieces.angle.sin()[:, None, None]
    down, right = cos * rows - sin * cols, sin * rows + cos * cols  # (B, H, W), from the piece's centre
    half = pieces.size[:, :, None, None] / 2
    inside = (down.abs() < half[:, 0]) & (right.abs() < half[:, 1])
    row = (down + pieces.source[:, :1, None]).floor().long().clamp(0, H - 1)
    col = (right + pieces.source[:, 1:, None]).floor().long().clamp(0, W - 1)
    places = (row * W + col).view(B, 1, H * W).expand(B, C, -1)
    return x.flatten(2).gather(2, places).view_as(x), inside[:, None]


def jitter(x: Tensor, amounts: Tensor, where: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order (A.2).

    x (1 + a₁); then m + (x - m)(1 + a₂), m the mean of the piece; then g + (x - g)(1 + a₃), g the mean of the
    channels; then, of three channels, a turn by 2π a₄ about the axis of greys.

    Args:
        x: (B, C, H, W) in [0, 1].
        amounts: a, (B, 4), each in [-1, 1].
        where: (B, 1, H, W), true in the piece whose mean is m.

    Returns:
        (B, C, H, W) in [0, 1].
    """
    a = amounts[:, :, None, None, None]  # a[:, i]: (B, 1, 1, 1)
    x = x * (1 + a[:, 0])
    m = (x * where).mean(dim=(1, 2, 3), keepdim=True) / where.float().mean(dim=(1, 2, 3), keepdim=True)
    x = m + (x - m) * (1 + a[:, 1])
    g = x.mean(dim=1, keepdim=True)
    x = g + (x - g) * (1 + a[:, 2])
    if x.shape[1] == 3:
        turn = 2 * math.pi * a[:, 3]
        across = (x.roll(1, dims=1) - x.roll(-1, dims=1)) / math.sqrt(3)  # (1, 1, 1)/√3 × x
        x = g + (x - g) * turn.cos() + across * turn.sin()
    return x.clamp(0, 1)


def draw_jitter(n: int) -> Tensor:
    """Draw the amounts of n jitters, (n, 4), each within ± `JITTER`."""
    return uniform(-JITTER, JITTER, n, 4)


def paste(x: Tensor, pieces: Pieces, amounts: Tensor, seen: Tensor | None = None) -> Tensor:
    """CP(x): cut a piece, jitter it, paste it. Crops (B, C, H, W), amounts (B, 4) -> the same shape.

    Where `seen` is given, bool (B, 1, H, W), what it excludes is neither cut nor pasted over.
    """
    moved, inside = cut(x, pieces)
    if seen is not None:
        inside = _that_counts(seen, pieces)
    return torch.where(inside, jitter(moved, amounts, inside), x)


def _that_counts(seen: Tensor, pieces: Pieces) -> Tensor:
    """Tell where a piece comes from what counts and lies on it: bool (B, 1, H, W) -> the same shape."""
    moved, inside = cut(seen, pieces)
    return moved & inside & seen


def draw_inside(draw: Callable[[int, int, int], Pieces], seen: Tensor) -> Pieces:
    """Draw pieces by `draw`, one for each crop, of `TRIES` the one of which the largest share counts.

    Where of none anything counts, as in a small region, the piece is moved onto what does: each crop gets a
    paste. `seen`, bool (B, 1, H, W), says what counts.
    """
    B, _, H, W = seen.shape
    drawn = draw(TRIES * B, H, W).to(seen.device)
    tried = seen.repeat(TRIES, 1, 1, 1)
    counts, whole = _that_counts(tried, drawn), cut(tried, drawn)[1]
    share = counts.flatten(1).sum(dim=1) / whole.flatten(1).sum(dim=1).clamp(min=1)
    best, tries = share.view(TRIES, B).max(dim=0)
    chosen = tries * B + torch.arange(B, device=seen.device)
    pieces = Pieces(**{name: value[chosen] for name, value in vars(drawn).items()})
    return _moved_onto(seen, pieces, best == 0) if (best == 0).any() else pieces


def _moved_onto(seen: Tensor, pieces: Pieces, which: Tensor) -> Pieces:
    """Move pieces of the crops `which`, bool (B,): a pixel that counts is cut out, and lies on another one.

    Of a crop of which only one pixel counts it is that one, which the jitter changes. A piece may reach
    beyond its crop then, where nothing of it is pasted.
    """
    W, size = seen.shape[3], pieces.size[which]
    counts = seen[which].flatten(1).float().cpu().clamp(min=1e-30)  # in a crop without any: anywhere
    target = torch.multinomial(counts, 1)
    source = torch.multinomial(counts.scatter(1, target, 1e-6), 1)
    middle = 0.5 + (size + 1) % 2 / 2  # of a piece whose sides are whole pixels, even or odd
    moved = {
        name: getattr(pieces, name).index_put(
            (which,), torch.cat([at // W, at % W], dim=1).to(size.device) + middle
        )
        for name, at in (("source", source), ("target", target))
    }
    return replace(pieces, **moved)


def three_ways(x: Tensor, seen: Tensor | None = None) -> Tensor:
    """Crops (B, C, H, W) -> (3·B, C, H, W): as they are, with CutPaste, with CutPaste-Scar (Sec. 2.2).

    `seen` says what counts, as in `paste`; None: all.
    """
    B, _, H, W = x.shape
    made = []
    for draw in (draw_rectangles, draw_scars):
        pieces = draw(B, H, W).to(x.device) if seen is None else draw_inside(draw, seen)
        made.append(paste(x, pieces, draw_jitter(B).to(x.device), seen))
    return torch.cat([x, *made])


def random_crops(x: Tensor, side: int) -> Tensor:
    """c(x), Eq. (3): a square of each image at a random place. (B, C, H, W) -> (B, C, side, side)."""
    room = torch.tensor(x.shape[2:]) - side + 1
    corners = (torch.rand(len(x), 2) * room).long().tolist()
    return _crops_at(x, corners, side)


def crops_that_count(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """c(x) of images of which a part is covered: squares around a place that counts, anywhere on it.

    Images (B, C, H, W) in [0, 1] -> (B, C, side, side), and what counts of them, bool (B, 1, side, side).
    """
    seen = seen_of(x)
    cells = cells_of_part(x, x.new_zeros(x.shape[1]), x.new_tensor(-1.0), seen)  # all that are seen
    centres = draw_centres(cells, (side, side), (x.shape[2], x.shape[3]))
    corners = (centres - side / 2).long().tolist()
    return _crops_at(x, corners, side), _crops_at(seen, corners, side)


def _crops_at(x: Tensor, corners: list[list[int]], side: int) -> Tensor:
    return torch.stack([i[:, y : y + side, z : z + side] for i, (y, z) in zip(x, corners, strict=True)])
