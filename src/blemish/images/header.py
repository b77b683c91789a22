"""The size of an image by the header of its file: nothing is decoded.

It is the size that `decode` gives: upright, by the orientation of EXIF or of TIFF's tag.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import BmpImagePlugin, JpegImagePlugin, WebPImagePlugin

from blemish.images.decode import container_of
from blemish.images.limits import exif_orientation

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

Stored = tuple[int, int, int]
"""Height and width in pixels as they are stored, and the orientation, 1 (upright) to 8 (turned left)."""


def size_of(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return the size (H, W) in pixels that `decode.read` gives an image, by its header.

    None where the header does not tell it, as that of a damaged file. Raises ImageError for what is missing
    and what is no image by its first bytes.
    """
    kind = container_of(path)
    try:
        with Path(path).open("rb") as file:
            height, width, orientation = _HEADERS[kind](file)
    except Exception:  # libraries raise anything for damage, of which `decode.read` tells
        return None
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _png(file: IO[bytes]) -> Stored:
    """Read the header, and the orientation, which may stand behind the pixels; Pillow would decode these."""
    file.seek(16)
    width, height = struct.unpack(">II", file.read(8))
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return height, width, exif_orientation(file.read(length))
        file.seek(length + 4, os.SEEK_CUR)  # the checksum too
    return height, width, 1


def _webp(file: IO[bytes]) -> Stored:
    return _by_pillow(WebPImagePlugin.WebPImageFile(file))


def _jpeg(file: IO[bytes]) -> Stored:
    return _by_pillow(JpegImagePlugin.JpegImageFile(file))


def _by_pillow(image: Image.Image) -> Stored:
    return image.height, image.width, exif_orientation(image.info.get("exif", b""))


def _tiff(file: IO[bytes]) -> Stored:
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        sides = dict(zip(series.axes, series.shape, strict=True))
        return sides["Y"], sides["X"], tiff.pages.first.tags.valueof(274, 1)


def _bmp(file: IO[bytes]) -> Stored:
    return _by_pillow(BmpImagePlugin.BmpImageFile(file))


_HEADERS: dict[str, Callable[[IO[bytes]], Stored]] = {
    "PNG": _png,
    "WebP": _webp,
    "JPEG": _jpeg,
    "TIFF": _tiff,
    "BMP": _bmp,
}
