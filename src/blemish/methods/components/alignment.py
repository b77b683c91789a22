"""Alignment: parts that lie at any angle are turned to one angle and moved to the middle (ours).

What a method knows of a place is of use only where parts lie alike. On a plain background a part can be found
and turned.

Symbols
    x, b        image, and the colour of the background: `colour`
    w           how much a pixel shows the part, in [0, 1], Eq. (1); a: how far from b the part lies, `apart`
    c           centre of the part, Eq. (2), rows and columns in pixels
    S(r, θ)     the image on rings around c, less its mean, times √r, Eq. (3): `signature`
    T(r, θ)     the mean of good parts' signatures, all turned alike: `template`
    φ           angle of the part, Eq. (4), in radians
    M, e        mean of good parts that were turned, and how an image that was turned differs from it, cut off
    J           how M changes when it is moved by a row, by a column, or turned: (C·h·w, 3)
    V           1 / (variance of good parts at each place + FLOOR²)
    aspect      how much wider than high a pixel is, of images that were squeezed to their size
    zoom        1, or larger where parts are longer than the image is high or wide, to see them whole

    (1)  w(p) = clip((|x(p) - b| - a) / a, 0, 1), | | the mean over channels
    (2)  c = Σ w(p) p / Σ w(p)
    (3)  S(r, θ) = √r (x(c + r e(θ)) - mean_θ x(c + r e(θ))), e(θ) the unit vector
    (4)  φ = argmax_φ Σ S(r, θ + φ) T(r, θ), between the angles that are tried by a parabola
    (5)  (rows, cols, angle) += -(Jᵀ V J)⁻¹ Jᵀ V e, for each of `GAINS`: a missing piece moves c

Eq. (5) is Lucas and Kanade's (1981), with the constant J of Baker and Matthews (2004). Poses are
float64, as in an image of noise a thousandth of a pixel can be seen.

Shapes: B images of C channels and H×W pixels; R rings, A angles. Rows, columns and radii are in heights of a
pixel, centres in pixels. Bounds of grey levels count as shares of the good images' mean white.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.data.part import background_of
from blemish.methods.components.statistics import white_point

RINGS, ANGLES = 24, 120
ROUNDS = 5
"""So often parts are turned to the mean of all, and the mean is taken anew."""
GAINS = (2, 2, 2, 2, 2, 1, 1, 1)
"""Steps of Eq. (5). The first ones are twice as long, as what is cut off of e makes far steps too short."""
CUT, FLOOR = 0.15, 0.03
"""The most that a place counts as different, so that a defect moves nothing; and what is added to the std."""
FARTHEST = 3
"""Pixels that a step moves at most, before its gain."""
COARSE = 2
"""Eq. (5) looks at one in so many rows and columns."""
LARGEST_ZOOM = 1.5
SPECKS = 0.005
"""This share of what looks like the part may lie farther out: noise and specks around it."""
SHOWN = 0.05
"""An image that is like the good parts by less than this share of what they are themselves shows no part, or
rounding would say how it lies."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where parts lie: `centre` (B, 2), rows and columns in pixels, and `angle` (B,) in radians, float64."""

    centre: Tensor
    angle: Tensor

    def enlarged(self, rows: float, cols: float) -> Pose:
        """Return the pose in images that are so many times as high and as wide."""
        return Pose(centre=self.centre * self.centre.new_tensor([rows, cols]), angle=self.angle)


# --- the equations --------------------------------------------------------------------------------------


def part_weights(x: Tensor, colour: Tensor, apart: Tensor) -> Tensor:
    """Return w, Eq. (1): images (B, C, H, W), `colour` (C,), `apart` a number -> (B, H, W) in [0, 1]."""
    distance = (x - colour[:, None, None]).abs().mean(dim=1)
    return ((distance - apart) / apart).clamp(0, 1)


def centre_of(w: Tensor) -> Tensor:
    """Return c, Eq. (2): weights (B, H, W) -> (B, 2), rows and columns in pixels; without any the middle."""
    w = w.double() + 1e-6
    rows, cols = (torch.arange(n, device=w.device) + 0.5 for n in w.shape[1:])
    moments = (w.sum(dim=2) * rows).sum(dim=1), (w.sum(dim=1) * cols).sum(dim=1)
    return torch.stack(moments, dim=1) / w.sum(dim=(1, 2))[:, None]


def signature(x: Tensor, colour: Tensor, centre: Tensor, aspect: Tensor) -> Tensor:
    """Return S, Eq. (3): images (B, C, H, W), around them `colour`, and centres (B, 2) -> (B, C, R, A)."""
    H, W = x.shape[2:]
    radius = (torch.arange(RINGS, device=x.device) + 0.5) * (_radius(x, aspect) / RINGS)
    angle = torch.arange(ANGLES, device=x.device) * (2 * math.pi / ANGLES)
    rows = centre[:, 0, None, None] + radius[:, None] * angle.sin()
    cols = centre[:, 1, None, None] + radius[:, None] * angle.cos() / aspect
    rings = _look(x, colour, torch.stack([2 * cols / W - 1, 2 * rows / H - 1], dim=-1))
    return (rings - rings.mean(dim=3, keepdim=True)) * radius.sqrt()[:, None]


def angle_of(signatures: Tensor, template: Tensor) -> Tensor:
    """Return φ, Eq. (4): signatures (B, C, R, A) and a template (C, R, A) -> (B,) in radians.

    Of an image that shows next to nothing of the part it is 0.
    """
    k = torch.arange(ANGLES, device=template.device)
    tried = template[:, :, (k[:, None] - k) % ANGLES]  # (C, R, A, A): at θ, for each angle that is tried
    alike = signatures.flatten(1).double() @ tried.flatten(0, 2).double()  # (B, A)
    best = alike.argmax(dim=1)
    before, at, after = (alike.gather(1, ((best + d) % ANGLES)[:, None])[:, 0] for d in (-1, 0, 1))
    between = 0.5 * (before - after) / (before - 2 * at + after).clamp(max=-1e-9)
    angle = (best + between.clamp(-0.5, 0.5)) * (2 * math.pi / ANGLES)
    return torch.where(at > SHOWN * template.square().sum(), angle, 0)


def turned(signatures: Tensor, angle: Tensor) -> Tensor:
    """Turn signatures (B, C, R, A) back by their angles (B,): S(r, θ + φ), by their Fourier series."""
    series = torch.fft.rfft(signatures, dim=3)
    phase = torch.arange(series.shape[3], device=angle.device) * angle[:, None, None, None]
    return torch.fft.irfft(series * torch.polar(torch.ones_like(phase), phase), n=ANGLES, dim=3)


def pull_of(mean: Tensor, variance: Tensor, aspect: Tensor) -> Tensor:
    """Return -(Jᵀ V J)⁻¹ Jᵀ V, Eq. (5): mean and variance (C, h, w) of good parts -> (3, C·h·w).

    It gives rows, columns, and the angle as how far a point moves that lies half the image's height from the
    middle.
    """
    h, w = mean.shape[1:]
    down, right = torch.gradient(mean.double(), dim=(1, 2))
    down, right = down / COARSE, right / COARSE / aspect
    rows = _from_middle(COARSE * h, mean.device, COARSE)[:, None] / (COARSE * h / 2)
    cols = _from_middle(COARSE * w, mean.device, COARSE) * aspect / (COARSE * h / 2)
    J = torch.stack([down, right, down * cols - right * rows]).flatten(1)  # (3, C·h·w)
    weighted = J / (variance.double() + FLOOR**2).flatten()
    square = weighted @ J.T
    ridge = 1e-6 * square.diagonal().sum() + 1e-12
    return -torch.linalg.solve(square + ridge * torch.eye(3, dtype=square.dtype), weighted).float()


def _look(x: Tensor, colour: Tensor, grid: Tensor) -> Tensor:
    """Read images (B, C, H, W) at places (B, h, w, 2) in [-1, 1], x before y; beyond them lies `colour`."""
    apart = x - colour[:, None, None]
    seen = F.grid_sample(apart, grid.to(x.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
    return seen + colour[:, None, None]


# --- the module -----------------------------------------------------------------------------------------


class Alignment(nn.Module):
    """Turns parts to lie as the good ones that it has learnt from, and maps back to where the parts lay."""

    colour: Tensor
    apart: Tensor
    template: Tensor
    zoom: Tensor
    mean: Tensor
    pull: Tensor
    white: Tensor
    aspect: Tensor

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        h, w = (n // COARSE for n in size)
        self.register_buffer("mean", torch.zeros(channels, h, w))
        self.register_buffer("pull", torch.zeros(3, channels * h * w))
        self.register_buffer("colour", torch.zeros(channels))
        self.register_buffer("apart", torch.tensor(1.0))
        self.register_buffer("template", torch.zeros(channels, RINGS, ANGLES))
        for name in ("zoom", "white", "aspect"):
            self.register_buffer(name, torch.tensor(1.0))

    @torch.no_grad()
    def learn(self, x: Tensor, aspect: float = 1.0) -> bool:
        """Learn from good images (B, C, H, W) in [0, 1], whose pixels are `aspect` times as wide as high.

        False: nothing plain surrounds their parts, or they are so long that they would be seen too small.
        """
        self.white.copy_(white_point(x).mean().clamp(min=1e-3))
        self.aspect.fill_(aspect)
        std, mean = torch.std_mean(x, dim=0, correction=0)
        colour, apart = background_of(mean / self.white, std / self.white)
        if apart < 0:
            return False
        self.colour.copy_(colour * self.white)
        self.apart.copy_(apart * self.white)
        weights = part_weights(x, self.colour, self.apart)
        centre = centre_of(weights)
        self.zoom.copy_(_reach(weights, centre, self.aspect).quantile(0.95) / _radius(x, self.aspect))
        self.zoom.clamp_(min=1)
        if self.zoom > LARGEST_ZOOM:
            return False
        found = signature(x, self.colour, centre, self.aspect)
        self.template.copy_(found[0])
        for _ in range(ROUNDS):
            self.template.copy_(turned(found, angle_of(found, self.template)).mean(dim=0))
        pose = self._rough(x)
        for _ in range(ROUNDS):
            small = self.align(x, pose, COARSE)
            self.mean.copy_(small.mean(dim=0))
            variance = small.var(dim=0, correction=0) / self.white**2
            self.pull.copy_(pull_of(self.mean / self.white, variance, self.aspect))
            pose = self._refined(x, pose)
        return True

    def pose_of(self, x: Tensor) -> Pose:
        """Find where the parts lie: images (B, C, H, W) in [0, 1]."""
        pose = self._rough(x)
        for gain in GAINS:
            pose = self._refined(x, pose, gain)
        return pose

    def _rough(self, x: Tensor) -> Pose:
        """Find middle and angle by Eqs. (2) and (4)."""
        centre = centre_of(part_weights(x, self.colour, self.apart))
        found = signature(x, self.colour, centre, self.aspect)
        return Pose(centre=centre, angle=angle_of(found, self.template))

    def _refined(self, x: Tensor, pose: Pose, gain: int = 1) -> Pose:
        """Take a step of Eq. (5), `gain` times as long."""
        off = ((self.align(x, pose, COARSE) - self.mean) / self.white).clamp(-CUT, CUT)
        step = (off.flatten(1).double() @ self.pull.T.double()).clamp(-FARTHEST, FARTHEST)
        rows, cols, angle = (gain * step).unbind(dim=1)
        angle = angle / (x.shape[2] / 2)
        cos, sin = pose.angle.cos() * self.zoom, pose.angle.sin() * self.zoom
        moved = torch.stack([cos * rows + sin * cols, (cos * cols - sin * rows) / self.aspect], dim=1)
        return Pose(centre=pose.centre + moved, angle=pose.angle + angle)

    def align(self, x: Tensor, pose: Pose, step: int = 1) -> Tensor:
        """Turn images (B, C, H, W): their parts lie alike, in the middle. What comes into view is plain.

        Of the result (B, C, H // step, W // step) one in so many rows and columns is given.
        """
        H, W = x.shape[2:]
        rows, cols = (self.zoom * _from_middle(n, x.device, step) for n in (H, W))
        rows, cols = rows[:, None], cols * self.aspect
        cos, sin = pose.angle.cos()[:, None, None], pose.angle.sin()[:, None, None]
        at_rows = pose.centre[:, 0, None, None] + sin * cols + cos * rows
        at_cols = pose.centre[:, 1, None, None] + (cos * cols - sin * rows) / self.aspect
        return _look(x, self.colour, torch.stack([2 * at_cols / W - 1, 2 * at_rows / H - 1], dim=-1))

    def back(self, maps: Tensor, pose: Pose) -> Tensor:
        """Turn maps (B, M, H, W) of aligned images to where the parts lay; beyond, they go on as they end."""
        H, W = maps.shape[2:]
        rows = torch.arange(H, device=maps.device)[:, None] + 0.5 - pose.centre[:, 0, None, None]
        cols = (torch.arange(W, device=maps.device) + 0.5 - pose.centre[:, 1, None, None]) * self.aspect
        cos, sin = pose.angle.cos()[:, None, None], pose.angle.sin()[:, None, None]
        across, down = (cos * cols + sin * rows) / self.zoom, (cos * rows - sin * cols) / self.zoom
        grid = torch.stack([2 * across / self.aspect / W, 2 * down / H], dim=-1)
        return F.grid_sample(
            maps, grid.to(maps.dtype), mode="bilinear", padding_mode="border", align_corners=False
        )


def _radius(x: Tensor, aspect: Tensor) -> Tensor:
    """Return how far from the middle the nearest border of images (B, C, H, W) lies."""
    return (aspect * x.shape[3]).clamp(max=x.shape[2]) / 2


def _reach(weights: Tensor, centre: Tensor, aspect: Tensor) -> Tensor:
    """Return how far parts reach, but for `SPECKS`: (B, H, W), centres (B, 2) -> (B,)."""
    rows, cols = (torch.arange(n, device=weights.device) + 0.5 for n in weights.shape[1:])
    down, across = rows[:, None] - centre[:, 0, None, None], cols - centre[:, 1, None, None]
    off = torch.hypot(down, across * aspect).float()
    far, order = off.flatten(1).sort(dim=1)
    within = weights.flatten(1).gather(1, order).cumsum(dim=1)
    last = (within < (1 - SPECKS) * within[:, -1:]).sum(dim=1, keepdim=True)
    return far.gather(1, last.clamp(max=far.shape[1] - 1))[:, 0]


def _from_middle(n: int, device: torch.device, step: int = 1) -> Tensor:
    """Return where the middles of n pixels lie from the middle of them all, or of each `step` of them."""
    return (torch.arange(n // step, device=device) + 0.5) * step - n / 2
