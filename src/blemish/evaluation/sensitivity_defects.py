"""Defects of a stated kind, size and contrast, planted into one good image of any format (needs torch).

`data.planting` draws sizes and contrasts by chance, as learning wants it; here they are given. Values are in
units of the good images' own span: 0 is their darkest value (1 %) and 1 their brightest (99 %), so that a
contrast means the same for 8 bits and for 16 bits of which few are used.

Shapes: images (H, W, C) as decoded; windows around a defect (1, C, h, w).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from blemish.data import planting
from blemish.data.part import background_of, cells_of_part, draw_centres, views
from blemish.data.shapes import Places, blob, box, line, uniform
from blemish.images.resize import resize
from blemish.images.roi import shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from blemish.evaluation.sensitivity_plan import Defect

SMALL = 128
"""Side in pixels of the small copies by which the part is told from what surrounds it."""
CHANGED = 6.0
"""A pixel counts as changed by more grey levels than this, of 255 in the good images' span."""
SHARE_CHANGED = 0.25
"""A defect that changes less of its own area cannot be seen: it is planted elsewhere, or left out."""
ATTEMPTS = 8
"""Places that are tried for a defect."""
LEAST_PX = 3.0
"""The smallest defect, in pixels."""
SCRATCH = 0.004
"""The width of a scratch, as a share of the image's shorter side; 1.5 pixels at least."""
BLUR = 0.01
"""The reach of a blur, as a share of the image's shorter side; 2 pixels at least."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What good images have in common: the values that mean 0 and 1, the lowest and highest that there are.

    `colour` (C,) and `apart` tell what surrounds the part (`data.part.background_of`).
    """

    zero: float
    one: float
    lowest: float
    highest: float
    colour: Tensor
    apart: Tensor

    def units(self, pixels: np.ndarray) -> Tensor:
        """Take pixels (h, w, C) to a window (1, C, h, w)."""
        planes = torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1).copy())
        return ((planes - self.zero) / (self.one - self.zero))[None]

    def pixels(self, window: Tensor, dtype: np.dtype) -> np.ndarray:
        """Take a window back to pixels (h, w, C) of a dtype, none outside of what there is."""
        values = window[0].numpy().transpose(1, 2, 0) * (self.one - self.zero) + self.zero
        values = np.clip(values, self.lowest, self.highest)
        return (np.rint(values) if dtype.kind in "ui" else values).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A good image (H, W, C), and which cells of its small copy show the part, bool (h, w).

    `inside` says which of its pixels count, bool (H, W); None: all.
    """

    image: np.ndarray
    part: Tensor
    inside: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Planted:
    """An image with a planted defect: rows and columns of its window, and what was changed there, (h, w)."""

    image: np.ndarray
    window: tuple[slice, slice]
    changed: np.ndarray
    share: float
    """How much of the defect's own area can be seen, in [0, 1]."""


def surface_of(images: Iterable[np.ndarray], lowest: float, highest: float) -> Surface:
    """Learn what some good images (H, W, C) have in common; values lie from `lowest` to `highest`."""
    small = np.stack([_small(image) for image in images])
    zero, one = (float(q) for q in np.quantile(small, [0.01, 0.99]))
    one = one if one > zero else zero + 1.0
    units = (torch.from_numpy(small) - zero) / (one - zero)
    std, mean = torch.std_mean(units, dim=0, correction=0)
    colour, apart = background_of(mean, std)
    return Surface(zero=zero, one=one, lowest=lowest, highest=highest, colour=colour, apart=apart)


def scene_of(image: np.ndarray, surface: Surface, inside: np.ndarray | None = None) -> Scene:
    """Tell where a good image (H, W, C) shows the part, of what counts of it: `inside`, bool (H, W)."""
    units = (torch.from_numpy(_small(image))[None] - surface.zero) / (surface.one - surface.zero)
    seen = None if inside is None else torch.from_numpy(shrink(inside, (SMALL, SMALL)))[None, None]
    return Scene(image=image, part=cells_of_part(units, surface.colour, surface.apart, seen), inside=inside)


def _small(image: np.ndarray) -> np.ndarray:
    return np.asarray(resize(image.transpose(2, 0, 1), (SMALL, SMALL)), np.float32)


def plant_defect(scene: Scene, other: Scene, defect: Defect, surface: Surface, seed: int) -> Planted | None:
    """Plant a defect on the part; a foreign piece comes from another good image.

    None where it would change next to nothing wherever it is tried, such as a blur of what has no detail.
    """
    best: Planted | None = None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(ATTEMPTS):
            tried = _plant_once(scene, other, defect, surface)
            if best is None or tried.share > best.share:
                best = tried
            if best.share >= 2 * SHARE_CHANGED:
                break
    return best if best is not None and best.share >= SHARE_CHANGED else None


def _plant_once(scene: Scene, other: Scene, defect: Defect, surface: Surface) -> Planted:
    image, side = scene.image, min(scene.image.shape[:2])
    size = max(LEAST_PX, defect.size * side)
    row, col = _draw_place(scene)
    rows, cols = _around(row, col, math.ceil(size) + 8, image.shape[:2])
    good = surface.units(image[rows, cols])
    shapes, filling = FILLINGS[defect.kind]
    places = Places(
        centre=torch.tensor([[row - rows.start, col - cols.start]]),
        half=_half(size, shapes),
        angle=uniform(0, math.pi, 1),
        thick=torch.tensor([max(0.75, SCRATCH / 2 * side)]),
    )
    shape = shapes[int(torch.randint(len(shapes), (1,)))]
    mask = shape(places, *good.shape[2:])
    limits = [
        (value - surface.zero) / (surface.one - surface.zero) for value in (surface.lowest, surface.highest)
    ]
    window = planting.Window(
        good=good,
        other=_piece(other, good.shape[2:], surface),
        shape=mask,
        contrast=_signed(good, mask, defect.contrast or 0.0, limits),
        background=surface.colour,
    )
    planted = good + mask * (filling(window, side).clamp(*limits) - good)
    inside = mask[0, 0].numpy() > 0
    if scene.inside is not None:
        inside &= scene.inside[rows, cols]
    out = image.copy()
    out[rows, cols][inside] = surface.pixels(planted, image.dtype)[inside]
    change = (surface.units(out[rows, cols]) - good).abs().mean(dim=1)[0].numpy() * planting.LEVELS
    core = mask[0, 0].numpy() > 0.5
    return Planted(
        image=out,
        window=(rows, cols),
        changed=change > CHANGED,
        share=float((change > CHANGED)[core].mean()) if core.any() else 0.0,
    )


def _around(row: float, col: float, reach: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns that lie less than `reach` pixels from a place, inside an image."""
    centre = int(row), int(col)
    rows, cols = (slice(max(0, at - reach), min(n, at + reach)) for at, n in zip(centre, shape, strict=True))
    return rows, cols


def _draw_place(scene: Scene) -> tuple[float, float]:
    """Draw a place on the part: row and column in pixels."""
    at = draw_centres(scene.part, (1, 1), (SMALL, SMALL))[0] / SMALL
    return float(at[0] * scene.image.shape[0]), float(at[1] * scene.image.shape[1])


def _half(size: float, shapes: Sequence[object]) -> Tensor:
    """Return the half sizes (1, 2) of a place: a line is four of them long, another shape two across."""
    if line in shapes:
        return torch.full((1, 2), size / 4)
    return torch.cat([torch.ones(1, 1), uniform(0.6, 1, 1, 1)], dim=1) * (size / 2)


def _signed(good: Tensor, mask: Tensor, contrast: float, limits: Sequence[float]) -> Tensor:
    """Return how much brighter or, below 0, darker a defect is, (1, 1, 1, 1): by chance, if there is room."""
    sign = 1.0 if torch.rand(1) < 0.5 else -1.0
    mean = float((good * mask).sum() / (mask.sum() * good.shape[1]).clamp(min=1e-6))
    room = limits[1] - mean if sign > 0 else mean - limits[0]
    return torch.full((1, 1, 1, 1), contrast * (sign if room >= contrast else -sign))


def _piece(other: Scene, size: Sequence[int], surface: Surface) -> Tensor:
    """Cut a piece (1, C, *size) out of another good image, turned and up to a third larger or smaller."""
    (height, width), (h, w) = other.image.shape[:2], size
    row, col = _draw_place(other)
    top, left = (
        min(max(0, int(at) - n // 2), max(0, most - n)) for at, n, most in ((row, h, height), (col, w, width))
    )
    piece = surface.units(other.image[top : top + h, left : left + w])
    image = (piece.shape[2], piece.shape[3])
    turn, zoom = uniform(-math.pi, math.pi, 1), uniform(0.7, 1.3, 1)
    centre = torch.tensor([[image[0] / 2, image[1] / 2]])
    return planting.sample(piece, views(centre, (h, w), image, turn, zoom), (h, w))


def contrasting(window: planting.Window, _side: int) -> Tensor:
    """The good surface, brighter or darker by the contrast in all channels."""
    return window.good + window.contrast


def missing(window: planting.Window, _side: int) -> Tensor:
    """Nothing of the part: what surrounds it, or the mean of all."""
    return planting.missing(window)


def foreign(window: planting.Window, _side: int) -> Tensor:
    """A piece of another good image, as it is."""
    return planting.paste(window)


def blurred(window: planting.Window, side: int) -> Tensor:
    """The good surface without its detail finer than `BLUR` of the image's side."""
    reach, found = max(2, round(BLUR * side)), window.good
    for _ in range(2):
        found = F.avg_pool2d(F.pad(found, [reach] * 4, mode="replicate"), 2 * reach + 1, stride=1)
    return found


FILLINGS: dict[str, tuple[tuple[Callable[..., Tensor], ...], Callable[[planting.Window, int], Tensor]]] = {
    "scratch": ((line,), contrasting),
    "spot": ((blob,), contrasting),
    "missing piece": ((blob, box), missing),
    "foreign piece": ((blob, box), foreign),
    "blur": ((blob,), blurred),
}
"""Of each kind: the shapes that it may have, and what stands there in an image of so many pixels a side."""
