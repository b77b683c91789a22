"""CutPaste: a network learns to tell good crops from those with a pasted piece; what else it finds odd shows.

Source: C.-L. Li, K. Sohn, J. Yoon, T. Pfister, "CutPaste: Self-Supervised Learning for Anomaly Detection and
Localization" (CVPR 2021), arXiv:2104.04015: the 3-way variant (Sec. 2.2) of the patch model (Sec. 2.4, A.5).

Symbols (paper: here)
    c(x), CP       crop at a random place, and what is pasted into it: `pasting.py`
    f              representation, the trunk's features averaged over places: `trunk`
    g              classifier, a projection head on f: `head`
    μ, Σ           mean and covariance of f on good images: `mean`; `whitening` is A with AᵀA = Σ⁻¹

Shapes: B images, C channels, H×W pixels; P the side of a training crop, S = P/2 that of a scored square, as
in the paper (64 and 32 at 256×256); h×w scored squares, g = h·w of them; d width of f.

Differs from the source: the optimiser is Adam without weight decay (there SGD: learning rate 0.03, momentum
0.9, weight decay 3e-5). Σ is shrunk and regularised (`shrunk_whitening_matrix`), that of a place towards that
of all. Of the head the paper states no widths: ours has two hidden layers of d. Of the crops' colour jitter
it states no intensity: ours is the pieces' 0.1. Its order is fixed. The image score is taken from the map,
there from the scores before it. The preset `default`, for one core, has images of 128×128, a trunk that
overlapping squares share, Mahalanobis' distance, and maps that do not fade towards the border. In the preset
`paper`, a Gaussian at each place (`--density place`, as the paper has it for aligned objects) makes a model
of 3.4 GB.

Published for bottle: pixel AUROC 0.976, image AUROC 0.983 (of whole images, which is not built here);
measured with `default`: 0.951 and 0.996. The inside of a large, even stain looks like a plain good place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.baselines.cutpaste_augment import (
    crops_that_count,
    draw_jitter,
    jitter,
    random_crops,
    three_ways,
)
from blemish.methods.baselines.cutpaste_backbones import TRUNKS, TrunkConfig, grid_of
from blemish.methods.components.functional import blur, gaussian_spread
from blemish.methods.components.statistics import (
    Moments,
    mean_and_variance,
    shrink_to_mean,
    shrunk_whitening_matrix,
)

SMOOTHING = 10 / 32
"""σ of the upsampling Gaussian as a share of a square's side: 10 of 32 pixels, as in FCDD's code (A.5)."""


@dataclass(frozen=True, kw_only=True)
class CutPasteConfig(TrunkConfig):
    """The options of CutPaste."""

    steps: int = 1500
    """Optimiser steps when `epochs` is None."""
    learning_rate: float = 3e-3
    """Adam's learning rate (its peak when the schedule is cosine)."""
    patch_size: int = 32
    """P: side of a training crop in pixels, a power of 2 from 16; squares of half of it are scored."""
    stride: int = 4
    """Pixels from one scored square to the next, a power of 2, an eighth of --patch-size at most."""
    density: Literal["shared", "place"] = "place"
    """A Gaussian for all places, or one for each, for objects that always lie alike (A.5)."""
    score: Literal["density", "distance"] = "distance"
    """density: -log p_gde, Eq. (2). distance: its root, so that no square outshines the rest (ours)."""
    border: Literal["fade", "level"] = "level"
    """fade: the map sinks towards the border, where fewer squares overlap (A.5); level: not so (ours)."""

    def __post_init__(self) -> None:
        """Refuse sizes that squares do not fit. Raises UsageError."""
        super().__post_init__()
        self.check_counts("patch_size")
        self.check_squares(least=16, steps=8)
        (H, W), P = self.size, self.patch_size
        if min(H, W) < P:
            raise UsageError(f"--image-size {H}x{W}: must be --patch-size {P} or larger")
        _ = self.grid  # which refuses as well

    @property
    def side(self) -> int:
        """S: side of a scored square in pixels."""
        return self.patch_size // 2

    @property
    def grid(self) -> tuple[int, int]:
        """Rows h and columns w of scored squares: 57×57 for the paper's 256×256 (A.5)."""
        return grid_of(self.size, self.side, self.stride)


# --- the equations --------------------------------------------------------------------------------------


def minus_log_density(z: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Return -log p_gde = ½ (f(x) - μ)ᵀ Σ⁻¹ (f(x) - μ), Eq. (2) with its sign turned.

    Args:
        z: f of each square, (B, g, d).
        mean: μ, (g, d), or (1, d) for all places.
        whitening: A with AᵀA = Σ⁻¹, (g, d, d) or (1, d, d).

    Returns:
        (B, g), ≥ 0, larger is more anomalous.
    """
    centred = z - mean
    if len(whitening) == 1:
        white = centred @ whitening[0].T
    else:
        white = torch.einsum("bgd,ged->bge", centred, whitening)
    return white.square().sum(dim=-1) / 2


def upsampling_matrix(n: int, side: int, stride: int, border: str) -> Tensor:
    """Spread the scores of squares along a line of n pixels: a transposed convolution with a Gaussian (A.5).

    Square j covers the pixels from `stride`·j on, `side` of them, with weights exp(-o² / 2σ²), o the distance
    from its middle and σ = `SMOOTHING`·`side`.

    Args:
        n: pixels of the line.
        side, stride: of the squares, in pixels.
        border: "fade" scales the weights to sum 1 over a square, which leaves less to pixels that few squares
            cover; "level" to sum 1 over a pixel's squares.

    Returns:
        (n, h): `rows @ scores @ cols.T` is the map.
    """
    places = (n - side) // stride + 1
    middles = stride * torch.arange(places, dtype=torch.float64) + (side - 1) / 2
    weights = gaussian_spread(n, middles, SMOOTHING * side, (side - 1) / 2)
    return (weights / weights.sum(dim=0 if border == "fade" else 1, keepdim=True)).float()


# --- the network ----------------------------------------------------------------------------------------


class CutPaste(TrainedMethod[CutPasteConfig]):
    """CutPaste's network. `forward` maps images to maps of their own size."""

    config_type = CutPasteConfig
    whole_batches = True
    presets: ClassVar[dict[str, CutPasteConfig]] = {
        "default": CutPasteConfig(),
        "paper": CutPasteConfig(
            image_size=256,
            patch_size=64,
            trunk="resnet18",
            width=64,
            image_score="max",
            density="shared",
            score="density",
            border="fade",
            steps=65536,
            batch_size=32,
            learning_rate=1e-3,
            calibration_fraction=0.0,
        ),
    }

    pixel_mean: Tensor
    pixel_spread: Tensor
    mean: Tensor
    whitening: Tensor
    rows: Tensor
    cols: Tensor

    def __init__(self, config: CutPasteConfig, channels: int) -> None:
        super().__init__(config, channels)
        self.trunk = TRUNKS[config.trunk](channels, config.side, config.width)
        d = self.trunk.outputs
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 3))
        places = config.grid[0] * config.grid[1] if config.density == "place" else 1
        self.register_buffer("pixel_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("pixel_spread", torch.ones(()))
        self.register_buffer("mean", torch.zeros(places, d))
        self.register_buffer("whitening", torch.zeros(places, d, d))
        for name, n in zip(("rows", "cols"), config.size, strict=True):
            matrix = upsampling_matrix(n, config.side, config.stride, config.border)
            self.register_buffer(name, matrix, persistent=False)

    @property
    def scoring_batch(self) -> int:
        """Images to score at a time: one on a CPU, so that a score does not depend on its company."""
        return 1 if self.mean.device.type == "cpu" or self.config.trunk == "resnet18" else 16

    def plain(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W), each channel of mean 0, all together of the training images' spread."""
        return (x - self.pixel_mean) / self.pixel_spread

    def loss(self, x: Tensor) -> Tensor:
        """E[CE(g(c(x)), 0) + CE(g(CP(c(x))), 1) + …], Eq. (3) of three classes, as a mean over all crops.

        Images (B, C, H, W) in [0, 1] -> a number.
        """
        side = self.config.patch_size
        crops, seen = crops_that_count(x, side) if self.covered else (random_crops(x, side), None)
        everywhere = torch.ones_like(crops[:, :1], dtype=torch.bool)
        crops = jitter(crops, draw_jitter(len(crops)).to(x.device), everywhere)
        logits = self.head(self.trunk(self.plain(three_ways(crops, seen))))
        classes = torch.arange(3, device=x.device).repeat_interleave(len(crops))
        return F.cross_entropy(logits.float(), classes)

    def encode(self, x: Tensor) -> Tensor:
        """Return f of each square: images (B, C, H, W) in [0, 1] -> (B, g, d)."""
        return self.trunk.everywhere(self.plain(x), self.config.stride).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W) ≥ 0, larger is more anomalous."""
        scores = minus_log_density(self.encode(x), self.mean, self.whitening)
        if self.config.score == "distance":
            scores = (2 * scores).sqrt()  # Mahalanobis'
        return blur(scores.unflatten(1, self.config.grid), self.rows, self.cols)

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Before training: mean of each channel and common spread of the training images (B, C, H, W)."""
        mean, variance = mean_and_variance(x.movedim(1, -1).flatten(0, 2) for x in batches())
        self.pixel_mean.copy_(mean[:, None, None])
        self.pixel_spread.copy_(variance.mean().sqrt().clamp(min=1e-3))

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """After training: μ and Σ of f over the good training images, at each place or over all of them.

        A place has few samples (ours): its Σ is drawn towards the mean Σ of all places, by d / (d + n), or
        plain places, where f hardly varies, would shout at the least change.
        """
        found = Moments()
        for x in self.as_scored(batches):
            z = self.encode(x)  # (B, g, d)
            found.add(z.transpose(0, 1) if self.config.density == "place" else z.flatten(0, 1)[None])
        self.mean.copy_(found.mean)
        covariance = shrink_to_mean(found.covariance, found.n)
        for now, part in zip(self.whitening.split(64), covariance.split(64), strict=True):
            now.copy_(shrunk_whitening_matrix(part, found.n))
