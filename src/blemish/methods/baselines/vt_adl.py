"""VT-ADL: how unlikely each encoded patch of a vision transformer is under a mixture of Gaussians.

Source: P. Mishra, R. Verk, D. Fornasier, C. Piciarelli, G. L. Foresti, "VT-ADL: A Vision Transformer Network
for Image Anomaly Detection and Localization", ISIE (2021), arXiv:2104.10036, and its code. It is "VT-ADL" of
MeTAL's Tables 4 and 6, by the same group.

Symbols (source: here)
    x, x̂          image and its reconstruction: `x`, `x_hat`
    z              encoded patches, d numbers each, with noise while it learns: `encode`
    π, μ, σ²       weights, means and variances of K Gaussians, read off z: `mixture`
    L              λ₁ MSE(x, x̂) - λ₂ SSIM(x, x̂) - Σ log p(z): `loss`

Shapes: B images, C channels, H×W pixels, h×w patches of P×P pixels, n = h·w.

The mixture of a patch is read off that patch itself. Its variances are 1 at least: else it would copy the
patch and make them 0. So what the map shows is mostly how badly K linear experts copy an encoded patch.

The parts: a patch is a token of a transformer with a class token and positions; all encoded patches together
make one vector of 8 numbers for each place, its length squashed below 1; transposed convolutions make x̂ of
it. The map is -log p(z), bilinear between patches and smoothed. An image's score is its largest value.

Numbers that `paper` learns for RGB: 41.0 million. Of these 16.8 are of the layer that makes the one vector
(the code's capsules, whose routing has one place to go, so that it adds up). Without it there are 24.2
million; MeTAL's Table 6 says 25.

Differs from the source: its code weights the Gaussians' log-densities by π; here, as in its paper, π weights
densities. Its attention is divided by the root of d, here by that of a head's width, as in ViT; queries, keys
and values have biases here. Its decoder has kernels of 3 to 11 pixels, which fit 512×512 alone; here each
layer has 4×4 and doubles, with the channels of the source. Its image score adds the errors of the image's
reconstruction to the largest -log p. Its images are cut to 512 of 550 pixels; here they are whole. It keeps
the weights of the pass with the least training loss, here the last; its linear layers begin as He et al. have
it.

The preset `default` is ours: 128×128 pixels, patches of 16, a quarter of the width, 3 blocks.

Measured on MVTec AD's bottle with `default`, seed 0: image AUROC 0.93, pixel AUROC 0.89, its part up to an
FPR of 0.3 in McClish's scale 0.80 (published 0.69). Which of the differences helps was not separated. The
network is smaller than the source's, learns with a higher rate that falls to 0, and the map is smoothed by 4
of 128 pixels, there by 4 of 512. Images were scored as well after 250 steps as after 300.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.baselines.autoencoder import weight_penalty
from blemish.methods.components.collapse import refuse_constant, spread
from blemish.methods.components.functional import enlarge, smoothing_matrix, valid_blur_matrix
from blemish.methods.config import TrainedConfig
from blemish.methods.metal_encoders import Block
from blemish.methods.metal_equations import squares_of, ssim_loss

LENGTH = 8
"""Numbers of the one vector for each patch."""
WIDTHS = (16, 32, 32, 16, 8)
"""Channels of the decoder's layers before the image."""


@dataclass(frozen=True, kw_only=True)
class VtAdlConfig(TrainedConfig):
    """The options of VT-ADL."""

    image_score: Literal["max", "mean", "top1", "top5"] = "max"
    """The image score: `max` is the map's largest value; the others are means of the map."""
    steps: int = 300
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 16
    """Images in an optimiser step."""
    weight_decay: float = 1e-4
    """Adam's weight decay."""
    patch_size: int = 16
    """P: side of a patch in pixels, a power of two from 4 to 64."""
    embedding: int = 128
    """d: numbers of an encoded patch."""
    blocks: int = 3
    """Blocks of the transformer."""
    heads: int = 4
    """Heads of the attention."""
    feed_forward: int = 256
    """Hidden units of a block's two layers."""
    gaussians: int = 10
    """K: Gaussians of the mixture."""
    noise: float = 0.2
    """Standard deviation of the noise on encoded patches while it learns."""
    mse_weight: float = 5.0
    """λ₁: weight of the squared error."""
    ssim_weight: float = 0.5
    """λ₂: weight of the structural similarity."""
    smoothing: float = 4.0
    """Standard deviation in pixels of the Gaussian that smooths the map; 0: none."""

    def __post_init__(self) -> None:
        """Refuse sizes and weights that the network cannot use. Raises UsageError."""
        super().__post_init__()
        self.check_counts("embedding", "blocks", "heads", "feed_forward", "gaussians")
        (H, W), P = self.size, self.patch_size
        if P not in (4, 8, 16, 32, 64):
            raise UsageError(f"--patch-size {P}: must be 4, 8, 16, 32 or 64")
        if H % P or W % P:
            raise UsageError(f"--image-size {H}x{W} is not made of patches of {P}: choose multiples of {P}")
        if min(H, W) < 16:
            raise UsageError(f"--image-size {min(H, W)}: vt-adl needs 16 pixels or more")
        if self.embedding % self.heads:
            raise UsageError(f"--embedding {self.embedding}: must be a multiple of --heads {self.heads}")
        self.check_weights("weight_decay", "noise", "mse_weight", "ssim_weight", "smoothing")


# --- the equations --------------------------------------------------------------------------------------


def squash(s: Tensor) -> Tensor:
    """|s|² / (1 + |s|²) · s / |s|: vectors (..., d), as they point, with lengths below 1."""
    square = s.square().sum(dim=-1, keepdim=True)
    return s * (square + 1e-12).sqrt() / (1 + square)


def minus_log_mixture(z: Tensor, log_pi: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """-log Σ_k π_k Π_i N(z_i; μ_ki, σ²_ki).

    Args:
        z: (..., d).
        log_pi: log π, (..., K).
        mu, log_var: μ and log σ², (..., K, d).

    Returns:
        (...).
    """
    terms = log_var + (z[..., None, :] - mu).square() * (-log_var).exp() + math.log(2 * math.pi)
    return -(log_pi - terms.sum(dim=-1) / 2).logsumexp(dim=-1)


# --- the network ----------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A vision transformer: images (B, C, H, W) -> encoded patches (B, n, d), without the class token."""

    def __init__(self, channels: int, config: VtAdlConfig) -> None:
        super().__init__()
        (H, W), P, d = config.size, config.patch_size, config.embedding
        self.patch_size = P
        self.embed = nn.Linear(channels * P * P, d)
        self.class_token = nn.Parameter(torch.randn(1, 1, d))
        self.position = nn.Parameter(torch.randn(1, 1 + (H // P) * (W // P), d))
        self.blocks = nn.ModuleList(Block(d, config.heads, config.feed_forward) for _ in range(config.blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Encode each patch in the company of all others: (B, C, H, W) -> (B, n, d)."""
        patches = self.embed(squares_of(x, self.patch_size))
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1) + self.position
        for block in self.blocks:
            tokens = block(tokens, tokens, "none")
        return tokens[:, 1:]


class Decoder(nn.Module):
    """Encoded patches (B, n, d) -> one vector of all -> images (B, C, H, W) in (-1, 1)."""

    def __init__(self, channels: int, config: VtAdlConfig) -> None:
        super().__init__()
        (H, W), P = config.size, config.patch_size
        self.grid = (LENGTH, H // P, W // P)
        places = self.grid[1] * self.grid[2]
        self.gather = nn.Linear(places * config.embedding, LENGTH * places, bias=False)
        nn.init.normal_(self.gather.weight, std=0.01)
        doublings = P.bit_length() - 1
        widths = [LENGTH, *WIDTHS[len(WIDTHS) + 1 - doublings :], channels]
        layers: list[nn.Module] = []
        for before, now in pairwise(widths):
            up = nn.ConvTranspose2d(before, now, 4, 2, padding=1)
            layers += [up, nn.BatchNorm2d(now), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-2], nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """Draw the images again: (B, n, d) -> (B, C, H, W) in (-1, 1)."""
        return self.layers(squash(self.gather(z.flatten(1))).unflatten(1, self.grid))


class Mixture(nn.Module):
    """Reads a mixture of K Gaussians off each encoded patch (..., d): log π, μ and log σ² ≥ 0."""

    def __init__(self, d: int, gaussians: int) -> None:
        super().__init__()
        self.pi = nn.Linear(d, gaussians, bias=False)
        self.mu = nn.Linear(d, gaussians * d, bias=False)
        self.log_var = nn.Linear(d, gaussians * d, bias=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encoded patches z (..., d) -> log π (..., K), μ and log σ² (..., K, d).

        Only what is above 0 of z counts, as in the source's code.
        """
        seen = z.relu()
        shape = (self.pi.out_features, z.shape[-1])
        mu, log_var = self.mu(seen), F.softplus(self.log_var(seen))
        return self.pi(seen).log_softmax(dim=-1), mu.unflatten(-1, shape), log_var.unflatten(-1, shape)


class VtAdl(TrainedMethod[VtAdlConfig]):
    """VT-ADL. `forward` maps images to how unlikely their patches are."""

    config_type = VtAdlConfig
    whole_batches = True
    presets: ClassVar[dict[str, VtAdlConfig]] = {
        "default": VtAdlConfig(),
        "paper": VtAdlConfig(
            image_size=512,
            epochs=400,
            batch_size=8,
            learning_rate=1e-4,
            schedule="constant",
            patch_size=64,
            embedding=512,
            blocks=6,
            heads=8,
            feed_forward=1024,
            calibration_fraction=0.0,
        ),
    }

    # made from the config and not saved
    valid_rows: Tensor
    valid_cols: Tensor
    smooth_rows: Tensor
    smooth_cols: Tensor

    def __init__(self, config: VtAdlConfig, channels: int) -> None:
        super().__init__(config, channels)
        self.encoder, self.decoder = Encoder(channels, config), Decoder(channels, config)
        self.mixture = Mixture(config.embedding, config.gaussians)
        for side, n in zip(("rows", "cols"), config.size, strict=True):
            self.register_buffer(f"valid_{side}", valid_blur_matrix(n), persistent=False)
            smooth = smoothing_matrix(n, config.smoothing)
            self.register_buffer(f"smooth_{side}", smooth, persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """z: images (B, C, H, W) in [0, 1] -> encoded patches (B, n, d), with noise while it learns."""
        z = self.encoder(x)
        if self.training:
            z = z + self.config.noise * torch.randn(z.shape).to(z)
        return z

    def unlikely(self, z: Tensor) -> Tensor:
        """-log p(z) of each encoded patch: (B, n, d) -> (B, n)."""
        log_pi, mu, log_var = (part.float() for part in self.mixture(z))
        return minus_log_mixture(z.float(), log_pi, mu, log_var)

    def loss(self, x: Tensor) -> Tensor:
        """L, the mean of it over images (B, C, H, W) in [0, 1], and weight decay."""
        z = self.encode(x)
        x_hat = self.decoder(z).float()
        density = self.unlikely(z).sum(dim=1).mean()
        with torch.autocast(x.device.type, enabled=False):  # SSIM subtracts squares: not in bf16
            similarity = ssim_loss(x, x_hat, self.valid_rows, self.valid_cols)
            drawn = self.config.mse_weight * F.mse_loss(x_hat, x) + self.config.ssim_weight * similarity
            return drawn + density + weight_penalty(self.parameters(), self.config.weight_decay)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W)."""
        (H, W), P = self.config.size, self.config.patch_size
        patches = self.unlikely(self.encode(x)).unflatten(1, (H // P, W // P))
        return enlarge(patches, self.smooth_rows, self.smooth_cols)

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """Refuse to be saved where all patches are equally likely. Raises TrainingError."""
        unlikely = self.unlikely(self.encode(next(iter(batches()))))
        refuse_constant("vt-adl", spread(unlikely), "every patch of every image is equally likely")
