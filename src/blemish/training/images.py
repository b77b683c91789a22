"""The images that a training sees: decoded once, and each checked against the format of the first one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError
from blemish.data.cache import CACHE_BYTES, EVERYWHERE, ImageCache
from blemish.images import decode, preprocess
from blemish.images.regions import Regions, own_regions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blemish.data.split import Split
    from blemish.images.preprocess import ImageFormat
    from blemish.images.roi import Roi
    from blemish.methods.components.alignment import Alignment
    from blemish.methods.config import DetectorConfig
    from blemish.training.batches import ImageBatches

LEAST_CONTRAST = 2 / 255
"""Share of the value range by which an image's values differ at least. Our choice: less is one grey level."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How the training images are to be read; the defaults accept whatever they all share."""

    channels: int | None = None
    """Convert RGB to grey (1) or grey to RGB (3); None: as they are."""
    bit_depth: int | None = None
    """Bits that 16-bit files really use (8, 10, 12, 14 or 16)."""
    value_range: tuple[float, float] | None = None
    """Values of 16-bit or float images that mean 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """The decoded images: those that are learnt, and those that choose the best epoch, if there are any.

    `train` may be larger than the network's images, for random crops; `scored` are the same images as
    scoring sees them. `held_out` are the calibration images as scoring sees them, None where there are none.
    Outside of their `regions` all of them are covered.
    """

    train: ImageBatches
    validation: ImageBatches | None
    held_out: ImageCache | None
    scored: ImageBatches
    image_format: ImageFormat
    allow: frozenset[str]
    regions: Regions = EVERYWHERE
    aspect: float = 1.0
    """How much wider than high a pixel is, as images are squeezed to the network's size."""
    alignment: Alignment | None = None
    """What has turned the parts of the images to lie alike, but those of `held_out`; None: nothing has."""


class FirstImage:
    """The first training image, which all others have to be like."""

    def __init__(self, path: Path, options: ImageOptions) -> None:
        """Decode it. Raises BlemishError for one that cannot be used."""
        self.path, self.declared = path, asdict(options)
        self.image = decode.read(path)
        self.image_format = self._format_with()

    def read(self, path: Path) -> np.ndarray:
        """Decode an image, unless it is this one: (H, W, C)."""
        return self.image if path == self.path else decode.read(path)

    def check(self, name: str, image: np.ndarray) -> None:
        """Refuse an image (H, W, C) that is not like this one. Raises ImageError."""
        self._format_with((name, image))

    def _format_with(self, *others: tuple[str, np.ndarray]) -> ImageFormat:
        return preprocess.format_of([(str(self.path), self.image), *others], **self.declared)


class Contrast:
    """Whether any image that is read shows more than one value: without, there is nothing to learn."""

    def __init__(self, image_format: ImageFormat) -> None:
        low, high = self.value_range = image_format.value_range
        self.deep = image_format.dtype != "uint8"
        self.least = LEAST_CONTRAST * (high - low)
        self.seen: list[str | None] = []  # of each image that has none, its name and value

    def look(self, name: str, image: np.ndarray) -> None:
        """Look at an image (H, W, C) as read; by several threads at once."""
        channels = [image[..., channel] for channel in range(image.shape[2])]
        flat = all(float(c.max()) - float(c.min()) < self.least for c in channels)
        self.seen.append(f"{name}, all {float(image.mean()):.6g}" if flat else None)

    def refuse_without(self, what: str) -> None:
        """Raise DataError if none of the images since the last call has contrast, and begin again."""
        seen, self.seen = self.seen, []
        flat = [text for text in seen if text is not None]
        if seen and len(flat) == len(seen):
            cure = "look at the camera's lens, light and exposure, and give images that show parts"
            if self.deep:
                low, high = self.value_range
                cure += (
                    f"; if they use a small part of [{low:g}, {high:g}], declare it: --value-range LOW HIGH"
                )
            raise DataError(
                f"{min(flat)}: has no contrast, nor has any of the {len(seen)} {what} images; {cure}"
            )


def load_images(
    split: Split,
    config: DetectorConfig,
    options: ImageOptions,
    loading: Callable[[int], Callable[[], None]],
    seed: int,
    *,
    roi: Roi | None = None,
) -> TrainingImages:
    """Decode training and validation images, each checked against the format of the first one.

    Calibration images are checked as well: a bad one has to be found before the training, not after it.
    `loading` is told how many images come, and returns what to call for each. What lies outside of `roi`, or
    of an image's own region, is covered. Raises BlemishError for one that cannot be used.
    """
    first = FirstImage(split.train[0].path, options)
    image_format = first.image_format
    allow = frozenset({"channels"}) if options.channels is not None else frozenset()
    contrast = Contrast(image_format)
    regions = Regions(common=roi, own=own_regions([*split.train, *split.validation, *split.calibration]))

    def check(name: str, image: np.ndarray) -> None:
        first.check(name, image)
        contrast.look(name, image)

    larger = config.loading_size != config.size
    loaded = loading(len(split.train) + len(split.validation) + len(split.calibration))
    cache = partial(
        ImageCache,
        image_format=image_format,
        allow=allow,
        check=check,
        read=first.read,
        on_image=loaded,
        tiling=config.tiling,
        seed=seed,
        regions=regions,
    )
    paths, validation, calibration = (
        [s.path for s in part] for part in (split.train, split.validation, split.calibration)
    )
    budget = CACHE_BYTES * len(paths) // (len(paths) + len(validation))
    train = cache(paths, size=config.loading_size, compact=larger, budget=budget)
    room = CACHE_BYTES - train.kept.nbytes
    validated = cache(validation, size=config.size, budget=room) if validation else None
    contrast.refuse_without("training")
    tiled = config.tiling is not None  # whose images are scored whole, and decoded again for it
    room = 0 if tiled else max(0, room - (0 if validated is None else validated.kept.nbytes))
    held_out = cache(calibration, size=config.size, budget=room) if calibration else None
    if calibration:
        contrast.refuse_without("calibration")
    return TrainingImages(
        train=train,
        validation=validated,
        held_out=None if tiled else held_out,
        scored=train.files.at_size(config.size) if larger else train,
        image_format=image_format,
        allow=allow,
        regions=regions,
        aspect=config.size[0] / config.size[1] * float(np.median([w / h for h, w in train.sizes])),
    )


def describe_format(split: Split, options: ImageOptions) -> dict[str, str]:
    """Say what the model of these images and options would take, from the first image alone."""
    image_format = FirstImage(split.train[0].path, options).image_format
    return {"image format": image_format.describe(), "--channels": _converts(options.channels is not None)}


def describe_format_of(image_format: ImageFormat, allow: frozenset[str]) -> dict[str, str]:
    """Say the same of a model."""
    return {"image format": image_format.describe(), "--channels": _converts("channels" in allow)}


def _converts(channels: bool) -> str:
    return "given" if channels else "not given"
