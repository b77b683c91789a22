"""Small copies of images, from which overlays and thumbnails are drawn without the full image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blemish.images.resize import resize

OVERLAY_SIDE = 1024
"""The longer side of an overlay in pixels, at most."""
THUMBNAIL_SIDE = 512
"""The longer side of a thumbnail in pixels, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """A small copy of an image of `size` (H, W): `planes` (1 or 3, h, w), shown from `low` to `high`."""

    planes: np.ndarray
    low: float
    high: float
    size: tuple[int, int]

    @property
    def is_plain(self) -> bool:
        """Whether the planes have 8 bits, which are shown as they are."""
        return self.planes.dtype == np.uint8 and (self.low, self.high) == (0, 255)

    def rgb(self, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """Return the picture to show, or a part of it: float32 (3, h, w) in [0, 1], a copy."""
        planes = _scale(self.planes[:, rows, columns], self.low, self.high)
        return planes if len(planes) == 3 else np.repeat(planes, 3, axis=0)


def preview_of(image_hwc: np.ndarray, *, side: int = OVERLAY_SIDE) -> Preview:
    """Reduce an image (H, W, C) so that its longer side has at most `side` px.

    8 bits are shown as they are; deeper images are stretched from their lowest to their highest value, and
    channels that are neither one nor three are averaged. An image that is small already is not copied.
    """
    size = image_hwc.shape[0], image_hwc.shape[1]
    planes = resize(image_hwc.transpose(2, 0, 1), fit_size(side, size))
    is_8_bit = image_hwc.dtype == np.uint8
    low, high = (0.0, 255.0) if is_8_bit else (float(image_hwc.min()), float(image_hwc.max()))
    if len(planes) not in (1, 3):
        planes, low, high = _scale(planes, low, high).mean(axis=0, keepdims=True), 0.0, 1.0
    return Preview(planes=planes, low=low, high=high, size=size)


def fit_size(side: int, size: tuple[int, ...]) -> tuple[int, int]:
    """Return the height and width of an image whose longer side is reduced to `side` px, if it is longer."""
    shrink = min(1.0, side / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def _scale(planes: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = planes.astype(np.float32, order="C")  # plane by plane, which is quicker to draw over
    if low:
        scaled -= np.float32(low)
    scaled /= np.float32(max(high - low, 1e-12))
    return scaled


class Previews:
    """The previews of one image, by their sides, made when `observe` is shown the decoded image."""

    def __init__(self, *sides: int) -> None:
        self.sides, self.by_side = sides, dict[int, Preview]()

    def observe(self, image_hwc: np.ndarray) -> None:
        """Make the previews of an image (H, W, C)."""
        self.by_side = {side: preview_of(image_hwc, side=side) for side in self.sides}
