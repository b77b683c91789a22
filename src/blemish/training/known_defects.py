"""Known defects in the trial of `auto`: what candidates are shown beside planted ones, and never learn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.data.hashing import file_digest, fingerprint
from blemish.data.masks import read_mask
from blemish.images import decode, preprocess
from blemish.images.resize import resize
from blemish.methods.auto import AutoConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.core.types import Sample
    from blemish.methods.config import DetectorConfig
    from blemish.training.choice import Trial
    from blemish.training.images import TrainingImages

ENTRY = "known_defects"
"""The entry of a model's provenance that says which defects took part in the choice."""


def check_use(known: Sequence[Sample], method: str, config: DetectorConfig) -> None:
    """Refuse known defects where nothing is chosen. Raises UsageError."""
    if not known:
        return
    if not isinstance(config, AutoConfig) or config.members:
        raise UsageError(
            f"--known-defects: they choose between candidates, and --method {method} has none; leave "
            "--method out, or give them to blemish evaluate"
        )
    if config.tiling is not None:
        raise UsageError("--known-defects: cannot be shown in tiles; leave --tile-size or them out")


def provenance_of(known: Sequence[Sample]) -> dict[str, Any]:
    """Return what a model says of the defects that it was chosen by: none, or their number and content."""
    if not known:
        return {}
    digests = [file_digest(sample.path) for sample in known]
    masks = [" ".join(map(file_digest, sample.masks)) or "-" for sample in known]
    return {
        ENTRY: {
            "images": len(known),
            "masks": known[0].mask is not None,
            "fingerprint": fingerprint([" ".join(pair) for pair in zip(digests, masks, strict=True)]),
            "digests": {digest: s.path.name for digest, s in zip(digests, known, strict=True)},
        }
    }


def with_known(trial: Trial, known: Sequence[Sample], images: TrainingImages, size: tuple[int, int]) -> Trial:
    """Return a trial whose last images are the known defects, resized to `size`, (height, width) in pixels.

    Outside of the region of interest they are covered as training images are, and nothing is marked.
    Raises ImageError for an image that is not as the training images, DataError for a mask that is none.
    """
    if not known:
        return trial
    planes, masks = [], []
    for sample in known:
        image, whole = _read(sample, images)
        planes.append(
            preprocess.prepare(
                image, images.image_format, size, allow=images.allow, name=str(sample.path)
            ).astype(np.float32)
        )
        masks.append(_at_half_size(whole, size))
    return replace(
        trial,
        planted=torch.cat([trial.planted, torch.from_numpy(np.stack(planes))]),
        masks=np.concatenate([trial.masks, np.stack(masks)]),
        known=len(known),
    )


def _read(sample: Sample, images: TrainingImages) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an image (H, W, C) and its mask, bool (H, W), or None; of both only what counts."""
    image, name = decode.read(sample.path), str(sample.path)
    mask = None if sample.mask is None else read_mask(sample, image.shape[:2])
    roi = images.regions.common
    if roi is None:
        return image, mask
    inside = roi.at(image.shape[:2], name=name)
    return roi.cover(image, images.image_format, name=name), None if mask is None else mask & inside


def _at_half_size(mask: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask (H, W) to half of `size`; what would vanish stays. Without a mask nothing is marked."""
    height, width = size
    if mask is None:
        return np.zeros((height // 2, width // 2), bool)
    small = resize(mask[None].astype(np.float32), size)[0]
    marked = small >= 0.5 if (small >= 0.5).any() else small > 0
    return F.max_pool2d(torch.from_numpy(marked[None].astype(np.float32)), 2)[0].numpy() > 0
