"""The networks of Student-teacher: each describes patches of one size, and whole images densely.

Source: P. Bergmann et al. (CVPR 2020), appendix: the networks for patches of 17, 33 and 65 pixels. Where a
pooling would lose places, it moves by one pixel here, and the layers after it look at pixels as far apart as
its steps would have been: the same numbers as of each patch by itself.

Shapes: B images, H×W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 5e-3
"""Slope of the leaky ReLU below 0."""
POOL = "pool"


class Layer(NamedTuple):
    """A convolution: side of its kernel, and channels as a multiple of `width`; 0: of the description."""

    kernel: int
    times: int


PLANS: dict[int, tuple[Layer | str, ...]] = {
    17: (Layer(6, 1), Layer(5, 2), Layer(5, 2), Layer(4, 0)),
    33: (Layer(5, 1), POOL, Layer(5, 2), POOL, Layer(2, 2), Layer(4, 0)),
    65: (Layer(5, 1), POOL, Layer(5, 1), POOL, Layer(5, 1), POOL, Layer(4, 2), Layer(1, 0)),
}
"""Layers by the side of the patch in pixels."""


class PatchNetwork(nn.Module):
    """Images (B, 3, H, W) -> descriptions (B, d, h, w) of the patches at every `stride` pixels that fit.

    `reach` are the pixels along a side that a description depends on: one or a few fewer than the patch has,
    as poolings leave out the last ones.
    """

    def __init__(self, patch: int, width: int, outputs: int, stride: int) -> None:
        """Make the layers for a stride of 1, 2, 4 or 8 pixels."""
        super().__init__()
        self.stride, self.reach = stride, 1
        layers: list[nn.Module] = []
        inputs, steps, apart = 3, 1, 1  # steps of the poolings so far; pixels between those that a layer sees
        plan = PLANS[patch]
        for layer in plan:
            if isinstance(layer, str):
                self.reach += steps * apart
                if 2 * steps <= stride:
                    layers.append(nn.MaxPool2d(2, 2))
                    steps *= 2
                else:
                    layers.append(nn.MaxPool2d(2, 1, dilation=apart))
                    apart *= 2
                continue
            last = layer is plan[-1]
            channels = outputs if last else width * layer.times
            step = stride // steps if last else 1
            layers.append(nn.Conv2d(inputs, channels, layer.kernel, step, dilation=apart))
            self.reach += (layer.kernel - 1) * steps * apart
            inputs = channels
            if not last:
                layers.append(nn.LeakyReLU(SLOPE))
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  the quickest

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, d, (H - reach) // stride + 1, the same of W)."""
        return self.layers(x)

    def whole(self, x: Tensor) -> Tensor:
        """Describe a place at every `stride` pixels, borders mirrored: (B, d, ⌈H / stride⌉, ⌈W / stride⌉)."""
        before = (self.reach - self.stride) // 2
        after = [(-(-n // self.stride) - 1) * self.stride + self.reach - before - n for n in x.shape[2:]]
        return self(F.pad(x, (before, after[1], before, after[0]), mode="reflect"))


def cut(x: Tensor, images: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut windows out of images (B, C, H, W): which image and which corner each, (n,) and (n, 2)."""
    h, w = size
    at = zip(images.tolist(), corners.tolist(), strict=True)
    return torch.stack([x[i, :, top : top + h, left : left + w] for i, (top, left) in at])
