"""Natural synthetic anomalies: pieces of other good images, blended into a good one (Schlüter et al. 2022).

A piece is a rectangle of another image of the batch. It is resized, put elsewhere, and Poisson's equation is
solved there, so that its border is the image's own: no edge gives it away. One piece always, each further one
with probability 1/2.

    (1)  s = clip(0.03 + G, 0.03, 0.4), G ~ Gamma(2, 0.05): half of a piece's side, as a share of the image's
    (2)  r = clip(N(1, 0.5), low, high): how much it is resized, 0.7 to 1.3, or 0.5 to 2 for textures

What is an object and what a texture, the source says by hand for each category. Here an object is what lies
on a plain background (`data.part.background_of`), all else is a texture. Its pieces are to show the part by a
share, 0.25 to 0.7 by category there; here it is drawn.

Shapes: B images of C channels and H×W pixels. All draws come from torch's CPU generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from blemish.data.part import cells_of_part
from blemish.data.poisson import solve_poisson, solve_poisson_mixed
from blemish.data.shapes import uniform

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST, SCALE, MOST = 0.03, 0.05, 0.4
"""Least half side of a piece, scale of the Gamma(2) added to it, most; shares of the image's side."""
ON_PART = (0.25, 0.7)
"""An object's piece must show the part by a share that is drawn from here."""
OVERLAP = 0.25
"""And what it shows of the part must lie on the part by this share, where it is put."""
TRIES = 200
"""Places that are tried before a piece is given up."""


@dataclass(frozen=True, kw_only=True)
class Habit:
    """How pieces are put: how many at most, the bounds of r, and how they are blended."""

    pieces: int
    zoom: tuple[float, float]
    solve: Callable[[Tensor, Tensor], Tensor]


OBJECT = Habit(pieces=3, zoom=(0.7, 1.3), solve=solve_poisson)
TEXTURE = Habit(pieces=4, zoom=(0.5, 2.0), solve=solve_poisson_mixed)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of an image (C, h, w), resized, and where it shows the part, bool (h, w)."""

    pixels: Tensor
    part: Tensor


# --- sizes ----------------------------------------------------------------------------------------------


def half_side(u: Tensor) -> Tensor:
    """Return s, Eq. (1), as a share of the image's side.

    Args:
        u: (..., 2), two draws each from (0, 1): -log(u₁ u₂) is Gamma(2, 1).

    Returns:
        (...), in [0.03, 0.4].
    """
    return (LEAST - SCALE * u.log().sum(dim=-1)).clamp(LEAST, MOST)


def zoom_of(normal: Tensor, low: float, high: float) -> Tensor:
    """Return r, Eq. (2): `normal` are draws of N(0, 1), of any shape."""
    return (1 + 0.5 * normal).clamp(low, high)


def pasted_size(size: tuple[int, int], zoom: float, image: tuple[int, int]) -> tuple[int, int]:
    """Return height and width in pixels of a piece that is resized.

    Its shape stays, and both sides stay within 0.03 and 0.4 of the image's, as far as both can be had; three
    pixels at least.
    """
    zoom = min(zoom, *(MOST * n / side for side, n in zip(size, image, strict=True)))
    height, width = (
        max(3, round(LEAST * n), round(zoom * side)) for side, n in zip(size, image, strict=True)
    )
    return height, width


# --- one piece ------------------------------------------------------------------------------------------


def draw_piece(other: Tensor, part: Tensor, habit: Habit) -> Piece | None:
    """Cut a piece out of an image (C, H, W) that shows the part at `part` (H, W), and resize it.

    Returns None where too little of the part was found.
    """
    image = (other.shape[1], other.shape[2])
    shares = half_side(torch.rand(2, 2).clamp(min=1e-7)).tolist()
    halves = [max(1, int(share * n)) for share, n in zip(shares, image, strict=True)]
    least, zoom = float(uniform(*ON_PART, 1)), float(zoom_of(torch.randn(1), *habit.zoom))
    for _ in range(TRIES):
        box = _box_around([int(torch.randint(_edge(n), n - _edge(n), ())) for n in image], halves, image)
        if float(part[box].float().mean()) >= least:
            size = pasted_size((box[0].stop - box[0].start, box[1].stop - box[1].start), zoom, image)
            both = torch.cat([other[:, *box], part[box][None].to(other.dtype)])[None]
            both = F.interpolate(both, size, mode="bilinear", align_corners=False)[0]
            return Piece(pixels=both[:-1], part=both[-1] > 0.5)
    return None


def _edge(n: int) -> int:
    """Return how near to the border of n pixels the middle of a piece may lie."""
    return round(LEAST * n)


def _box_around(centre: list[int], halves: list[int], image: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns around a centre, cut off at the image's border."""
    rows, cols = (
        slice(max(0, c - half), min(n, c + half)) for c, half, n in zip(centre, halves, image, strict=True)
    )
    return rows, cols


def draw_place(piece: Piece, part: Tensor) -> tuple[slice, slice] | None:
    """Find rows and columns of an image for a piece, where enough of it meets the part, `part` (H, W).

    Returns None where no such place was found.
    """
    (h, w), (H, W) = piece.part.shape, part.shape
    for _ in range(TRIES):
        top, left = int(torch.randint(H - h + 1, ())), int(torch.randint(W - w + 1, ()))
        box = slice(top, top + h), slice(left, left + w)
        both = (part[box] & piece.part).sum()
        if both > 0 and both >= OVERLAP * piece.part.sum():
            return box
    return None


# --- images ---------------------------------------------------------------------------------------------


def part_pixels(x: Tensor, colour: Tensor, apart: Tensor, seen: Tensor | None = None) -> Tensor:
    """Tell which pixels show the part, by cells: images (B, C, H, W) -> bool (B, H, W).

    `colour` and `apart` are those of `background_of`, `seen` that of `cells_of_part`.
    """
    cells = cells_of_part(x, colour, apart, seen)
    return F.interpolate(cells[:, None].float(), x.shape[2:])[:, 0] > 0.5


def alter(
    good: Tensor, other: Tensor, part: Tensor, other_part: Tensor, habit: Habit
) -> tuple[Tensor, Tensor]:
    """Blend pieces of another image into a good one.

    Args:
        good: (C, H, W).
        other: (C, H, W), where the pieces come from.
        part, other_part: where the two show the part, bool (H, W).
        habit: `OBJECT` or `TEXTURE`.

    Returns:
        (C, H, W), within the range of [0, 1] and the good image; and where the part was or is now in what was
        put there, bool (H, W).
    """
    altered, touched = good.clone(), torch.zeros_like(part)
    for number in range(habit.pieces):
        if number and torch.rand(()) < 0.5:
            continue
        piece = draw_piece(other, other_part, habit)
        place = None if piece is None else draw_place(piece, part)
        if piece is None or place is None:
            continue
        altered[:, *place] = habit.solve(altered[:, *place], piece.pixels)
        touched[place] |= part[place] | piece.part
    return altered.clamp(min(0.0, float(good.min())), max(1.0, float(good.max()))), touched


def alter_each(x: Tensor, part: Tensor, habit: Habit) -> tuple[Tensor, Tensor]:
    """Blend into each image of a batch pieces of another one: `alter` of (B, C, H, W) and bool (B, H, W)."""
    B = len(x)
    others = (torch.arange(B) + torch.randint(1, max(2, B), (B,))) % B
    pairs = [alter(x[i], x[j], part[i], part[j], habit) for i, j in enumerate(others.tolist())]
    altered, touched = zip(*pairs, strict=True)
    return torch.stack(altered), torch.stack(touched)
