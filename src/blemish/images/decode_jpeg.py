"""JPEG to arrays, with damage refused that libjpeg only warns of.

libjpeg makes up what it cannot read: the rest of a cut-off scan becomes grey, one that lacks its middle moves
up. It counts this as warnings, which Pillow does not pass on. libtiff does, through imagecodecs; so a JPEG is
given to it in a TIFF header of its own. It is the same libjpeg, and takes no longer.

What libtiff does not take (subsamplings that TIFF does not know, progressive images of very many pixels) is
decoded by Pillow, twice: the second time with other bytes behind the data of each scan. Whole data end before
them; where they change the picture, the data are cut off.
"""

from __future__ import annotations

import io
import re
import struct
from functools import cache

import imagecodecs
import numpy as np
from PIL import Image, JpegImagePlugin

from blemish.images.decoder_warnings import collect_warnings
from blemish.images.drawing_mark import refuse_drawing
from blemish.images.limits import check_size, exif_orientation, orient, refusal
from blemish.images.unread_formats import unread_jpeg

MAX_SCANS = 100
"""Scans of a JPEG; progressive ones are saved with about ten."""
DAMAGE = re.compile("Corrupt JPEG data|Premature end of JPEG")
"""How the warnings of libjpeg begin that tell of damage."""
_OF_TIFF = re.compile("(The )?JPEG (strip|tile)")
"""How warnings of libtiff begin, which concern a TIFF and not the JPEG in it."""

_END_OF_SCAN = re.compile(rb"(?<!\xff)\xff(?=[^\x00\xff])")


def decode_jpeg(data: bytes, name: str) -> np.ndarray:
    """Decode a JPEG to uint8 (H, W, 1 or 3). Raises ImageError, and any other error for damage."""
    _check_scans(data, name)
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    check_size(image.height, image.width, 1, name)
    if image.mode not in ("L", "RGB"):
        raise refusal(name, f"the colour mode {image.mode} is not read; convert to RGB")
    refuse_drawing(image.info.get("comment", b""), name)
    _check_progression(data, image)
    array = _decode_with_libtiff(data, image)
    if array is None:
        array = _decode_twice(data)
    return orient(array, exif_orientation(image.info.get("exif", b"")))


def pixels_of(image: Image.Image) -> np.ndarray:
    """Copy a Pillow image's pixels, a strip of rows at a time: all at once takes thrice their memory."""
    width, height = image.size
    array = np.empty(0)
    for top in range(0, height, 512):
        bottom = min(top + 512, height)
        strip = np.asarray(image.crop((0, top, width, bottom)) if height > 512 else image)
        if top == 0:
            array = np.empty((height, *strip.shape[1:]), strip.dtype)
        array[top:bottom] = strip
    return array


def refuse_damage(warnings: list[str]) -> None:
    """Raise ValueError for the first of a decoder's warnings that tells of damaged JPEG data."""
    for text in warnings:
        if DAMAGE.match(text):
            raise ValueError(text)


def _check_scans(data: bytes, name: str) -> None:
    """Refuse a JPEG without an end, which libjpeg would make up, of many scans, or of an unread kind.

    Each scan takes a decoder as long as an image, however few its bytes.
    """
    unread = unread_jpeg(data)
    if unread is not None:
        raise refusal(name, f"{unread}; convert it to PNG or TIFF, which lose nothing of it")
    if data.find(b"\xff\xd9", data.find(b"\xff\xda")) < 0:
        raise ValueError("the file ends before its end marker")
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise refusal(name, f"is a JPEG of more than {MAX_SCANS} scans; save it again")


def _check_progression(data: bytes, image: JpegImagePlugin.JpegImageFile) -> None:
    """Raise ValueError where scans are missing: an end marker behind any of them makes a picture.

    Of each component each of the 64 coefficients has to come down to its last bit.
    """
    missing = {layer[0]: set(range(64)) for layer in image.layer}
    at = _first_scan(data)
    while 0 <= at < data.rfind(b"\xff\xd9"):
        count = data[at + 4]
        components = data[at + 5 : at + 5 + 2 * count : 2]
        first, last, bits = data[at + 5 + 2 * count : at + 8 + 2 * count]
        if bits & 15 == 0:
            for component in components:
                missing.get(component, set()).difference_update(range(first, last + 1))
        if not any(missing.values()):
            return
        at = data.find(b"\xff\xda", at + 2)
    raise ValueError("scans are missing at its end")


def _first_scan(data: bytes) -> int:
    """Return where the first scan's marker lies: behind the header, which may hold another JPEG."""
    at = 2
    while data[at : at + 2] != b"\xff\xda":
        if data[at] != 0xFF:
            return data.find(b"\xff\xda", at)  # bytes between the markers, which libjpeg skips
        if data[at + 1] in (0xFF, 0x01, *range(0xD0, 0xD9)):
            at += 1 if data[at + 1] == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


# --- libtiff ----------------------------------------------------------------------------------------------


def _decode_with_libtiff(data: bytes, image: JpegImagePlugin.JpegImageFile) -> np.ndarray | None:
    """Decode to (H, W, C); None for a JPEG that libtiff does not take. Raises ValueError for damage."""
    with collect_warnings() as warnings:
        try:
            array = imagecodecs.tiff_decode(_tiff_around(data, image), verbose=True)
        except (imagecodecs.TiffError, IndexError):  # IndexError: a directory that libtiff does not take
            array = None
    refuse_damage(warnings)
    if array is None or any(not _OF_TIFF.match(text) for text in warnings):
        return None  # libjpeg tells its first warning only: behind a harmless one it would hide damage
    return pack(array.reshape(image.height, image.width, -1))


def pack(view: np.ndarray) -> np.ndarray:
    """Copy the channels that are wanted, (H, W, C), out of an array of more: libtiff gives four of a JPEG."""
    packed = np.empty(view.shape, view.dtype)
    for top in range(0, len(view), 32):  # a strip that stays in the cache, one channel after the other:
        for channel in range(view.shape[2]):  # five times as fast as all at once
            packed[top : top + 32, :, channel] = view[top : top + 32, :, channel]
    return packed


_HEADER = 8 + 2 + 10 * 12 + 4 + 8
"""Bytes of a TIFF's header: its own 8, a directory of 10 tags, and 8 for the bits of three colours."""


def _tiff_around(data: bytes, image: JpegImagePlugin.JpegImageFile) -> bytes:
    """Put a TIFF's header before a JPEG, whose only strip it becomes."""
    colours = len(image.layer)
    kind = 1 if colours == 1 else 6 if _is_ycbcr(image) else 2
    sampling = 1 | 1 << 16
    if kind == 6:
        (_, across, down, _), (_, unit_across, unit_down, _) = image.layer[:2]
        sampling = (across // unit_across) | (down // unit_down) << 16
    short, long = 3, 4
    tags = [
        (256, long, 1, image.width),
        (257, long, 1, image.height),
        (258, short, colours, 8 if colours == 1 else _HEADER - 8),  # bits: one value stands here, more behind
        (259, short, 1, 7),  # JPEG
        (262, short, 1, kind),  # grey, RGB or YCbCr
        (273, long, 1, _HEADER),
        (277, short, 1, colours),
        (278, long, 1, image.height),
        (279, long, 1, len(data)),
        (530, short, 2, sampling),
    ]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return start + directory + struct.pack("<I4H", 0, 8, 8, 8, 0) + data


def _is_ycbcr(image: JpegImagePlugin.JpegImageFile) -> bool:
    """Tell what three colours are, by the rules of libjpeg."""
    if "jfif" in image.info:
        return True
    if "adobe" in image.info:
        return image.info.get("adobe_transform") != 0
    return bytes(layer[0] for layer in image.layer) != b"RGB"


# --- Pillow -----------------------------------------------------------------------------------------------


@cache
def _other_bytes() -> bytes:
    """Return data that no scan holds behind its end; made when it is needed, as numpy.random loads slowly."""
    return bytes(np.random.default_rng(0).integers(1, 255, 4096, np.uint8))


def _decode_twice(data: bytes) -> np.ndarray:
    """Decode to (H, W, C). Raises ValueError for data that end too early."""
    header = _first_scan(data) + 2
    other = data[:header] + _END_OF_SCAN.sub(lambda _: _other_bytes() + b"\xff", data[header:])
    first, second = (pixels_of(JpegImagePlugin.JpegImageFile(io.BytesIO(d))) for d in (data, other))
    if not np.array_equal(first, second):
        raise ValueError("Corrupt JPEG data: premature end of data segment")
    return first.reshape(*first.shape[:2], -1)
