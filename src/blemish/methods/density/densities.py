"""How likely a feature is among those of good images: at its place, near it, or anywhere.

Shapes: B images, n good images, h×w places of the features' grid, g = h·w, d numbers in a feature,
k Gaussians of a mixture, m features.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from blemish.methods.components.statistics import whitening_matrix

FAR = 1e9
"""Squared distance to a place outside the image."""


# --- a Gaussian at each place -----------------------------------------------------------------------------


def mahalanobis(z: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Squared Mahalanobis distance of each place: |A (z - μ)|².

    Source: Defard et al., "PaDiM" (2020), Eq. (2), squared.

    Args:
        z: (B, g, d).
        mean: μ, (g, d).
        whitening: A, (g, d, d).

    Returns:
        (B, g), ≥ 0.
    """
    centred = (z - mean).transpose(0, 1)  # (g, B, d)
    return (centred @ whitening.transpose(1, 2)).square().sum(dim=-1).T


# --- the nearest good feature -----------------------------------------------------------------------------


def nearest(z: Tensor, bank: Tensor, reach: int) -> Tensor:
    """Squared distance to the nearest good feature at most `reach` rows and columns away.

    Source: the idea of Cohen and Hoshen, "SPADE" (2020), and Roth et al., "PatchCore" (2022), within a
    neighbourhood of the place (ours).

    Args:
        z: (B, h, w, d).
        bank: features of n good images, (h, w, n, d).
        reach: in places, 0 or more.

    Returns:
        (B, h, w), ≥ 0.
    """
    (B, h, w, d), bank = z.shape, bank.flatten(0, 1)  # (g, n, d)
    near = torch.from_numpy(_places_near(h, w, reach)).to(z.device)  # (g, s)
    beside = torch.cat([z.flatten(1, 2), z.new_zeros(B, 1, d)], dim=1)
    seen = beside[:, near].permute(1, 2, 0, 3)  # (g, s, B, d), what the bank of a place is compared with
    norms = torch.einsum("gnd,gnd->gn", bank, bank)[:, None]
    distance = (norms - 2 * (seen.flatten(1, 2) @ bank.transpose(1, 2))).amin(dim=-1)  # (g, s·B)
    # a place is the last one near the first place that is near it, the last but one near the second, …
    distance = distance.unflatten(1, (-1, B)).flip(1)
    distance = torch.cat([distance, z.new_full((1, *distance.shape[1:]), FAR)])
    best = distance.gather(0, near[:, :, None].expand(-1, -1, B)).amin(dim=1).T.unflatten(1, (h, w))
    return (best + z.square().sum(dim=-1)).clamp(min=0)


@functools.cache
def _places_near(h: int, w: int, reach: int) -> np.ndarray:
    """Number the places near each, `reach` rows and columns away at most: (h·w, (2·reach+1)²); h·w: none."""
    shifts = np.arange(-reach, reach + 1)
    rows, cols = np.arange(h)[:, None] + shifts, np.arange(w)[:, None] + shifts
    rows, cols = rows[:, None, :, None], cols[None, :, None, :]
    inside = (rows >= 0) & (rows < h) & (cols >= 0) & (cols < w)
    return np.where(inside, rows * w + cols, h * w).reshape(h * w, -1)


# --- a mixture of Gaussians for all places ----------------------------------------------------------------


def minus_log_mixture(z: Tensor, log_weights: Tensor, means: Tensor, whitenings: Tensor) -> Tensor:
    """Return -log Σ_k π_k N(z; μ_k, Σ_k), without the constant ½ d log 2π.

    Args:
        z: (..., d).
        log_weights: log π_k + log |A_k|, (k,).
        means: μ_k, (k, d).
        whitenings: A_k with A_kᵀA_k = Σ_k⁻¹, (k, d, d).

    Returns:
        (...), unbounded.
    """
    white = torch.einsum("kde,...e->...kd", whitenings, z) - torch.einsum("kde,ke->kd", whitenings, means)
    return -(log_weights - white.square().sum(dim=-1) / 2).logsumexp(dim=-1)


def fit_mixture(z: Tensor, k: int, *, rounds: int, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a mixture of k Gaussians by expectation and maximisation (Dempster, Laird and Rubin 1977).

    Begins with the k-means++ draw of Arthur and Vassilvitskii (2007), by torch's generator.

    Args:
        z: (m, d) float64, standardised, m ≥ k.
        k: number of Gaussians.
        rounds: of expectation and maximisation.
        ridge: added to each variance once at least, twice at most.

    Returns:
        log_weights (k,), means (k, d) and whitenings (k, d, d) of `minus_log_mixture`.
    """
    m, d = z.shape
    means = spread_out(z, k)
    floor = ridge * torch.eye(d, dtype=z.dtype, device=z.device)
    # What is drawn to this covariance gets a part of its ridge as well as its own: up to twice the ridge.
    # Kept, as all figures were measured so.
    covariance = torch.cov(z.T, correction=0) + floor
    whitenings = whitening_matrix(covariance).expand(k, d, d)
    log_weights = _log_weights(z.new_full((k,), 1 / k), whitenings)
    for _ in range(rounds):
        white = torch.einsum("kde,me->mkd", whitenings, z) - torch.einsum("kde,ke->kd", whitenings, means)
        share = (log_weights - white.square().sum(dim=-1) / 2).softmax(dim=1)  # (m, k)
        total = share.sum(dim=0) + 1e-9
        means = share.T @ z / total[:, None]
        centred = z[None] - means[:, None]  # (k, m, d)
        covariances = centred.transpose(1, 2) @ (centred * share.T[:, :, None]) / total[:, None, None]
        # what few features support is drawn to the covariance of all, as at a place
        drawn = (d / (d + total))[:, None, None]
        covariances = covariances.lerp(covariance[None], drawn) + floor
        whitenings = whitening_matrix(covariances)
        log_weights = _log_weights(total / m, whitenings)
    return log_weights, means, whitenings


def _log_weights(weights: Tensor, whitenings: Tensor) -> Tensor:
    return weights.log() + whitenings.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


def spread_out(z: Tensor, k: int) -> Tensor:
    """Draw k of the features z (m, d), each far from those before it: (k, d).

    By chance, in proportion to the squared distance to the nearest one that is drawn: k-means++.
    """
    chosen = [int(torch.randint(len(z), ()))]
    distance = z.new_full((len(z),), math.inf)
    for _ in range(k - 1):
        distance = torch.minimum(distance, (z - z[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(torch.multinomial(distance + 1e-12, 1)))
    return z[chosen]
