"""Trunks of CutPaste and DistAug: from crops, or from each square of an image, to the representation f.

`forward` encodes crops of any size, (n, C, P, P) -> (n, d), by the mean over places. `everywhere` encodes
each square of side S of whole images, at a stride: (B, C, H, W) -> (B, h, w, d), h = (H - S) / stride + 1.
Batch normalisation is the paper's; in evaluation it has fixed numbers, so a square is scored by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.config import TrainedConfig

PORTION = 1024
"""Squares of each image that ResNet-18 encodes at a time, which bounds its memory."""


@dataclass(frozen=True, kw_only=True)
class TrunkConfig(TrainedConfig):
    """The options of a method whose trunk encodes squares."""

    patch_size: int = 32
    """Side of a training crop in pixels, a power of 2."""
    stride: int = 4
    """Pixels from one scored square to the next, a power of 2."""
    trunk: Literal["resnet18", "dense"] = "dense"
    """resnet18: the paper's, on each square by itself. dense: overlapping squares share arithmetic (ours)."""
    width: int = 16
    """Channels of the trunk's first stage; f has 8 times (resnet18) or up to 4 times (dense) as many."""

    def check_squares(self, *, least: int, steps: int) -> None:
        """Refuse crops under `least` pixels, or of fewer strides than `steps`. Raises UsageError."""
        self.check_counts("stride", "width")
        P = self.patch_size
        if least > P or P & (P - 1):
            raise UsageError(f"--patch-size {P}: must be a power of 2, {least} or larger")
        if P // steps % self.stride:
            part = {4: "a quarter", 8: "an eighth"}[steps]
            raise UsageError(
                f"--stride {self.stride}: must be a power of 2 and at most {part} of --patch-size {P}"
            )


def grid_of(size: tuple[int, int], side: int, stride: int) -> tuple[int, int]:
    """Rows and columns of squares in an image.

    Args:
        size: height and width of the image in pixels.
        side, stride: of the squares, in pixels.

    Raises:
        UsageError: the squares leave pixels uncovered.
    """
    H, W = size
    if min(H, W) < side:
        raise UsageError(f"--image-size {H}x{W}: must be {side} or larger, as squares are that wide")
    if (H - side) % stride or (W - side) % stride:
        raise UsageError(
            f"--image-size {H}x{W}: squares at --stride {stride} leave pixels uncovered; choose "
            f"multiples of {stride}"
        )
    return (H - side) // stride + 1, (W - side) // stride + 1


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """The residual block of ResNet-18 (He et al. 2016), relu(x + conv(relu(conv(x)))); kernel 1 is ours."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, kernel: int = 3) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, kernel, stride, kernel // 2)
        self.second = _convolution(outputs, outputs, kernel, 1, kernel // 2)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


class ResNet18(nn.Module):
    """The paper's trunk: ResNet-18 without its last layer; 64×64 -> 2×2×512 and 32×32 -> 512 for width 64."""

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        self.side, self.outputs = side, 8 * width
        widths = [width, 2 * width, 4 * width, 8 * width]
        stem = (_convolution(channels, width, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        stages = (
            block
            for before, now, stride in zip([width, *widths], widths, (1, 2, 2, 2), strict=False)
            for block in (BasicBlock(before, now, stride), BasicBlock(now, now))
        )
        self.layers = nn.Sequential(*stem, *stages)

    def forward(self, x: Tensor) -> Tensor:
        """Crops (n, C, P, P) -> f, (n, d): the mean over places."""
        return self.layers(x).mean(dim=(2, 3))

    def everywhere(self, x: Tensor, stride: int) -> Tensor:
        """Encode each square by itself. Images (B, C, H, W) -> (B, h, w, d)."""
        squares = x.unfold(2, self.side, stride).unfold(3, self.side, stride)  # (B, C, h, w, S, S)
        B, _, h, w = squares.shape[:4]
        # places before images: the number of places is known when a graph is exported, and portions are of it
        crops = squares.permute(2, 3, 0, 1, 4, 5).flatten(0, 1)
        z = torch.cat([self(part.flatten(0, 1)).view(len(part), B, -1) for part in crops.split(PORTION)])
        return z.transpose(0, 1).reshape(B, h, w, -1)


class DenseTrunk(nn.Module):
    """Unpadded convolutions that see exactly one square, and step by a quarter of it (ours).

    4×4/2 and 3×3 see 8 pixels and step by 2; a further pair of 3×3 and 3×3/2 doubles both. Blocks of 1×1
    convolutions see nothing more. So f of a square depends on it alone, and overlapping squares share work.
    """

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(channels, width, 4, 2), nn.ReLU()]
        layers += [_convolution(width, width, 3), nn.ReLU()]
        self.step, now = 2, width
        while 4 * self.step < side:
            for stride in (1, 2):
                before, now = now, min(2 * now, 4 * width)
                layers += [_convolution(before, now, 3, stride), nn.ReLU(), BasicBlock(now, now, kernel=1)]
            self.step *= 2
        self.layers, self.outputs, self.side = nn.Sequential(*layers), now, side
        for part in self.layers.modules():
            if isinstance(part, nn.Conv2d):  # faster on a CPU
                part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Crops (n, C, P, P) -> f, (n, d): the mean over places."""
        return self.layers(x).mean(dim=(2, 3))

    def everywhere(self, x: Tensor, stride: int) -> Tensor:
        """Encode each square once: images (B, C, H, W) -> (B, h, w, d). A finer stride shifts the image."""
        h, w = ((n - self.side) // stride + 1 for n in x.shape[2:])
        k = self.step // stride
        z = x.new_empty(x.shape[0], h, w, self.outputs)
        for i in range(min(k, h)):
            for j in range(min(k, w)):
                shifted = x[:, :, i * stride :, j * stride :]
                z[:, i::k, j::k] = self.layers(shifted).permute(0, 2, 3, 1)
        return z


TRUNKS = {"resnet18": ResNet18, "dense": DenseTrunk}
"""By the names of the option."""
