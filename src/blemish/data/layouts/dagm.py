"""DAGM 2007, a class: `Train` and `Test` with `NUMBER.PNG`, and masks in their `Label/NUMBER_label.PNG`.

An image without a mask is good; the masks are coarse ellipses.
Source: Wieler and Hahn, DAGM symposium 2007, and the data set's folders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.core.errors import DataError
from blemish.core.types import Sample
from blemish.data.layouts.pairs import DEFECT, SPLITS, by_stem, images_in

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.images.folders import LeftOut


def recognises(data: Path) -> bool:
    """Whether a folder looks like a class of DAGM 2007."""
    return (data / "Train" / "Label").is_dir() and (data / "Test" / "Label").is_dir()


def read(data: Path, left_out: LeftOut) -> list[Sample]:
    """Return the samples of a class. Raises DataError for a mask without an image."""
    samples = []
    for split in SPLITS:
        folder = data / split.capitalize()
        found = images_in(folder, left_out)
        masks = by_stem((p for p in found if p.parent != folder), "_label")
        paths = [p for p in found if p.parent == folder]
        alone = masks.keys() - {p.stem for p in paths}
        if alone:
            raise DataError(f"{masks[min(alone)]}: a mask without an image; unpack all of the data set")
        for path in paths:
            mask = masks.get(path.stem)
            if mask is None:
                samples.append(Sample(path=path, split=split))
            else:
                samples.append(Sample(path=path, split=split, label=DEFECT, mask=mask, any_value=True))
    return samples
