"""KolektorSDD2: `train` and `test`, with `NUMBER.png` beside `NUMBER_GT.png`; a black mask means good.

The archive has a second copy of one training image, `10301 (copy).png`, and of its mask; only names that are
a number are read. Source: Božič et al., Computers in Industry 129, 2021, and the data set's folders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.core.types import Sample
from blemish.data.layouts.pairs import DEFECT, SPLITS, by_stem, images_in, mask_of
from blemish.images import decode

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.images.folders import LeftOut

ENDING = "_GT"


def recognises(data: Path) -> bool:
    """Whether a folder looks like KolektorSDD2."""
    return all(next((data / split).glob(f"*{ENDING}.png"), None) is not None for split in SPLITS)


def read(data: Path, left_out: LeftOut) -> list[Sample]:
    """Return the samples; every mask is read, as it alone says whether an image is good."""
    samples = []
    for split in SPLITS:
        paths = images_in(data / split, left_out)
        masks = by_stem(paths, ENDING)
        for path in paths:
            if not path.stem.isdecimal():
                continue
            mask = mask_of(path, masks, path.with_name(f"{path.stem}{ENDING}.png"))
            if not decode.read(mask).any():
                samples.append(Sample(path=path, split=split))
            else:
                samples.append(Sample(path=path, split=split, label=DEFECT, mask=mask, any_value=True))
    return samples
