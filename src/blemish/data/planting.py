"""Planted defects: made changes in good images, with the pixels that they changed.

What a real defect looks like is not known before one is seen. But what looks like a hole, a stain or a
scratch to a network that never saw one can be made, in thousands: a piece of another good image, a tint, a
thin line, a missing part. A network learns from them (`methods.planted`), candidates are compared by them
(`training.auto`), and a model's eyesight is measured by them (`evaluation.sensitivity`).

Each kind is one small function: it says what stands in a place of a given shape (`data.shapes`). `KINDS`
names them all, and `FAMILIES` cuts them in two, so that what learnt from one can be judged by the other.

Source of the idea: Li et al., "CutPaste" (2021); Schlüter et al., "Natural Synthetic Anomalies" (2022),
whose pieces of other images, sizes and Poisson blending these are; Zavrtanik et al., "DRAEM" (2021). The
other kinds and all numbers are our choice.

Shapes: K windows of C channels and h×w pixels, values in [0, 1]; masks (K, 1, h, w) in [0, 1], 1 inside. All
draws come from torch's CPU generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from blemish.data.poisson import solve_poisson
from blemish.data.shapes import Places, blob, box, cloud, dots, draw_places, line, uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEVELS = 255.0
"""Grey levels between 0 and 1: changes are told in them, whatever the bit depth."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a kind of defect may use: the good window, and another good image's, resized a little.

    `good` and `other` are (K, C, h, w); `shape` (K, 1, h, w) says how far each pixel lies inside the place;
    `contrast` (K, 1, 1, 1), in (0, 1], scales changes of brightness; `background` (C,) is the colour of what
    surrounds the part, or the training images' mean where nothing plain does.
    """

    good: Tensor
    other: Tensor
    shape: Tensor
    contrast: Tensor
    background: Tensor


# --- what stands there ----------------------------------------------------------------------------------


def paste(window: Window) -> Tensor:
    """A piece of another good image, as it is."""
    return window.other


def paste_in_light(window: Window) -> Tensor:
    """A piece of another good image under the light of this place: its fine detail on our coarse one."""
    return _coarse(window.good) + window.other - _coarse(window.other)


def blend(window: Window) -> Tensor:
    """A piece of another good image whose gradients are kept and whose border is ours (Poisson)."""
    inside = window.shape > 0
    return torch.stack([_blend(*each) for each in zip(window.good, window.other, inside, strict=True)])


def tint(window: Window) -> Tensor:
    """Another brightness or colour over the good surface."""
    K, C = window.good.shape[:2]
    grey = torch.randn(K, 1, 1, 1).expand(K, C, 1, 1)
    colour = torch.where(torch.rand(K, 1, 1, 1) < 0.5, grey, torch.randn(K, C, 1, 1))
    strength = uniform(0.05, 0.3, K, 1, 1, 1) * window.contrast
    return window.good + strength * colour / colour.abs().amax(dim=1, keepdim=True).clamp(min=1e-3)


def stain(window: Window) -> Tensor:
    """A patchy film that darkens or brightens."""
    K, _, h, w = window.good.shape
    patchy = F.interpolate(torch.rand(K, 1, 6, 6), (h, w), mode="bicubic", align_corners=False).clamp(0, 1)
    towards = window.good.new_tensor([0.0, 1.0])[torch.randint(2, (K,))][:, None, None, None]
    colour = (towards + 0.3 * torch.randn(K, window.good.shape[1], 1, 1)).clamp(0, 1)
    opacity = uniform(0.15, 0.7, K, 1, 1, 1) * window.contrast * (0.4 + 0.6 * patchy)
    return window.good + opacity * (colour - window.good)


def mark(window: Window) -> Tensor:
    """One colour, clearly darker or brighter than the surface: scratches and specks."""
    K, C = window.good.shape[:2]
    sign = torch.randint(2, (K, 1, 1, 1)) * 2.0 - 1
    change = sign * uniform(0.08, 0.5, K, 1, 1, 1) * window.contrast + 0.05 * torch.randn(K, C, 1, 1)
    return window.good + change


def missing(window: Window) -> Tensor:
    """Nothing of the part: what surrounds it, or the mean of all."""
    grain = 0.01 * torch.randn(window.good.shape)
    shade = 1 + 0.1 * torch.randn(len(window.good), 1, 1, 1)
    return window.background[:, None, None] * shade + grain


def blur(window: Window) -> Tensor:
    """The good surface without its fine detail."""
    return _box_mean(_box_mean(window.good, 5), 5)


def grain(window: Window) -> Tensor:
    """The good surface under noise, fine or coarse."""
    K, C, h, w = window.good.shape
    fine, coarse = torch.randn(K, C, h, w), torch.randn(K, C, -(-h // 3), -(-w // 3))
    coarse = F.interpolate(coarse, (h, w), mode="bilinear", align_corners=False)
    noise = torch.where(torch.rand(K, 1, 1, 1) < 0.5, fine, coarse)
    return window.good + uniform(0.04, 0.2, K, 1, 1, 1) * window.contrast * noise


def shift(window: Window) -> Tensor:
    """The good surface moved by some pixels and turned a little: a bent or broken piece.

    The turn is one of places in [-1, 1] × [-1, 1]: where a window is not a square, it shears the piece too.
    Kept, as other pixels would give other weights for the same seed.
    """
    K = len(window.good)
    way = uniform(0, 2 * math.pi, K)
    far = uniform(3, 12, K)
    half = torch.tensor([window.good.shape[3] / 2, window.good.shape[2] / 2])
    offset = torch.stack([way.cos() * far, way.sin() * far], dim=1) / half
    turn = uniform(-0.3, 0.3, K)
    rows = torch.stack([turn.cos(), -turn.sin(), offset[:, 0]], dim=1)
    cols = torch.stack([turn.sin(), turn.cos(), offset[:, 1]], dim=1)
    return sample(window.good, torch.stack([rows, cols], dim=1), window.good.shape[2:])


def _coarse(x: Tensor) -> Tensor:
    """The light of a place: means of 8×8 pixels, interpolated."""
    small = F.avg_pool2d(x, 8, ceil_mode=True)
    return F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)


def _box_mean(x: Tensor, side: int) -> Tensor:
    """The mean over side×side pixels, one axis after the other; the border's pixels go on beyond it."""
    for axis in (2, 3):
        n = x.shape[axis]
        before, after = x.narrow(axis, 0, 1), x.narrow(axis, n - 1, 1)
        wide = torch.cat([*[before] * (side // 2), x, *[after] * (side // 2)], dim=axis)
        x = sum((wide.narrow(axis, i, n) for i in range(1, side)), wide.narrow(axis, 0, n)) / side
    return x


def _blend(good: Tensor, other: Tensor, inside: Tensor) -> Tensor:
    """Blend one window (C, h, w) over the rectangle around `inside` (1, h, w)."""
    rows, cols = inside[0].any(dim=1).nonzero(), inside[0].any(dim=0).nonzero()
    if not len(rows):
        return good
    (top, bottom), (left, right) = ((int(i[0]), int(i[-1]) + 1) for i in (rows, cols))
    if bottom - top < 3 or right - left < 3:
        return good
    out = good.clone()
    box = (slice(None), slice(top, bottom), slice(left, right))
    out[box] = solve_poisson(good[box], other[box])
    return out


# --- the kinds ------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[tuple[Callable[[Places, int, int], Tensor], ...], Callable[[Window], Tensor]]] = {
    "paste": ((blob, box), paste),
    "paste in light": ((blob, box), paste_in_light),
    "blend": ((blob, box), blend),
    "tint": ((blob, cloud), tint),
    "stain": ((blob, cloud), stain),
    "scratch": ((line,), mark),
    "specks": ((dots,), mark),
    "missing": ((blob, box), missing),
    "blur": ((blob, cloud), blur),
    "grain": ((blob, cloud), grain),
    "shift": ((blob, box), shift),
}
"""Kinds of planted defects: shapes that a place may have, and what stands there."""

PIECES = ("paste", "paste in light", "blend")
"""Kinds that need another good image: `Window.other`."""

FAMILIES: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("paste", "paste in light", "tint", "scratch", "shift"),
    ("blend", "stain", "specks", "missing", "blur", "grain"),
)
"""Two families without a kind in common: what learnt from one is judged by the other."""


def plant(
    good: Tensor,
    other: Tensor,
    *,
    kinds: Sequence[str],
    side: float,
    background: Tensor,
    places: Places | None = None,
    contrast: Tensor | None = None,
) -> Tensor:
    """Plant one defect into each window.

    Args:
        good: windows (K, C, h, w) of good images.
        other: windows (K, C, h, w) of other good images.
        kinds: a kind of each, names in KINDS.
        side: of the whole image in pixels, which sizes refer to.
        background: colour (C,) of what surrounds the part.
        places: where; None: anywhere in the window, sizes drawn.
        contrast: (K,), in (0, 1], which scales changes of brightness; None: drawn.

    Returns:
        (K, C, h, w), clipped to the range of the good windows and of [0, 1].
    """
    K, _, h, w = good.shape
    places = places or draw_places(K, h, w, side)
    contrast = (uniform(math.log(0.15), 0, K)).exp() if contrast is None else contrast
    low, high = min(0.0, float(good.min())), max(1.0, float(good.max()))
    planted = good.clone()
    for name in sorted(set(kinds)):
        shapes, filling = KINDS[name]
        chosen = torch.tensor([i for i, kind in enumerate(kinds) if kind == name])
        part = Places(
            centre=places.centre[chosen],
            half=places.half[chosen],
            angle=places.angle[chosen],
            thick=None if places.thick is None else places.thick[chosen],
        )
        made = torch.stack([shape(part, h, w) for shape in shapes])
        mask = made[torch.randint(len(shapes), (len(chosen),)), torch.arange(len(chosen))]
        window = Window(
            good=good[chosen],
            other=other[chosen],
            shape=mask,
            contrast=contrast[chosen][:, None, None, None],
            background=background,
        )
        planted[chosen] = window.good + mask * (filling(window).clamp(low, high) - window.good)
    return planted


def sample(x: Tensor, transform: Tensor, size: Sequence[int]) -> Tensor:
    """Look at images through an affine transform, mirrored beyond their borders.

    Coordinates are float32 in a training at lower precision as well: in bf16 they would miss by half a pixel.

    Args:
        x: (K, C, H, W).
        transform: (K, 2, 3), from the result's coordinates to the image's, both in [-1, 1], x before y.
        size: height and width of the result.

    Returns:
        (K, C, *size).
    """
    with torch.autocast(x.device.type, enabled=False):
        grid = F.affine_grid(transform, [len(x), x.shape[1], *size], align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def changed(good: Tensor, planted: Tensor) -> Tensor:
    """Mean change of each pixel over its channels and over 3×3 pixels, in grey levels: (K, h, w)."""
    difference = (planted - good).abs().mean(dim=1, keepdim=True) * LEVELS
    return _box_mean(difference, 3)[:, 0]
