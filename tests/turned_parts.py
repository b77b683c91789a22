"""Parts without symmetry, turned by any angle on a plain background."""

from __future__ import annotations

import functools

import numpy as np
import scipy.ndimage
import torch

from blemish.methods.components.alignment import Alignment

SIDE, GREY = 96, 0.8


def key(*, notch: float = 0.5) -> np.ndarray:
    """Draw a part that has no symmetry, in colour on a plain background: (3, SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    image = np.full((3, SIDE, SIDE), GREY)
    image[:, (np.abs(y) < 7) & (np.abs(x) < 34)] = 0.3
    image[0, np.hypot(x - 26, y) < 14] = 0.1
    image[1, (np.abs(x + 20) < 5) & (y > 0) & (y < 7)] = notch
    return scipy.ndimage.gaussian_filter(image, (0, 1, 1))


def turned(image: np.ndarray, degrees: float, moved: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Turn (C, H, W) by an angle that grows from the columns' axis towards the rows', and move it."""
    out = scipy.ndimage.rotate(image, -degrees, axes=(1, 2), reshape=False, order=3, cval=GREY)
    return scipy.ndimage.shift(out, (0, *moved), order=3, cval=GREY)


def stack(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images).astype(np.float32)).clamp(0, 1)


@functools.cache
def good(n: int = 12, seed: int = 0) -> torch.Tensor:
    """The same images, drawn once: no test changes them."""
    draws = np.random.default_rng(seed)
    parts = (turned(key(), draws.uniform(0, 360), tuple(draws.uniform(-6, 6, 2))) for _ in range(n))
    return stack(*(part + draws.normal(0, 0.01, part.shape) for part in parts))


def learnt(x: torch.Tensor) -> Alignment:
    alignment = Alignment(x.shape[1], (SIDE, SIDE))
    assert alignment.learn(x)
    return alignment


def as_bytes(image: torch.Tensor) -> np.ndarray:
    return np.rint(image.clamp(0, 1).numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
