"""KDE: an image far from all good images, measured over its pixels, is anomalous.

Paper: J. Kauffmann, L. Ruff, G. Montavon, K.-R. Müller, "The Clever Hans Effect in Anomaly Detection" (2020),
arXiv:2006.10609.

Symbols: x an image as a vector of D = C·H·W values, x_j the n good ones, γ the inverse width of the Gaussian
kernel, o(x) the outlier score, R_i the part of it that value i explains.

Every training image is part of the model: n·D numbers of four bytes, 10 MB for 209 RGB images of 64×64.

Differs from the paper: its image size and choice of γ could not be checked, so both are ours, and options.
Colour is compared as it is; the map sums the channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, Method
from blemish.methods.config import DetectorConfig

GREY_STEP = 1 / 255
"""Images that differ by less than this in each value are as good as equal: it bounds γ from above."""


@dataclass(frozen=True, kw_only=True)
class KdeConfig(DetectorConfig):
    """The options of KDE."""

    image_size: tuple[int, int] | int = 64
    """Images are resized to this: one number for a square, or height and width, in pixels."""
    image_score: Literal["max", "mean", "top1", "top5"] = "mean"
    """The image score: `mean` is the paper's o(x); the others take the map's largest values."""
    quantile: float = 0.5
    """1/γ is this quantile, in (0, 1], of the squared distances between training images."""

    def __post_init__(self) -> None:
        """Refuse a quantile that does not exist. Raises UsageError."""
        super().__post_init__()
        if not 0 < self.quantile <= 1:
            raise UsageError(f"--quantile {self.quantile}: must be above 0 and at most 1")


def inverse_width(x: Tensor, quantile: float) -> Tensor:
    """γ = 1 / (quantile of |x_i - x_j|² over the pairs i < j); our choice, the median heuristic at 0.5.

    Args:
        x: good images (n, D) in [0, 1].
        quantile: in (0, 1].

    Returns:
        A number above 0, at most 1 / (D · GREY_STEP²), which equal images and a single one get.
    """
    d2 = nn.functional.pdist(x).square()
    typical = d2.kthvalue(max(1, round(quantile * len(d2)))).values if len(d2) else x.new_zeros(())
    return 1 / typical.clamp(min=x.shape[1] * GREY_STEP**2)


def outlier_score(d2: Tensor, gamma: Tensor) -> Tensor:
    """o(x) = -log (1/n) Σ_j exp(-γ |x - x_j|²).

    Args:
        d2: squared distances |x - x_j|² (..., n).
        gamma: γ, above 0.

    Returns:
        (...) ≥ 0, unbounded.
    """
    n = d2.new_tensor(d2.shape[-1])
    return n.log() - (-gamma * d2).logsumexp(dim=-1)


def relevance(squares: Tensor, gamma: Tensor) -> Tensor:
    """Share of o(x) that each value explains: R_i / o(x) = Σ_j w_j (x_i - x_ij)² / |x - x_j|².

    w = softmax_j(-γ |x - x_j|²): the nearest images explain, each by its squared differences. An image that
    is equal to x has none and explains evenly.

    Args:
        squares: (x_i - x_ij)² (..., n, D).
        gamma: γ, above 0.

    Returns:
        (..., D) ≥ 0 of sum 1.
    """
    d2 = squares.sum(dim=-1)  # (..., n)
    w = (-gamma * d2).softmax(dim=-1)
    shares = (torch.where(d2 > 0, w / d2, 0)[..., None, :] @ squares).squeeze(-2)
    return shares + (1 - shares.sum(dim=-1, keepdim=True)).clamp(min=0) / squares.shape[-1]


class Kde(Method[KdeConfig]):
    """KDE. `forward` maps images to maps whose mean is the outlier score."""

    config_type = KdeConfig
    presets: ClassVar[dict[str, KdeConfig]] = {"default": KdeConfig()}

    images: Tensor
    gamma: Tensor

    def __init__(self, config: KdeConfig, channels: int) -> None:
        super().__init__(config, channels)
        H, W = config.size
        self.register_buffer("images", torch.zeros(1, channels * H * W))
        self.register_buffer("gamma", torch.tensor(1.0))
        self.register_load_state_dict_pre_hook(_make_room)

    @property
    def scoring_batch(self) -> int:
        """Images to score at a time: the squared differences of each are as large as the model."""
        return 1

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Keep the training images (batches (B, C, H, W)) and take γ from their distances."""
        self.images = torch.cat([x.flatten(1) for x in batches()])
        self.gamma.copy_(inverse_width(self.images, self.config.quantile))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W) ≥ 0, channels summed, of mean o(x)."""
        squares = (x.flatten(1)[:, None] - self.images).square()  # (B, n, D)
        o = outlier_score(squares.sum(dim=-1), self.gamma)  # (B,)
        parts = relevance(squares, self.gamma).view_as(x).sum(dim=1)  # (B, H, W) of sum 1
        return o[:, None, None] * parts * (x.shape[2] * x.shape[3])


def _make_room(kde: Kde, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: the number of images is known only from the model file."""
    if (saved := state.get(f"{prefix}images")) is not None:
        kde.images = kde.images.new_empty(len(saved), kde.images.shape[1])
