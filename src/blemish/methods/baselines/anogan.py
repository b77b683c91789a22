"""AnoGAN: an image that a GAN of good images cannot draw again is anomalous; its code is searched for.

Source: T. Schlegl, P. Seeböck, S. M. Waldstein, U. Schmidt-Erfurth, G. Langs, "Unsupervised Anomaly Detection
with Generative Adversarial Networks to Guide Marker Discovery", IPMI (2017), arXiv:1703.05921. It is "AnoGAN"
of CPC-AD's Table 2.

Symbols (source: here)
    G, D       generator and discriminator of DCGAN: `generator`, `discriminator`
    z, Γ       code, and steps of the search for it: `latent`, `search_steps`
    f          last activations of D: `discriminator.features`
    λ          weight of the features' residual: `feature_weight`

The search: Γ steps downhill from one first code, for each image anew. It is the price of the method: an image
costs Γ times what one through the networks and back costs. Γ is fixed, so that the price is known; images
are scored a few at a time, so that the progress of a command moves on. It cannot be exported: ONNX has no
gradients.

Differs from the source: whole images (there patches of 64×64 of scans of the retina). The first code is drawn
once, at the training, and kept in the model, so that an image always has the same score; there anew. The
steps are Adam's, at `search_rate`; the source names no rule. Residuals are means over values, so that λ means
the same at every size; there sums. `paper` has 100,000 steps, a number of ours.

Measured on MVTec AD's bottle with `default`, one seed: image AUROC 0.85; pixel AUROC 0.59, published 0.86.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from blemish.core.errors import UsageError
from blemish.methods.base import Phase, Turn
from blemish.methods.baselines.gan import Gan, GanConfig, discriminator_loss, generator_loss, residual_map
from blemish.methods.baselines.gan_networks import Down, Up

if TYPE_CHECKING:
    from collections.abc import Callable

BETAS = (0.5, 0.999)
"""Adam's decays, as DCGAN has them."""
PORTION = 8
"""Images that are searched for at a time: each one's search depends on it alone."""


@dataclass(frozen=True, kw_only=True)
class AnoGanConfig(GanConfig):
    """The options of AnoGAN."""

    name: ClassVar[str] = "anogan"

    learning_rate: float = 2e-4
    """Adam's learning rate (its peak when the schedule is cosine)."""
    search_steps: int = 100
    """Γ: steps of the search for an image's code; the time that an image takes grows with it."""
    search_rate: float = 0.05
    """Learning rate of the search."""
    feature_weight: float = 0.1
    """λ: weight of the residual of the discriminator's features, in [0, 1]."""

    def __post_init__(self) -> None:
        """Refuse what the networks cannot use. Raises UsageError."""
        super().__post_init__()
        self.check_counts("search_steps")
        if not 0 <= self.feature_weight <= 1:
            raise UsageError(f"--feature-weight {self.feature_weight}: must be in [0, 1]")
        if not 0 < self.search_rate < math.inf:
            raise UsageError(f"--search-rate {self.search_rate}: must be a finite number above 0")
        self.refuse_validation()


def mapping_loss(x: Tensor, x_hat: Tensor, f: Tensor, f_hat: Tensor, weight: float) -> Tensor:
    """(1 - λ) |x - G(z)| + λ |f(x) - f(G(z))|, means over values: what the search descends, and A(x).

    Args:
        x, x_hat: images (B, C, H, W).
        f, f_hat: the discriminator's features (B, n).
        weight: λ in [0, 1].

    Returns:
        (B,) ≥ 0 (Eq. 2 to 5).
    """
    residual = (x - x_hat).abs().flatten(1).mean(dim=1)
    return (1 - weight) * residual + weight * (f - f_hat).abs().mean(dim=1)


def search(loss: Callable[[Tensor], Tensor], z: Tensor, *, steps: int, rate: float) -> Tensor:
    """Go downhill from codes z (B, d) by Adam's rule, each by itself.

    Args:
        loss: codes (B, d) -> (B,), each of its own code.
        z: where the search begins.
        steps, rate: how many steps, and how far.

    Returns:
        The codes that were reached, (B, d).
    """
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    for step in range(1, steps + 1):
        z = z.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(loss(z).sum(), z)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope.square()
        z = z - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return z.detach()


class AnoGan(Gan[AnoGanConfig]):
    """AnoGAN. `forward` maps images to what the GAN does not draw, after a search for each."""

    config_type = AnoGanConfig
    not_exported = "it searches for each image's code by gradients, which ONNX does not have"
    presets: ClassVar[dict[str, AnoGanConfig]] = {
        "default": AnoGanConfig(),
        "paper": AnoGanConfig(
            steps=100_000,
            batch_size=64,
            schedule="constant",
            width=64,
            search_steps=500,
            calibration_fraction=0.0,
        ),
    }

    start_code: Tensor

    def __init__(self, config: AnoGanConfig, channels: int) -> None:
        super().__init__(config, channels)
        self.generator = Up(config.latent, channels, config.width, config.size)
        self.discriminator = Down(channels, 1, config.width, config.size)
        self.register_buffer("start_code", torch.randn(1, config.latent))

    @property
    def scoring_batch(self) -> int:
        """Images to score at a time: a few, as each takes long."""
        return PORTION

    def phases(self) -> tuple[Phase, ...]:
        """One phase: discriminator and generator in turn."""
        turns = [("discriminator", self.discriminator), ("generator", self.generator)]
        return (Phase("GAN", tuple(Turn(name, part.parameters(), betas=BETAS) for name, part in turns)),)

    def loss_of_turn(self, x: Tensor, turn: str) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the loss of the discriminator or of the generator."""
        count = max(self.config.batch_size, len(x))  # as many as always, for batch normalisation
        drawn = self.generator(self.codes(count, x))
        if turn == "generator":
            return generator_loss(self.answers(drawn).float())
        return discriminator_loss(self.answers(x).float(), self.answers(drawn.detach()).float())

    def answers(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the discriminator's logits (B,)."""
        return self.discriminator(x)[:, 0]

    def loss(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the generator's loss, a number."""
        return self.loss_of_turn(x, "generator")

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W) ≥ 0, and A(x) (B,) where `mean` is the score."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone()
            f = self.discriminator.features(x).detach()

            def loss(z: Tensor) -> Tensor:
                x_hat = self.generator(z)
                f_hat = self.discriminator.features(x_hat)
                return mapping_loss(x, x_hat, f, f_hat, self.config.feature_weight)

            start = self.start_code.clone().expand(len(x), -1)
            z = search(loss, start, steps=self.config.search_steps, rate=self.config.search_rate)
            with torch.no_grad():
                maps, scores = residual_map(x, self.generator(z)), loss(z)
        return self.maps_and_scores(maps, scores)
