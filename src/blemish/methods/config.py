"""The options that every method has, and those that every method with a training loop has; without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from blemish.core.errors import UsageError
from blemish.core.seeds import check_seed
from blemish.core.types import Tiling


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The options that every method has. Those without a training loop have no others but their own."""

    image_size: tuple[int, int] | int = 128
    """Images are resized to this: one number for a square, or height and width, in pixels."""
    image_score: Literal["max", "mean", "top1", "top5"] = "top1"
    """The image score: largest value, mean, or mean of the top 1 % or 5 % of the anomaly map."""
    calibration_fraction: float = 0.1
    """Share of the good images that set thresholds; they take no part in training or early stopping."""
    tile_size: tuple[int, int] | int | None = None
    """Cut images into tiles of this many pixels, each resized to `image_size`; None: resize them whole."""
    tile_overlap: float = 0.25
    """Share of a tile's side that neighbouring tiles have in common at least, in [0, 0.5]."""
    aligned: bool | None = False
    """Turn and move parts so that they lie alike; None: only if good images become much more alike by it."""

    def __post_init__(self) -> None:
        """Refuse a size that no image has, and tiles of parts that are to be turned. Raises UsageError."""
        if min(self.size) < 1:
            raise UsageError(f"--image-size {min(self.size)}: must be 1 or larger")
        if self.aligned and self.tile_size is not None:
            raise UsageError(
                "--aligned: a tile does not show where the part lies; leave it or --tile-size out"
            )
        _ = self.tiling  # which refuses as well

    def check_counts(self, *options: str) -> None:
        """Refuse options that count something and are below 1 (None is not). Raises UsageError."""
        for option in options:
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UsageError(f"--{option.replace('_', '-')} {value}: must be 1 or larger")

    def check_weights(self, *options: str) -> None:
        """Refuse numbers, as of a weight or a width, that are below 0 or not finite, and a list without any.

        Raises UsageError.
        """
        for option in options:
            value, named = getattr(self, option), f"--{option.replace('_', '-')}"
            for each in value if isinstance(value, tuple) else (value,):
                if not 0 <= each < math.inf:
                    raise UsageError(f"{named} {each}: must be a finite number, 0 or larger")
            if value == ():
                raise UsageError(f"{named}: give one number or more")

    def check_seeds(self, *options: str) -> None:
        """Refuse seeds that no generator takes. Raises UsageError."""
        for option in options:
            check_seed(getattr(self, option), f"--{option.replace('_', '-')}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the resized image, in pixels."""
        return _pair(self.image_size)

    @property
    def tiling(self) -> Tiling | None:
        """How images are cut into tiles, or None: they are not."""
        if self.tile_size is None:
            return None
        return Tiling(size=_pair(self.tile_size), overlap=self.tile_overlap)

    @property
    def validation_share(self) -> float:
        """Share of the good images that choose the best epoch; none without a training loop."""
        return 0.0

    @property
    def loading_size(self) -> tuple[int, int]:
        """Height and width at which training images are kept; larger than `size` for random crops."""
        return self.size


@dataclass(frozen=True, kw_only=True)
class TrainedConfig(DetectorConfig):
    """The options that every method with a training loop has; each method's config adds its own."""

    epochs: int | None = None
    """Passes over the training images at most; None: as many as `steps` takes."""
    steps: int = 400
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 64
    """Images in an optimiser step."""
    learning_rate: float = 1e-3
    """Adam's learning rate (its peak when the schedule is cosine)."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """constant, or a warm-up over the first tenth (50 steps at most), then half a cosine to zero."""
    min_epochs: int = 0
    """Early stopping begins after this epoch."""
    patience: int | None = None
    """Stop after this many epochs without a better validation loss; None: never stop early."""
    validation_fraction: float = 0.0
    """Share of the good images that choose the best epoch, whose weights are kept; 0: the last one's are."""

    def __post_init__(self) -> None:
        """Refuse numbers that no training can use. Raises UsageError."""
        super().__post_init__()
        self.check_counts("epochs", "steps", "batch_size", "patience")
        if self.min_epochs < 0:
            raise UsageError(f"--min-epochs {self.min_epochs}: must be 0 or larger")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning-rate {self.learning_rate}: must be a finite number above 0")
        if self.patience is not None and not self.validation_fraction:
            raise UsageError("--patience needs validation images: give --validation-fraction above 0")

    @property
    def validation_share(self) -> float:
        """Share of the good images that choose the best epoch."""
        return self.validation_fraction


def _pair(side: int | tuple[int, int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else side
