"""Encoders of sub-patches, g_enc: each sees one square of the image and nothing else.

Both encode every square of side S at a stride of S/2 (the union grid) and take a whole image, so that the
caller never cuts crops: images (B, C, H, W) -> encodings (B, h, w, d), with h = H / (S/2) - 1 and w alike.
No normalisation layer is used, so an encoding depends on its own square alone, and encoding each square once
is the same as encoding it in every patch that contains it.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PreActivationBlock(nn.Module):
    """A basic block of ResNet v2 (He et al. 2016) without normalisation: x + conv(relu(conv(relu(x))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        active = F.relu(x)
        kept = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(active)
        return kept + self.second(F.relu(self.first(active)))


class ResNetEncoder(nn.Module):
    """ResNet-18 v2 up to its third residual stage, on each sub-patch cut out by itself (CPC-AD, Sec. 5).

    A 7×7/2 convolution, 3×3/2 max-pooling, two blocks each of `width`, 2·`width` and 4·`width` channels, and
    the mean over places: 64×64 -> 4×4×256 -> 256 numbers for the paper's width of 64.
    """

    def __init__(self, channels: int, sub_patch_size: int, width: int) -> None:
        super().__init__()
        self.sub_patch_size, self.outputs = sub_patch_size, 4 * width
        self.stem = nn.Conv2d(channels, width, 7, 2, padding=3, bias=False)
        widths = [width, 2 * width, 4 * width]
        self.stages = nn.Sequential(
            *(
                block
                for before, now, stride in zip([width, *widths], widths, (1, 2, 2), strict=False)
                for block in (PreActivationBlock(before, now, stride), PreActivationBlock(now, now, 1))
            )
        )
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h, w, d)."""
        B, C = x.shape[:2]
        S = self.sub_patch_size
        squares = x.unfold(2, S, S // 2).unfold(3, S, S // 2)  # (B, C, h, w, S, S)
        h, w = squares.shape[2:4]
        crops = squares.permute(0, 2, 3, 1, 4, 5).reshape(B * h * w, C, S, S)
        pooled = F.max_pool2d(self.stem(crops), 3, 2, padding=1)
        return F.relu(self.stages(pooled)).mean(dim=(2, 3)).view(B, h, w, -1)


class PointBlock(nn.Module):
    """A residual block of 1×1 convolutions, which sees nothing but its own place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) -> the same shape."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class DenseEncoder(nn.Module):
    """Unpadded convolutions whose receptive field is one sub-patch and whose stride is half of it (ours).

    A 4×4/2 convolution and then 3×3/2 ones: n of those see 2^(n+2) pixels and step by 2^(n+1). Overlapping
    sub-patches share their arithmetic, and still each encoding depends on its own sub-patch alone.
    """

    def __init__(self, channels: int, sub_patch_size: int, width: int) -> None:
        super().__init__()
        halvings = int(math.log2(sub_patch_size)) - 2
        widths = [width * 2 ** min(i, 2) for i in range(halvings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2)]
        for before, now in itertools.pairwise(widths):
            layers += [nn.ReLU(), nn.Conv2d(before, now, 3, 2), PointBlock(now)]
        self.layers = nn.Sequential(*layers)
        self.outputs = widths[-1]
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h, w, d)."""
        return F.relu(self.layers(x)).permute(0, 2, 3, 1)


def _initialise(module: nn.Module) -> None:
    """He initialisation, the last convolution of a residual branch at zero, as nothing normalises."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            # a tenth to a half faster on a CPU (benchmarks/speed_cpc_ad.py)
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    for part in module.modules():
        if isinstance(part, (PreActivationBlock, PointBlock)):
            nn.init.zeros_(part.second.weight)
