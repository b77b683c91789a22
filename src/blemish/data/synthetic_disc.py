"""The part that the demonstration's images show: a turned steel disc on a rubber mat, good or flawed.

Lengths are in a frame of 256 x 256 units that is scaled to the image size; grey values are in [0, 1]. The
look is our choice: varied enough that a good image must be learnt, regular enough for a small model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

RIM, _HUB, RING = 104.0, 27.0, 47.0  # radii of the disc, its centre hole and its engraved ring
BOLT, _BOLT_AT = 9.0, 70.0  # radius of a bolt hole, and where it sits
_LIGHT = (-0.6, -0.8)  # towards the lamp, upper left


@dataclass(frozen=True, kw_only=True)
class View:
    """One image's coordinates in the part's own frame; `px` is the side of a pixel in units.

    `bolt` is the number of the nearest bolt hole, `bolt_r` the distance from its centre and `bolt_lit`
    how much the slope of its edge faces the lamp; `lit` is the same for a slope that falls outwards.
    """

    u: np.ndarray
    v: np.ndarray
    r: np.ndarray
    theta: np.ndarray
    lit: np.ndarray
    bolt: np.ndarray
    bolt_r: np.ndarray
    bolt_lit: np.ndarray
    px: float


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """What is missing from a part: a hole not drilled, an edge chipped off, or a worn piece of ring."""

    hole: int = -1
    chip: np.ndarray | None = None  # distance to the chip's border, negative inside
    worn: np.ndarray | None = None  # 1 where the ring is worn away


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part under the camera: `draw` gives its picture (H, W, 3), without noise, with any flaw."""

    view: View
    steel: np.ndarray  # coverage
    clean: np.ndarray
    draw: Callable[[Flaw], np.ndarray]


def _make_view(rng: np.random.Generator, size: int) -> View:
    """Lay the part down a little off: up to 2 units aside and 1 degree round."""
    px = 256 / size
    dx, dy = rng.uniform(-2, 2, 2)
    turn = np.deg2rad(rng.uniform(-1, 1))
    y, x = ((np.mgrid[:size, :size] + 0.5) * px - 128).astype(np.float32)
    u = float(np.cos(turn)) * (x - float(dx)) + float(np.sin(turn)) * (y - float(dy))
    v = float(np.cos(turn)) * (y - float(dy)) - float(np.sin(turn)) * (x - float(dx))
    r, theta = np.hypot(u, v), np.arctan2(v, u)
    bolt = np.round(theta * float(3 / np.pi)) % 6
    du = u - _BOLT_AT * np.cos(bolt * float(np.pi / 3))
    dv = v - _BOLT_AT * np.sin(bolt * float(np.pi / 3))
    bolt_r = np.hypot(du, dv)
    return View(
        u=u,
        v=v,
        r=r,
        theta=theta,
        lit=(u * _LIGHT[0] + v * _LIGHT[1]) / np.maximum(r, 1),
        bolt=bolt,
        bolt_r=bolt_r,
        bolt_lit=-(du * _LIGHT[0] + dv * _LIGHT[1]) / np.maximum(bolt_r, 1),
        px=px,
    )


def make_part(rng: np.random.Generator, size: int) -> Part:
    """Decide all that is random about a part and its picture, once; `draw` then is a function of the flaw."""
    from scipy.ndimage import gaussian_filter

    view = _make_view(rng, size)
    steel, mat = _steel(rng, view), _mat(rng, view)
    gain = rng.uniform(0.96, 1.04) * (1 - 0.08 * (view.u - 0.5 * view.v) / 128)
    whole = _steel_coverage(view)
    step = round(4 / view.px)
    shadow = gaussian_filter(np.roll(whole, (step, step), (0, 1)), 3 / view.px)
    mat = mat * (1 - 0.75 * shadow[..., None])

    def draw(flaw: Flaw) -> np.ndarray:
        cover, relief = _steel_coverage(view, flaw.hole), _relief(view, flaw)
        if flaw.chip is not None:
            cover = cover * (1 - shape_coverage(flaw.chip, view.px))
            relief = relief + 0.22 * shape_coverage(np.abs(flaw.chip - 1.2) - 1.2, view.px) * (0.4 - view.lit)
        metal = np.clip(steel + relief, 0.05, 0.97)[..., None] * np.array([0.98, 1.0, 1.02], np.float32)
        scene = (mat + (metal - mat) * cover[..., None]) * gain[..., None]
        return gaussian_filter(scene, (0.5 / view.px, 0.5 / view.px, 0), truncate=3)

    return Part(view=view, steel=whole, clean=draw(Flaw()), draw=draw)


def shape_coverage(distance: np.ndarray, px: float, softness: float = 1.0) -> np.ndarray:
    """Return how much of each pixel a shape covers, in [0, 1], from the signed distance to its border.

    The distance is negative inside; at the border the coverage falls from 1 to 0 within `softness` pixels.
    """
    return np.clip(0.5 - distance / (px * softness), 0, 1)


def _steel_coverage(view: View, filled: int = -1) -> np.ndarray:
    """Where there is steel: the disc, less the centre hole with its keyway and the bolt holes."""
    keyway = np.maximum(np.abs(view.u) - 5, np.abs(view.v + _HUB) - 7)
    hole = np.minimum(view.r - _HUB, keyway)
    hole = np.where(view.bolt == filled, hole, np.minimum(hole, view.bolt_r - BOLT))
    return shape_coverage(view.r - RIM, view.px) * (1 - shape_coverage(hole, view.px))


def _relief(view: View, flaw: Flaw) -> np.ndarray:
    """Light and dark of all that is cut into the steel: bevels, countersinks, the ring and the scale."""
    r, lit, px = view.r, view.lit, view.px
    relief = 0.24 * lit * shape_coverage(RIM - 6 - r, px) - 0.22 * lit * shape_coverage(r - _HUB - 4, px)
    across = (r - RING) / 1.6
    ring = -(0.34 * lit * across + 0.16) * np.exp(-(across**2) / 2)
    relief += ring if flaw.worn is None else ring * (1 - flaw.worn)
    relief += 0.22 * view.bolt_lit * shape_coverage(view.bolt_r - BOLT - 3.5, px) * (view.bolt != flaw.hole)
    number = np.round(view.theta * float(18 / np.pi))  # 36 marks, every third one long
    aside = (view.theta - number * float(np.pi / 18)) * r
    half = np.where(number % 3 == 0, np.float32(4.5), np.float32(2.5))
    mark = shape_coverage(np.maximum(np.abs(aside) - 0.8, np.abs(r - 91) - half), px)
    return relief - 0.22 * mark


def _steel(rng: np.random.Generator, view: View) -> np.ndarray:
    """Draw turned steel: two bright fans where it faces the lamp, grooves long around and fine across."""
    from scipy.ndimage import gaussian_filter1d, map_coordinates

    fan = 0.5 + 0.5 * np.cos(2 * (view.theta - float(np.deg2rad(-38 + rng.uniform(-3, 3)))))
    grooves = gaussian_filter1d(rng.standard_normal((96, 192), np.float32), 4, axis=0, mode="wrap")
    grooves = gaussian_filter1d(grooves, 0.7, axis=1)
    at = np.stack([view.theta % float(2 * np.pi) * float(48 / np.pi), view.r * (192 / 182)])
    grooves = map_coordinates(grooves / grooves.std(), at, order=1, mode="grid-wrap")
    return 0.50 + 0.24 * fan**2 + (0.028 + 0.02 * fan) * grooves


def _mat(rng: np.random.Generator, view: View) -> np.ndarray:
    """Draw the dark rubber mat under the part, (H, W, 3): fine ribs and grain."""
    from scipy.ndimage import gaussian_filter

    grain = gaussian_filter(rng.standard_normal(view.r.shape, np.float32), 0.8, truncate=3)
    ribs = np.sin((view.u + view.v) * float(2 * np.pi / 9) + rng.uniform(0, 0.6))
    grey = 0.155 + 0.018 * ribs + 0.03 * grain
    return grey[..., None] * np.array([0.82, 0.98, 1.22], np.float32)
