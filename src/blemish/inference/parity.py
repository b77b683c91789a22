"""Whether two backends of one model answer alike, on images that are made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from blemish.inference.backend import Backend

TOLERANCE = {"noise": 1e-4, "flat images": 1e-3}
"""Largest difference of another backend's output, as a share of its range, that is accepted.

On flat images SSIM divides what is left of equal numbers by its small constants, which shows the last bits.
"""


def differences(exact: Backend, other: Backend, shape: tuple[int, int, int]) -> dict[str, float]:
    """Compare another backend with the exact one on images (C, h, w), as shares of its range on noise.

    Flat images, black, grey and white, are what a saturated camera sees: there all training images are the
    same, and a method that has learnt so may take the last bit of another library's sums for a defect.
    """
    images = {
        "noise": np.random.default_rng(0).random((3, *shape), np.float32),
        "flat images": np.full((3, *shape), np.array([0, 0.5, 1], np.float32)[:, None, None, None]),
    }
    ours, theirs = ({kind: one.run(x) for kind, x in images.items()} for one in (exact, other))
    maps, scores = ours["noise"]
    # a method that only scores images draws nothing
    width = max(float(np.ptp(maps)) or (0.0 if scores is None else float(np.abs(scores).max())), 1e-12)

    def largest(kind: str) -> float:
        pairs = zip(ours[kind], theirs[kind], strict=True)  # maps, and scores if there are any
        return max(float(np.abs(a - b).max()) for a, b in pairs if a is not None and b is not None)

    return {kind: largest(kind) / width for kind in images}


def too_large(found: dict[str, float]) -> str | None:
    """Say which of the `differences` is beyond the tolerance, None where all are within it."""
    for kind, most in TOLERANCE.items():
        if not found[kind] <= most:
            return f"{found[kind]:.2g} of the output's range on {kind}, more than {most:g}"
    return None
