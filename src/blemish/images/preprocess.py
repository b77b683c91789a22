"""Images as models see them: one format for a data set, then convert -> resize (numpy, no torch)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError, UsageError
from blemish.images.decode import as_image
from blemish.images.limits import refusal
from blemish.images.resize import resize
from blemish.images.sources import name_of

if TYPE_CHECKING:
    from blemish.images.roi import Roi

_BIT_DEPTHS = {8: "uint8", 10: "uint16", 12: "uint16", 14: "uint16", 16: "uint16"}
_WHOLE_RANGES = [(0.0, 2.0**bits - 1) for bits in _BIT_DEPTHS]
LARGE_PIXELS = 2**24
"""Pixels above which an image is large: whoever has several takes one at a time."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """What a model remembers of its images.

    `dtype` is uint8, uint16 or float32. `value_range` holds the values mapped to 0 and 1: (0, 255) for
    uint8, (0, 4095) for uint16 declared as 12-bit, a declared (low, high) for uint16 or float32.
    """

    dtype: str
    channels: int
    value_range: tuple[float, float]

    def describe(self) -> str:
        """Describe the format in words, for example "3-channel uint8 [0, 255]"."""
        low, high = self.value_range
        return f"{self.channels}-channel {self.dtype} [{low:.10g}, {high:.10g}]"


def format_of(
    images: Iterable[tuple[str, np.ndarray]],
    *,
    channels: int | None = None,
    bit_depth: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> ImageFormat:
    """Find the one format that all (name, image (H, W, C)) share, looking at each once.

    `channels` (1 or 3) declares that grey and RGB images are converted to it. `bit_depth` (8, 10, 12, 14,
    16) declares the used bits of integers, `value_range` the range of uint16 or of floats; undeclared floats
    must lie in [0, 1]. Raises UsageError for a declaration that cannot be, ImageError naming the first image
    that departs from the format of those before, DataError without any image.
    """
    _check_declared(channels, bit_depth, value_range)
    shared: ImageFormat | None = None
    first = ""
    for name, image in images:
        own = _find_format(name, image, channels, bit_depth, value_range)
        if shared is None:
            shared, first = own, name
        elif own != shared:
            cure = "save all alike"
            if own.dtype == shared.dtype and {own.channels, shared.channels} == {1, 3}:
                cure += ", or pass --channels 1 or --channels 3"
            raise refusal(name, f"is {own.describe()}, but {first} is {shared.describe()}; {cure}")
        _check_depth(image, own, name)
        if image.dtype == np.float32 and value_range is None and not (0 <= image.min() <= image.max() <= 1):
            found = f"has values in [{image.min():.6g}, {image.max():.6g}], outside [0, 1]"
            raise refusal(name, f"{found}; declare the range with --value-range LOW HIGH")
    if shared is None:
        raise DataError("there is no image to learn the format from; give at least one")
    return shared


def _check_declared(
    channels: int | None, bit_depth: int | None, value_range: tuple[float, float] | None
) -> None:
    if channels not in (None, 1, 3):
        raise UsageError(f"--channels {channels}: images convert to 1 (grey) or 3 (RGB) channels only")
    if bit_depth is not None and bit_depth not in _BIT_DEPTHS:
        raise UsageError(f"--bit-depth {bit_depth}: a bit depth is one of {', '.join(map(str, _BIT_DEPTHS))}")
    if value_range is not None:
        low, high = value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UsageError(f"--value-range {low:g} {high:g}: give two finite numbers, the lower first")
        if bit_depth is not None:
            raise UsageError(f"--bit-depth {bit_depth}: --value-range says the same; leave one out")


def _find_format(
    name: str,
    image: np.ndarray,
    channels: int | None,
    bit_depth: int | None,
    value_range: tuple[float, float] | None,
) -> ImageFormat:
    dtype, own = image.dtype.name, image.shape[2]
    if bit_depth is not None and _BIT_DEPTHS[bit_depth] != dtype:
        need = _BIT_DEPTHS[bit_depth]
        raise refusal(name, f"is {dtype}, but --bit-depth {bit_depth} is for {need} images; leave one out")
    if value_range is not None and dtype == "uint8":
        raise refusal(name, "is uint8, but --value-range is for uint16 and float32 images; leave it out")
    if dtype == "float32":
        low, high = value_range or (0.0, 1.0)
    else:
        top = np.iinfo(dtype).max
        low, high = value_range or (0.0, float(2**bit_depth - 1 if bit_depth else top))
        if not 0 <= low < high <= top:
            raise refusal(name, f"is {dtype}, but --value-range {low:g} {high:g} is not within [0, {top}]")
    if channels is not None and own not in (1, 3):
        raise refusal(name, f"has {own} channels, and --channels converts grey and RGB only; leave one out")
    return ImageFormat(dtype=dtype, channels=channels or own, value_range=(float(low), float(high)))


def _check_depth(image: np.ndarray, fmt: ImageFormat, name: str) -> None:
    high = fmt.value_range[1]
    if image.dtype == np.uint16 and fmt.value_range in _WHOLE_RANGES and image.max() > high:
        text = f"has the value {image.max()}, above the declared maximum {high:g}"
        raise refusal(name, f"{text}; check the bit depth of the camera and of the model")


def convert(
    image: np.ndarray, fmt: ImageFormat, *, allow: frozenset[str] = frozenset(), name: str = "image"
) -> np.ndarray:
    """Convert (H, W, C) to float32 (C, H, W), the format's value range mapped to [0, 1], never clipped.

    `allow` may hold "channels": RGB to grey by the luma of ITU-R BT.601, grey to RGB by replication; and
    "depth": uint8 and uint16 for one another, each mapped from the full range of its own dtype, where the
    model's range is one of a bit depth. Raises
    ImageError for any other format than the model's, and for a value above a declared bit depth.
    """
    return _to_unit(image.transpose(2, 0, 1), _own_range(image, fmt, allow, name), fmt.channels)


def _own_range(image: np.ndarray, fmt: ImageFormat, allow: frozenset[str], name: str) -> tuple[float, float]:
    """Return the values of this image that become 0 and 1. Raises ImageError, as `convert` says."""
    dtype, own = image.dtype.name, image.shape[2]
    low, high = fmt.value_range
    if dtype != fmt.dtype:
        depths = {dtype, fmt.dtype} == {"uint8", "uint16"} and fmt.value_range in _WHOLE_RANGES
        if not (depths and "depth" in allow):
            cure = "save it so, or pass --allow depth" if depths else "save it so"
            raise refusal(name, f"is {dtype}, but the model takes {fmt.describe()}; {cure}")
        low, high = 0.0, float(np.iinfo(image.dtype).max)
    else:
        _check_depth(image, fmt, name)
    if own != fmt.channels:
        colours = {own, fmt.channels} == {1, 3}
        if not (colours and "channels" in allow):
            cure = "save it so, or pass --allow channels" if colours else "save it so"
            raise refusal(name, f"has {own} channels, but the model takes {fmt.describe()}; {cure}")
    return low, high


def _to_unit(image_chw: np.ndarray, own_range: tuple[float, float], channels: int) -> np.ndarray:
    """Map values to float32 [0, 1] of their range, and colours to one another: -> (`channels`, H, W)."""
    low, high = own_range
    planes = image_chw.astype(np.float32, order="C")
    planes -= np.float32(low)
    planes /= np.float32(high - low)
    if len(planes) > channels:
        red, green, blue = (np.float32(weight) * plane for weight, plane in zip(LUMA, planes, strict=True))
        planes = (red + green + blue)[None]
    return np.repeat(planes, 3, axis=0) if len(planes) < channels else planes


def prepare(
    image: np.ndarray,
    fmt: ImageFormat,
    size: tuple[int, int],
    *,
    allow: frozenset[str] = frozenset(),
    name: str = "image",
) -> np.ndarray:
    """Take an image (H, W, C) to float32 (C, *size) as a model sees it: resized, and converted.

    That is `convert`, then `resize`, within rounding: both are sums, and the small image is converted sooner.
    """
    own_range = _own_range(image, fmt, allow, name)
    return _to_unit(resize(image.transpose(2, 0, 1), size), own_range, fmt.channels)


def load(
    source: object,
    fmt: ImageFormat,
    size: tuple[int, int],
    *,
    allow: frozenset[str] = frozenset(),
    roi: Roi | None = None,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Take any image to float32 (C, *size) as a model sees it; also its original (H, W).

    `source` is what `as_image` takes, `allow` what `convert` allows; what lies outside of `roi` is covered.
    Raises ImageError.
    """
    image = as_image(source)
    if roi is not None:
        image = roi.cover(image, fmt, name=name_of(source))
    small = prepare(image, fmt, size, allow=allow, name=name_of(source))
    return small, (image.shape[0], image.shape[1])
