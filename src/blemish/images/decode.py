"""Image files to arrays: the one way in, by the content of a file and not by its name (numpy, no torch).

An image is an array (H, W, C) of uint8, uint16 or float32, never reduced in depth on the way. Decisions
(our choice, each so that nothing changes in silence):

- Orientation (EXIF, or TIFF's tag) is honoured; a damaged EXIF block counts as none.
- A palette becomes RGB; 1-bit pictures become grey 0/255, but TIFF of fewer than 8 bits is refused;
  min-is-white TIFF becomes min-is-black.
- A constant alpha channel says nothing and is dropped. A varying one is composited over black:
  transparent means no signal. The channels of an array have no names: all of them are kept.
- In a TIFF only the single extra sample declared as alpha of a grey or RGB image is alpha; other extra
  samples are channels. Pages, z and time are refused: which one to take is not ours to guess.
- A file that was cut off or damaged is refused, never half read, as far as its format lets its decoder tell:
  what a decoder only warns of is an error. Sizes are checked by the header, before decoding.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from blemish.core.errors import ImageError
from blemish.images.decode_jpeg import decode_jpeg, pixels_of
from blemish.images.decode_tiff import decode_tiff
from blemish.images.drawing_mark import refuse_drawing
from blemish.images.limits import check_array, check_size, drop_alpha, exif_orientation, orient, refusal
from blemish.images.png import chunks_of, decode_png
from blemish.images.sources import Frame, Observed, Stored, name_of
from blemish.images.unread_formats import format_of_head

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_BMP_HEADERS = {size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)}
# Pillow's memory in blocks of 16 MiB is kept by malloc once freed, in each thread's arena: 400 MiB a thread
# for an image of 100 megapixels. Larger blocks go back to the system.
Image.core.set_block_size(64 * 2**20)
_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")


@contextmanager
def _refuse_damaged(name: str, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything, down to IndexError and SyntaxError
        text = f"{type(error).__name__}: {error}"[:200]
        raise refusal(
            name, f"cannot be decoded as {kind}, truncated or damaged ({text}); save it again"
        ) from error


def _decode_png(data: bytes, name: str) -> np.ndarray:
    width, height = struct.unpack_from(">II", data, 16)
    check_size(height, width, 1, name)
    found = chunks_of(data)
    chunks = dict(reversed(found))  # the first one of each kind
    if b"acTL" in chunks:
        raise refusal(name, "is animated; save one frame")
    refuse_drawing(chunks.get(b"tEXt", b""), name)
    depth, colour_type = chunks[b"IHDR"][8:10]
    if depth < 8 or colour_type == 3 or (depth == 8 and b"tRNS" in chunks):  # packed, palette, a clear colour
        return _from_pillow(PngImagePlugin.PngImageFile(io.BytesIO(data)), name)
    array = decode_png(data, found)  # Pillow takes twice as long, and would cut 16-bit colours to 8 bits
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = drop_alpha(array, name)
    return orient(array, exif_orientation(chunks.get(b"eXIf", b"")))


def _decode_webp(data: bytes, name: str) -> np.ndarray:
    if data[12:16] == b"VP8X":  # its canvas may exceed the limit, and would be allocated on opening
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        check_size(height, width, 1, name)
    image = WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    refuse_drawing(image.info.get("exif", b""), name)
    return _from_pillow(image, name)


def _from_pillow(image: Image.Image, name: str) -> np.ndarray:
    check_size(image.height, image.width, 1, name)
    if getattr(image, "n_frames", 1) != 1 and image.format != "MPO":  # further pictures of MPO are previews
        raise refusal(name, f"holds {getattr(image, 'n_frames', 1)} frames; save the one to use alone")
    if not image.mode.startswith("I") and re.search(r";16[BLN]", str(getattr(image, "tile", ""))):
        raise refusal(name, "Pillow reduces this 16-bit image to 8 bits; give its path instead")
    image.load()
    exif = image.info.get("exif", b"")
    if image.mode in ("1", "L", "P", "PA", "RGB") and image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in _MODES:
        raise refusal(name, f"the colour mode {image.mode} is not read; convert to RGB")
    array = pixels_of(image)
    if image.mode in ("LA", "RGBA"):
        array = drop_alpha(array, name)
    return orient(array, exif_orientation(exif))


def _container_of(head: bytes) -> str | None:
    kinds = (kind for magic, kind in _MAGIC.items() if head.startswith(magic))
    return next((kind for kind in kinds if kind != "WebP" or head[8:12] == b"WEBP"), None)


def is_image_head(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 18 or more, is an image of a known format.

    The two letters of BMP may begin any text, so the size of its header is looked at too.
    """
    kind = _container_of(head)
    return kind is not None and (kind != "BMP" or head[14:18] in _BMP_HEADERS)


def _find_container(head: bytes, name: str) -> str:
    kind = _container_of(head)
    if kind is not None:
        return kind
    found = format_of_head(head)
    also = "" if found is None else f", it is {found}"
    raise refusal(name, f"is not an image blemish can read{also}; give PNG, JPEG, TIFF, BMP or WebP")


def decode(data: bytes, *, name: str = "image") -> np.ndarray:
    """Decode the bytes of an image file to (H, W, C), uint8, uint16 or float32.

    `name` stands for the file in errors. Raises ImageError as described at the top of this module.
    """
    kind = _find_container(data[:16], name)
    # Pillow's decoders are called directly: Image.open has a size limit that is a process-wide setting.
    with _refuse_damaged(name, kind):
        if kind == "PNG":
            array = _decode_png(data, name)
        elif kind == "TIFF":
            array = decode_tiff(data, name)
        elif kind == "WebP":
            array = _decode_webp(data, name)
        elif kind == "JPEG":
            array = decode_jpeg(data, name)
        else:
            array = _from_pillow(BmpImagePlugin.BmpImageFile(io.BytesIO(data)), name)
    return check_array(array, name)


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as (H, W, C), in its own dtype: uint8, uint16 or float32.

    Raises ImageError for what is missing, not an image, truncated, too large or too small, of another
    dtype or colour mode, of several pages, or not finite.
    """
    name = os.fspath(path)
    return decode(read_bytes(path, name=name), name=name)


def read_bytes(path: str | os.PathLike[str], *, name: str) -> bytes:
    """Read an image file undecoded. `name` stands for it in errors.

    Raises ImageError for what is missing, no image by its first bytes, or cannot be read.
    """
    with _opened(path, name) as file:
        _find_container(file.read(16), name)  # before the rest, as a file that is no image may be huge
        file.seek(0)
        return file.read()


def container_of(path: str | os.PathLike[str]) -> str:
    """Return what kind of image file this is by its first bytes, as "PNG". Raises what `read` does."""
    name = os.fspath(path)
    with _opened(path, name) as file:
        return _find_container(file.read(16), name)


@contextmanager
def _opened(path: str | os.PathLike[str], name: str) -> Iterator[IO[bytes]]:
    path = Path(path)
    try:
        if not path.is_file():
            raise refusal(name, "is not a file; check the path")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise refusal(name, f"cannot be read ({error.strerror}); check the file and its rights") from error


def as_image(obj: object) -> np.ndarray:
    """Take a path, an array (H, W) or (H, W, C), a Pillow image or a `Named` as (H, W, C), as `read` would.

    An array is not copied. Raises ImageError.
    """
    if isinstance(obj, Observed):
        image = as_image(obj.source)
        obj.observe(image)
        return image
    if isinstance(obj, str | os.PathLike):
        return read(obj)
    if isinstance(obj, np.ndarray):
        return check_array(obj, "image")
    if isinstance(obj, Frame):
        if isinstance(obj.image, ImageError):
            raise obj.image
        return check_array(obj.image, obj.path)
    if isinstance(obj, Stored):
        return decode(obj.fetch(), name=obj.path)
    if not isinstance(obj, Image.Image):
        raise refusal("image", f"is a {type(obj).__name__}; give a path, an array or a Pillow image")
    name = name_of(obj)
    with _refuse_damaged(name, obj.format or "a Pillow image"):
        _check_unread_jpeg(obj, name)
        array = _from_pillow(obj, name)
    return check_array(array, name)


def _check_unread_jpeg(image: Image.Image, name: str) -> None:
    """Refuse damage in a JPEG that Pillow has opened and not yet read: Pillow does not tell of it."""
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.tile and image.fp is not None:
        place = image.fp.tell()
        image.fp.seek(0)
        decode_jpeg(image.fp.read(), name)
        image.fp.seek(place)
