"""The ground truth of an image: its masks, as one, or region by region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError
from blemish.images import decode
from blemish.images.header import size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from blemish.core.types import Sample


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """How much of a defect is enough to have found it: `amount` pixels, or with `relative` a share of it."""

    amount: float
    relative: bool

    def pixels_of(self, area: int) -> float:
        """Return the number of pixels, above 0, that is enough of a region of `area` pixels."""
        return self.amount * area if self.relative else self.amount


def read_mask(sample: Sample, size: tuple[int, int]) -> np.ndarray:
    """Return the ground truth of a sample as bool (H, W), True where defective; `size` is (H, W) in pixels.

    A good image gives all False without reading a file; several masks are joined. A mask must have the
    image's size, one channel, and only the values {0, 1} or {0, 255}; a mask of zeros alone is taken at its
    word. Of a sample with `any_value` all that is not 0 in any channel is defective. Raises `DataError`, and
    `ImageError` if a file cannot be read.
    """
    if not sample.is_defect:
        return np.zeros(size, dtype=bool)
    if sample.mask is None:
        raise DataError(
            f"{sample.path}: {sample.label!r} has no mask; pixel measures need one per defective image"
        )
    return np.logical_or.reduce([_read_one(path, sample, size) > 0 for path in sample.masks])


def check_marks(samples: Iterable[Sample]) -> None:
    """Refuse a kind of defect of which no mask marks anything: nothing could be measured of it.

    Of each kind masks are read until one marks something. Raises `DataError`, and `ImageError` if a file
    cannot be read.
    """
    kinds: dict[str, list[Path]] = {}
    for sample in samples:
        if sample.is_defect:
            kinds.setdefault(sample.label, []).extend(sample.masks)
    for label, masks in kinds.items():
        if masks and not any(decode.read(mask).any() for mask in masks):
            others = "" if len(masks) == 1 else f", nor do the {len(masks) - 1} other masks of {label!r}"
            raise DataError(f"{masks[0]}: marks nothing{others}; set what is defective to 255")


def check_sizes(samples: Iterable[Sample]) -> None:
    """Refuse a mask of another size than its image, by the headers of the files, which is quick.

    A header that does not tell the size is passed: what is wrong is told when the file is read. Raises
    `DataError`, and `ImageError` for a file that is missing or no image.
    """
    for sample in samples:
        for path in sample.masks if sample.is_defect else ():
            size, found = size_of(sample.path), size_of(path)
            if size is not None and found is not None:
                _refuse_other_size(path, found, sample, size)


def _refuse_other_size(path: Path, found: tuple[int, int], sample: Sample, size: tuple[int, int]) -> None:
    if found != tuple(size):
        raise DataError(
            f"{path}: {found[1]}x{found[0]} px but {sample.path} is {size[1]}x{size[0]}; a mask has the size "
            "of its image, as it is shown upright: mark the defect on that image, and save the mask anew"
        )


def read_regions(
    sample: Sample, size: tuple[int, int], saturations: Mapping[int, Saturation]
) -> list[tuple[np.ndarray, float]]:
    """Return the regions of a sample, each bool (H, W) with the number of pixels that is enough of it.

    A mask holds one region for each value above 0, however many pieces it is in; `saturations` are by value.
    A good image has none. Raises as `read_mask`, and `DataError` for a value that has no saturation.
    """
    regions = []
    for path in sample.masks if sample.is_defect else ():
        mask = _read_one(path, sample, size)
        for value in np.unique(mask[mask > 0]).tolist():
            if value not in saturations:
                known = ", ".join(map(str, sorted(saturations)))
                raise DataError(
                    f"{path}: value {value} is of no known defect; those of the data set: {known}"
                )
            region = mask == value
            regions.append((region, saturations[value].pixels_of(int(region.sum()))))
    return regions


def _read_one(path: Path, sample: Sample, size: tuple[int, int]) -> np.ndarray:
    """Read a mask as (H, W), 0 where nothing is defective. Raises as `read_mask`."""
    mask = decode.read(path)
    height, width, channels = mask.shape
    if channels != 1 and not (sample.any_value and channels == 3):
        raise DataError(f"{path}: {channels} channels, a mask has 1; save it as a grey PNG")
    _refuse_other_size(path, (height, width), sample, size)
    if sample.any_value:
        return mask.max(axis=2)
    values = np.unique(mask)
    if not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
        raise DataError(f"{path}: {_why_no_mask(path, values)}")
    return mask[:, :, 0]


def _why_no_mask(path: Path, values: np.ndarray) -> str:
    """Say which values of an image make it no mask, what brought them there, and what to do."""
    odd = next((v for v in values if v not in (0, 1, 255)), None)
    found = "value 1; beside 255" if odd is None else f"value {odd:g}"
    shades = " (JPEG turns edges into shades)" if decode.container_of(path) == "JPEG" else ""
    cure = "set what is defective to 255 and all else to 0, and save it as a PNG of 8 bits"
    return f"{found}; a mask has only 0 and 1, or 0 and 255{shades}: {cure}"
