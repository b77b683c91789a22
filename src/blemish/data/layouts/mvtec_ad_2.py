"""MVTec AD 2: `train/good`, `validation/good`, `test_public/{good,bad}`, `test_public/ground_truth/bad`.

A mask is named as its image with `_mask`. `test_private` and `test_private_mixed` have images without labels,
which are no test set here. Source: Heckler-Kram et al., arXiv 2503.21622, and the data set's readme.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.core.types import Sample
from blemish.data.layouts.pairs import by_stem, good_samples, images_in, mask_of

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.images.folders import LeftOut


def recognises(data: Path) -> bool:
    """Whether a folder looks like a category of MVTec AD 2."""
    return (data / "train" / "good").is_dir() and (data / "test_public").is_dir()


def read(data: Path, left_out: LeftOut) -> list[Sample]:
    """Return the samples of a category; the validation images calibrate."""
    test = data / "test_public"
    truth = test / "ground_truth" / "bad"
    masks = by_stem(images_in(truth, left_out), "_mask")
    bad = [
        Sample(path=p, split="test", label="bad", mask=mask_of(p, masks, truth / f"{p.stem}_mask.png"))
        for p in images_in(test / "bad", left_out)
    ]
    return [
        *good_samples(data / "train" / "good", "train", left_out),
        *good_samples(data / "validation" / "good", "calibration", left_out),
        *good_samples(test / "good", "test", left_out),
        *bad,
    ]
