"""A fixed bank of filters: what a place looks like, without training.

Four levels of a pyramid of means of 2×2 pixels. At each, six Gabor pairs on the first channel say how strong
edges and lines are in six directions; at the first three, mean and std of 3×3 pixels of each channel say what
colour and how grainy a place is. All are averaged onto one grid of places.

Gabor pairs are those of Daugman, "Uncertainty relation for resolution in space, spatial frequency, and
orientation optimized by two-dimensional visual cortical filters" (1985); their modulus does not depend on
where in a period a place lies. Numbers of levels, directions and pixels are our choice, by measurement
(benchmarks/results/filters.json).

Shapes: B images, C channels, H×W pixels, h×w places of the grid, d numbers in a feature.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS = 6
LEVELS, LOCAL_LEVELS = 4, 3
"""Levels of the pyramid, and those of them at which mean and std are taken."""
SIGMA, WAVELENGTH, ELONGATION = 1.5, 6.0, 1.5
"""Of a Gabor filter, in pixels; its envelope is longer along its lines by the last, a ratio."""
REACH = 6
"""Pixels on either side of a Gabor filter's middle."""
MOST_CHANNELS = 4
"""Of images with more channels, so many principal components are kept."""
FLAT = 1e-3
"""The least std of a place, as a share of white: a quarter of a grey level."""
DARK = 0.04
"""Added before the logarithm, as a share of white: below it, noise would be taken for light."""


def gabor_bank() -> Tensor:
    """Return even and odd filters of each direction, in turn: (2·DIRECTIONS, 1, 2·REACH + 1, same).

    Each filter's absolute values sum to 1; the even ones have no mean, so that no filter sees brightness.
    """
    at = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    down, right = torch.meshgrid(at, at, indexing="ij")
    filters = []
    for direction in range(DIRECTIONS):
        angle = math.pi * direction / DIRECTIONS
        across = right * math.cos(angle) + down * math.sin(angle)
        along = down * math.cos(angle) - right * math.sin(angle)
        envelope = torch.exp(-(across**2 + (along / ELONGATION) ** 2) / (2 * SIGMA**2))
        even = envelope * torch.cos(2 * math.pi * across / WAVELENGTH)
        odd = envelope * torch.sin(2 * math.pi * across / WAVELENGTH)
        even = even - envelope * (even.sum() / envelope.sum())
        filters += [even / even.abs().sum(), odd / odd.abs().sum()]
    return torch.stack(filters)[:, None].float()


def kept_channels(channels: int) -> int:
    """Return the number of channels that `mix` gives."""
    return min(channels, MOST_CHANNELS)


def opponent_mixing() -> Tensor:
    """Return the 3×3 matrix from red, green, blue to brightness, red against green, both against blue."""
    return torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1 / 2, -1 / 2, 0], [1 / 4, 1 / 4, -1 / 2]])


def principal_mixing(covariance: Tensor) -> Tensor:
    """Return the first principal axes of the channels: covariance (C, C) -> (kept_channels(C), C).

    The sign of each makes its entries sum to 0 or more, so that the first is a brightness.
    """
    axes = torch.linalg.eigh(covariance.double()).eigenvectors.flip(1).T[: kept_channels(len(covariance))]
    return (axes * torch.where(axes.sum(dim=1, keepdim=True) < 0, -1, 1)).float()


def feature_width(channels: int) -> int:
    """Return d, the numbers in a feature of images of so many kept channels: 42 of three, 30 of one."""
    return LEVELS * DIRECTIONS + LOCAL_LEVELS * 2 * channels


def relative(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Return log(x + DARK) less its own blur: what multiplies the light drops out (a homomorphic filter).

    Images (B, C, H, W) of white 1, blur matrices (H, H) and (W, W) -> the same shape, around 0.
    """
    logarithm = (x.clamp(min=0) + DARK).log()
    return logarithm - rows @ (logarithm @ cols.T)


def energies(x: Tensor, bank: Tensor) -> Tensor:
    """Return the modulus of each Gabor pair: (B, 1, H, W) -> (B, DIRECTIONS, H, W) ≥ 0."""
    found = F.conv2d(F.pad(x, (REACH,) * 4, mode="reflect"), bank)
    return (found[:, 0::2].square() + found[:, 1::2].square()).sqrt()


def local_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of 3×3 pixels: (B, C, H, W) -> the same shape twice.

    The std is that of the pixels under noise of std `FLAT`: the root of what rounding leaves of a flat
    surface is not the same on every machine.
    """
    # without the middle, squares of bright pixels would drown small changes
    middle = x.mean(dim=(2, 3), keepdim=True)
    around = F.pad(x - middle, (1, 1, 1, 1), mode="reflect")
    mean, square = _mean_of_nine(around), _mean_of_nine(around.square())
    return mean + middle, ((square - mean.square()).clamp(min=0) + FLAT**2).sqrt()


def _mean_of_nine(x: Tensor) -> Tensor:
    """The mean of 3×3 pixels, one axis after the other: seven times as quick as pooling on a CPU."""
    x = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    return (x[..., :-2] + x[..., 1:-1] + x[..., 2:]) / 9


def pyramid_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return height and width in pixels of each level."""
    return [(size[0] >> level, size[1] >> level) for level in range(LEVELS)]


def averaging_matrix(n: int, places: int) -> Tensor:
    """Average a line of n pixels to fewer places, or interpolate it to more: (places, n)."""
    line = torch.eye(n, dtype=torch.float64)[None]  # each row a line with one pixel set
    if places <= n:
        edges = torch.arange(places + 1, dtype=torch.float64) * (n / places)
        pixel = torch.arange(n, dtype=torch.float64)
        low, high = edges[:-1, None], edges[1:, None]
        covered = (torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)).clamp(min=0)
        return (covered / covered.sum(dim=1, keepdim=True)).float()
    return F.interpolate(line, size=places, mode="linear", align_corners=False)[0].T.float()


def features(x: Tensor, bank: Tensor, averages: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Describe each place of the grid.

    Args:
        x: (B, K, H, W), K mixed channels, the first one's edges are seen.
        bank: `gabor_bank`.
        averages: `averaging_matrix` of rows and columns for each level of the pyramid.

    Returns:
        (B, h, w, d), d = `feature_width`(K).
    """
    kinds = []
    for level, (rows, cols) in enumerate(averages):
        found = [energies(x[:, :1], bank)]
        if level < LOCAL_LEVELS:
            found += local_statistics(x)
        kinds += [rows @ (kind @ cols.T) for kind in found]
        x = F.avg_pool2d(x, 2) if level + 1 < len(averages) else x
    return torch.cat(kinds, dim=1).permute(0, 2, 3, 1).contiguous()
