"""Slow versions of natural synthetic anomalies, in numpy and loops; they share nothing with the library."""

from __future__ import annotations

import math

import numpy as np


def half_side(u: float, v: float) -> float:
    """Half of a piece's side as a share: Gamma(2, 0.05) as the sum of two exponential draws."""
    gamma = 0.05 * (math.log(1 / u) + math.log(1 / v))
    return min(max(0.03 + gamma, 0.03), 0.4)


def pasted_size(size: tuple[int, int], zoom: float, image: tuple[int, int]) -> tuple[int, int]:
    """Sides of a resized piece: shrunk until both fit into 0.4, then 0.03 and 3 pixels at least."""
    sides = [zoom * side for side in size]
    too_large = max(1.0, *(side / (0.4 * n) for side, n in zip(sides, image, strict=True)))
    sides = [side / too_large for side in sides]
    height, width = (max(round(s), round(0.03 * n), 3) for s, n in zip(sides, image, strict=True))
    return height, width


def change(good: np.ndarray, altered: np.ndarray) -> np.ndarray:
    """Of (C, H, W) twice: mean over channels in grey levels, then the middle of nine pixels."""
    C, H, W = good.shape
    levels = np.zeros((H, W))
    for c in range(C):
        levels += np.abs(altered[c] - good[c]) * 255 / C
    found = np.zeros((H, W))
    for r, c in np.ndindex(H, W):
        rows = [min(max(r + i, 0), H - 1) for i in (-1, 0, 1)]
        cols = [min(max(c + j, 0), W - 1) for j in (-1, 0, 1)]
        found[r, c] = sorted(levels[y, x] for y in rows for x in cols)[4]
    return found


def label(d: float, touched: bool, half: float) -> float:
    """How anomalous a pixel is said to be."""
    if not touched or d <= 1:
        return 0.0
    return 1 / (1 + math.exp(-math.log(9) / half * (d - half)))


def half_change(between: np.ndarray, of_pieces: np.ndarray) -> float:
    """From the changes themselves, not from counts of them."""
    smaller = min(np.quantile(between, 0.9), np.quantile(of_pieces, 0.5))
    return float(min(max(smaller, 3.0), 24.0))
