"""Slow versions of fixed filters and densities, one pixel, place or feature at a time, in float64.

They share nothing with the library's code.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import correlate
from scipy.stats import multivariate_normal


def gabor(direction: int, odd: bool, *, directions: int, reach: int) -> np.ndarray:
    """One filter: σ 1.5, wavelength 6, 1.5 times as long along its lines; absolute values sum to 1."""
    angle = math.pi * direction / directions
    side = 2 * reach + 1
    envelope, wave = np.zeros((side, side)), np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            y, x = i - reach, j - reach
            across = x * math.cos(angle) + y * math.sin(angle)
            along = y * math.cos(angle) - x * math.sin(angle)
            envelope[i, j] = math.exp(-(across**2 / (2 * 1.5**2) + along**2 / (2 * (1.5 * 1.5) ** 2)))
            wave[i, j] = (math.sin if odd else math.cos)(2 * math.pi * across / 6)
    found = envelope * wave
    if not odd:
        found -= envelope * found.sum() / envelope.sum()
    return found / np.abs(found).sum()


def mean_and_std_of_nine(image: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the 3×3 pixels around each pixel of (H, W); `noise` is the std of what is added to each."""
    around = np.pad(image, 1, mode="reflect")
    mean, std = np.zeros(image.shape), np.zeros(image.shape)
    for r, c in np.ndindex(*image.shape):
        near = around[r : r + 3, c : c + 3]
        mean[r, c], std[r, c] = near.mean(), math.sqrt(near.var() + noise**2)
    return mean, std


def averaged(line: np.ndarray, places: int) -> np.ndarray:
    """A line of n pixels, each as long as 1, cut into fewer equal places: the mean of what each covers."""
    n = len(line)
    found = np.zeros(places)
    for place in range(places):
        low, high = place * n / places, (place + 1) * n / places
        for i in range(math.floor(low), math.ceil(high - 1e-9)):
            found[place] += line[i] * (min(high, i + 1) - max(low, i)) / (high - low)
    return found


def interpolated(line: np.ndarray, places: int) -> np.ndarray:
    """A line of n pixels at more places: linear between the pixels' middles, level beyond the last ones."""
    n = len(line)
    middles = [(place + 0.5) * n / places - 0.5 for place in range(places)]
    return np.interp(middles, np.arange(n), line)


def on_grid(image: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(H, W) -> (h, w): columns first, then rows."""

    def line(values: np.ndarray, places: int) -> np.ndarray:
        return averaged(values, places) if places <= len(values) else interpolated(values, places)

    narrow = np.array([line(row, grid[1]) for row in image])
    return np.array([line(col, grid[0]) for col in narrow.T]).T


def halved(image: np.ndarray) -> np.ndarray:
    """Means of 2×2 pixels; a last row or column without a partner is left out."""
    H, W = image.shape
    return np.array(
        [[image[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for c in range(W // 2)] for r in range(H // 2)]
    )


def energy(image: np.ndarray, direction: int, *, directions: int, reach: int) -> np.ndarray:
    """The root of the squared answers of a pair of filters, by scipy: (H, W) -> (H, W)."""
    pair = [
        correlate(image, gabor(direction, odd, directions=directions, reach=reach), mode="mirror")
        for odd in (False, True)
    ]
    return np.hypot(*pair)


def features(channels: np.ndarray, grid: tuple[int, int], *, directions: int, reach: int) -> np.ndarray:
    """(K, H, W) -> (h, w, d): of four levels the six directions, of three also means, then stds."""
    found = []
    for level in range(4):
        for direction in range(directions):
            found.append(on_grid(energy(channels[0], direction, directions=directions, reach=reach), grid))
        if level < 3:
            each = [mean_and_std_of_nine(channel, 1e-3) for channel in channels]
            found += [on_grid(mean, grid) for mean, _ in each] + [on_grid(std, grid) for _, std in each]
        channels = np.array([halved(channel) for channel in channels])
    return np.stack(found, axis=-1)


def nearest(z: np.ndarray, bank: np.ndarray, reach: int) -> np.ndarray:
    """Squared distance of z (h, w, d) to the nearest of bank (h, w, n, d), `reach` rows and columns off."""
    h, w = z.shape[:2]
    found = np.full((h, w), math.inf)
    for r in range(h):
        for c in range(w):
            for i in range(max(0, r - reach), min(h, r + reach + 1)):
                for j in range(max(0, c - reach), min(w, c + reach + 1)):
                    for good in bank[i, j]:
                        found[r, c] = min(found[r, c], ((z[r, c] - good) ** 2).sum())
    return found


def minus_log_mixture(
    z: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> np.ndarray:
    """-log Σ_k π_k N(z; μ_k, Σ_k) of (m, d), by scipy, without the constant ½ d log 2π."""
    parts = zip(weights, means, covariances, strict=True)
    density = sum(weight * multivariate_normal(mean, cov).pdf(z) for weight, mean, cov in parts)
    return -np.log(density) - z.shape[1] / 2 * math.log(2 * math.pi)


def em_round(
    z: np.ndarray,
    weights: np.ndarray,
    means: np.ndarray,
    covariances: np.ndarray,
    *,
    prior: np.ndarray,
    ridge: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One round for each Gaussian in turn; its covariance is drawn to `prior` by d / (d + its share)."""
    k, d = means.shape
    joint = np.stack(
        [weights[j] * multivariate_normal(means[j], covariances[j]).pdf(z) for j in range(k)], axis=1
    )
    share = joint / joint.sum(axis=1, keepdims=True)
    new_means, new_covariances = [], []
    for j in range(k):
        total = share[:, j].sum()
        new_means.append(np.average(z, axis=0, weights=share[:, j]))
        own = np.cov(z.T, aweights=share[:, j], ddof=0)
        drawn = d / (d + total)
        new_covariances.append((1 - drawn) * own + drawn * prior + ridge * np.eye(d))
    return share.sum(axis=0) / len(z), np.array(new_means), np.array(new_covariances)
