"""MeTAL: a masked transformer reconstructs each patch of an image from all the other patches.

Paper: A. De Nardin, P. Mishra, G. L. Foresti, C. Piciarelli, "Masked Transformer for Image Anomaly
Localization", International Journal of Neural Systems (2022), doi:10.1142/S0129065722500307.

Symbols (paper: here)
    X, X̂          image and its reconstruction: `x`, `x_hat`
    N, K           side of the image and of a square patch: `image_size`, `patch_size`
    p = N/K        squares in a stripe, and segments of a stripe's embedding: `p`

Shapes
    B images, C channels, H×W pixels, h×w squares, n tokens, d embedding width of a token.

The network stands here; its equations in `metal_equations`, the encoders of its tokens in `metal_encoders`,
and its options in `metal_config`.

Differs from the paper: see `docs/papers/metal.md`. Every difference is an option of `MetalConfig`; the
presets `paper-object` and `paper-texture` switch all of them off.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.components.functional import (
    SSIM_SIGMA,
    SSIM_WINDOW,
    blur,
    expose,
    same_blur_matrix,
    smoothing_matrix,
    ssim_map,
    valid_blur_matrix,
)
from blemish.methods.components.statistics import (
    Moments,
    mean_and_variance,
    mean_white,
    position_statistics,
    shrink_to_mean,
    whitening_matrix,
)
from blemish.methods.density.densities import mahalanobis
from blemish.methods.metal_config import PAPER, MetalConfig
from blemish.methods.metal_encoders import TokenEncoder, mlp
from blemish.methods.metal_equations import (
    col_segments,
    cols_of,
    gradient_similarity,
    image_of,
    l1_loss,
    row_segments,
    rows_of,
    squares_of,
    ssim_loss,
)

POOL = 2
"""Pixels on a side of a place at which all kinds of error are looked at together."""
RIDGE = 0.01
"""Added to each variance of the errors, which is 1 over all good images and places."""


class Metal(TrainedMethod[MetalConfig]):
    """MeTAL's network. `forward` maps images to anomaly maps and is what an export contains."""

    config_type = MetalConfig
    presets: ClassVar[dict[str, MetalConfig]] = {
        "default": MetalConfig(),
        "paper-object": PAPER,  # Table 2, products
        "paper-texture": replace(PAPER, blocks=2),  # Table 2, textures
    }

    # buffers; the blur matrices are made from the config and are not saved
    mean_white: Tensor
    mean_image: Tensor
    darkest: Tensor
    brightest: Tensor
    place_mean: Tensor
    place_spread: Tensor
    error_scale: Tensor
    error_mean: Tensor
    error_whitening: Tensor
    valid_rows: Tensor
    valid_cols: Tensor
    same_rows: Tensor
    same_cols: Tensor

    def __init__(self, config: MetalConfig, channels: int) -> None:
        super().__init__(config, channels)
        (H, W), K, d = config.size, config.patch_size, config.embedding
        self.h, self.w = H // K, W // K
        encoders = nn.ModuleDict()
        if config.stripes != "only":
            n, width = self.h * self.w, config.feed_forward_squares * d
            encoders["squares"] = TokenEncoder(n, channels * K * K, d, width, config)
        if config.stripes in ("rows", "both", "only"):
            d_row = self.w * d
            width = config.feed_forward_stripes * d_row
            encoders["rows"] = TokenEncoder(self.h, channels * K * W, d_row, width, config)
        if config.stripes in ("cols", "both", "only"):
            d_col = self.h * d
            width = config.feed_forward_stripes * d_col
            encoders["cols"] = TokenEncoder(self.w, channels * H * K, d_col, width, config)
        self.encoders = encoders
        self.decoder = mlp(len(encoders) * d, config.hidden, channels * K * K)
        self._make_buffers(H, W)

    def _make_buffers(self, H: int, W: int) -> None:
        fixed = {
            "valid_rows": valid_blur_matrix(H),
            "valid_cols": valid_blur_matrix(W),
            "same_rows": same_blur_matrix(H, SSIM_WINDOW, SSIM_SIGMA),
            "same_cols": same_blur_matrix(W, SSIM_WINDOW, SSIM_SIGMA),
            **{
                f"smooth_rows_{i}": smoothing_matrix(H, sigma)
                for i, sigma in enumerate(self.config.smoothing)
            },
            **{
                f"smooth_cols_{i}": smoothing_matrix(W, sigma)
                for i, sigma in enumerate(self.config.smoothing)
            },
        }
        for name, matrix in fixed.items():
            self.register_buffer(name, matrix, persistent=False)
        if self.config.exposure:
            self.register_buffer("mean_white", torch.tensor(1.0))
        if self.config.center:
            self.register_buffer("mean_image", torch.zeros(self.channels, H, W))
        if self.config.bounded_context:
            self.register_buffer("darkest", torch.zeros(self.channels, H, W))
            self.register_buffer("brightest", torch.ones(self.channels, H, W))
        scales = len(self.config.smoothing)
        if self.config.error == "joint":
            d = scales * (2 * self.channels + (2 if self.config.gradients else 1))
            places = (H // POOL) * (W // POOL) if self.config.place_statistics else 1
            self.register_buffer("error_scale", torch.ones(d))
            self.register_buffer("error_mean", torch.zeros(places, d))
            # two bytes a number: a third decimal of a whitening moves no score by a thousandth
            self.register_buffer("error_whitening", torch.eye(d, dtype=torch.float16).repeat(places, 1, 1))
        elif self.config.place_statistics:
            shape = (scales, 2 if self.config.error == "combined" else 1, H, W)
            self.register_buffer("place_mean", torch.zeros(shape))
            self.register_buffer("place_spread", torch.ones(shape))

    def expose(self, x: Tensor) -> Tensor:
        """Scale images (B, C, H, W) to the training images' white point; the rest works on the result."""
        return expose(x, self.mean_white) if self.config.exposure else x

    def reconstruct(self, x: Tensor) -> Tensor:
        """X̂: each patch from all the others (Fig. 3, 4). Exposed images (B, C, H, W) -> the same shape.

        Our choice: `bounded_context` changes nothing of a training image, but keeps a blemish from being a
        context like none that was learnt, which would spoil the reconstruction of all the patches around it.
        """
        K = self.config.patch_size
        seen = x.maximum(self.darkest).minimum(self.brightest) if self.config.bounded_context else x
        seen = seen - self.mean_image if self.config.center else seen
        parts = []
        if "squares" in self.encoders:
            parts.append(self.encoders["squares"](squares_of(seen, K)))  # (B, h·w, d)
        if "rows" in self.encoders:
            parts.append(row_segments(self.encoders["rows"](rows_of(seen, K)), self.w))
        if "cols" in self.encoders:
            parts.append(col_segments(self.encoders["cols"](cols_of(seen, K)), self.h))
        squares = self.decoder(torch.cat(parts, dim=-1))  # (B, h·w, C·K·K)
        x_hat = image_of(squares, self.channels, self.h, self.w, K)
        return x_hat + self.mean_image if self.config.center else x_hat

    def loss(self, x: Tensor) -> Tensor:
        """L(X, X̂) = L1(X, X̂) + L_SSIM(X, X̂), Eq. (4). Images (B, C, H, W) in [0, 1] -> a number."""
        x = self.expose(x)
        x_hat = self.reconstruct(x).float()
        with torch.autocast(x.device.type, enabled=False):  # SSIM subtracts squares: not in bf16
            return l1_loss(x, x_hat, self.config.reduction) + ssim_loss(
                x, x_hat, self.valid_rows, self.valid_cols
            )

    def errors(self, x: Tensor) -> Tensor:
        """Smoothed differences of image and reconstruction (Sec. 4.4).

        (B, C, H, W) -> (B, S, E, H, W): one of S for each σ of the smoothing; one of E for each kind of
        error, larger is worse: the squared differences of all channels summed; or, `combined`, the root of
        that, and 1 - SSIM, the channels' mean; or, `joint`, each channel's difference, which may be below 0,
        the root of its square, 1 - SSIM and, with `gradients`, 1 - MSGMS.
        """
        x = self.expose(x)
        x_hat = self.reconstruct(x).float()
        difference = x - x_hat
        squared = difference.square()
        joint = self.config.error == "joint"
        kinds = [difference, squared] if joint else [squared.sum(dim=1, keepdim=True)]
        if self.config.error != "squared":
            kinds.append(1 - ssim_map(x, x_hat, self.same_rows, self.same_cols).mean(dim=1, keepdim=True))
        if self.config.gradients:
            kinds.append(1 - gradient_similarity(x, x_hat))
        error = torch.cat(kinds, dim=1)  # (B, E, H, W)
        scales = [
            blur(error, getattr(self, f"smooth_rows_{i}"), getattr(self, f"smooth_cols_{i}"))
            for i in range(len(self.config.smoothing))
        ]
        smooth = torch.stack(scales, dim=1)  # (B, S, E, H, W)
        if self.config.error == "squared":
            return smooth
        parts = list(smooth.split([kind.shape[1] for kind in kinds], dim=2))
        at = 1 if joint else 0  # of the squares
        parts[at] = parts[at].sqrt()
        return torch.cat(parts, dim=2)

    def error_vectors(self, x: Tensor) -> Tensor:
        """e: all kinds of error at all scales, at places of POOL×POOL pixels: (B, C, H, W) -> (B, g, d)."""
        errors = F.avg_pool2d(self.errors(x).flatten(1, 2), POOL)
        return errors.flatten(2).transpose(1, 2) / self.error_scale

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps, unbounded, larger is more anomalous.

        (B, H, W), or with `joint` (B, H / POOL, W / POOL). Our choices beyond the paper. `joint`:
        log(1 + D²), D² = |A (e - μ)|², how unlikely the errors are together at their place. `combined`: the
        kinds of error, standardised, are averaged; the scales compete, so that a speck and a stain each find
        the one that suits them.
        """
        if self.config.error == "joint":
            distance = mahalanobis(self.error_vectors(x), self.error_mean, self.error_whitening.float())
            return distance.log1p().unflatten(1, tuple(side // POOL for side in self.config.size))
        errors = self.errors(x)
        if self.config.place_statistics:
            errors = (errors - self.place_mean) / self.place_spread
        return errors.mean(dim=2).amax(dim=1)

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Before training: mean white point, mean and range of the training images (batches (B, C, H, W))."""
        if self.config.exposure:
            self.mean_white.copy_(mean_white(batches()))
        if self.config.center:
            mean, _ = mean_and_variance(self.expose(x) for x in batches())
            self.mean_image.copy_(mean)
        if self.config.bounded_context:
            self.darkest.fill_(math.inf)
            self.brightest.fill_(-math.inf)
            for x in batches():
                low, high = self.expose(x).aminmax(dim=0)
                self.darkest.copy_(self.darkest.minimum(low))
                self.brightest.copy_(self.brightest.maximum(high))

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """After training: take what errors the good training images have.

        Our choice: an edge that no context predicts to the pixel lights up on every image, good or not.
        """
        if self.config.error == "joint":
            self._learn_errors(batches)
        elif self.config.place_statistics:
            mean, std = position_statistics((self.errors(x) for x in batches()), positions=2)
            self.place_mean.copy_(mean)
            self.place_spread.copy_(std)

    def _learn_errors(self, batches: Batches) -> None:
        """Take mean and covariance of the errors at each place, or of all places together."""
        self.error_scale.fill_(1)
        found = Moments()
        for x in batches():
            e = self.error_vectors(x).transpose(0, 1)  # (g, B, d)
            found.add(e if self.config.place_statistics else e.flatten(0, 1)[None])
        variance = found.second.diagonal(dim1=1, dim2=2).mean(dim=0) - found.mean.mean(dim=0).square()
        scale = variance.clamp(min=0).sqrt() + 1e-6
        covariance = shrink_to_mean(found.covariance / (scale[:, None] * scale), found.n)
        self.error_scale.copy_(scale)
        self.error_mean.copy_(found.mean / scale)
        self.error_whitening.copy_(whitening_matrix(covariance, RIDGE))
