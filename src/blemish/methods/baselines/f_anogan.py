"""f-AnoGAN: an image that a GAN of good images cannot draw again is anomalous; an encoder finds its code.

Source: T. Schlegl, P. Seeböck, S. M. Waldstein, G. Langs, U. Schmidt-Erfurth, "f-AnoGAN: Fast Unsupervised
Anomaly Detection with Generative Adversarial Networks", Medical Image Analysis 54 (2019). It is "f-AnoGAN" of
MeTAL's Tables 4 and 6.

Symbols (source: here)
    G, D, E    generator, critic and encoder: `generator`, `critic`, `encoder`
    z          code of d numbers: `latent`
    f, n_d     last activations of the critic and their number: `critic.features`
    κ          weight of the features' residual: `feature_weight`
    λ          weight of the gradient penalty: `penalty`

Two phases: the GAN (WGAN-GP, `gan.py`), several turns of the critic for one of the generator; then the
encoder, with generator and critic as they are (izi_f, Eq. 3).

Differs from the source: whole images (there patches of 64×64 of scans of the retina). The encoder has layer
normalisation, there batch normalisation; Adam trains it, there RMSProp at 5e-5, for 50,000 steps as there. A
step of the loop is one of the critic, so that `paper` has 100,000 of those and 20,000 of the generator (there
seven passes over its patches). Images lie in [0, 1], not [-1, 1]. The map is |x - G(E(x))|, the mean over
channels.

Measured on MVTec AD's bottle with `default`, one seed: pixel AUROC 0.68, its part up to an FPR of 0.3 0.33
(published 0.42), image AUROC 0.55 by A(x) and 0.83 by its first term alone. So short a training draws bottles
with a grid on them, and the critic's features tell nothing yet: the method wants a GPU and `paper`.

Numbers that `paper` learns at 64×64 RGB: 24.6 million, as in MeTAL's Table 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from blemish.methods.base import Phase, Turn
from blemish.methods.baselines.gan import Gan, GanConfig, critic_loss, gradient_penalty, residual_map
from blemish.methods.baselines.gan_networks import ResidualDown, ResidualUp

if TYPE_CHECKING:
    from torch import Tensor

BETAS = (0.0, 0.9)
"""Adam's decays, as WGAN-GP has them."""


@dataclass(frozen=True, kw_only=True)
class FAnoGanConfig(GanConfig):
    """The options of f-AnoGAN."""

    name: ClassVar[str] = "f-anogan"

    steps: int = 1500
    """Steps of the critic and then of the encoder when `epochs` is None; the encoder has a third of them."""
    learning_rate: float = 5e-4
    """Adam's learning rate (its peak when the schedule is cosine)."""
    width: int = 8
    """Channels of the networks at full size; 8 times as many at a 16th of it."""
    latent: int = 64
    """d: numbers of a code."""
    critic_steps: int = 3
    """Steps of the critic for one of the generator."""
    penalty: float = 10.0
    """λ: weight of the gradient penalty."""
    feature_weight: float = 1.0
    """κ: weight of the residual of the critic's features."""

    def __post_init__(self) -> None:
        """Refuse sizes and weights that the networks cannot use. Raises UsageError."""
        super().__post_init__()
        self.check_counts("critic_steps")
        self.check_weights("penalty", "feature_weight")


def anomaly_score(x: Tensor, x_hat: Tensor, f: Tensor, f_hat: Tensor, kappa: float) -> Tensor:
    """A(x) = 1/n |x - G(E(x))|² + κ/n_d |f(x) - f(G(E(x)))|²; its mean is izi_f's loss (Eq. 3, 4).

    Args:
        x, x_hat: images (B, C, H, W) of n numbers.
        f, f_hat: the critic's features (B, n_d).
        kappa: κ ≥ 0.

    Returns:
        (B,) ≥ 0.
    """
    return (x - x_hat).square().flatten(1).mean(dim=1) + kappa * (f - f_hat).square().mean(dim=1)


class FAnoGan(Gan[FAnoGanConfig]):
    """f-AnoGAN. `forward` maps images to what the GAN does not draw again."""

    config_type = FAnoGanConfig
    presets: ClassVar[dict[str, FAnoGanConfig]] = {
        "default": FAnoGanConfig(),
        "paper": FAnoGanConfig(
            steps=150_000,
            batch_size=64,
            learning_rate=1e-4,
            schedule="constant",
            width=64,
            latent=128,
            critic_steps=5,
            calibration_fraction=0.0,
        ),
    }

    def __init__(self, config: FAnoGanConfig, channels: int) -> None:
        super().__init__(config, channels)
        self.generator = ResidualUp(config.latent, channels, config.width, config.size)
        self.critic = ResidualDown(channels, 1, config.width, config.size)
        self.encoder = ResidualDown(channels, config.latent, config.width, config.size)

    def phases(self) -> tuple[Phase, ...]:
        """The GAN, critic and generator in turn; then the encoder alone."""
        critic = Turn("critic", self.critic.parameters(), betas=BETAS)
        generator = Turn(
            "generator", self.generator.parameters(), every=self.config.critic_steps, betas=BETAS
        )
        encoder = Turn("encoder", self.encoder.parameters(), rate=0.5)
        return Phase("GAN", (critic, generator), share=2.0), Phase("encoder", (encoder,))

    def loss_of_turn(self, x: Tensor, turn: str) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> the loss of the critic, of the generator or of the encoder."""
        if turn == "encoder":
            self.generator.eval()  # it draws each image by itself, as when it scores
            return self.loss(x)
        # as many as always, for batch normalisation
        drawn = self.generator(self.codes(max(self.config.batch_size, len(x)), x))
        if turn == "generator":
            return -self.critic(drawn).mean()
        drawn = drawn[: len(x)].detach()
        penalty = x.new_zeros(())
        if self.training:
            penalty = gradient_penalty(self.answers, x, drawn, torch.rand(len(x)).to(x.device))
        return critic_loss(self.answers(x), self.answers(drawn), penalty, self.config.penalty)

    def loss(self, x: Tensor) -> Tensor:
        """izi_f's loss: the mean of A(x) over images (B, C, H, W) in [0, 1]."""
        return self._residuals(x)[1].mean()

    def answers(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> what the critic says of them (B,)."""
        return self.critic(x)[:, 0]

    def _residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """G(E(x)), and A(x)."""
        x_hat = self.generator(self.encoder(x))
        f, f_hat = self.critic.features(x).float(), self.critic.features(x_hat).float()
        return x_hat, anomaly_score(x, x_hat.float(), f, f_hat, self.config.feature_weight)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W) ≥ 0, and A(x) (B,) where `mean` is the score."""
        x_hat, scores = self._residuals(x)
        return self.maps_and_scores(residual_map(x, x_hat), scores)
