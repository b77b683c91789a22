"""Whether parts that lie at any angle are turned to one angle, and training images that were.

Good images alone decide: they are turned where that makes them much more alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.images.resize import resize
from blemish.methods.base import ConfigT
from blemish.methods.components.alignment import Alignment, Pose
from blemish.training.batches import as_floats, spread
from blemish.training.learn import ChangedImages, resized

if TYPE_CHECKING:
    from blemish.methods.config import DetectorConfig
    from blemish.training.batches import ImageBatches
    from blemish.training.images import TrainingImages

LEARNT, LEARNT_BYTES = 120, 2**28
"""Good images, and bytes of them, at most, that say how parts lie."""
LOOKED_AT = 30
"""Good images that say whether parts are turned, at most. Our choice: a second of a core at 256 pixels."""
COARSE = 4
"""Side in pixels of the squares whose means are compared."""
LEAST_VARIANCE = 1e-8
"""Images whose variance is below this are equal."""
FEWEST = 5
"""Fewer images than these do not say that parts lie at any angle. Our choice."""
MORE_ALIKE = 0.5
"""Parts are turned where that leaves at most this share of a pixel's variance over the images. Our choice: of
parts that lie alike nearly all of it stays."""


def with_alignment(config: ConfigT, images: TrainingImages) -> tuple[ConfigT, TrainingImages]:
    """Turn the parts of images to lie alike, where that can be done and good images or options want it.

    Returns options and images of which both say so; the calibration images stay as they are. Raises
    UsageError where the options ask for what cannot be done.
    """
    alignment = alignment_of(config, images)
    if alignment is None:
        return config, images
    validation = None if images.validation is None else aligned(images.validation, alignment, config.size)
    train = aligned(images.train, alignment, config.size)
    scored = train if images.scored is images.train else aligned(images.scored, alignment, config.size)
    images = replace(images, train=train, validation=validation, scored=scored, alignment=alignment)
    return replace(config, aligned=True), images


def aligned(images: ImageBatches, alignment: Alignment, size: tuple[int, int]) -> ImageBatches:
    """Return images with their parts turned alike, each by itself, so that batches do not matter.

    How the part in a larger image lies is found at the `size` that the alignment has learnt, and only once.
    """
    poses: dict[int, Pose] = {}

    @torch.inference_mode()
    def turn(number: int, image: np.ndarray) -> np.ndarray:
        x = as_floats(torch.from_numpy(image))[None]
        height, width = image.shape[1:]
        if number not in poses:
            small = x if (height, width) == size else torch.from_numpy(resize(x[0].numpy(), size))[None]
            poses[number] = alignment.pose_of(small).enlarged(height / size[0], width / size[1])
        return alignment.align(x, poses[number])[0].numpy()

    return ChangedImages(images, turn)


@torch.inference_mode()
def align_all(alignment: Alignment, x: torch.Tensor) -> torch.Tensor:
    """Turn images (B, C, H, W) in [0, 1], a few at a time."""
    return torch.cat([alignment.align(part, alignment.pose_of(part)) for part in x.split(16)])


def alignment_of(config: DetectorConfig, images: TrainingImages) -> Alignment | None:
    """Learn how parts lie, and return how they are turned to lie alike; None: they stay as they are.

    They do where the options say so; in tiles, which do not show the part; where parts of the images are
    covered, as these would be taken for parts; where nothing plain surrounds the parts, or they are too long
    to be turned; and, unless the options ask for it, where good images do not become more alike. Raises
    UsageError where the options ask for what cannot be done.
    """
    covered = images.regions.cover_something
    if config.aligned is False or config.tiling is not None or (covered and config.aligned is None):
        return None
    if covered:
        raise UsageError("--aligned: regions do not turn with the part; leave it or the regions out")
    train = resized(images.train, config.size)
    bytes_of_one = train.batch(np.zeros(1, int)).nbytes
    most = min(LEARNT, max(FEWEST, LEARNT_BYTES // bytes_of_one))
    x = torch.from_numpy(train.batch(spread(len(train), most)))
    if config.aligned is None and not become_alike(x[spread(len(x), LOOKED_AT)], images.aspect):
        return None
    alignment = Alignment(x.shape[1], (x.shape[2], x.shape[3]))
    if len(x) >= FEWEST and alignment.learn(x, images.aspect):
        return alignment
    if config.aligned:
        raise UsageError(
            f"--aligned: needs {FEWEST} good images or more, of parts on a plain background that fit "
            "into the image at any angle; leave it out"
        )
    return None


def become_alike(x: torch.Tensor, aspect: float) -> bool:
    """Return whether good images (B, C, H, W) become much more alike when their parts are turned."""
    alignment = Alignment(x.shape[1], (x.shape[2], x.shape[3]))
    found = len(x) >= FEWEST and alignment.learn(x, aspect)
    return found and variance_left(alignment, x) <= MORE_ALIKE


def variance_left(alignment: Alignment, x: torch.Tensor) -> float:
    """Return what share of the variance of images (B, C, H, W) at each place is left when they are turned.

    Of means of some pixels: reading between pixels averages noise, which says nothing of how parts lie.
    """
    before, after = (
        float(F.avg_pool2d(images, COARSE).var(dim=0).mean()) for images in (x, align_all(alignment, x))
    )
    if before < LEAST_VARIANCE:
        return 1.0
    return after * float(alignment.zoom) ** 2 / before  # seen smaller, a part covers less
