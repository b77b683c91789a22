"""The words every room shares: samples, predictions, regions, tilings and the options of a method."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from blemish.core.errors import ImageError

PatchMap = Literal["nearest", "linear"]
"""Scores of patches that overlap by half: blocks as they are, or smoothed (`scoring.pixel_map`)."""

MIN_SIDE = 16
"""The shortest side in pixels. Our choice: below it there is no patch with surroundings to learn from."""

GOOD = "good"
"""The label of an image without any defect, as in the MVTec layout."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a data set.

    `label` is `GOOD` or the name of a defect. `mask` is the ground truth of a defective image, or
    None when there is none (good images, and data sets without ground truth).
    """

    path: Path
    split: Literal["train", "calibration", "test"]
    label: str = GOOD
    mask: Path | None = None

    @property
    def is_defect(self) -> bool:
        """Whether the image shows a defect."""
        return self.label != GOOD


@dataclass(frozen=True, kw_only=True)
class Region:
    """A connected region of the anomaly map above the pixel threshold, in pixels of the original image.

    The box is half open: columns `x0 <= x < x1`, rows `y0 <= y < y1`. `peak` is the largest map value
    inside, unbounded, in the unit of the map.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    area_px: int
    peak: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is said of one image wherever it is said: in predictions, rows, tables, answers of the service.

    These all take the fields from here, in this order. `p_value`, `threshold`, `anomalous` and `regions`
    need a calibration: without one they are None, None, None and empty.
    """

    path: str | None = None
    """What the image is called."""
    score: float | None
    """Raw image score, unbounded, larger is more anomalous; None when the image could not be used."""
    p_value: float | None = None
    """How extreme the score is among good images, in (0, 1]."""
    threshold: float | None = None
    """The score above which a part is rejected, in the unit of the score."""
    anomalous: bool | None = None
    """Whether the score lies above the threshold."""
    regions: list[Region] = field(default_factory=list)
    """Where the anomaly map lies above the pixel threshold, the highest peak first."""

    def shared_fields(self) -> dict[str, Any]:
        """Return the fields that every result has, by name, without those that a subclass adds."""
        return {each.name: getattr(self, each.name) for each in fields(Result)}


@dataclass(frozen=True, kw_only=True)
class Prediction(Result):
    """What a detector says of one image that it could use.

    `anomaly_map` is float32 (H, W) at the size of the original image, resized from `coarse_map` (h, w) at
    the model's resolution; both are unbounded, in the unit of the score.
    """

    score: float
    anomaly_map: np.ndarray
    coarse_map: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class ResultRow(Result):
    """A row of predictions.jsonl: the result, its pictures, or the error of an image that cannot be used."""

    map: str | None = None
    """The anomaly map's file, relative to the output folder."""
    overlay: str | None = None
    """The picture with the map over it, relative to the output folder."""
    error: str | None = None
    """Why the image could not be used, in one line."""


def field_types(kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass in order, each with its type; of `X | None` it is X."""
    hints = get_type_hints(kind)
    return {each.name: _without_none(hints[each.name]) for each in fields(kind)}


def _without_none(hint: Any) -> Any:
    given = [member for member in get_args(hint) if member is not type(None)]
    return given[0] if get_origin(hint) in (Union, UnionType) and len(given) == 1 else hint


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How large images are cut: `size` (height, width) of a tile in pixels of the image, and the share of a
    tile's side, in [0, 0.5], by which neighbours `overlap` at least. Raises UsageError for what cannot be.
    """

    size: tuple[int, int]
    overlap: float

    def __post_init__(self) -> None:
        """Refuse what cuts nothing."""
        if min(self.size) < MIN_SIDE:
            raise UsageError(f"--tile-size {min(self.size)}: must be {MIN_SIDE} or larger")
        if not 0 <= self.overlap <= 0.5:
            raise UsageError(f"--tile-overlap {self.overlap}: must lie between 0 and 0.5")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The options that every method has. Those without a training loop have no others but their own."""

    image_size: int | tuple[int, int] = 128
    """Images are resized to this: one number for a square, or height and width, in pixels."""
    image_score: Literal["max", "mean", "top1", "top5"] = "top1"
    """The image score: largest value, mean, or mean of the top 1 % or 5 % of the anomaly map."""
    calibration_fraction: float = 0.1
    """Share of the good images that set thresholds; they take no part in training or early stopping."""
    tile_size: int | tuple[int, int] | None = None
    """Cut images into tiles of this many pixels, each resized to `image_size`; None: resize them whole."""
    tile_overlap: float = 0.25
    """Share of a tile's side that neighbouring tiles have in common at least, in [0, 0.5]."""

    def __post_init__(self) -> None:
        """Refuse a size that no image has. Raises UsageError."""
        if min(self.size) < 1:
            raise UsageError(f"--image-size {min(self.size)}: must be 1 or larger")
        _ = self.tiling  # which refuses as well

    def check_counts(self, *options: str) -> None:
        """Refuse options that count something and are below 1 (None is not). Raises UsageError."""
        for option in options:
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UsageError(f"--{option.replace('_', '-')} {value}: must be 1 or larger")

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
    def loading_size(self) -> tuple[int, int]:
        """Height and width at which training images are kept; larger than `size` for random crops."""
        return self.size

    @property
    def patch_map(self) -> PatchMap | None:
        """How the network's output becomes a map: None when its values are pixels of the resized image."""
        return None


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


def _pair(side: int | tuple[int, int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else side


class Detector(Protocol):
    """What every trained detector does, whichever library runs its network."""

    def predict(self, image: object) -> Prediction:
        """Score one image: a path, an array (H, W) or (H, W, C), or a PIL image."""
        ...

    def predict_many(self, paths: Sequence[Path]) -> Iterable[Prediction | ImageError]:
        """Score many files in order, decoding ahead; an unreadable file yields its error."""
        ...
