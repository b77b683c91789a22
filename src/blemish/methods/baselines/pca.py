"""PCA: what a few principal components of whole good images do not span is anomalous.

Source: the classical reconstruction error, Q = |x - x̂|² (Jackson and Mudholkar, "Control procedures for
residuals associated with principal component analysis", Technometrics 21, 1979). It is in neither paper's
tables. It is here as the sanity line: it fits in a second, and a method that does not beat it has shown
nothing.

Symbols: x an image as a vector of D = C·H·W values, μ their mean, P (D, k) the first k principal axes.

Differs from the source: the squared residual is kept per pixel and smoothed with a Gaussian, which makes it
a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from blemish.methods.base import Batches, Method
from blemish.methods.components.functional import blur, grey, smoothing_matrix
from blemish.methods.config import DetectorConfig


@dataclass(frozen=True, kw_only=True)
class PcaConfig(DetectorConfig):
    """The options of PCA."""

    image_score: Literal["max", "mean", "top1", "top5"] = "mean"
    """The image score: largest value, mean, or mean of the top 1 % or 5 % of the anomaly map."""
    components: int = 60
    """k: principal components that are kept; at most one fewer than there are training images."""
    grey: bool = True
    """Turn RGB into grey first; other channel counts are taken as they are."""
    smoothing: float = 2.0
    """σ of the map's Gaussian filter in pixels of the resized image; 0: none."""

    def __post_init__(self) -> None:
        """Refuse a count or width that means nothing. Raises UsageError."""
        super().__post_init__()
        self.check_counts("components")
        self.check_weights("smoothing")


def principal_axes(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the mean and the first k principal axes of the rows of x.

    Args:
        x: (n, D).
        k: number of axes; min(k, n - 1) are found, as n points span no more.

    Returns:
        mean (D,) and orthonormal axes (min(k, n - 1), D), largest variance first, in x's type.
    """
    mean = x.double().mean(dim=0)
    centred = x - mean
    # n is far below D: the axes come from the n×n products of the images with each other.
    variance, vectors = torch.linalg.eigh(centred @ centred.T)  # ascending
    kept = min(k, len(x) - 1)
    axes = vectors.flip(1)[:, :kept].T @ centred
    norms = variance.clamp(min=0).sqrt().flip(0)
    used = norms[:kept] > 1e-6 * norms[0].clamp(min=1e-6)  # equal images span fewer axes
    axes = torch.where(used[:, None], axes / norms[:kept, None].clamp(min=1e-12), 0)
    return mean.to(x.dtype), axes.to(x.dtype)


class Pca(Method[PcaConfig]):
    """PCA. `forward` maps images to smoothed squared residuals."""

    config_type = PcaConfig
    presets: ClassVar[dict[str, PcaConfig]] = {"default": PcaConfig()}

    mean: Tensor
    axes: Tensor
    smooth_rows: Tensor
    smooth_cols: Tensor

    def __init__(self, config: PcaConfig, channels: int) -> None:
        super().__init__(config, channels)
        (H, W), C = config.size, 1 if config.grey and channels == 3 else channels
        self.register_buffer("mean", torch.zeros(C * H * W))
        self.register_buffer("axes", torch.zeros(config.components, C * H * W))
        self.register_buffer("smooth_rows", smoothing_matrix(H, config.smoothing), persistent=False)
        self.register_buffer("smooth_cols", smoothing_matrix(W, config.smoothing), persistent=False)

    def plain(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C or 1, H, W): grey, if the config says so."""
        return grey(x) if self.config.grey else x

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Take mean and axes from the training images (batches (B, C, H, W))."""
        mean, axes = principal_axes(
            torch.cat([self.plain(x).flatten(1) for x in batches()]), self.config.components
        )
        self.mean.copy_(mean)
        self.axes.zero_()[: len(axes)] = axes

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W) ≥ 0: the squared residual, channels summed."""
        x = self.plain(x)
        centred = x.flatten(1) - self.mean  # (B, D)
        residual = centred - (centred @ self.axes.T) @ self.axes
        return blur(residual.view_as(x).square().sum(dim=1), self.smooth_rows, self.smooth_cols)
