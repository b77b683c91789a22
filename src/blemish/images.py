"""Image files to arrays and back: the one decode -> convert -> resize path of blemish (numpy, no torch).

An image is an array (H, W, C) of uint8, uint16 or float32, never reduced in depth on the way. A file is
judged by its content, not by its name. Decisions (our choice, each so that nothing changes in silence):

- Orientation (EXIF, or TIFF's tag) is honoured; a damaged EXIF block counts as none.
- A palette becomes RGB; 1-bit pictures become grey 0/255; min-is-white TIFF becomes min-is-black.
- A constant alpha channel says nothing and is dropped. A varying one is composited over black:
  transparent means no signal. The channels of an array have no names: all of them are kept.
- In a TIFF only the single extra sample declared as alpha of a grey or RGB image is alpha; other extra
  samples are channels. Pages, z and time are refused: which one to take is not ours to guess.
- A cut-off file is refused, never half read; sizes are judged by the header, before decoding.
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from blemish.types import DataError, ImageError, UsageError

MAX_PIXELS = 2**28
"""The most pixels of an image (with at most four times as many values); more is refused undecoded."""

MIN_SIDE = 16
"""The shortest side in pixels. Our choice: below it there is no patch with surroundings to learn from."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""The names of image files, in lower case; compared without regard to case."""

_DTYPES = ("uint8", "uint16", "float32")
_BIT_DEPTHS = {8: "uint8", 10: "uint16", 12: "uint16", 14: "uint16", 16: "uint16"}
_LUMA = (0.299, 0.587, 0.114)
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
_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")

# tifffile logs what it finds odd; without any handler Python would print that to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """What a model remembers of its images.

    `dtype` is uint8, uint16 or float32. `value_range` holds the values mapped to 0 and 1: (0, 255) for
    uint8, (0, 4095) for uint16 declared as 12-bit, a declared (low, high) for float32.
    """

    dtype: str
    channels: int
    value_range: tuple[float, float]

    def describe(self) -> str:
        """Say it in words, for example "3-channel uint8 [0, 255]"."""
        low, high = self.value_range
        return f"{self.channels}-channel {self.dtype} [{low:.10g}, {high:.10g}]"


def _refusal(name: str, text: str) -> ImageError:
    line = f"{name}: {text}".replace("\n", " ")
    return ImageError("".join(c if c.isprintable() else "?" for c in line))


@contextmanager
def _decoding(name: str, kind: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything, down to IndexError and SyntaxError
        text = f"{type(error).__name__}: {error}"[:200]
        raise _refusal(
            name, f"cannot be decoded as {kind}, truncated or damaged ({text}); save it again"
        ) from error


def _check_size(height: int, width: int, channels: int, name: str) -> None:
    size = f"{width} x {height} px" + (f" x {channels} channels" if channels > 1 else "")
    if height * width > MAX_PIXELS or height * width * channels > 4 * MAX_PIXELS:
        raise _refusal(name, f"{size} is more than the {MAX_PIXELS} px blemish reads; cut it into parts")
    if min(height, width) < MIN_SIDE:
        raise _refusal(name, f"{size} has a side below {MIN_SIDE} px; give a larger image")


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    """Apply the rules that every image meets, whatever it came from; give it as (H, W, C)."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] == 0:
        raise _refusal(name, f"has the shape {array.shape}; give (H, W) or (H, W, C)")
    height, width, channels = array.shape
    _check_size(height, width, channels, name)
    if array.dtype == np.float16:
        array = array.astype(np.float32)  # exact
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name not in _DTYPES:
        raise _refusal(name, f"{array.dtype.name} values are not read; save it as uint16 or float32")
    if array.dtype == np.float32 and (bad := ~np.isfinite(array)).any():
        row, column, channel = np.unravel_index(bad.argmax(), bad.shape)
        where = f"row {row}, column {column}, channel {channel}"
        raise _refusal(name, f"{bad.sum()} values are NaN or infinite, the first at {where}; replace them")
    return array


def _oriented(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored rows and columns upright, (H, W, C) (EXIF 2.3, tag 274: 1 upright ... 8 turned left)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _exif_orientation(exif: bytes) -> int:
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


def _without_alpha(array: np.ndarray, name: str, *, premultiplied: bool = False) -> np.ndarray:
    """Drop the last channel, composited over black where it varies: round(colour * alpha / maximum)."""
    colour, alpha = array[..., :-1], array[..., -1:]
    if premultiplied or alpha.min() == alpha.max():
        return colour
    if array.dtype not in (np.uint8, np.uint16):
        raise _refusal(name, f"has a varying alpha channel of {array.dtype}; save it without alpha")
    top = int(np.iinfo(array.dtype).max)  # top * top + top // 2 still fits in uint32
    return ((colour.astype(np.uint32) * alpha + top // 2) // top).astype(array.dtype)


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """Find the first chunk of each type, after checking that all are there and whole."""
    chunks: dict[bytes, bytes] = {}
    at = 8
    while b"IEND" not in chunks:
        if at + 12 > len(data):
            raise ValueError("the file ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        body, checksum = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if checksum != zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big"):
            raise ValueError(f"a wrong checksum or an early end at byte {at}")
        chunks.setdefault(kind, body)
        at += 12 + length
    return chunks


def _decode_png(data: bytes, name: str) -> np.ndarray:
    width, height = struct.unpack_from(">II", data, 16)
    _check_size(height, width, 1, name)
    chunks = _png_chunks(data)
    if b"acTL" in chunks:
        raise _refusal(name, "is animated; save one frame")
    if chunks[b"IHDR"][8] < 16:
        return _from_pillow(PngImagePlugin.PngImageFile(io.BytesIO(data)), name)
    array = imagecodecs.png_decode(data)  # Pillow would cut 16-bit colours to 8 bits
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = _without_alpha(array, name)
    return _oriented(array, _exif_orientation(chunks.get(b"eXIf", b"")))


def _decode_webp(data: bytes, name: str) -> np.ndarray:
    if data[12:16] == b"VP8X":  # its canvas may exceed the limit, and would be allocated on opening
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        _check_size(height, width, 1, name)
    return _from_pillow(WebPImagePlugin.WebPImageFile(io.BytesIO(data)), name)


def _from_pillow(image: Image.Image, name: str) -> np.ndarray:
    _check_size(image.height, image.width, 1, name)
    if getattr(image, "n_frames", 1) != 1 and image.format != "MPO":  # further pictures of MPO are previews
        raise _refusal(name, f"holds {getattr(image, 'n_frames', 1)} frames; save the one to use alone")
    if not image.mode.startswith("I") and re.search(r";16[BLN]", str(getattr(image, "tile", ""))):
        raise _refusal(name, "Pillow reduces this 16-bit image to 8 bits; give its path instead")
    image.load()
    exif = image.info.get("exif", b"")
    if image.mode in ("1", "L", "P", "PA", "RGB") and image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in _MODES:
        raise _refusal(name, f"the colour mode {image.mode} is not read; convert to RGB")
    array = np.array(image)
    if image.mode in ("LA", "RGBA"):
        array = _without_alpha(array, name)
    return _oriented(array, _exif_orientation(exif))


def _decode_tiff(data: bytes, name: str) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data), name=Path(name).name) as file:
        if not file.series:
            raise ValueError("no page with an image")
        if len(file.series) > 1:
            raise _refusal(name, f"holds {len(file.series)} images; save the one to use alone")
        series, page = file.series[0], file.pages.first
        _check_directory(data, page, file.tiff)
        extents = {a: n for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"}
        axes = "".join(extents)
        if axes not in ("YX", "YXS", "SYX", "YXC", "CYX"):
            raise _refusal(name, f"has several pages (axes {axes}); save one page, channels as samples")
        channels = math.prod(n for a, n in extents.items() if a not in "YX")
        _check_size(extents["Y"], extents["X"], channels, name)
        _check_tiff(series, page, channels, len(data), name)
        array = series.asarray().reshape(tuple(extents.values()))
        if channels > 1 and axes[0] in "SC":
            array = np.moveaxis(array, 0, -1)
        return _oriented(_tiff_colours(array, page, name), page.tags.valueof(274, 1))


def _check_directory(data: bytes, page, layout) -> None:
    # tifffile drops a tag that it cannot read, such as one cut off, and would take the image as another.
    (count,) = struct.unpack_from(layout.tagnoformat, data, page.offset)
    first = page.offset + layout.tagnosize
    entries = range(first, first + count * layout.tagsize, layout.tagsize)
    codes = {struct.unpack_from(layout.byteorder + "H", data, at)[0] for at in entries}
    lost = {code for code in codes if code < 32768} - {tag.code for tag in page.tags}  # above: private ones
    if lost:
        raise ValueError(f"tag {min(lost)} cannot be read")


def _check_tiff(series, page, channels: int, n_bytes: int, name: str) -> None:
    colours, compression = page.photometric.name, page.compression.name
    if colours not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE") and not (
        colours == "YCBCR" and compression == "JPEG"  # tifffile turns this one into RGB
    ):
        raise _refusal(name, f"the colour mode {colours} is not read; convert to RGB")
    if page.bitspersample < 8:
        raise _refusal(name, f"{page.bitspersample}-bit TIFF values are not read; save it as uint8")
    if colours == "MINISWHITE" and (channels > 1 or page.dtype.kind != "u"):
        raise _refusal(name, "is min-is-white with channels or floats; save it as min-is-black")
    if math.prod(page.chunks) > 4 * MAX_PIXELS:
        raise _refusal(name, f"has tiles of {page.chunks} values, more than blemish reads; save it again")
    for part in series.pages:  # tifffile fills what is missing with zeros
        if part is None:
            raise _refusal(name, "is one file of several (OME); save all channels in one file")
        segments = zip(part.dataoffsets, part.databytecounts, strict=True)
        if any(count == 0 or offset + count > n_bytes for offset, count in segments):
            raise _refusal(name, "is truncated: a part of its data lies beyond its end; save it again")


def _tiff_colours(array: np.ndarray, page, name: str) -> np.ndarray:
    colours, extras = page.photometric.name, tuple(page.extrasamples)
    if colours == "MINISWHITE":
        return (2**page.bitspersample - 1 - array).astype(array.dtype)
    if colours == "PALETTE":
        return (np.moveaxis(page.colormap[:, array], 0, -1) >> 8).astype(np.uint8)
    n_colours = 1 if colours == "MINISBLACK" else 3
    if len(extras) == 1 and extras[0] in (1, 2) and array.ndim == 3 and array.shape[2] == n_colours + 1:
        return _without_alpha(array, name, premultiplied=extras[0] == 1)
    return array


def _container(head: bytes, name: str) -> str:
    for magic, kind in _MAGIC.items():
        if head.startswith(magic) and (kind != "WebP" or head[8:12] == b"WEBP"):
            return kind
    raise _refusal(name, "is not an image blemish can read; give PNG, JPEG, TIFF, BMP or WebP")


def decode(data: bytes, *, name: str = "image") -> np.ndarray:
    """Decode the bytes of an image file to (H, W, C), uint8, uint16 or float32.

    `name` stands for the file in errors. Raises ImageError as described at the top of this module.
    """
    kind = _container(data[:16], name)
    # Pillow's decoders are called directly: Image.open has a size limit that is a process-wide setting.
    with _decoding(name, kind):
        if kind == "PNG":
            array = _decode_png(data, name)
        elif kind == "TIFF":
            array = _decode_tiff(data, name)
        elif kind == "WebP":
            array = _decode_webp(data, name)
        elif kind == "JPEG":
            array = _from_pillow(JpegImagePlugin.JpegImageFile(io.BytesIO(data)), name)
        else:
            array = _from_pillow(BmpImagePlugin.BmpImageFile(io.BytesIO(data)), name)
    return _checked(array, name)


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as (H, W, C), in its own dtype: uint8, uint16 or float32.

    Raises ImageError for what is missing, not an image, truncated, too large or too small, of another
    dtype or colour mode, of several pages, or not finite.
    """
    path, name = Path(path), os.fspath(path)
    if not path.is_file():
        raise _refusal(name, "is not a file; check the path")
    try:
        with path.open("rb") as file:
            head = file.read(16)
            _container(head, name)  # before the rest, as a file that is no image may be huge
            data = head + file.read()
    except OSError as error:
        raise _refusal(name, f"cannot be read ({error.strerror}); check the file and its rights") from error
    return decode(data, name=name)


def as_image(obj: object) -> np.ndarray:
    """Take a path, an array (H, W) or (H, W, C), or a Pillow image as (H, W, C), by the rules of `read`.

    An array is not copied. Raises ImageError.
    """
    if isinstance(obj, str | os.PathLike):
        return read(obj)
    if isinstance(obj, np.ndarray):
        return _checked(obj, "image")
    if not isinstance(obj, Image.Image):
        raise _refusal("image", f"is a {type(obj).__name__}; give a path, an array or a Pillow image")
    name = _name_of(obj)
    with _decoding(name, obj.format or "a Pillow image"):
        array = _from_pillow(obj, name)
    return _checked(array, name)


def _name_of(obj: object) -> str:
    if isinstance(obj, str | os.PathLike):
        return str(os.fspath(obj))
    return str(getattr(obj, "filename", "") or "image")


def format_of(
    images: Iterable[tuple[str, np.ndarray]],
    *,
    channels: int | None = None,
    bit_depth: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> ImageFormat:
    """Find the one format that all (name, image (H, W, C)) share, looking at each once.

    `channels` (1 or 3) declares that grey and RGB images are converted to it. `bit_depth` (8, 10, 12, 14,
    16) declares the used bits of integers, `value_range` the range of floats; undeclared floats must lie
    in [0, 1]. Raises UsageError for a declaration that cannot be, ImageError naming the first image that
    departs from the format of those before, DataError without any image.
    """
    _check_declared(channels, bit_depth, value_range)
    shared: ImageFormat | None = None
    first = ""
    for name, image in images:
        own = _own_format(name, image, channels, bit_depth, value_range)
        if shared is None:
            shared, first = own, name
        elif own != shared:
            cure = "save all alike"
            if own.dtype == shared.dtype and {own.channels, shared.channels} == {1, 3}:
                cure += ", or pass --channels 1 or --channels 3"
            raise _refusal(name, f"is {own.describe()}, but {first} is {shared.describe()}; {cure}")
        _check_depth(image, own, name)
        if image.dtype == np.float32 and value_range is None and not (0 <= image.min() <= image.max() <= 1):
            found = f"has values in [{image.min():.6g}, {image.max():.6g}], outside [0, 1]"
            raise _refusal(name, f"{found}; declare the range with --value-range LOW HIGH")
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


def _own_format(
    name: str,
    image: np.ndarray,
    channels: int | None,
    bit_depth: int | None,
    value_range: tuple[float, float] | None,
) -> ImageFormat:
    dtype, own = image.dtype.name, image.shape[2]
    if bit_depth is not None and _BIT_DEPTHS[bit_depth] != dtype:
        need = _BIT_DEPTHS[bit_depth]
        raise _refusal(name, f"is {dtype}, but --bit-depth {bit_depth} is for {need} images; leave one out")
    if value_range is not None and dtype != "float32":
        raise _refusal(name, f"is {dtype}, but --value-range is for float32 images; leave one out")
    if dtype == "float32":
        low, high = value_range or (0.0, 1.0)
    else:
        low, high = 0.0, float(2**bit_depth - 1 if bit_depth else np.iinfo(dtype).max)
    if channels is not None and own not in (1, 3):
        raise _refusal(name, f"has {own} channels, and --channels converts grey and RGB only; leave one out")
    return ImageFormat(dtype=dtype, channels=channels or own, value_range=(float(low), float(high)))


def _check_depth(image: np.ndarray, fmt: ImageFormat, name: str) -> None:
    high = fmt.value_range[1]
    if image.dtype == np.uint16 and image.max() > high:
        text = f"has the value {image.max()}, above the declared maximum {high:g}"
        raise _refusal(name, f"{text}; check the bit depth of the camera and of the model")


def convert(
    image: np.ndarray, fmt: ImageFormat, *, allow: frozenset[str] = frozenset(), name: str = "image"
) -> np.ndarray:
    """Convert (H, W, C) to float32 (C, H, W), the format's value range mapped to [0, 1], never clipped.

    `allow` may hold "channels": RGB to grey by the luma of ITU-R BT.601, grey to RGB by replication; and
    "depth": uint8 and uint16 for one another, each mapped from the full range of its own dtype. Raises
    ImageError for any other format than the model's, and for a value above a declared bit depth.
    """
    dtype, own = image.dtype.name, image.shape[2]
    low, high = fmt.value_range
    if dtype != fmt.dtype:
        integers = {dtype, fmt.dtype} == {"uint8", "uint16"}
        if not (integers and "depth" in allow):
            cure = "save it so, or pass --allow depth" if integers else "save it so"
            raise _refusal(name, f"is {dtype}, but the model takes {fmt.describe()}; {cure}")
        low, high = 0.0, float(np.iinfo(image.dtype).max)
    else:
        _check_depth(image, fmt, name)
    if own != fmt.channels:
        colours = {own, fmt.channels} == {1, 3}
        if not (colours and "channels" in allow):
            cure = "save it so, or pass --allow channels" if colours else "save it so"
            raise _refusal(name, f"has {own} channels, but the model takes {fmt.describe()}; {cure}")
    planes = image.transpose(2, 0, 1).astype(np.float32, order="C")
    planes -= np.float32(low)
    planes /= np.float32(high - low)
    if own > fmt.channels:
        red, green, blue = (np.float32(weight) * plane for weight, plane in zip(_LUMA, planes, strict=True))
        planes = (red + green + blue)[None]
    return np.repeat(planes, 3, axis=0) if own < fmt.channels else planes


def resize(image_chw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize float32 (C, H, W) to (C, *size), size being (height, width); unbounded values pass unclipped.

    The triangle filter, widened by the factor of reduction so that nothing is skipped, one axis after the
    other (Pillow's BILINEAR). An image of that size is returned as it is.
    """
    height, width = size
    if image_chw.shape[1:] == (height, width):
        return image_chw
    planes = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in image_chw]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in planes])


def load(
    source: object, fmt: ImageFormat, size: tuple[int, int], *, allow: frozenset[str] = frozenset()
) -> tuple[np.ndarray, tuple[int, int]]:
    """Take any image to float32 (C, *size) as a model sees it; also its original (H, W).

    `source` is what `as_image` takes, `allow` what `convert` allows. Raises ImageError.
    """
    image = as_image(source)
    planes = convert(image, fmt, allow=allow, name=_name_of(source))
    return resize(planes, size), (image.shape[0], image.shape[1])


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """List the image files of a folder and its sub-folders, sorted; hidden files and folders are left out.

    A broken link is listed, so that reading it says so. Raises DataError where there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; check the path")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_dir()
    )


def _write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write in one step: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_map(path: str | os.PathLike[str], map_hw: np.ndarray) -> None:
    """Write an anomaly map (H, W), unbounded, as a float32 TIFF, in one step; folders are made.

    Raises ImageError for another shape, OSError where the disk refuses.
    """
    import tifffile

    if map_hw.ndim != 2:
        raise _refusal(os.fspath(path), f"a map of the shape {map_hw.shape} is not written; give (H, W)")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, map_hw.astype(np.float32), photometric="minisblack", metadata=None)
    _write(path, buffer.getvalue())


def write_overlay(
    path: str | os.PathLike[str],
    image_hwc: np.ndarray,
    map_hw: np.ndarray,
    *,
    low: float,
    high: float,
    contour_level: float | None,
) -> None:
    """Write an image with its anomaly map as heat over it, an 8-bit RGB PNG, in one step; folders are made.

    Heat: the colours from blue at `low` (unseen) to dark red at `high` (60 % opaque), clipped outside. A
    red line is drawn along the inner edge of where the map exceeds `contour_level`. The longer side is
    reduced to 1024 px. Raises ImageError when the sizes differ, OSError where the disk refuses.
    """
    if map_hw.shape != image_hwc.shape[:2]:
        raise _refusal(os.fspath(path), f"a map {map_hw.shape} is not of its image {image_hwc.shape[:2]}")
    shrink = min(1.0, 1024 / max(map_hw.shape))
    size = (max(1, round(map_hw.shape[0] * shrink)), max(1, round(map_hw.shape[1] * shrink)))
    heat = resize(map_hw[None].astype(np.float32), size)[0]
    # With low == high the tiny span makes a step: nothing up to low, everything above it.
    t = np.clip((heat - float(low)) / max(float(high - low), 1e-12), 0, 1)
    jet = np.clip(1.5 - np.abs(4 * t - np.array([3, 2, 1], np.float32)[:, None, None]), 0, 1)
    picture = (1 - 0.6 * t) * resize(_display(image_hwc), size) + 0.6 * t * jet
    if contour_level is not None:
        edge = _inner_edge(map_hw > contour_level).astype(np.float32)
        picture[:, resize(edge[None], size)[0] > 0] = np.array([[1], [0], [0]])
    buffer = io.BytesIO()
    pixels = np.round(picture * 255).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    _write(path, buffer.getvalue())


def _display(image: np.ndarray) -> np.ndarray:
    """To RGB (3, H, W) in [0, 1] for eyes: deeper than 8 bits is stretched, odd channels are averaged."""
    planes = image.transpose(2, 0, 1).astype(np.float32)
    if image.dtype == np.uint8:
        planes /= 255
    else:
        planes = (planes - planes.min()) / max(float(planes.max() - planes.min()), 1e-12)
    return planes if len(planes) == 3 else np.repeat(planes.mean(axis=0, keepdims=True), 3, axis=0)


def _inner_edge(mask: np.ndarray) -> np.ndarray:
    """Find the pixels of a mask (H, W) with a neighbour outside of it, or of the image."""
    m = np.pad(mask, 1)
    return mask & ~(m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:])
