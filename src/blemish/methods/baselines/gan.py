"""What the methods with a generator and a discriminator share: options, losses, and the signs of collapse.

Papers: I. Goodfellow et al., "Generative Adversarial Nets", NeurIPS (2014), arXiv:1406.2661;
I. Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS (2017), arXiv:1704.00028.

Symbols: x a good image, z a code, G(z) an image drawn from it, D what the discriminator (critic) says of an
image, λ the weight of the gradient penalty.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import torch
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.baselines.gan_networks import check_size, codes
from blemish.methods.components.collapse import refuse_constant, spread
from blemish.methods.config import TrainedConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class GanConfig(TrainedConfig):
    """The options that a method with a generator and a discriminator has."""

    name: ClassVar[str]
    """Its name, for messages."""

    image_size: tuple[int, int] | int = 64
    """Images are resized to this: one number for a square, or height and width; multiples of 16 pixels."""
    image_score: Literal["max", "mean", "top1", "top5"] = "mean"
    """The image score: `mean` is the source's A(x), with the features; the others take the map's largest."""
    steps: int = 1500
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 16
    """Images in an optimiser step."""
    width: int = 16
    """Channels of the networks at half of the size; 8 times as many at a 16th of it."""
    latent: int = 100
    """Numbers of a code."""

    def __post_init__(self) -> None:
        """Refuse what the networks cannot use. Raises UsageError."""
        super().__post_init__()
        check_size(self.size, self.name)
        self.check_counts("width", "latent")

    def refuse_validation(self) -> None:
        """Refuse to choose an epoch where no loss tells them apart. Raises UsageError."""
        if self.validation_fraction:
            raise UsageError(
                f"--validation-fraction {self.validation_fraction}: no loss of {self.name} says which epoch "
                "is best; leave it at 0"
            )


def discriminator_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), the mean over images, halved: what a discriminator descends.

    Args:
        real, drawn: logits of D for good and for drawn images, (B,) each.

    Returns:
        A number, log 2 at chance.
    """
    return (F.softplus(-real).mean() + F.softplus(drawn).mean()) / 2


def generator_loss(drawn: Tensor) -> Tensor:
    """-log D(G(z)), the mean over logits (B,): what a generator descends, which does not saturate."""
    return F.softplus(-drawn).mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, drawn: Tensor, mix: Tensor) -> Tensor:
    """(|∇ D(x̃)| - 1)² at x̃ = ε x + (1 - ε) G(z), the mean over images (Gulrajani et al., Eq. 3).

    Args:
        critic: D, images (B, C, H, W) -> (B,).
        real, drawn: images of the same number.
        mix: ε in [0, 1], (B,).
    """
    eps = mix[:, None, None, None]
    between = (eps * real + (1 - eps) * drawn).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def critic_loss(real: Tensor, drawn: Tensor, penalty: Tensor, weight: float) -> Tensor:
    """E D(G(z)) - E D(x) + λ penalty: Wasserstein's distance with its sign turned, and the penalty.

    Args:
        real, drawn: D of good and of drawn images, (B,) each.
        penalty: a number ≥ 0.
        weight: λ.
    """
    return drawn.mean() - real.mean() + weight * penalty


def residual_map(x: Tensor, x_hat: Tensor) -> Tensor:
    """|x - G(z)| at each pixel, the mean over channels: images (B, C, H, W) -> (B, H, W)."""
    return (x - x_hat).abs().mean(dim=1)


def refuse_collapse(method: str, drawn: Tensor, answers: Tensor) -> None:
    """Refuse a generator or a discriminator that has learnt nothing that its input decides.

    Args:
        method: its name, for the message.
        drawn: images of different codes (n, C, H, W).
        answers: what the discriminator says of good and of drawn images together, (m,).

    Raises:
        TrainingError: every code gives the same image, or every image the same answer.
    """
    refuse_constant(method, drawn.std(dim=0).max(), "the generator draws the same image of every code")
    refuse_constant(method, spread(answers), "the discriminator says the same of every image")


GanConfigT = TypeVar("GanConfigT", bound=GanConfig)


class Gan(TrainedMethod[GanConfigT]):
    """A method with a generator of images and a discriminator that answers images; refuses their collapse."""

    generator: nn.Module

    @abstractmethod
    def answers(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> what the discriminator says of them (B,)."""

    def codes(self, n: int, like: Tensor) -> Tensor:
        """Draw codes of which images are drawn, (n, d), for the device of `like`."""
        return codes(n, self.config.latent, like)

    def maps_and_scores(self, maps: Tensor, scores: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return maps (B, H, W), and A(x) (B,) beside them where `mean` is the score."""
        return (maps, scores) if self.config.image_score == "mean" else maps

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """Refuse to be saved when generator or discriminator have collapsed. Raises TrainingError."""
        x = next(iter(batches()))
        drawn = self.generator(self.codes(16, x))
        answers = torch.cat([self.answers(x), self.answers(drawn)])
        refuse_collapse(self.config.name, drawn, answers)
