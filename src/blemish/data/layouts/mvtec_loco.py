"""MVTec LOCO AD: as MVTec AD, with `validation/good`, and a folder of masks for each defective image.

`ground_truth/<kind>/<image>/000.png`, `001.png` and so on are the regions of an image, one a file. The
value of their pixels names the defect in `defects_config.json`, a list of objects with `defect_name`,
`pixel_value`, `saturation_threshold` and `relative_saturation`. Source: Bergmann et al., International
Journal of Computer Vision 130, 2022, and the data set's readme.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from blemish.core.errors import DataError
from blemish.core.types import GOOD, Sample
from blemish.data.layouts.pairs import good_samples, images_in
from blemish.data.masks import Saturation

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.images.folders import LeftOut

CONFIG = "defects_config.json"


def recognises(data: Path) -> bool:
    """Whether a folder looks like a category of MVTec LOCO."""
    return (data / "train" / "good").is_dir() and (data / CONFIG).is_file()


def read(data: Path, left_out: LeftOut) -> list[Sample]:
    """Return the samples of a category; the validation images calibrate."""
    samples = good_samples(data / "train" / "good", "train", left_out)
    samples += good_samples(data / "validation" / "good", "calibration", left_out)
    for folder in sorted((data / "test").iterdir()) if (data / "test").is_dir() else ():
        samples += _tested(data, folder, left_out)
    return samples


def _tested(data: Path, folder: Path, left_out: LeftOut) -> list[Sample]:
    if not folder.is_dir():
        return []
    if folder.name == GOOD:
        return good_samples(folder, "test", left_out)
    samples = []
    for path in images_in(folder, left_out):
        truth = data / "ground_truth" / folder.name / path.stem
        masks = images_in(truth, left_out)
        if not masks:
            raise DataError(f"{path}: has no mask; add {truth / '000.png'}")
        samples.append(
            Sample(
                path=path,
                split="test",
                label=folder.name,
                mask=masks[0],
                more_masks=tuple(masks[1:]),
                any_value=True,
            )
        )
    return samples


def read_saturations(data: Path) -> dict[int, Saturation]:
    """Read how much of each defect is enough, by the value of its pixels. Raises DataError."""
    path = data / CONFIG
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = {
            int(each["pixel_value"]): Saturation(
                amount=float(each["saturation_threshold"]), relative=bool(each["relative_saturation"])
            )
            for each in entries
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: {type(error).__name__} {error}; it must be a list of objects with pixel_value, "
            "saturation_threshold and relative_saturation; take the data set's own file"
        ) from error
    for value, saturation in found.items():
        if not saturation.amount > 0:
            raise DataError(f"{path}: saturation_threshold {saturation.amount} of {value}: must be above 0")
    return found
