"""The real test split, as the benchmarks read it that score outside of a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from blemish.data.dataset import Dataset
from blemish.data.masks import read_mask
from blemish.images import decode, preprocess
from blemish.metrics.roc import Roc
from blemish.training.choice import LOUDEST, image_scores

if TYPE_CHECKING:
    from torch import Tensor

    from blemish.training.images import TrainingImages


class Seen(NamedTuple):
    """A test image (1, C, H, W), whether it is defective, and its mask at half size, if there are masks."""

    image: Tensor
    defective: bool
    mask: np.ndarray | None


def test_images(dataset: Dataset, images: TrainingImages, size: tuple[int, int]) -> Iterator[Seen]:
    """Read the test split at `size`, as the training images were read."""
    for sample in dataset.test:
        image = decode.read(sample.path)
        small = preprocess.prepare(
            image, images.image_format, size, allow=images.allow, name=str(sample.path)
        )
        mask = None
        if dataset.has_masks:
            full = read_mask(sample, image.shape[:2]).astype(np.float32)
            mask = preprocess.resize(full[None], (size[0] // 2, size[1] // 2))[0] > 0.5
        yield Seen(torch.from_numpy(small)[None], sample.is_defect, mask)


def image_area(maps: np.ndarray, defective: np.ndarray, one_in: int = LOUDEST) -> float:
    """Image AUROC of maps (n, h, w), by the mean of their largest values."""
    scores = image_scores(maps, one_in)
    return Roc.of(scores[~defective], scores[defective]).auroc()


def pixel_area(maps: np.ndarray, masks: np.ndarray) -> float:
    """Pixel AUROC of maps and masks (n, h, w)."""
    return Roc.of(maps[~masks], maps[masks]).auroc()
