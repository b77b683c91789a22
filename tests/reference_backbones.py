"""Pre-trained networks read off a state dict by the keys of the libraries that save it, nothing folded in.

`state` maps keys to tensors; images are normalised already. PaDiM and PatchCore in loops are here too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def normed(state: State, name: str, x: Tensor, epsilon: float) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"], eps=epsilon)


def torchvision_resnet(state: State, x: Tensor, bottleneck: bool) -> list[Tensor]:
    """Features after layer1 to layer4 of torchvision's ResNet."""

    def conv(conv_name: str, norm_name: str, x: Tensor, stride: int) -> Tensor:
        weight = state[f"{conv_name}.weight"]
        return normed(state, norm_name, F.conv2d(x, weight, None, stride, weight.shape[-1] // 2), 1e-5)

    x = F.max_pool2d(F.relu(conv("conv1", "bn1", x, 2)), 3, 2, 1)
    found = []
    for layer in (1, 2, 3, 4):
        block = 0
        while f"layer{layer}.{block}.conv1.weight" in state:
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(conv(f"{name}.conv1", f"{name}.bn1", x, 1 if bottleneck else stride))
            y = conv(f"{name}.conv2", f"{name}.bn2", y, stride if bottleneck else 1)
            if bottleneck:
                y = conv(f"{name}.conv3", f"{name}.bn3", F.relu(y), 1)
            if f"{name}.downsample.0.weight" in state:
                x = conv(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
            x = F.relu(x + y)
            block += 1
        found.append(x)
    return found


def tensorflow_conv(x: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
    """A convolution padded as TensorFlow's SAME, pixel by pixel: output j begins at stride·j - before."""
    k, (h, w) = weight.shape[-1], x.shape[2:]
    out_h, out_w = math.ceil(h / stride), math.ceil(w / stride)
    more_h, more_w = (max((o - 1) * stride + k - n, 0) for o, n in ((out_h, h), (out_w, w)))
    padded = torch.zeros(*x.shape[:2], h + more_h, w + more_w)
    padded[:, :, more_h // 2 : more_h // 2 + h, more_w // 2 : more_w // 2 + w] = x
    return F.conv2d(padded, weight, None, stride, 0, 1, groups)


STRIDES = (1, 2, 2, 2, 1, 2, 1)


def efficientnet_pytorch(state: State, x: Tensor, repeats: list[int], lite: bool) -> list[Tensor]:
    """Features after each block, by the keys of efficientnet_pytorch and efficientnet_lite_pytorch."""
    act = F.relu6 if lite else F.silu
    x = act(normed(state, "_bn0", tensorflow_conv(x, state["_conv_stem.weight"], 2), 1e-3))
    found, block = [], 0
    for stride, count in zip(STRIDES, repeats, strict=True):
        for i in range(count):
            name, y = f"_blocks.{block}", x
            if f"{name}._expand_conv.weight" in state:
                y = act(
                    normed(state, f"{name}._bn0", F.conv2d(y, state[f"{name}._expand_conv.weight"]), 1e-3)
                )
            weight = state[f"{name}._depthwise_conv.weight"]
            y = tensorflow_conv(y, weight, stride if i == 0 else 1, len(weight))
            y = act(normed(state, f"{name}._bn1", y, 1e-3))
            if not lite:
                mean = y.mean(dim=(2, 3), keepdim=True)
                less, more = (f"{name}.{part}" for part in ("_se_reduce", "_se_expand"))
                mean = act(F.conv2d(mean, state[f"{less}.weight"], state[f"{less}.bias"]))
                y = y * torch.sigmoid(F.conv2d(mean, state[f"{more}.weight"], state[f"{more}.bias"]))
            y = normed(state, f"{name}._bn2", F.conv2d(y, state[f"{name}._project_conv.weight"]), 1e-3)
            x = x + y if x.shape == y.shape else y
            found.append(x)
            block += 1
    return found


def timm_efficientnet(state: State, x: Tensor, lite: bool) -> list[Tensor]:
    """Features after each stage, by timm's keys, padded by half a kernel, ε of 1e-5."""
    act = F.relu6 if lite else F.silu
    x = act(normed(state, "bn1", F.conv2d(x, state["conv_stem.weight"], None, 2, 1), 1e-5))
    found = []
    for stage, stride in enumerate(STRIDES):
        i = 0
        while f"blocks.{stage}.{i}.conv_dw.weight" in state:
            name, y = f"blocks.{stage}.{i}", x
            wide = f"{name}.conv_pwl.weight" in state
            if wide:
                y = act(normed(state, f"{name}.bn1", F.conv2d(y, state[f"{name}.conv_pw.weight"]), 1e-5))
            weight = state[f"{name}.conv_dw.weight"]
            y = F.conv2d(y, weight, None, 1 if i else stride, weight.shape[-1] // 2, 1, len(weight))
            y = act(normed(state, f"{name}.{'bn2' if wide else 'bn1'}", y, 1e-5))
            if not lite:
                mean = y.mean(dim=(2, 3), keepdim=True)
                less, more = (f"{name}.se.{part}" for part in ("conv_reduce", "conv_expand"))
                mean = act(F.conv2d(mean, state[f"{less}.weight"], state[f"{less}.bias"]))
                y = y * torch.sigmoid(F.conv2d(mean, state[f"{more}.weight"], state[f"{more}.bias"]))
            last, norm = ("conv_pwl", "bn3") if wide else ("conv_pw", "bn2")
            y = normed(state, f"{name}.{norm}", F.conv2d(y, state[f"{name}.{last}.weight"]), 1e-5)
            x = x + y if x.shape == y.shape else y
            i += 1
        found.append(x)
    return found


def mahalanobis(samples: np.ndarray, x: np.ndarray, epsilon: float) -> float:
    """PaDiM, Eq. (1) and (2), at one place: samples (N, d) float64, x (d,)."""
    mean = sum(samples) / len(samples)
    covariance = sum(np.outer(s - mean, s - mean) for s in samples) / (len(samples) - 1)
    covariance = covariance + epsilon * np.eye(len(x))
    return math.sqrt((x - mean) @ np.linalg.solve(covariance, x - mean))


def greedy_coreset(points: np.ndarray, count: int, first: int) -> list[int]:
    """PatchCore, Algorithm 1 on points (n, p): the farthest from those chosen, by all distances anew."""
    chosen = [first]
    while len(chosen) < count:
        distances = [min(np.linalg.norm(p - points[c]) for c in chosen) for p in points]
        chosen.append(int(np.argmax(distances)))
    return chosen


def patchcore_score(places: np.ndarray, bank: np.ndarray, b: int) -> float:
    """PatchCore, Eq. (6) and (7), of one image: places (g, d), bank (m, d)."""
    pairs = [(np.linalg.norm(p - m), i, j) for i, p in enumerate(places) for j, m in enumerate(bank)]
    nearest = [min(pair for pair in pairs if pair[1] == i) for i in range(len(places))]
    s, i, j = max(nearest)
    near = sorted(range(len(bank)), key=lambda k: np.linalg.norm(bank[k] - bank[j]))[:b]
    total = sum(math.exp(np.linalg.norm(places[i] - bank[k])) for k in near)
    return float((1 - math.exp(s) / total) * s)
