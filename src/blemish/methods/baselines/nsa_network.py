"""The network of NSA: an encoder with the blocks of ResNet-18, and a small decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.methods.baselines.cutpaste_backbones import ResNet18


class TransposedBlock(nn.Module):
    """The residual block of the way up: twice the height and width, ReLU(up(x) + conv(ReLU(up(x))))."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.first = nn.Sequential(up, nn.BatchNorm2d(outputs))
        same = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Sequential(same, nn.BatchNorm2d(outputs))
        self.mix = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.normalisation = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, 2 h, 2 w) ≥ 0."""
        shortcut = self.normalisation(spread(self.mix(x)))
        return F.relu(shortcut + self.second(F.relu(self.first(x))))


def spread(x: Tensor) -> Tensor:
    """Put zeros between pixels: (B, C, h, w) -> (B, C, 2 h, 2 w), x at even rows and columns.

    After a 1×1 convolution this is a transposed one of stride 2. That one, as torch has it, ends the process
    on some CPUs when channels lie last in memory.
    """
    B, C, h, w = x.shape
    return F.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1)).reshape(B, C, 2 * h, 2 * w)


class EncoderDecoder(nn.Module):
    """ResNet-18 down to a 32nd of the height and width, and back up to one logit for each pixel."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        w = width
        self.encoder = ResNet18(channels, 0, w).layers
        self.bottleneck = nn.Sequential(
            nn.Conv2d(8 * w, 4 * w, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(4 * w, 2 * w, 1, bias=False),
            nn.ReLU(),
        )
        pairs = ((2 * w, w), (w, w // 2), (w // 2, w // 4))
        self.decoder = nn.Sequential(*(TransposedBlock(a, b) for a, b in pairs))
        self.last = nn.ConvTranspose2d(w // 4, 1, 7, stride=2, padding=3, output_padding=1, bias=False)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  the quickest

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H, W)."""
        up = self.decoder(self.bottleneck(self.encoder(x)))
        up = F.interpolate(up, scale_factor=2.0, mode="bilinear", align_corners=True)
        return self.last(up)[:, 0, : x.shape[2], : x.shape[3]]
