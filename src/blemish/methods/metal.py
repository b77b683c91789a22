"""MeTAL: a masked transformer reconstructs each patch of an image from all the other patches.

Paper: A. De Nardin, P. Mishra, G. L. Foresti, C. Piciarelli, "Masked Transformer for Image Anomaly
Localization", International Journal of Neural Systems (2022), doi:10.1142/S0129065722500307.

Symbols (paper: here)
    X, X̂          image and its reconstruction: `x`, `x_hat`
    N, K           side of the image and of a square patch: `image_size`, `patch_size`
    p = N/K        squares in a stripe, and segments of a stripe's embedding: `p`
    Q, K, V, d_k   queries, keys, values and their width in a head: `q`, `k`, `v`, `d_k`

Shapes
    B images, C channels, H×W pixels, h×w squares, n tokens, d embedding width of a token.

Differs from the paper: see `docs/papers/metal.md`. Every difference is an option of `MetalConfig`; the
presets `paper-object` and `paper-texture` switch all of them off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.components.functional import (
    SSIM_SIGMA,
    SSIM_WINDOW,
    blur,
    expose,
    mean_and_variance,
    position_statistics,
    same_blur_matrix,
    smoothing_matrix,
    ssim_map,
    valid_blur_matrix,
    white_point,
)
from blemish.methods.config import TrainedConfig
from blemish.methods.density.densities import mahalanobis, shrink, whitener

Masking = Literal["strict", "paper", "none"]
Stripes = Literal["none", "rows", "cols", "both", "only"]
POOL = 2
"""Pixels on a side of a place at which all kinds of error are looked at together."""
RIDGE = 0.01
"""Added to each variance of the errors, which is 1 over all good images and places."""


@dataclass(frozen=True, kw_only=True)
class MetalConfig(TrainedConfig):
    """The options of MeTAL. The defaults measured best over several categories (docs/papers/metal.md)."""

    patch_size: int = 16
    """K: side of a square patch and short side of a stripe, in pixels."""
    stripes: Stripes = "rows"
    """Stripes beside the squares (Table 3): none, rows, cols, both; `only`: rows and cols without squares."""
    masking: Masking = "strict"
    """strict: nothing of a patch reaches its own reconstruction. paper: the diagonal of QKᵀ is set to 0."""
    embedding: int = 128
    """d: width of a square's embedding; a stripe's is p times as wide (Fig. 5)."""
    hidden: int = 512
    """Hidden width of the embedding and decoder MLPs."""
    heads: int = 4
    """Attention heads (Table 2)."""
    blocks: int = 1
    """Transformer blocks in each encoder (Table 2)."""
    feed_forward_squares: int = 1
    """Feed-forward width of the squares' blocks, in units of their embedding."""
    feed_forward_stripes: int = 2
    """Feed-forward width of the stripes' blocks, in units of their embedding."""
    reduction: Literal["mean", "sum"] = "mean"
    """L1 of the loss: mean over pixels, or Eq. 2's literal sum."""
    exposure: bool = True
    """Scale each image first, so that its brightest tenth is as bright as the training images'."""
    center: bool = True
    """Subtract the mean good image first and add it back to the reconstruction."""
    bounded_context: bool = True
    """Show the network each pixel no darker and no brighter than the training images have it there."""
    error: Literal["squared", "combined", "joint"] = "joint"
    """What the map shows: the squared difference; the mean of its root and of 1 - SSIM; or how unlikely all
    kinds of error together are among those of good images."""
    smoothing: tuple[float, ...] = (2.0, 4.0, 8.0)
    """σ of the errors' Gaussian filters in pixels of the resized image; of several, the largest value counts,
    or all of them with `joint`."""
    place_statistics: bool = True
    """Standardise each error by its mean and std at each position over the good training images; with `joint`
    there is a Gaussian at each position, without it one for all."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be cut into patches, and widths that no layer can have."""
        super().__post_init__()
        self.check_counts("patch_size", "embedding", "hidden", "heads", "blocks")
        H, W = self.size
        K = self.patch_size
        if H % K or W % K:
            raise UsageError(
                f"--image-size {H}x{W} cannot be cut into patches of {K}: "
                f"choose multiples of {K}, or another --patch-size"
            )
        if self.masking == "strict" and min(H, W) < 2 * K:
            raise UsageError(
                f"--image-size {H}x{W} holds a single row or column of {K}-pixel patches: "
                "strict masking needs two at least"
            )
        if min(H, W) < SSIM_WINDOW:
            raise UsageError(f"--image-size {H}x{W} is under SSIM's window of {SSIM_WINDOW} pixels")
        competing = self.error == "combined" or (self.error == "squared" and len(self.smoothing) > 1)
        if competing and not self.place_statistics:
            raise UsageError(
                "--no-place-statistics needs --error joint, or --error squared and one --smoothing value: "
                "errors of different kinds compare only when standardised"
            )
        if self.embedding % self.heads:
            raise UsageError(f"--embedding {self.embedding} must be a multiple of --heads {self.heads}")


_PAPER = MetalConfig(
    hidden=1024,
    blocks=1,
    exposure=False,
    center=False,
    bounded_context=False,
    error="squared",
    smoothing=(4.0,),
    place_statistics=False,
    masking="paper",
    image_score="max",
    learning_rate=1e-4,
    schedule="constant",
    batch_size=64,
    epochs=3000,
    min_epochs=500,
    patience=50,
    validation_fraction=0.1,
    calibration_fraction=0.0,
)


# --- the equations, one function each -------------------------------------------------------------


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


# --- cutting an image into tokens, and back ---------------------------------------------------------


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


# --- the network ------------------------------------------------------------------------------------


class Block(nn.Module):
    """A pre-norm transformer block whose attention is masked (Sec. 2.1, 3.2.1)."""

    def __init__(self, d: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.out = nn.Linear(d, d)
        self.feed_forward = _mlp(d, feed_forward, d)

    def forward(self, x: Tensor, source: Tensor, masking: Masking) -> Tensor:
        """Update tokens x (B or 1, n, d) by attending to `source` (B, n, d); returns (B, n, d).

        With `source` equal to x this is self-attention.
        """
        normed = self.norm_attention(source)
        q, k, v = self.query(self.norm_attention(x)), self.key(normed), self.value(normed)
        a = masked_attention(self._split(q), self._split(k), self._split(v), masking)  # (B, heads, n, d_k)
        x = x + self.out(a.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norm_feed_forward(x))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, n, d_k)


class TokenEncoder(nn.Module):
    """Embeds the tokens of one shape and lets each gather a context from the others (Fig. 3)."""

    def __init__(self, n: int, pixels: int, d: int, feed_forward: int, config: MetalConfig) -> None:
        super().__init__()
        self.masking: Masking = config.masking
        self.embed = _mlp(pixels, config.hidden, d)
        self.position = nn.Parameter(0.02 * torch.randn(1, n, d))
        self.blocks = nn.ModuleList(Block(d, config.heads, feed_forward) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(d)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, n, pixels) -> contexts (B, n, d).

        Strict masking: what is updated starts from the position alone and never becomes a key or a value;
        keys and values of every block come from the embedded tokens. So nothing of token i reaches its own
        context, neither by the residual path nor, in deeper blocks, by way of the other tokens.
        """
        source = self.embed(tokens) + self.position  # (B, n, d)
        strict = self.masking == "strict"
        x = self.position if strict else source
        for block in self.blocks:
            x = block(x, source if strict else x, self.masking)
        return self.norm(x)


class Metal(TrainedMethod[MetalConfig]):
    """MeTAL's network. `forward` maps images to anomaly maps and is what an export contains."""

    config_type = MetalConfig
    presets: ClassVar[dict[str, MetalConfig]] = {
        "default": MetalConfig(),
        "paper-object": _PAPER,  # Table 2, products
        "paper-texture": replace(_PAPER, blocks=2),  # Table 2, textures
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
        self.decoder = _mlp(len(encoders) * d, config.hidden, channels * K * K)
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
            d = scales * (2 * self.channels + 1)
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
        the root of its square, and 1 - SSIM.
        """
        x = self.expose(x)
        x_hat = self.reconstruct(x).float()
        difference = x - x_hat
        squared = difference.square()
        joint = self.config.error == "joint"
        kinds = [difference, squared] if joint else [squared.sum(dim=1, keepdim=True)]
        if self.config.error != "squared":
            kinds.append(1 - ssim_map(x, x_hat, self.same_rows, self.same_cols).mean(dim=1, keepdim=True))
        error = torch.cat(kinds, dim=1)  # (B, E, H, W)
        scales = [
            blur(error, getattr(self, f"smooth_rows_{i}"), getattr(self, f"smooth_cols_{i}"))
            for i in range(len(self.config.smoothing))
        ]
        smooth = torch.stack(scales, dim=1)  # (B, S, E, H, W)
        if self.config.error == "squared":
            return smooth
        *first, squares, similarity = smooth.split([kind.shape[1] for kind in kinds], dim=2)
        return torch.cat([*first, squares.sqrt(), similarity], dim=2)

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
            mean, _ = mean_and_variance(white_point(x) for x in batches())
            self.mean_white.copy_(mean)
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
        images, total, products = 0, torch.zeros(()), torch.zeros(())
        for x in batches():
            e = self.error_vectors(x).double().transpose(0, 1)  # (g, B, d)
            e = e if self.config.place_statistics else e.flatten(0, 1)[None]
            images += e.shape[1]
            total, products = total + e.sum(dim=1), products + e.transpose(1, 2) @ e
        mean, second = total / images, products / images
        variance = second.diagonal(dim1=1, dim2=2).mean(dim=0) - mean.mean(dim=0).square()
        scale = variance.clamp(min=0).sqrt() + 1e-6
        covariance = (second - mean[:, :, None] * mean[:, None, :]) / (scale[:, None] * scale)
        self.error_scale.copy_(scale)
        self.error_mean.copy_(mean / scale)
        self.error_whitening.copy_(whitener(shrink(covariance, images, RIDGE)))


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
