"""What of an anomaly map counts: what lies inside a region of interest, in regions from a stated size on.

The image score of a model with sizes is the level at which its largest region vanishes,

    S(map) = max { t : some region of map >= t is large enough }

the maximum of the map's opening by size (Vincent 1993, "Grayscale area openings and closings"; there by
area alone). As lower levels only let regions grow, a region that counts lies above a threshold exactly
when S does: the score and the regions never contradict one another, and one calibration of S keeps both.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import ImageError, UsageError
from blemish.images.regions import both
from blemish.images.roi import Roi, shrink
from blemish.inference import postprocess

if TYPE_CHECKING:
    from blemish.core.types import Region


REGIONS = ("roi", "inner")
"""The fields of `Counting` that are regions."""


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Where, and from which size on, a region counts; the defaults let all of them count.

    Raises UsageError for sizes that cannot be.
    """

    min_area: float = 0.0
    """In pixels of the original image, or in mm² with `mm_per_px`; 0: any."""
    min_length: float = 0.0
    """The diagonal of a region's box, in pixels or in mm; 0: any."""
    mm_per_px: float | None = None
    """How many millimetres of the part a pixel shows; None: sizes are in pixels."""
    roi: Roi | None = None
    """Where the image counts; None: everywhere. A network never sees what lies outside: it learnt so."""
    inner: Roi | None = None
    """Where it counts of that, given after the training: the network sees what lies outside. None: all."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        for option, value in (("--min-area", self.min_area), ("--min-length", self.min_length)):
            if not 0 <= value < math.inf:
                raise UsageError(f"{option} {value:g}: must be 0 or larger; 0 lets every region count")
        if self.mm_per_px is not None and not 0 < self.mm_per_px < math.inf:
            raise UsageError(f"--mm-per-px {self.mm_per_px:g}: must be larger than 0")

    @property
    def has_sizes(self) -> bool:
        """Whether small regions do not count."""
        return self.min_area > 0 or self.min_length > 0

    @property
    def min_area_px(self) -> float:
        """The smallest area in pixels."""
        return self.min_area / (self.mm_per_px or 1.0) ** 2

    @property
    def min_length_px(self) -> float:
        """The smallest length in pixels."""
        return self.min_length / (self.mm_per_px or 1.0)

    @property
    def region(self) -> Roi | None:
        """Where the image counts, by all that was said; None: everywhere. Raises ImageError where nowhere."""
        if self.roi is None or self.inner is None:
            return self.roi or self.inner
        return both(self.inner, self.roi)

    def as_fields(self) -> dict[str, Any]:
        """Return what differs from the defaults, for the description of a model."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        found = {each.name: given[each.name] for each in fields(self) if given[each.name] != each.default}
        return found | {name: roi.text for name in REGIONS if (roi := given[name]) is not None}

    @classmethod
    def of_fields(cls, given: dict[str, Any]) -> Counting:
        """Make it of what `as_fields` returned. Raises UsageError or ValueError where that is damaged."""
        sizes = {name: value for name, value in given.items() if name not in REGIONS}
        regions = {name: Roi(given[name]) for name in REGIONS if name in given}
        for roi in regions.values():
            _ = roi.mask  # which refuses a damaged one
        return cls(**sizes, roi=regions.get("roi"), inner=regions.get("inner"))

    def identity(self) -> dict[str, str]:
        """Return what tells a training with it from one without; empty for the defaults."""
        return {"what counts": self.describe()} if self.as_fields() else {}

    def describe(self) -> str:
        """Say in words what counts."""
        unit = "px" if self.mm_per_px is None else "mm"
        area, length = f"{self.min_area:.6g} {unit}", f"{self.min_length:.6g} {unit}"
        sizes = [f"{area if unit == 'px' else area + '²'} or more"] if self.min_area else []
        sizes += [f"a length of {length} or more"] if self.min_length else []
        scale = "" if self.mm_per_px is None or not sizes else f" ({self.mm_per_px:.6g} mm per pixel)"
        found = f"regions of {' and '.join(sizes)}{scale}" if sizes else "regions of any size"
        return found if self.region is None else f"{found}, inside {_describe(self.region)}"

    def inside(self, shape: tuple[int, int], *, name: str | None = None) -> np.ndarray | None:
        """Return where an image of this (H, W) counts, bool; None: everywhere. Raises ImageError."""
        return None if self.region is None else self.region.at(shape, name=name or "image")

    def confine(self, anomaly_map: np.ndarray, *, coarse: bool = False) -> np.ndarray:
        """Give the lowest value inside to all of a map that lies outside.

        `anomaly_map` is (H, W) at the size of the image or, `coarse`, (h, w) at any other.
        """
        region = self.region
        if region is None:
            return anomaly_map
        inside = shrink(region.mask, anomaly_map.shape) if coarse else region.at(anomaly_map.shape)
        return np.where(inside, anomaly_map, anomaly_map[inside].min())

    def peak(self, anomaly_map: np.ndarray, *, name: str | None = None) -> float:
        """Return the largest value at which a region that counts is left; without sizes the map's maximum.

        `anomaly_map` (H, W) is at the size of the original image, `name` that of the image. Raises
        ImageError for an image without room for the smallest region.
        """
        inside = self.inside(anomaly_map.shape, name=name)
        if not self.has_sizes:
            return float((anomaly_map if inside is None else anomaly_map[inside]).max())
        peak = postprocess.opened_peak(anomaly_map, **self._sizes_px, inside=inside)
        if peak is None:
            height, width = anomaly_map.shape
            raise ImageError(
                f"{name or 'image'}: {width} x {height} px has no room for {self.describe()}; give a larger "
                "image, or calibrate the model anew with smaller sizes"
            )
        return peak

    def regions(self, anomaly_map: np.ndarray, threshold: float) -> list[Region]:
        """Return the regions above a threshold that count, as `postprocess.regions` does."""
        inside = self.inside(anomaly_map.shape)
        if inside is not None:  # what lies outside is never above
            anomaly_map = np.where(inside, anomaly_map, min(threshold, float(anomaly_map.min())))
        found = postprocess.regions(anomaly_map, threshold)
        return [
            r
            for r in found
            if r.area_px >= self.min_area_px and math.hypot(r.y1 - r.y0, r.x1 - r.x0) >= self.min_length_px
        ]

    def outlined(self, anomaly_map: np.ndarray, threshold: float) -> np.ndarray:
        """Return the pixels of the regions that count, bool (H, W)."""
        above, inside = anomaly_map > threshold, self.inside(anomaly_map.shape)
        above = above if inside is None else above & inside
        return postprocess.large_parts(above, **self._sizes_px) if self.has_sizes else above

    @property
    def _sizes_px(self) -> dict[str, float]:
        return {"min_area": self.min_area_px, "min_length": self.min_length_px}


def _describe(region: Roi) -> str:
    mark = hashlib.sha256(region.text.encode()).hexdigest()[:8]
    return f"a region of interest of {100 * region.share:.3g} % of the image (mask {mark})"
