"""Image files made in memory, by hand where no library writes them, and what is expected of a refusal."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from blemish.core.errors import ImageError

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    if dtype == "float32":
        return RNG.normal(size=shape).astype(np.float32)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def pillow(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(image: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def png16(image: np.ndarray) -> bytes:
    return bytes(imagecodecs.png_encode(image))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colours: int, raw: bytes, *chunks: bytes, interlace=0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlace)
    body = png_chunk(b"IHDR", header) + b"".join(chunks) + png_chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def tiff_header(tags: list[tuple[int, int]], raw: bytes = b"") -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + directory


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def refused(match: str, call, *arguments, error: type[Exception] = ImageError, **keywords) -> str:
    with pytest.raises(error, match=match) as caught:
        call(*arguments, **keywords)
    text = str(caught.value)
    assert "\n" not in text and text.isprintable()
    return text
