"""OCGAN: an autoencoder all of whose codes draw good images; what it does not draw again is anomalous.

Source: P. Perera, R. Nallapati, B. Xiang, "OCGAN: One-class Novelty Detection Using GANs with Constrained
Latent Representations", CVPR (2019), arXiv:1903.08550, and its code. It is "OCGAN" of MeTAL's Table 5.

Symbols (source: here)
    En, De         encoder with tanh, so that codes lie in (-1, 1)^d, and decoder: `encode`, `generator`
    n              Gaussian noise on what the encoder sees while it learns: `noise`
    D_l, D_v       discriminators of codes and of images: `latent_discriminator`, `discriminator`
    C              classifier of images, which finds codes that draw odd ones: `classifier`
    s ~ U(-1, 1)^d codes drawn at random: `codes`

Turns of a step, on the same images:
    autoencoder    λ |x - De(En(x + n))|², and λ_l times that D_l takes En(x + n) for a drawn code, and that
                   D_v takes De(s') for a good image; s' random or, later, informative negatives: `mined`
    discriminators D_l: s is drawn, En(x + n) is not; D_v: x is good, De(s) is not
    classifier     De(En(x + n)) is good, De(s) is not

An informative negative is a code of which C says that its image is odd: one step from a random one, by C's
gradient. The map is (x - De(En(x)))², the mean over channels; an image's score is its mean, the source's.

Differs from the source: sizes are halved four times by 4×4 kernels (there 5×5 without a border, for 61×61
pixels); D_l ends in one number (there 16). Images lie in [0, 1] (there [-1, 1]), so that the noise is half of
the code's option and λ twice it, as its loss halves the square (its README trains with a fiftieth of it). The
encoder ends in tanh as in the text, not in the code, whose decoder drops out half and whose D_l has a sigmoid
before a loss that takes logits. Before the mining the code draws tanh(u), here u. No noise is added when
images are scored. Its steps and those before mining are of its code's 200 and 150 passes over some 6,000
images.

Measured on Head CT with `default`, seed 0: image AUROC 0.86 (published 0.51, which is chance; quoted there,
with no word on how it was trained). Good heads are drawn again here, and PCA has 0.83 by the same idea.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from blemish.methods.base import Batches, Phase, Turn
from blemish.methods.baselines.gan import Gan, GanConfig, discriminator_loss, generator_loss
from blemish.methods.baselines.gan_networks import Down, Up
from blemish.methods.components.altered import filled
from blemish.methods.components.collapse import refuse_constant, spread

if TYPE_CHECKING:
    from collections.abc import Callable

BETAS = (0.5, 0.999)
"""Adam's decays, as the source's code has them."""
HIDDEN = (128, 64, 32)
"""Hidden units of the discriminator of codes, as in the source."""


@dataclass(frozen=True, kw_only=True)
class OcGanConfig(GanConfig):
    """The options of OCGAN."""

    name: ClassVar[str] = "ocgan"

    image_score: Literal["max", "mean", "top1", "top5"] = "mean"
    """The image score: the map's `mean` is the source's; the others take its largest values."""
    steps: int = 600
    """Optimiser steps when `epochs` is None."""
    learning_rate: float = 5e-4
    """Adam's learning rate (its peak when the schedule is cosine); at 1e-3 some trainings collapse."""
    latent: int = 64
    """d: numbers of a code."""
    discriminator_width: int = 8
    """Channels of the discriminator of images at half of the size."""
    mining_from: int = 450
    """Steps before informative negatives are mined; as many as `steps`, or more: none are."""
    mining_rate: float = 2.0
    """How far a step of the mining goes, as a multiple of the gradient."""
    noise: float = 0.1
    """Standard deviation of the noise on what the encoder sees while it learns."""
    reconstruction_weight: float = 1000.0
    """λ: weight of the squared error."""
    latent_weight: float = 10.0
    """λ_l: weight of the call of the discriminator of codes."""

    def __post_init__(self) -> None:
        """Refuse what no training can use. Raises UsageError."""
        super().__post_init__()
        self.refuse_validation()
        self.check_counts("discriminator_width")
        self.check_weights("mining_from", "mining_rate", "noise", "reconstruction_weight", "latent_weight")


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Return (x - x̂)² at each pixel, the mean over channels: images (B, C, H, W) -> (B, H, W) ≥ 0."""
    return (x - x_hat).square().mean(dim=1)


def mined(good: Callable[[Tensor], Tensor], u: Tensor, rate: float) -> Tensor:
    """s': codes that draw odd images, one step from random ones: tanh(u - rate · ∂/∂u Σ -log(1 - C)).

    Args:
        good: tanh(u), codes in (-1, 1), (B, d) -> logits of C that their images are good, (B,).
        u: random numbers (B, d).
        rate: length of the step as a multiple of the gradient.

    Returns:
        (B, d) in (-1, 1).
    """
    with torch.enable_grad():
        u = u.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(nn.functional.softplus(good(u.tanh())).sum(), u)
    return (u - rate * slope).detach().tanh()


class OcGan(Gan[OcGanConfig]):
    """OCGAN. `forward` maps images to the squared error of their reconstruction."""

    config_type = OcGanConfig
    presets: ClassVar[dict[str, OcGanConfig]] = {
        "default": OcGanConfig(),
        "paper": OcGanConfig(
            steps=2400,
            mining_from=1800,
            batch_size=512,
            learning_rate=2e-4,
            schedule="constant",
            width=64,
            discriminator_width=12,
            latent=16,
            calibration_fraction=0.0,
        ),
    }

    steps_taken: Tensor

    def __init__(self, config: OcGanConfig, channels: int) -> None:
        super().__init__(config, channels)
        self.encoder = Down(channels, config.latent, config.width, config.size)
        self.generator = Up(config.latent, channels, config.width, config.size)
        self.discriminator = Down(channels, 1, config.discriminator_width, config.size)
        self.classifier = Down(channels, 1, config.width, config.size)
        layers: list[nn.Module] = []
        before = config.latent
        for now in HIDDEN:
            layers += [nn.Linear(before, now), nn.ReLU()]
            before = now
        self.latent_discriminator = nn.Sequential(*layers, nn.Linear(before, 1))
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))

    def phases(self) -> tuple[Phase, ...]:
        """One phase: autoencoder, discriminators and classifier in turn."""
        autoencoder = nn.ModuleList([self.encoder, self.generator])
        discriminators = nn.ModuleList([self.discriminator, self.latent_discriminator])
        parts = {
            "autoencoder": autoencoder,
            "discriminators": discriminators,
            "classifier": self.classifier,
        }
        turns = tuple(Turn(name, part.parameters(), betas=BETAS) for name, part in parts.items())
        return (Phase("GAN", turns),)

    def codes(self, n: int, like: Tensor) -> Tensor:
        """Draw n codes uniformly in (-1, 1), (n, d), on the CPU, so that a seed means the same anywhere."""
        return (2 * torch.rand(n, self.config.latent) - 1).to(like.device)

    def encode(self, x: Tensor) -> Tensor:
        """En(x): images (B, C, H, W) in [0, 1] -> codes (B, d) in (-1, 1); with noise while it learns."""
        if self.training:
            x = x + self.config.noise * torch.randn(x.shape).to(x)
        return self.encoder(x).tanh()

    def answers(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits of D_v (B,)."""
        return self.discriminator(x)[:, 0].float()

    def loss_of_turn(self, x: Tensor, turn: str) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the loss of a turn; one image is taken twice."""
        x = filled(x, 2)
        if turn == "autoencoder":
            return self.loss(x)
        with torch.no_grad():
            z = self.encode(x)
            s = self.codes(len(x), x)
            drawn = self.generator(s)
            again = self.generator(z) if turn == "classifier" else x
        if turn == "classifier":
            return discriminator_loss(self._good(again), self._good(drawn))
        of_images = discriminator_loss(self.answers(x), self.answers(drawn))
        return of_images + discriminator_loss(self._drawn(s), self._drawn(z))

    def loss(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the autoencoder's loss, a number; counts the step."""
        x = filled(x, 2)
        z = self.encode(x)
        error = squared_error(x, self.generator(z).float()).mean()
        u = self.codes(len(x), x)
        mining = int(self.steps_taken) >= self.config.mining_from
        s = self._mined(u) if mining else u
        self.steps_taken += 1
        return (
            self.config.reconstruction_weight * error
            + self.config.latent_weight * generator_loss(self._drawn(z))
            + generator_loss(self.answers(self.generator(s)))
        )

    def _mined(self, u: Tensor) -> Tensor:
        return mined(lambda s: self._good(self.generator(s)), u, self.config.mining_rate)

    def _good(self, x: Tensor) -> Tensor:
        return self.classifier(x)[:, 0].float()

    def _drawn(self, z: Tensor) -> Tensor:
        return self.latent_discriminator(z)[:, 0].float()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W) ≥ 0."""
        return squared_error(x, self.generator(self.encode(x)).float())

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """Refuse to be saved when a network has collapsed. Raises TrainingError."""
        super().finish(batches)
        x = next(iter(batches()))
        said = torch.cat([self._drawn(self.encode(x)), self._drawn(self.codes(16, x))])
        refuse_constant("ocgan", spread(said), "the discriminator of codes says the same of every code")
        again = self.generator(self.encode(x))
        if len(x) > 1:
            apart = again.std(dim=0).max()
            refuse_constant("ocgan", apart, "the autoencoder draws the same image of every image")
