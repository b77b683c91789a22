"""Where each of several images counts: inside a region that all share, and inside its own if it has one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.images.limits import refusal
from blemish.images.roi import LEAST_SHARE, Roi, read_roi, roi_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np

    from blemish.core.types import Sample
    from blemish.images.preprocess import ImageFormat


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The region that a model has, None: everywhere; and files with those of single images, by their path."""

    common: Roi | None = None
    own: Mapping[str, Path] = field(default_factory=dict)

    @property
    def cover_something(self) -> bool:
        """Whether anything is covered, of any image."""
        return self.common is not None or bool(self.own)

    def of(self, path: str | Path | None) -> Roi | None:
        """Return where the image of this path counts; None: everywhere.

        Raises ImageError where the image's own region cannot be read, has another aspect than the common one,
        or leaves next to nothing of it.
        """
        file = None if path is None else self.own.get(str(path))
        if file is None:
            return self.common
        own = read_own(file)
        return own if self.common is None else both(own, self.common, str(file))

    def cover(self, image: np.ndarray, image_format: ImageFormat, path: Path) -> np.ndarray:
        """Cover what does not count of an image (H, W, C). Raises ImageError, as `of` and `Roi.at` do."""
        roi = self.of(path)
        return image if roi is None else roi.cover(image, image_format, name=str(path))


def own_regions(samples: Iterable[Sample]) -> dict[str, Path]:
    """Return the files with regions of those images that have their own, by the image's path."""
    return {str(sample.path): sample.roi for sample in samples if sample.roi is not None}


def read_own(file: Path) -> Roi:
    """Read the region of a single image as `read_roi` does; a file that has not changed is read once."""
    try:
        state = file.stat()
    except OSError as error:
        raise refusal(str(file), f"cannot be read ({error.strerror}); check the path") from error
    return _read(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _read(file: Path, _changed_ns: int, _size: int) -> Roi:
    return replace(read_roi(file), whose="its own")


@lru_cache(maxsize=256)
def both(own: Roi, common: Roi, name: str = "region") -> Roi:
    """Return what counts by both, at the size of the finer one. Raises ImageError, as `Regions.of`."""
    size = max(own.mask.shape, common.mask.shape)
    inside = common.at(own.mask.shape, name=name) & own.mask
    if size != own.mask.shape:
        inside = common.mask & own.at(size, name=name)
    if inside.mean() < LEAST_SHARE:
        raise refusal(
            name,
            f"leaves {100 * float(inside.mean()):.2g} % of the image inside the model's region of interest, "
            f"and {100 * LEAST_SHARE:g} % is the least; white counts, black does not",
        )
    return replace(roi_of(inside), whose=own.whose)
