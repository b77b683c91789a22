"""The rules for every image, whatever its file format: limits, dtypes, orientation, alpha; and its errors."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from blemish.core.errors import ImageError
from blemish.core.types import MIN_SIDE

MAX_PIXELS = 2**28
"""The most pixels of an image (with at most four times as many values); more is refused undecoded."""

_DTYPES = ("uint8", "uint16", "float32")


class TooLarge(ImageError):
    """An image has more pixels than the limit in force (`limit_pixels`)."""


def refusal(name: str, text: str) -> ImageError:
    """Make the ImageError "name: text", as one printable line whatever the file's name holds."""
    line = f"{name}: {text}".replace("\n", " ")
    return ImageError("".join(c if c.isprintable() else "?" for c in line))


_pixel_limit: ContextVar[int] = ContextVar("pixel limit", default=MAX_PIXELS)


@contextmanager
def limit_pixels(pixels: int) -> Iterator[None]:
    """Refuse images of more than `pixels` pixels before decoding them, in this context and thread."""
    token = _pixel_limit.set(min(pixels, MAX_PIXELS))
    try:
        yield
    finally:
        _pixel_limit.reset(token)


def check_size(height: int, width: int, channels: int, name: str) -> None:
    """Refuse an image above the limit or below `MIN_SIDE`; sizes in pixels. Raises ImageError."""
    size = f"{width} x {height} px" + (f" x {channels} channels" if channels > 1 else "")
    limit = _pixel_limit.get()
    if height * width > limit or height * width * channels > 4 * limit:
        error = refusal(name, f"{size} is more than the {limit} px blemish reads here; cut it into parts")
        raise TooLarge(str(error))
    if min(height, width) < MIN_SIDE:
        raise refusal(name, f"{size} has a side below {MIN_SIDE} px; give a larger image")


def check_array(array: np.ndarray, name: str) -> np.ndarray:
    """Check an image (H, W) or (H, W, C) against the rules of this module; return it as (H, W, C).

    float16 becomes float32, and any byte order the machine's own. Raises ImageError.
    """
    _refuse_other_meaning(array, name)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] == 0:
        raise refusal(name, f"has the shape {array.shape}; give (H, W) or (H, W, C)")
    height, width, channels = array.shape
    check_size(height, width, channels, name)
    if array.dtype == np.float16:
        array = array.astype(np.float32)  # exact
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name not in _DTYPES:
        raise refusal(name, f"{array.dtype.name} values are not read; save it as uint16 or float32")
    if array.dtype == np.float32 and (bad := ~np.isfinite(array)).any():
        row, column, channel = np.unravel_index(bad.argmax(), bad.shape)
        where = f"row {row}, column {column}, channel {channel}"
        raise refusal(name, f"{bad.sum()} values are NaN or infinite, the first at {where}; replace them")
    return array


def _refuse_other_meaning(array: np.ndarray, name: str) -> None:
    """Refuse an array that is more than its numbers: a mask, a unit, fields, the rules of a matrix."""
    kind = type(array)
    plain = kind in (np.ndarray, np.memmap)
    if not plain and issubclass(kind, np.ma.MaskedArray):  # numpy.ma takes long to import
        cure = "say what masked pixels are: give image.filled(value)"
        raise refusal(name, f"is a {kind.__name__}, whose mask would be lost; {cure}")
    if array.dtype.names:
        cure = "give (H, W, C) with each field as a channel"
        raise refusal(name, f"has the fields {', '.join(array.dtype.names)}; {cure}")
    if not plain:
        cure = "if its numbers say all, give numpy.asarray(image)"
        raise refusal(name, f"is a {kind.__name__}, which may mean more than its numbers; {cure}")


def orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored rows and columns upright, (H, W, C) (EXIF 2.3, tag 274: 1 upright ... 8 turned left)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def exif_orientation(exif: bytes) -> int:
    """Find tag 274 of an EXIF block, 1 (upright) where there is none or the block is damaged."""
    # By hand, as Pillow answers a damaged block with warnings.
    tiff = exif.removeprefix(b"Exif\0\0")
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, at)
            if tag == 274:
                return value
    except struct.error:
        return 1
    return 1


def drop_alpha(array: np.ndarray, name: str, *, premultiplied: bool = False) -> np.ndarray:
    """Drop the last channel, composited over black where it varies: round(colour * alpha / maximum)."""
    colour, alpha = array[..., :-1], array[..., -1:]
    if premultiplied or alpha.min() == alpha.max():
        return colour
    if array.dtype not in (np.uint8, np.uint16):
        raise refusal(name, f"has a varying alpha channel of {array.dtype}; save it without alpha")
    top = int(np.iinfo(array.dtype).max)  # top * top + top // 2 still fits in uint32
    return ((colour.astype(np.uint32) * alpha + top // 2) // top).astype(array.dtype)
