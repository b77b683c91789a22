"""What the sensitivity card is made of: which defects are planted, and into which good images."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError
from blemish.core.seeds import check_seed
from blemish.data.hashing import file_digest

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.data.dataset import Dataset
    from blemish.inference.detector import Detector

SIZES = (0.02, 0.05, 0.1, 0.2)
"""Length or width of a planted defect, as a share of the image's shorter side."""
CONTRASTS = (0.05, 0.15, 0.4)
"""How much darker or brighter it is, as a share of the span of good pixels: faint, clear, strong."""
USUAL = 0.15
"""The contrast that is measured where there are too few images for all of them."""
KINDS: dict[str, bool] = {
    "scratch": True,
    "spot": True,
    "missing piece": False,
    "foreign piece": False,
    "blur": False,
}
"""The kinds that are planted, and whether a contrast means something for them."""
MAX_GOOD_IMAGES = 20
"""Good images that `blemish sensitivity` scores as they are, at most: what is rejected without a defect."""
ENOUGH = 4
"""With fewer images for each kind, size and contrast, only the usual contrast is measured."""


@dataclass(frozen=True, kw_only=True)
class Defect:
    """What is planted: a kind, its size as a share of the image's shorter side, its contrast in (0, 1]."""

    kind: str
    size: float
    contrast: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be scored: `total` images, of them at most `images` planted; `name` is the data set's."""

    name: str
    paths: list[Path]
    images: int
    seed: int
    total: int


def untouched(detector: Detector, dataset: Dataset) -> list[Path]:
    """Return the good test images that are no copies of an image that the model was made with."""
    good = [s.path for s in dataset.test if not s.is_defect]
    lengths = {path.stat().st_size for path in good}
    others = [s.path for s in [*dataset.train, *dataset.calibration] if s.path.stat().st_size in lengths]
    used = set(detector.model_file.provenance.get("training_digests", {})) | set(map(file_digest, others))
    return [path for path in good if file_digest(path) not in used]


def why_not(detector: Detector, dataset: Dataset) -> str | None:
    """Say in one line why there can be no card, or None."""
    if detector.threshold is None:
        return (
            "this model has no calibration images and so no threshold; train with --calibration-fraction "
            "above 0 or with a calibration/good folder"
        )
    if not untouched(detector, dataset):
        return (
            f"{dataset.root}: no good test images that took no part in training or calibration; put some "
            "under test/good, or into the split test of the manifest"
        )
    if importlib.util.find_spec("torch") is None:
        return "planting defects needs torch; pip install 'blemish[train]'"
    return None


def defects_of(images: int) -> list[Defect]:
    """Return what is planted with so many images. Raises UsageError when they are too few for anything."""
    every = [
        Defect(kind=kind, size=size, contrast=contrast)
        for kind, has_contrast in KINDS.items()
        for contrast in (CONTRASTS if has_contrast else (None,))
        for size in SIZES
    ]
    usual = [defect for defect in every if defect.contrast in (None, USUAL)]
    if images < len(usual):
        raise UsageError(f"--images {images}: must be {len(usual)} or larger, one for each kind and size")
    return every if images >= ENOUGH * len(every) else usual


def planned(detector: Detector, dataset: Dataset, images: int, seed: int = 0) -> Plan:
    """Say what `measure_into` will score.

    Raises UsageError where there can be no card, for too few images, and for a seed below 0.
    """
    check_seed(seed, "--seed")
    reason = why_not(detector, dataset)
    if reason is not None:
        raise UsageError(reason)
    paths, defects = untouched(detector, dataset), len(defects_of(images))
    planted = defects * min(len(paths), images // defects)
    total = planted + min(len(paths), MAX_GOOD_IMAGES)
    return Plan(name=dataset.name, paths=paths, images=images, seed=seed, total=total)
