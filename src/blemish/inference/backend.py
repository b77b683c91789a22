"""What runs a model's network: torch, ONNX Runtime, or somebody else's library. Arrays in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np


class Output(NamedTuple):
    """What a network says of a batch of images.

    `maps` is float32 (B, h, w), unbounded, larger is more anomalous. `scores` (B,) are image scores of the
    network's own; None: they are read off the maps.
    """

    maps: np.ndarray
    scores: np.ndarray | None = None


class Backend(Protocol):
    """Runs a network. A detector is a model file around one of these."""

    def run(self, images: np.ndarray) -> Output:
        """Score images, float32 (B, C, h, w) in [0, 1] as the model file describes them; B is 1 or more."""
        ...
