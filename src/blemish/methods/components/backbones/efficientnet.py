"""EfficientNet-B0 to B5 (Tan and Le 2019) and EfficientNet-Lite0, which has ReLU6 and no squeezing.

Two libraries name the same layers otherwise: timm, and efficientnet_pytorch with its descendant
efficientnet_lite_pytorch. Weights that come from TensorFlow pad at the end and have another ε; keys and
shapes do not tell them from those that timm trained, so timm's own names of the networks do: `tf_`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.methods.components.backbones.layers import Convolution, Source

EPSILON, TENSORFLOW_EPSILON = 1e-5, 1e-3
HEADS = ("conv_head.", "bn2.", "classifier.", "_conv_head.", "_bn1.", "_fc.")
"""Keys of a state dict that these features do not need begin so."""
STAGES = (  # expansion, kernel, stride, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
}
"""Width and depth of each network against B0's."""


class Plan(NamedTuple):
    """A network: width and depth against B0's, without squeezing or with it, TensorFlow's or timm's own."""

    width: float
    depth: float
    lite: bool
    tensorflow: bool


PLANS = {
    f"{prefix}efficientnet_{name}": Plan(*scale, lite=name == "lite0", tensorflow=bool(prefix))
    for prefix in ("tf_", "")
    for name, scale in {"lite0": (1.0, 1.0), **SCALES}.items()
}


def epsilon(plan: Plan) -> float:
    """Return ε of the batch normalisation that a network was trained with."""
    return TENSORFLOW_EPSILON if plan.tensorflow else EPSILON


def rounded(channels: float) -> int:
    """Round channels to a multiple of 8, never down by more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class Block(nn.Module):
    """Widen, filter each channel, weigh the channels, narrow; and add the input where it has that shape."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, *, plan: Plan
    ) -> None:
        super().__init__()
        inner, squeezed, same = inputs * expansion, inputs // 4, plan.tensorflow
        self.expand = Convolution(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, kernel, stride, groups=inner, same=same)
        self.reduce = None if plan.lite else Convolution(inner, squeezed, 1)
        self.excite = None if plan.lite else Convolution(squeezed, inner, 1)
        self.project = Convolution(inner, outputs, 1)
        self.residual = stride == 1 and inputs == outputs
        self.lite = plan.lite

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, ⌈h / stride⌉, ⌈w / stride⌉)."""
        y = x if self.expand is None else activate(self.expand(x), self.lite)
        y = activate(self.depthwise(y), self.lite)
        if self.reduce is not None and self.excite is not None:
            mean = y.mean(dim=(2, 3), keepdim=True)
            y = y * torch.sigmoid(self.excite(activate(self.reduce(mean), self.lite)))
        y = self.project(y)
        return x + y if self.residual else y


def activate(x: Tensor, lite: bool) -> Tensor:
    """ReLU6 of the Lite networks, x·σ(x) of the others."""
    return F.relu6(x) if lite else F.silu(x)


class EfficientNet(nn.Module):
    """The layers of a plan up to a stride: 2, 4, 8, 16 or 32, at the last block of each."""

    def __init__(self, plan: Plan, last_stride: int) -> None:
        super().__init__()
        inputs, stride = 32 if plan.lite else rounded(32 * plan.width), 2
        self.lite = plan.lite
        self.stem = Convolution(3, inputs, 3, 2, same=plan.tensorflow)
        self.blocks = nn.ModuleList()
        self.places: list[tuple[int, int]] = []  # timm counts blocks by stage
        self.last: dict[int, int] = {}  # the last block of each stride
        self.channels: dict[int, int] = {}
        for stage, (expansion, kernel, step, channels, count) in enumerate(STAGES):
            if stride * step > last_stride:
                break
            outputs = rounded(channels * plan.width)
            for i in range(math.ceil(count * plan.depth)):
                block = Block(inputs, outputs, kernel, 1 if i else step, expansion, plan=plan)
                inputs = outputs
                self.blocks.append(block)
                self.places.append((stage, i))
            stride *= step
            self.last[stride], self.channels[stride] = len(self.blocks) - 1, outputs

    def forward(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (stride, features) at the last block of each; images (B, 3, H, W) are normalised already."""
        x = activate(self.stem(x), self.lite)
        strides = {block: stride for stride, block in self.last.items()}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in strides:
                yield strides[i], x


def timm_sources(network: EfficientNet, layers: dict[str, Convolution]) -> dict[str, Source]:
    """Return where each layer stands in a state dict of timm."""
    narrow = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
    wide = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
    squeeze = {"reduce": "se.conv_reduce", "excite": "se.conv_expand"}

    def source(name: str) -> Source:
        if name == "stem":
            return Source("conv_stem", "bn1")
        _, block, part = name.split(".")
        stage, i = network.places[int(block)]
        prefix = f"blocks.{stage}.{i}."
        if part in squeeze:
            return Source(prefix + squeeze[part], None)
        convolution, norm = (wide if stage else narrow)[part]
        return Source(prefix + convolution, prefix + norm)

    return {name: source(name) for name in layers}


def tensorflow_sources(layers: dict[str, Convolution]) -> dict[str, Source]:
    """Return where each layer stands in a state dict of efficientnet_pytorch or efficientnet_lite_pytorch."""
    parts = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "reduce": ("_se_reduce", None),
        "excite": ("_se_expand", None),
        "project": ("_project_conv", "_bn2"),
    }

    def source(name: str) -> Source:
        if name == "stem":
            return Source("_conv_stem", "_bn0")
        _, block, part = name.split(".")
        convolution, norm = parts[part]
        prefix = f"_blocks.{block}."
        return Source(prefix + convolution, None if norm is None else prefix + norm)

    return {name: source(name) for name in layers}
