"""ResNet (He et al. 2016) and Wide ResNet (Zagoruyko and Komodakis 2016), as torchvision and timm name them.

In a bottleneck the 3×3 convolution has the stride, as in those two libraries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from blemish.methods.components.backbones.layers import Convolution, Source

EPSILON = 1e-5
HEADS = ("fc.",)
"""Keys of a state dict that these features do not need begin so."""


class Plan(NamedTuple):
    """A network: blocks of its four stages, channels inside a block of the first one, kind of block."""

    blocks: tuple[int, int, int, int]
    width: int
    bottleneck: bool


PLANS = {
    "resnet18": Plan((2, 2, 2, 2), 64, bottleneck=False),
    "resnet34": Plan((3, 4, 6, 3), 64, bottleneck=False),
    "resnet50": Plan((3, 4, 6, 3), 64, bottleneck=True),
    "wide_resnet50_2": Plan((3, 4, 6, 3), 128, bottleneck=True),
}


class Block(nn.Module):
    """relu(x + convolutions(x)): two of 3×3, or 1×1, 3×3 and 1×1 of a bottleneck."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            self.conv1 = Convolution(inputs, inner, 1)
            self.conv2 = Convolution(inner, inner, 3, stride)
            self.conv3 = Convolution(inner, outputs, 1)
        else:
            self.conv1 = Convolution(inputs, inner, 3, stride)
            self.conv2 = Convolution(inner, outputs, 3)
            self.conv3 = None
        same = stride == 1 and inputs == outputs
        self.downsample = None if same else Convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, ⌈h / stride⌉, ⌈w / stride⌉)."""
        y = self.conv2(F.relu(self.conv1(x)))
        if self.conv3 is not None:
            y = self.conv3(F.relu(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The layers of a plan up to a stride: 4, 8, 16 or 32 after its four stages."""

    def __init__(self, plan: Plan, last_stride: int) -> None:
        super().__init__()
        self.conv1 = Convolution(3, 64, 7, 2)
        self.channels: dict[int, int] = {}
        inputs = 64
        for i, count in enumerate(plan.blocks):
            stride = 4 * 2**i
            if stride > last_stride:
                break
            inner, outputs = plan.width * 2**i, (256 if plan.bottleneck else 64) * 2**i
            blocks = nn.Sequential()
            for j in range(count):
                step = 2 if i and not j else 1
                blocks.append(Block(inputs, inner, outputs, step, bottleneck=plan.bottleneck))
                inputs = outputs
            self.add_module(f"layer{i + 1}", blocks)
            self.channels[stride] = outputs

    def forward(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (stride, features) after each stage; images (B, 3, H, W) are normalised already."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1)
        for i, stride in enumerate(self.channels):
            x = getattr(self, f"layer{i + 1}")(x)
            yield stride, x


def sources(layers: dict[str, Convolution]) -> dict[str, Source]:
    """Return where each layer stands in a state dict of torchvision or timm."""

    def source(name: str) -> Source:
        if name.endswith("downsample"):
            return Source(f"{name}.0", f"{name}.1")
        return Source(name, name.replace("conv", "bn"))

    return {name: source(name) for name in layers}
