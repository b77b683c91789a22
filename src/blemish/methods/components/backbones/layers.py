"""The one layer that these networks are made of: a convolution with its batch normalisation folded in.

In evaluation batch normalisation has fixed numbers, y = γ (x - μ) / √(σ² + ε) + β, so it becomes part of the
weights: w γ / √(σ² + ε) and the bias β - μ γ / √(σ² + ε). What is left is a plain stack of convolutions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORMALISATION = ("weight", "bias", "running_mean", "running_var")
"""The numbers γ, β, μ and σ² of batch normalisation, as torch names them."""


class Source(NamedTuple):
    """Where a layer's numbers stand in a state dict: the convolution's prefix, its normalisation's if any."""

    convolution: str
    normalisation: str | None


class Convolution(nn.Conv2d):
    """A convolution with a bias. Padding keeps ⌈n / stride⌉ of n pixels.

    `same` pads as TensorFlow does, the odd pixel at the end; otherwise half a kernel on both sides.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, same: bool = False
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, 0 if same else kernel // 2, groups=groups)
        self.same, self.kernel, self.step = same, kernel, stride

    def forward(self, input: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, ⌈h / stride⌉, ⌈w / stride⌉)."""
        x = input
        if self.same and self.kernel > 1:
            (top, bottom), (left, right) = (same_padding(n, self.kernel, self.step) for n in x.shape[2:])
            x = F.pad(x, (left, right, top, bottom))
        return super().forward(x)


def same_padding(n: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's padding of a line of n pixels, before and after: the odd one comes after."""
    total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    return total // 2, total - total // 2


def fold(
    weight: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Fold batch normalisation into the convolution before it.

    Args:
        weight: (O, I, k, k).
        gamma, beta, mean, variance: γ, β, μ, σ² of the O channels.
        epsilon: ε.

    Returns:
        weight (O, I, k, k) and bias (O,), float32, worked out in float64.
    """
    scale = gamma.double() / (variance.double() + epsilon).sqrt()
    folded = weight.double() * scale[:, None, None, None]
    return folded.float(), (beta.double() - mean.double() * scale).float()


def take(state: dict[str, Tensor], source: Source, epsilon: float) -> tuple[Tensor, Tensor]:
    """Take a layer's weight and bias out of a state dict. Raises KeyError for one that is not there."""
    weight, norm = state[f"{source.convolution}.weight"], source.normalisation
    if norm is None:
        return weight.float(), state[f"{source.convolution}.bias"].float()
    gamma, beta, mean, variance = (state[f"{norm}.{part}"] for part in NORMALISATION)
    return fold(weight, gamma, beta, mean, variance, epsilon)


def shapes(layers: dict[str, Convolution], sources: dict[str, Source]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every number that a state dict with these layers holds, by its key there."""
    found: dict[str, tuple[int, ...]] = {}
    for name, layer in layers.items():
        convolution, norm = sources[name]
        channels = (layer.out_channels,)
        found[f"{convolution}.weight"] = tuple(layer.weight.shape)
        if norm is None:
            found[f"{convolution}.bias"] = channels
        else:
            found |= {f"{norm}.{part}": channels for part in NORMALISATION}
    return found


def convolutions(network: nn.Module) -> dict[str, Convolution]:
    """Return the layers of a network by name, in the order in which they were made."""
    return {name: part for name, part in network.named_modules() if isinstance(part, Convolution)}


def freeze(network: nn.Module) -> None:
    """Keep the weights as they are, in the memory order that is faster on a CPU."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
