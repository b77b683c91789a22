"""Images by index, and in order: what a training takes them from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


class ImageBatches(Protocol):
    """Images by index, resized and converted."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Images (B, C, H, W), float32 in [0, 1] or uint8 in [0, 255]."""
        ...


def as_floats(images: torch.Tensor) -> torch.Tensor:
    """Return a batch as float32 in [0, 1], uint8 ones divided by 255."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def in_order(images: ImageBatches, size: int) -> Iterator[np.ndarray]:
    """Yield all images in batches of `size`; the last one may be smaller."""
    for start in range(0, len(images), size):
        yield images.batch(np.arange(start, min(start + size, len(images))))


def spread(n: int, most: int) -> np.ndarray:
    """Return numbers below n, evenly spread, `most` of them at most."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))
