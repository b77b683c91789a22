"""The few real defects that one has: a folder of images, with or without masks. Nothing learns from them.

A mask is named as its image with `_mask`, beside it or in another sub-folder. The defect of an image in a
sub-folder is called as that is; directly in the folder it is called `known`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.core.errors import DataError
from blemish.core.types import GOOD, Sample
from blemish.data.layouts.pairs import by_stem
from blemish.images import folders

if TYPE_CHECKING:
    from pathlib import Path

ENDING = "_mask"
UNNAMED = "known"


def read_known_defects(folder: Path) -> list[Sample]:
    """Return the defective images of a folder, sorted by path, as samples of the test split.

    Every image has a mask, or none has. Raises DataError for a folder without images, a mask without an
    image, an image without a mask among others with one, and a sub-folder `good`.
    """
    if not folder.is_dir():
        raise DataError(f"--known-defects {folder}: no such folder; name one that holds defective images")
    found = folders.list_images(folder)
    images = [path for path in found if not path.stem.endswith(ENDING)]
    masks = by_stem([path for path in found if path.stem.endswith(ENDING)], ENDING)
    if not images:
        raise DataError(f"--known-defects {folder}: holds no image; add images of defects, or leave it out")
    _check_pairs(images, masks)
    return [
        Sample(
            path=path, split="test", label=_label_of(path, folder), mask=masks.get(path.stem), any_value=True
        )
        for path in images
    ]


def _check_pairs(images: list[Path], masks: dict[str, Path]) -> None:
    seen: dict[str, Path] = {}
    for path in images:
        if masks and path.stem not in masks:
            raise DataError(
                f"{path}: has no mask, and others have; add {path.stem}{ENDING}.png, or remove all"
            )
        if masks and path.stem in seen:
            raise DataError(
                f"{path}: has the name of {seen[path.stem]}, masks pair by name; rename one of them"
            )
        seen[path.stem] = path
    alone = sorted(masks.keys() - seen.keys())
    if alone:
        raise DataError(
            f"{masks[alone[0]]}: a mask without an image {alone[0]}; add that, or remove the mask"
        )


def _label_of(path: Path, folder: Path) -> str:
    places = path.relative_to(folder).parts[:-1]
    label = places[0] if places else UNNAMED
    if label == GOOD:
        raise DataError(f"{path.parent}: good images are no known defects; move them away")
    return label
