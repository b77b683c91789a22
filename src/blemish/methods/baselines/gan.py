"""What the methods with a generator and a discriminator share: losses, residuals, and the signs of collapse.

Papers: I. Goodfellow et al., "Generative Adversarial Nets", NeurIPS (2014), arXiv:1406.2661;
I. Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS (2017), arXiv:1704.00028.

Symbols: x a good image, z a code, G(z) an image drawn from it, D what the discriminator (critic) says of an
image, λ the weight of the gradient penalty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from blemish.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SAME = 1e-5
"""Images and answers that spread by less than this are the same."""


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
    cure = "nothing was saved; train with another --seed or a lower --learning-rate"
    if not drawn.std(dim=0).max() > SAME:
        raise TrainingError(f"--method {method}: the generator draws the same image of every code; {cure}")
    if not answers.std() > SAME * answers.abs().mean():
        raise TrainingError(f"--method {method}: the discriminator says the same of every image; {cure}")
