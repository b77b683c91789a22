"""Slow versions of planted defects, a pixel or an equation at a time; they share nothing with the library."""

from __future__ import annotations

import math

import numpy as np


def in_frame(
    size: tuple[int, int], centre: tuple[float, float], half: tuple[float, float], angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's place in a turned frame, 1 at its half size: down and right, (h, w) each."""
    down, right = np.zeros(size), np.zeros(size)
    for r, c in np.ndindex(*size):
        y, x = r - centre[0], c - centre[1]
        down[r, c] = (math.cos(angle) * y - math.sin(angle) * x) / half[0]
        right[r, c] = (math.sin(angle) * y + math.cos(angle) * x) / half[1]
    return down, right


def distance_to_segment(
    size: tuple[int, int], start: tuple[float, float], end: tuple[float, float]
) -> np.ndarray:
    """Of each pixel to the nearest of 2,001 points between start and end: (h, w)."""
    found = np.full(size, math.inf)
    points = np.linspace(start, end, 2001)
    for r, c in np.ndindex(*size):
        found[r, c] = np.hypot(points[:, 0] - r, points[:, 1] - c).min()
    return found


def poisson(border: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Fill (h, w): the border's pixels as they are, inside an equation for each pixel, solved at once."""
    h, w = border.shape
    matrix, right = np.eye(h * w), border.ravel().copy()
    for r in range(1, h - 1):
        for c in range(1, w - 1):
            i = r * w + c
            matrix[i] = 0
            matrix[i, i] = -4
            right[i] = -4 * gradients[r, c]
            for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                matrix[i, y * w + x] = 1
                right[i] += gradients[y, x]
    return np.linalg.solve(matrix, right).reshape(h, w)


def poisson_mixed(border: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """As `poisson`, but towards each neighbour the larger difference of the two images."""
    h, w = border.shape
    matrix, right = np.eye(h * w), border.ravel().copy()
    for r in range(1, h - 1):
        for c in range(1, w - 1):
            i = r * w + c
            matrix[i] = 0
            matrix[i, i] = 4
            right[i] = 0
            for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                matrix[i, y * w + x] = -1
                of_b, of_g = border[r, c] - border[y, x], gradients[r, c] - gradients[y, x]
                right[i] += of_g if abs(of_g) > abs(of_b) else of_b
    return np.linalg.solve(matrix, right).reshape(h, w)
