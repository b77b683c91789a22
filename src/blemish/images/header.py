"""The size of an image by the header of its file: nothing is decoded, and the pixels' bytes are not read.

It is the size that `decode` gives: upright, by the orientation of EXIF or of TIFF's tag.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import BmpImagePlugin, JpegImagePlugin

from blemish.images.decode import container_of
from blemish.images.limits import exif_orientation

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """Read the canvas, or else the frame (RFC 9649), and EXIF, which may stand at the end."""
    file.seek(12)
    height = width = 0
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        after = file.tell() + length + length % 2
        if kind == b"EXIF":
            return height, width, exif_orientation(file.read(length))
        start = file.read(10)
        if kind == b"VP8X":
            width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (4, 7))
        elif kind == b"VP8L" and not width:
            bits = int.from_bytes(start[1:5], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif kind == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", start, 6))
        file.seek(after)
    if not width:
        raise ValueError("no picture")
    return height, width, 1


def _jpeg(file: IO[bytes]) -> Stored:
    image = JpegImagePlugin.JpegImageFile(file)
    return image.height, image.width, exif_orientation(image.info.get("exif", b""))


def _tiff(file: IO[bytes]) -> Stored:
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        sides = dict(zip(series.axes, series.shape, strict=True))
        return sides["Y"], sides["X"], tiff.pages.first.tags.valueof(274, 1)


def _bmp(file: IO[bytes]) -> Stored:
    image = BmpImagePlugin.BmpImageFile(file)
    return image.height, image.width, 1


_HEADERS: dict[str, Callable[[IO[bytes]], Stored]] = {
    "PNG": _png,
    "WebP": _webp,
    "JPEG": _jpeg,
    "TIFF": _tiff,
    "BMP": _bmp,
}
