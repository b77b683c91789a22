"""BTAD (beanTech): `train/ok`, `test/{ok,ko}`, `ground_truth/ko`; a mask is named as its image.

Images and masks may have other suffixes. Source: Mishra et al., ISIE 2021, and the data set's folders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.core.types import Sample
from blemish.data.layouts.pairs import DEFECT, by_stem, good_samples, images_in, mask_of

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.images.folders import LeftOut


def recognises(data: Path) -> bool:
    """Whether a folder looks like a category of BTAD."""
    return (data / "train" / "ok").is_dir() and (data / "test" / "ko").is_dir()


def read(data: Path, left_out: LeftOut) -> list[Sample]:
    """Return the samples of a category."""
    truth = data / "ground_truth" / "ko"
    masks = by_stem(images_in(truth, left_out))
    defective = [
        Sample(path=path, split="test", label=DEFECT, mask=mask, any_value=True)
        for path in images_in(data / "test" / "ko", left_out)
        for mask in (mask_of(path, masks, truth / f"{path.stem}.png"),)
    ]
    return [
        *good_samples(data / "train" / "ok", "train", left_out),
        *good_samples(data / "test" / "ok", "test", left_out),
        *defective,
    ]
