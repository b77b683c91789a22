"""What methods take of good images: white, means and variances, covariances and their inverses, spreads.

Sums over images are float64. Shapes: B images, C channels, H×W pixels, g places, n samples of d numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blemish.methods.base import Batches


# --- how bright white is ----------------------------------------------------------------------------------


def white_point(x: Tensor) -> Tensor:
    """Mean of the brightest tenth of each image's pixels (channels averaged): (B, C, H, W) -> (B,).

    Our choice: it follows the light, as the mean does, but not the share of the picture that is background.
    """
    grey = x.mean(dim=1).flatten(1)  # (B, H·W)
    return grey.topk(max(1, grey.shape[1] // 10), dim=1).values.mean(dim=1)


def mean_white(batches: Iterable[Tensor]) -> Tensor:
    """Mean white point of all images, batches (B, C, H, W): a number, float64, in the images' unit."""
    return mean_and_variance(white_point(x) for x in batches)[0]


# --- numbers one by one -----------------------------------------------------------------------------------


def mean_and_variance(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and population variance over the first dimension of all batches together, in float64."""
    n, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        values = batch.double()
        n, total, squares = n + len(values), total + values.sum(0), squares + values.square().sum(0)
    mean = total / n
    return mean, (squares / n - mean**2).clamp(min=0)


def position_statistics(batches: Iterable[Tensor], positions: int) -> tuple[Tensor, Tensor]:
    """Mean and std at each position, by which scores (B, ..., positions) are standardised (ours).

    Half the typical std is added, so that a position that never varies does not dominate. `positions` is the
    number of trailing dimensions that are positions; the rest, kinds of score, have a typical std each.
    """
    mean, variance = mean_and_variance(batches)
    std = variance.sqrt()
    typical = std.flatten(-positions).median(dim=-1).values[(..., *[None] * positions)]
    return mean, std + 0.5 * typical + 1e-6


class ImageStatistics(NamedTuple):
    """What is taken of the training images before the first step; all but `white` in units of white."""

    white: Tensor
    """Their mean white point, a number. Grey levels are told of it, so that they mean the same in images that
    fill a part of their range."""
    mean: Tensor
    """(C, H, W), float64."""
    std: Tensor
    """(C, H, W), float64."""
    spread: Tensor
    """The std of all their pixels together, a number."""


def image_statistics(batches: Batches) -> ImageStatistics:
    """Take white, and mean and std of each pixel, of the training images, batches (B, C, H, W) in [0, 1].

    White is summed in float32, unlike `mean_white`: trained models have it so, to the last bit.
    """
    white = torch.cat([white_point(x) for x in batches()]).mean().clamp(min=1e-3)
    mean, variance = mean_and_variance(x / white for x in batches())
    spread = (variance.mean() + mean.var(correction=0)).sqrt().clamp(min=1e-3)
    return ImageStatistics(white, mean, variance.sqrt(), spread)


def spread_of(variance: Tensor) -> Tensor:
    """Return what features are divided by, from their variances (d,): their std, or hardly less.

    A feature that never varies holds rounding alone, which is not to be made large.
    """
    spread = variance.sqrt()
    return torch.maximum(spread, 1e-3 * spread.max() + 1e-6)


# --- numbers together: covariances ------------------------------------------------------------------------


class Moments:
    """Mean and covariance of samples that come in parts, of one set or of several side by side (...).

    PaDiM, whose products fill gigabytes, has its own: float32, in place (`padim.add_products`).
    """

    def __init__(self) -> None:
        self.n = 0
        """Samples so far, of each set."""
        self._sum, self._products = torch.zeros(()), torch.zeros(())

    def add(self, samples: Tensor) -> None:
        """Take samples (..., n, d) of each set, one or more."""
        z = samples.double()
        self.n += z.shape[-2]
        self._sum, self._products = self._sum + z.sum(dim=-2), self._products + z.mT @ z

    @property
    def mean(self) -> Tensor:
        """Mean μ, (..., d) float64."""
        return self._sum / self.n

    @property
    def second(self) -> Tensor:
        """Mean of z zᵀ, (..., d, d) float64."""
        return self._products / self.n

    @property
    def covariance(self) -> Tensor:
        """Population covariance, the mean of z zᵀ less μ μᵀ: (..., d, d) float64."""
        mean = self.mean
        return self.second - mean[..., :, None] * mean[..., None, :]


def shrink_to_mean(covariance: Tensor, n: int) -> Tensor:
    """Draw the covariance of each place towards the mean one of all places, by d / (d + n). Our choice.

    Few images say little about d² numbers at each place; all places together say what goes with what.

    Args:
        covariance: (g, d, d), each of n samples.
        n: number of samples.

    Returns:
        (g, d, d).
    """
    d = covariance.shape[-1]
    return covariance.lerp(covariance.mean(dim=0, keepdim=True), d / (d + n))


def whitening_matrix(covariance: Tensor, ridge: float = 0.0) -> Tensor:
    """Return A with AᵀA = (Σ + ridge · I)⁻¹: |A (z - μ)|² is the squared Mahalanobis distance of z.

    Args:
        covariance: Σ, (..., d, d), symmetric.
        ridge: added to each variance, in its unit, so that the sum is positive definite.

    Returns:
        (..., d, d), lower triangular.
    """
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    factor = torch.linalg.cholesky(covariance + ridge * identity)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)


def shrunk_whitening_matrix(covariance: Tensor, n: int) -> Tensor:
    """Return `whitening_matrix` of covariances that n samples support, without those of other places. Ours.

    Few samples underestimate some directions, so the covariance is drawn towards its diagonal by the share
    d / (d + n), and a hundredth of its mean variance is added to each direction; as is a thousandth of the
    mean variance of all covariances that are given, so that where every sample is the same (a saturated
    background) rounding is no deviation.

    Args:
        covariance: (..., d, d), symmetric, of n samples.
        n: number of samples.

    Returns:
        (..., d, d), lower triangular.
    """
    d = covariance.shape[-1]
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    share = d / (d + n)
    floor = 0.01 * diagonal.mean(dim=-1, keepdim=True) + 1e-3 * diagonal.mean() + 1e-8
    return whitening_matrix((1 - share) * covariance + torch.diag_embed(share * diagonal + floor))
