"""CutPaste's trunks in evaluation, in plain numpy, on one crop (C, S, S)."""

from __future__ import annotations

import numpy as np
from reference import Tensors, convolution, relu


def normed_convolution(
    tensors: Tensors, name: str, x: np.ndarray, stride: int = 1, padding: int = 0
) -> np.ndarray:
    """A convolution, then batch normalisation by the fixed mean and variance of each channel."""
    x = convolution(tensors, f"{name}.0", x, stride, padding)
    mean, variance, scale, shift = (
        tensors[f"{name}.1.{part}"][:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def basic_block(tensors: Tensors, name: str, x: np.ndarray, stride: int, kernel: int) -> np.ndarray:
    """ResNet's first block (He et al. 2016): the sum of both branches goes through the last ReLU."""
    kept = x
    if f"{name}.shortcut.0.weight" in tensors:
        kept = normed_convolution(tensors, f"{name}.shortcut", x, stride)
    inner = relu(normed_convolution(tensors, f"{name}.first", x, stride, kernel // 2))
    return relu(kept + normed_convolution(tensors, f"{name}.second", inner, 1, kernel // 2))


def resnet18(tensors: Tensors, crop: np.ndarray) -> np.ndarray:
    """7x7/2, 3x3/2 max-pooling, two blocks in each of four stages, the mean over places. (d,)"""
    x = relu(normed_convolution(tensors, "layers.0", crop, 2, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    pooled = np.zeros((len(x), (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2))
    for f, i, j in np.ndindex(*pooled.shape):
        pooled[f, i, j] = padded[f, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max()
    x = pooled
    for i in range(8):  # layers 1 and 2 are the stem's ReLU and pooling
        x = basic_block(tensors, f"layers.{i + 3}", x, stride=2 if i in (2, 4, 6) else 1, kernel=3)
    return x.mean(axis=(1, 2))


def dense_trunk(tensors: Tensors, crop: np.ndarray) -> np.ndarray:
    """4x4/2 and 3x3; then pairs of 3x3 and 3x3/2, each followed by a block of 1x1. (d,)"""
    x = relu(normed_convolution(tensors, "layers.0", crop, 2))
    x = relu(normed_convolution(tensors, "layers.2", x))
    layer, stride = 4, 1
    while f"layers.{layer}.0.weight" in tensors:
        x = relu(normed_convolution(tensors, f"layers.{layer}", x, stride))
        x = basic_block(tensors, f"layers.{layer + 2}", x, stride=1, kernel=1)
        layer, stride = layer + 3, 3 - stride
    assert x.shape[1:] == (1, 1)
    return x[:, 0, 0]
