"""Poisson blending: a rectangle with one image's border and another's gradients (Pérez et al. 2003).

On a rectangle the equation is solved exactly, by two sine transforms. Shapes: C channels, h×w pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def solve_poisson(border: Tensor, gradients: Tensor) -> Tensor:
    """Fill a rectangle so that it has one image's border and another's gradients.

    Solves Δf = Δg inside with f = b on the border exactly, by two sine transforms (Pérez et al. 2003).

    Args:
        border: b, (C, h, w) with h and w from 3.
        gradients: g, (C, h, w).

    Returns:
        f, (C, h, w).
    """
    # f = g + u, Δu = 0 inside, u = b - g on the border: as zero border, with the border's part on the right.
    edge = _border_of((border - gradients).double().numpy())
    edge[:, 1:-1, 1:-1] = _without_border(-_neighbours(edge))
    return gradients + torch.from_numpy(edge).to(gradients.dtype)


def solve_poisson_mixed(border: Tensor, gradients: Tensor) -> Tensor:
    """Fill a rectangle so that it has one image's border, and the larger of both images' gradients.

    Solves Δf = div v inside with f = b on the border exactly. Between two neighbours v is the difference of
    g where that is the larger one, else that of b (Pérez et al. 2003, Eq. 13): where g is flat, b shows.

    Args:
        border: b, (C, h, w) with h and w from 3.
        gradients: g, (C, h, w).

    Returns:
        f, (C, h, w).
    """
    b, g = border.double().numpy(), gradients.double().numpy()
    down, right = (_larger(np.diff(g, axis=axis), np.diff(b, axis=axis)) for axis in (1, 2))
    divergence = np.diff(down[:, :, 1:-1], axis=1) + np.diff(right[:, 1:-1], axis=2)
    found = _border_of(b)
    found[:, 1:-1, 1:-1] = _without_border(divergence - _neighbours(found))
    return torch.from_numpy(found).to(gradients.dtype)


def _larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Take a where its size is larger, else b."""
    return np.where(np.abs(a) > np.abs(b), a, b)


def _border_of(f: np.ndarray) -> np.ndarray:
    """Return the border's values, and 0 inside: (C, h, w)."""
    edge = f.copy()
    edge[:, 1:-1, 1:-1] = 0
    return edge


def _neighbours(f: np.ndarray) -> np.ndarray:
    """Add the four neighbours of each inner pixel: (C, h, w) -> (C, h - 2, w - 2)."""
    return f[:, :-2, 1:-1] + f[:, 2:, 1:-1] + f[:, 1:-1, :-2] + f[:, 1:-1, 2:]


def _without_border(right_side: np.ndarray) -> np.ndarray:
    """Solve Δf = `right_side` (C, h, w) with f = 0 beyond all sides: sine waves are its eigenvectors."""
    from scipy.fft import dstn, idstn

    h, w = right_side.shape[1:]
    rows, cols = (2 * np.cos(math.pi * np.arange(1, n + 1) / (n + 1)) for n in (h, w))
    eigenvalues = rows[:, None] + cols[None, :] - 4
    found = idstn(dstn(right_side, type=1, axes=(1, 2)) / eigenvalues, type=1, axes=(1, 2))
    return np.asarray(found)
