"""A small U-Net whose normalisation is folded into its convolutions when all is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence


class Block(nn.Module):
    """Convolution, batch normalisation, ReLU; the normalisation is folded when all is trained."""

    def __init__(self, inputs: int, outputs: int, side: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, side, stride, padding=(side - 1) // 2)
        self.normalisation = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h', w') ≥ 0."""
        return self.normalisation(self.convolution(x)).relu()

    @torch.no_grad()
    def fold(self) -> None:
        """Let the convolution do what the normalisation does, which then changes nothing."""
        norm, bias = self.normalisation, self.convolution.bias
        assert norm.running_var is not None
        assert norm.running_mean is not None
        assert bias is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.convolution.weight.mul_(scale[:, None, None, None])
        bias.copy_((bias - norm.running_mean) * scale + norm.bias)
        norm.reset_parameters()
        norm.running_var.fill_(1 - norm.eps)


def fold_all(network: nn.Module) -> None:
    """Fold the normalisation of all blocks of a network, when all is trained."""
    for module in network.modules():
        if isinstance(module, Block):
            module.fold()


class UNet(nn.Module):
    """A U-Net from `inputs` channels to one number at half of the height and width."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = Block(inputs, widths[0], side=4, stride=2)
        pairs = zip([widths[0], *widths[:-1]], widths, strict=True)
        self.down = nn.ModuleList(nn.Sequential(Block(a, b), Block(b, b)) for a, b in pairs)
        rises = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.up = nn.ModuleList(Block(a + b, b) for a, b in rises)
        self.head = nn.Conv2d(widths[0], 1, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  the quickest

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, H // 2, W // 2)."""
        x = self.stem(x)
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if level else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            if x.requires_grad:
                x.register_hook(_channels_last)
            x = block(torch.cat([x, skip], dim=1))
        return self.head(x)[:, 0]


def _channels_last(gradient: Tensor) -> Tensor:
    """Lay a gradient out as the interpolation's backward pass takes it, in a quarter of the time."""
    return gradient.contiguous(memory_format=torch.channels_last)
