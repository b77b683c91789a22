"""The equations of MeTAL, one function each, and how an image becomes tokens and tokens an image.

Symbols (paper: here)
    X, X̂          image and its reconstruction: `x`, `x_hat`
    K              side of a square patch: `K`
    p = N/K        squares in a stripe, and segments of a stripe's embedding: `p`
    Q, K, V, d_k   queries, keys, values and their width in a head: `q`, `k`, `v`, `d_k`

Shapes
    B images, C channels, H×W pixels, h×w squares, n tokens, d embedding width of a token.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from blemish.methods.components.functional import ssim_map

if TYPE_CHECKING:
    from torch import Tensor

GMS_C = 0.0026
"""Keeps GMS steady where there are no edges: 170 of 255² grey levels."""
GMS_SCALES = 3
Masking = Literal["strict", "paper", "none"]


def masked_attention(q: Tensor, k: Tensor, v: Tensor, masking: Masking) -> Tensor:
    """Attention that takes a token's own value out of its sum: Eq. (1) with Sec. 3.2.1's mask (Fig. 2).

    Attention(Q, K, V) = softmax(mask(QKᵀ / √d_k)) V

    `paper` sets the diagonal of QKᵀ to 0, to the letter; exp(0) = 1 keeps the token's own value in the sum.
    `strict` sets it to -∞, so that the own value has the weight 0. `none` is plain attention.

    Args:
        q, k, v: (B, heads, n, d_k); q may have B = 1 and is then shared by the batch.
        masking: "strict", "paper" or "none".

    Returns:
        (B, heads, n, d_k).
    """
    d_k = q.shape[-1]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d_k)  # (B, heads, n, n)
    own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    if masking == "paper":
        scores = scores.masked_fill(own, 0.0)
    elif masking == "strict":
        scores = scores.masked_fill(own, float("-inf"))
    return scores.softmax(dim=-1) @ v


def l1_loss(x: Tensor, x_hat: Tensor, reduction: Literal["mean", "sum"]) -> Tensor:
    """L1(X, X̂) = Σ_ij |X_ij - X̂_ij|, Eq. (2), the mean of it over a batch.

    `sum` is the equation; `mean` divides it by the number of values, without which it drowns SSIM
    (49,152 values of a 128×128 RGB image against one number in [-1, 1]).

    Args:
        x, x_hat: images (B, C, H, W) in [0, 1].
        reduction: "mean" or "sum".
    """
    per_image = (x - x_hat).abs().flatten(1)
    return (per_image.mean(1) if reduction == "mean" else per_image.sum(1)).mean()


def ssim_loss(x: Tensor, x_hat: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """L_SSIM(X, X̂) = -SSIM(X, X̂), Eq. (3), averaged over places, channels and the batch; in [-1, 1]."""
    return -ssim_map(x, x_hat, rows, cols).mean()


def gradient_similarity(x: Tensor, x_hat: Tensor) -> Tensor:
    """MSGMS: how alike the strengths of edges are, the mean over three scales (ours here).

    GMS = (2 g ĝ + c) / (g² + ĝ² + c), g = √((h_x * X)² + (h_y * X)²), h_x and h_y Prewitt's filters and
    c = 0.0026 (Xue et al. 2014, GMSD); at several scales: Zavrtanik et al. 2021, RIAD. A scale is half as
    large as the one before, by means of 2×2 pixels, and is interpolated back. Channels are averaged first.

    Args:
        x, x_hat: images (B, C, H, W) in [0, 1], 4 pixels high and wide at least.

    Returns:
        (B, 1, H, W) in [0, 1]; 1 where the edges are equally strong.
    """
    step = x.new_tensor([1.0, 0.0, -1.0]).expand(3, 3) / 3
    filters = torch.stack([step, step.T])[:, None]
    a, b = x.mean(dim=1, keepdim=True), x_hat.mean(dim=1, keepdim=True)
    scales = []
    for _ in range(GMS_SCALES):
        g, g_hat = (
            F.conv2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), filters).square().sum(dim=1, keepdim=True)
            for y in (a, b)
        )  # squared strengths
        similarity = (2 * (g * g_hat).sqrt() + GMS_C) / (g + g_hat + GMS_C)
        scales.append(F.interpolate(similarity, size=x.shape[2:], mode="bilinear", align_corners=False))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return torch.stack(scales).mean(dim=0)


# --- cutting an image into tokens, and back ---


def squares_of(x: Tensor, K: int) -> Tensor:
    """Cut images (B, C, H, W) into squares, row by row: (B, h·w, C·K·K) with h = H/K, w = W/K."""
    B, C, H, W = x.shape
    h, w = H // K, W // K
    return x.view(B, C, h, K, w, K).permute(0, 2, 4, 1, 3, 5).reshape(B, h * w, C * K * K)


def rows_of(x: Tensor, K: int) -> Tensor:
    """Cut images (B, C, H, W) into K-high row stripes, top to bottom: (B, h, C·K·W)."""
    B, C, H, W = x.shape
    return x.view(B, C, H // K, K, W).transpose(1, 2).reshape(B, H // K, C * K * W)


def cols_of(x: Tensor, K: int) -> Tensor:
    """Cut images (B, C, H, W) into K-wide column stripes, left to right: (B, w, C·H·K)."""
    B, C, H, W = x.shape
    return x.view(B, C, H, W // K, K).permute(0, 3, 1, 2, 4).reshape(B, W // K, C * H * K)


def image_of(squares: Tensor, C: int, h: int, w: int, K: int) -> Tensor:
    """Put squares (B, h·w, C·K·K) back where `squares_of` took them: (B, C, h·K, w·K)."""
    x = squares.view(-1, h, w, C, K, K).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, C, h * K, w * K)


def row_segments(stripes: Tensor, p: int) -> Tensor:
    """Give segment j of row stripe i to square (i, j), Fig. 5: (B, h, p·d) -> (B, h·p, d), here p = w."""
    B, h, _ = stripes.shape
    return stripes.reshape(B, h * p, -1)


def col_segments(stripes: Tensor, p: int) -> Tensor:
    """Give segment i of column stripe j to square (i, j): (B, w, p·d) -> (B, p·w, d), here p = h."""
    B, w, _ = stripes.shape
    return stripes.view(B, w, p, -1).transpose(1, 2).reshape(B, p * w, -1)
