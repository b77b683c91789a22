"""What the readers of layouts share: the images of a folder, and the masks that belong to them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from blemish.core.errors import DataError
from blemish.core.types import Sample
from blemish.images import folders

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from blemish.images.folders import LeftOut

DEFECT = "defect"
"""The label of defective images in a data set that does not say which defect it is."""
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
"""The splits of data sets that have no images to calibrate on."""


def good_samples(
    folder: Path, split: Literal["train", "calibration", "test"], left_out: LeftOut
) -> list[Sample]:
    """Return the images of a folder of good ones; none if there is no such folder."""
    return [Sample(path=path, split=split) for path in images_in(folder, left_out)]


def images_in(folder: Path, left_out: LeftOut) -> list[Path]:
    """List the images of a folder and its sub-folders, sorted; none if there is no such folder."""
    return folders.list_images(folder, left_out) if folder.is_dir() else []


def by_stem(paths: Iterable[Path], ending: str = "") -> dict[str, Path]:
    """Index files by their names without suffix and without `ending`; those that end otherwise are left out.

    Raises DataError for two files of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.stem.endswith(ending):
            continue
        stem = path.stem.removesuffix(ending)
        if stem in found:
            raise DataError(f"{path}: has the name of {found[stem]}, masks pair by name; remove one of them")
        found[stem] = path
    return found


def mask_of(image: Path, masks: dict[str, Path], expected: Path) -> Path:
    """Return an image's mask. Raises DataError where it is missing; `expected` is where it should be."""
    if image.stem not in masks:
        raise DataError(f"{image}: has no mask; add {expected}")
    return masks[image.stem]
