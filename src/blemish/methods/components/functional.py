"""What several methods do to images: Gaussian blurs as matrix products, SSIM on top of them, exposure.

Shapes: B images, C channels, H×W pixels.

Our choice: a blur is two products with a banded matrix, `rows @ x @ cols.T`. A depthwise convolution says
the same but runs an order of magnitude slower on a CPU (`benchmarks/speed.py`), and the matrices carry the
border rule inside them, so that the exported graph needs no padding.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from blemish.images.preprocess import LUMA
from blemish.methods.components.statistics import white_point

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def gaussian_window(size: int, sigma: float) -> Tensor:
    """Sample a Gaussian at `size` (odd) integers around 0, scaled to sum 1. Returns (size,) float64."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    window = torch.exp(-(offsets**2) / (2 * sigma**2))
    return window / window.sum()


def valid_blur_matrix(n: int, size: int = SSIM_WINDOW, sigma: float = SSIM_SIGMA) -> Tensor:
    """Blur a line of n pixels, keeping only places where the whole window fits. Returns (n - size + 1, n)."""
    window = gaussian_window(size, sigma)
    matrix = torch.zeros(n - size + 1, n, dtype=torch.float64)
    for i in range(n - size + 1):
        matrix[i, i : i + size] = window
    return matrix.float()


def same_blur_matrix(n: int, size: int, sigma: float) -> Tensor:
    """Blur a line of n pixels to n pixels, mirrored at its ends (c b a | a b c | c b a). Returns (n, n)."""
    pixel = np.arange(n)[:, None]
    seen = (pixel + np.arange(size) - size // 2) % (2 * n)  # (n, size), of a line and its mirror image
    matrix = np.zeros((n, n))
    np.add.at(matrix, (pixel, np.minimum(seen, 2 * n - 1 - seen)), gaussian_window(size, sigma).numpy())
    return torch.from_numpy(matrix).float()


def smoothing_matrix(n: int, sigma: float) -> Tensor:
    """Blur a line of n pixels with a Gaussian cut off at 4 σ, mirrored at its ends; returns (n, n)."""
    return same_blur_matrix(n, 2 * math.ceil(4 * sigma) + 1, sigma) if sigma else torch.eye(n)


def gaussian_spread(n: int, middles: Tensor, sigma: float, reach: float) -> Tensor:
    """Spread values along a line of n pixels by a Gaussian around each one's middle, cut off beyond `reach`.

    Args:
        n: pixels of the line.
        middles: where the values lie, in pixels, (h,) float64.
        sigma, reach: of the Gaussian, in pixels.

    Returns:
        Weights exp(-o² / 2σ²), o the distance from the middle: (n, h) float64, not scaled.
    """
    off = torch.arange(n, dtype=torch.float64)[:, None] - middles
    return torch.exp(-((off / sigma) ** 2) / 2) * (off.abs() <= reach)


def blur(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Blur the last two dimensions: (..., H, W) with rows (H', H) and cols (W', W) -> (..., H', W')."""
    return rows @ (x @ cols.T)


def enlarge(coarse: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Interpolate maps (B, h, w), and smooth them by matrices (H, H) and (W, W): (B, H, W)."""
    size = (len(rows), len(cols))
    whole = F.interpolate(coarse[:, None], size=size, mode="bilinear", align_corners=False)
    return blur(whole[:, 0], rows, cols)


def ssim_map(x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Structural similarity at each place.

    SSIM = (2 μ_x μ_y + c1)(2 σ_xy + c2) / ((μ_x² + μ_y² + c1)(σ_x² + σ_y² + c2)), with c1 = (k1 L)²,
    c2 = (k2 L)², k1 = 0.01, k2 = 0.03 (MeTAL Eq. 3 without its sign; Wang et al. 2004).

    Args:
        x, y: images (B, C, H, W), in [0, L] with L = `data_range`.
        rows, cols: blur matrices (H', H) and (W', W) of the Gaussian window (11 wide, σ 1.5 in both papers).
        data_range: L, the range of the pixel values.

    Returns:
        (B, C, H', W') in [-1, 1]; 1 where the images are equal.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mu_x, mu_y = blur(x, rows, cols), blur(y, rows, cols)
    var_x = blur(x * x, rows, cols) - mu_x * mu_x
    var_y = blur(y * y, rows, cols) - mu_y * mu_y
    cov = blur(x * y, rows, cols) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + c1) / (mu_x * mu_x + mu_y * mu_y + c1)
    contrast_structure = (2 * cov + c2) / (var_x + var_y + c2)
    return luminance * contrast_structure


def grey(x: Tensor) -> Tensor:
    """RGB images (B, 3, H, W) -> (B, 1, H, W), by the luma of ITU-R BT.601.

    Images of another number of channels are returned as they are.
    """
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True) if x.shape[1] == 3 else x


def mirrored_line(n: int, by: Tensor) -> Tensor:
    """Return what a line of n pixels shows from `by` (..., 1) pixels on, mirrored at its ends: (..., n)."""
    seen = (torch.arange(n) + by).abs()
    return torch.minimum(seen, 2 * (n - 1) - seen)


def expose(x: Tensor, mean_white: Tensor) -> Tensor:
    """Scale images (B, C, H, W) to a common white point, the training images' mean one (a number).

    Our choice: light and reflectance multiply, so on a darker image every difference, a blemish's too, is
    smaller. Nearly black images are amplified tenfold at most.
    """
    white = torch.maximum(white_point(x), 0.1 * mean_white).clamp(min=1e-6)
    return x * (mean_white / white)[:, None, None, None]
