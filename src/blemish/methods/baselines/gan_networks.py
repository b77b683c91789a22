"""Generators, discriminators and encoders: plain ones (DCGAN's) and residual ones (those of WGAN-GP).

Papers: A. Radford, L. Metz, S. Chintala, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", ICLR (2016), arXiv:1511.06434; I. Gulrajani et al., arXiv:1704.00028
(appendix F: the residual networks for 64×64).

All halve or double an image four times; a generator ends in [0, 1]. Of each network that takes images,
`features` gives the last activations and `forward` what is read off them. First weights are torch's own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

HALVINGS = 4
SLOPE = 0.2
"""Slope of the leaky ReLU below 0."""


def check_size(size: tuple[int, int], method: str) -> None:
    """Refuse images that cannot be halved four times. Raises UsageError."""
    unit = 2**HALVINGS
    if size[0] % unit or size[1] % unit:
        raise UsageError(
            f"--image-size {size[0]}x{size[1]}: {method} halves it {HALVINGS} times; choose multiples "
            f"of {unit}"
        )


class Up(nn.Module):
    """Codes (B, d) -> images (B, C, H, W) in [0, 1]: DCGAN's generator, width w and 2, 4, 8 times as wide."""

    def __init__(self, latent: int, channels: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.grid = (8 * width, size[0] >> HALVINGS, size[1] >> HALVINGS)
        self.first = nn.Linear(latent, self.grid[0] * self.grid[1] * self.grid[2])
        widths = [8 * width, 4 * width, 2 * width, width]
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for before, now in pairwise(widths):
            up = nn.ConvTranspose2d(before, now, 4, 2, padding=1, bias=False)
            layers += [up, nn.BatchNorm2d(now), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, 2, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Draw an image of each code: (B, d) -> (B, C, H, W) in [0, 1]."""
        return self.layers(self.first(z).unflatten(1, self.grid)).sigmoid()


class Down(nn.Module):
    """Images (B, C, H, W) -> (B, outputs): DCGAN's discriminator, or an encoder."""

    def __init__(self, channels: int, outputs: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, padding=1), nn.LeakyReLU(SLOPE)]
        for before, now in pairwise(widths):
            down = nn.Conv2d(before, now, 4, 2, padding=1, bias=False)
            layers += [down, nn.BatchNorm2d(now), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(widths[-1] * (size[0] >> HALVINGS) * (size[1] >> HALVINGS), outputs)

    def features(self, x: Tensor) -> Tensor:
        """Return f: the activations before the last layer, (B, n)."""
        return self.layers(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Read the outputs off the features: images (B, C, H, W) -> (B, outputs)."""
        return self.last(self.features(x))


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), up by 2 before its first, or down by 2 after its last."""

    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module], *, up: bool) -> None:
        super().__init__()
        self.up, middle = up, outputs if up else inputs
        self.norms = nn.ModuleList([norm(inputs), norm(middle)])
        self.first = nn.Conv2d(inputs, middle, 3, padding=1, bias=False)
        self.second = nn.Conv2d(middle, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, 2 h, 2 w) or half of the height and width."""
        y = F.relu(self.norms[0](x))
        if self.up:
            x, y = _doubled(x), _doubled(y)
        y = self.second(F.relu(self.norms[1](self.first(y))))
        x = self.shortcut(x)
        return x + y if self.up else F.avg_pool2d(x + y, 2)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _layer_norm(channels: int) -> nn.Module:
    """Normalise each image by itself: a critic's gradient penalty is one image's."""
    return nn.GroupNorm(1, channels)


class ResidualUp(nn.Module):
    """Codes (B, d) -> images (B, C, H, W) in [0, 1]: WGAN-GP's generator, with batch normalisation."""

    def __init__(self, latent: int, channels: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        widths = [8 * width, 8 * width, 4 * width, 2 * width, width]
        self.grid = (widths[0], size[0] >> HALVINGS, size[1] >> HALVINGS)
        self.first = nn.Linear(latent, self.grid[0] * self.grid[1] * self.grid[2])
        self.blocks = nn.Sequential(
            *(ResidualBlock(a, b, nn.BatchNorm2d, up=True) for a, b in pairwise(widths))
        )
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Draw an image of each code: (B, d) -> (B, C, H, W) in [0, 1]."""
        return self.last(self.blocks(self.first(z).unflatten(1, self.grid))).sigmoid()


class ResidualDown(nn.Module):
    """Images (B, C, H, W) -> (B, outputs): WGAN-GP's critic, or an encoder; layer normalisation."""

    def __init__(self, channels: int, outputs: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(a, b, _layer_norm, up=False) for a, b in pairwise(widths))
        )
        self.last = nn.Linear(widths[-1] * (size[0] >> HALVINGS) * (size[1] >> HALVINGS), outputs)

    def features(self, x: Tensor) -> Tensor:
        """Return f: the activations before the last layer, (B, n)."""
        return self.blocks(self.first(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Read the outputs off the features: images (B, C, H, W) -> (B, outputs)."""
        return self.last(self.features(x))


def codes(n: int, latent: int, like: Tensor) -> Tensor:
    """Draw n codes from the standard normal distribution, (n, latent), on the device of `like`.

    They are drawn on the CPU, so that a seed means the same anywhere.
    """
    return torch.randn(n, latent).to(like.device)
