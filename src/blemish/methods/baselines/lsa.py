"""LSA: an autoencoder, and a density of its codes, one number after the other; odd images have odd codes.

Source: D. Abati, A. Porrello, S. Calderara, R. Cucchiara, "Latent Space Autoregression for Novelty
Detection", CVPR (2019), arXiv:1807.01653: its model of single images. It is "LSA" of MeTAL's Table 5.

Symbols (source: here)
    f, g       encoder and decoder: `encode`, `decode`
    z, d       code of d numbers in (0, 1), and d: `latent`
    h          estimator of q(z_i | z_1 … z_i-1), masked layers: `estimator`
    B          bins of each number's multinomial: `bins`
    L_REC      |x - x̃|², summed over an image: `reconstruction`
    L_LLK      -Σ_i log q(z_i | z_1 … z_i-1): `surprise`
    λ          weight of L_LLK in the loss: `density_weight`
    norm_S     L scaled so that the good images' least and largest are 0 and 1: `standardised`
    NS(x)      novelty score, the sum of both terms' norm_S: `novelty`

It scores images and draws nothing: the source has places only in videos. Its map is 0 everywhere.

Differs from the source: log q is interpolated between the middles of two bins (there that of the bin that z_i
falls into, so that the last bit of z_i may change the score). norm_S takes the good training images (there a
set of its own). Activations of encoder and decoder are ReLU (there leaky), their first convolution is padded
(there not), and the residual blocks are those of `cutpaste` and `nsa`. `paper` has the network of the
source's code for CIFAR-10: images of 32×32, 32 to 256 channels, d = 64, B = 100, four layers of 32 numbers
for each z_i; its learning rate and number of steps were not at hand. The preset `default` has images of 64×64
and narrower networks. A range of norm_S is a hundredth of the least L at least, so that the rounding of a sum
is not made large.

Measured with `default`, one seed: on Head CT an image AUROC of 0.777 (published 0.817 ± 0.036), by L_REC
alone 0.774 and by L_LLK alone 0.555; on bottle 0.698, 0.728 and 0.622.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.baselines.cutpaste_backbones import BasicBlock
from blemish.methods.baselines.nsa_network import TransposedBlock
from blemish.methods.components.altered import filled
from blemish.methods.components.collapse import SAME, refuse_constant
from blemish.methods.config import TrainedConfig

HALVINGS = 3
HIDDEN = 256
"""Numbers of the layer between the convolutions and the code."""
LEAST_RANGE = 0.01
"""Good images span at least this share of a term: the rounding of its sum is not to be made large."""


@dataclass(frozen=True, kw_only=True)
class LsaConfig(TrainedConfig):
    """The options of LSA."""

    image_size: tuple[int, int] | int = 64
    """Images are resized to this: one number for a square, or height and width; multiples of 8 pixels."""
    steps: int = 800
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 16
    """Images in an optimiser step."""
    width: int = 8
    """Channels at full size; 8 times as many at an eighth of it."""
    latent: int = 32
    """d: numbers of a code."""
    bins: int = 100
    """B: bins of the multinomial of each number of a code."""
    estimator_width: int = 16
    """Numbers that a layer of the estimator has for each number of a code."""
    estimator_layers: int = 4
    """Layers of the estimator before its last one."""
    density_weight: float = 1.0
    """λ: weight of the code's log-likelihood in the loss."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be halved, and numbers that mean nothing. Raises UsageError."""
        super().__post_init__()
        self.check_counts("width", "latent", "estimator_width", "estimator_layers")
        (H, W), unit = self.size, 2**HALVINGS
        if H % unit or W % unit:
            raise UsageError(
                f"--image-size {H}x{W}: lsa halves it {HALVINGS} times; choose multiples of {unit}"
            )
        if self.bins < 2:
            raise UsageError(f"--bins {self.bins}: must be 2 or larger")
        self.check_weights("density_weight")


# --- the equations --------------------------------------------------------------------------------------


def reconstruction(x: Tensor, x_tilde: Tensor) -> Tensor:
    """L_REC = |x - x̃|²: images (B, C, H, W) -> (B,)."""
    return (x - x_tilde).square().flatten(1).sum(dim=1)


def surprise(z: Tensor, logits: Tensor) -> Tensor:
    """L_LLK = -Σ_i log q(z_i | z_1 … z_i-1), log q interpolated between the middles of bins.

    Args:
        z: codes (B, d) in [0, 1].
        logits: of the bins of each number, (B, d, bins).

    Returns:
        (B,) ≥ 0.
    """
    bins = logits.shape[2]
    place = (z * bins - 0.5).clamp(0, bins - 1)[:, :, None]
    near = (1 - (place - torch.arange(bins, device=z.device)).abs()).clamp(min=0)  # of two bins, of sum 1
    return -(near * logits.log_softmax(dim=2)).sum(dim=(1, 2))


def standardised(values: Tensor, least: Tensor, largest: Tensor) -> Tensor:
    """norm_S(L) = (L - min L) / (max L - min L), the extremes those of good images."""
    return (values - least) / (largest - least)


# --- the network ----------------------------------------------------------------------------------------


class MaskedLinear(nn.Module):
    """A layer with some numbers for each place of a sequence; a place sees those before it, or itself too."""

    def __init__(self, places: int, inputs: int, outputs: int, *, own: bool) -> None:
        super().__init__()
        self.places = places
        self.linear = nn.Linear(places * inputs, places * outputs)
        seen = torch.ones(places, places).tril(0 if own else -1)
        self.register_buffer("mask", torch.kron(seen, torch.ones(outputs, inputs)), persistent=False)
        self.linear.weight.data.mul_(self.mask)

    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, places, inputs) -> (B, places, outputs)."""
        weight = self.linear.weight
        # what is masked has no gradient, so that it is 0 for ever
        weight = weight * self.mask if self.training else weight
        return F.linear(x.flatten(1), weight, self.linear.bias).unflatten(1, (self.places, -1))


class Lsa(TrainedMethod[LsaConfig]):
    """LSA. `forward` maps images to empty maps and to scores."""

    config_type = LsaConfig
    whole_batches = True
    presets: ClassVar[dict[str, LsaConfig]] = {
        "default": LsaConfig(),
        "paper": LsaConfig(
            image_size=32,
            steps=50_000,
            batch_size=64,
            width=32,
            latent=64,
            estimator_width=32,
            schedule="constant",
            calibration_fraction=0.0,
        ),
    }

    extremes: Tensor

    def __init__(self, config: LsaConfig, channels: int) -> None:
        super().__init__(config, channels)
        widths = [config.width * 2**i for i in range(HALVINGS + 1)]
        self.deepest = (widths[-1], config.size[0] >> HALVINGS, config.size[1] >> HALVINGS)
        down = [BasicBlock(before, now, 2) for before, now in pairwise(widths)]
        up = [TransposedBlock(before, now) for before, now in pairwise(widths[::-1])]
        numbers, d = math.prod(self.deepest), config.latent
        self.encoder = nn.Sequential(
            *(nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.ReLU()),
            *(BasicBlock(widths[0], widths[0]), *down, nn.Flatten()),
            *(nn.Linear(numbers, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, d)),
        )
        self.widened = nn.Sequential(
            *(nn.Linear(d, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU()),
            *(nn.Linear(HIDDEN, numbers), nn.BatchNorm1d(numbers), nn.ReLU()),
        )
        last = nn.Conv2d(widths[0], channels, 1, bias=False)
        self.decoder = nn.Sequential(*up, BasicBlock(widths[0], widths[0]), last)
        layers: list[nn.Module] = []
        sizes = [1, *[config.estimator_width] * config.estimator_layers]
        for before, now in pairwise(sizes):
            layers += [MaskedLinear(d, before, now, own=bool(layers)), nn.LeakyReLU()]
        self.estimator = nn.Sequential(*layers, MaskedLinear(d, sizes[-1], config.bins, own=True))
        self.register_buffer("extremes", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> codes z (B, d) in (0, 1)."""
        return self.encoder(x).float().sigmoid()

    def decode(self, z: Tensor) -> Tensor:
        """Codes (B, d) -> images x̃ (B, C, H, W), unbounded."""
        return self.decoder(self.widened(z).unflatten(1, self.deepest))

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """L_REC and L_LLK of images (B, C, H, W) in [0, 1], (B,) each."""
        z = self.encode(x)
        logits = self.estimator(z[:, :, None]).float()
        return reconstruction(x, self.decode(z).float()), surprise(z.detach(), logits)

    def loss(self, x: Tensor) -> Tensor:
        """L_REC + λ L_LLK, the mean over images (B, C, H, W) in [0, 1]; one image is taken twice."""
        errors, surprises = self.terms(filled(x, 2))
        return (errors + self.config.density_weight * surprises).mean()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> maps of 0 (B, 1, 1), and NS (B,)."""
        pairs = zip(self.terms(x), self.extremes, strict=True)
        scores = torch.stack([standardised(values, *ends.unbind()) for values, ends in pairs]).sum(dim=0)
        return torch.zeros_like(scores)[:, None, None], scores

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """Take the extremes of the good training images. Raises TrainingError where all codes are one."""
        codes = torch.cat([self.encode(x) for x in batches()])
        apart = (codes.amax(dim=0) - codes.amin(dim=0)).max()
        refuse_constant("lsa", apart, "all images have the same code", lower="--density-weight")
        terms = torch.stack([torch.cat(part) for part in zip(*map(self.terms, batches()), strict=True)])
        least, largest = terms.amin(dim=1), terms.amax(dim=1)
        largest = torch.maximum(largest, least + LEAST_RANGE * least.abs() + SAME)
        self.extremes.copy_(torch.stack([least, largest], dim=1))
