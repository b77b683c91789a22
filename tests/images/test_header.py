from __future__ import annotations

import struct
from pathlib import Path

import pytest
from encoded import exif, noise, pillow, png16, png_chunk, refused, tiff
from PIL import Image

from blemish.images.decode import decode
from blemish.images.header import size_of

WIDE = Image.fromarray(noise(24, 40, 3))
GREY = noise(24, 40)
DEEP = png16(noise(24, 40, dtype="uint16"))
LATE = DEEP[:-12] + png_chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0")) + DEEP[-12:]
FILES = {
    **{f"png {i}": pillow(WIDE, "PNG", exif=exif(i)) for i in range(1, 9)},
    "png, orientation behind the pixels": LATE,
    "png of a palette": pillow(WIDE.quantize(5), "PNG"),
    **{f"jpeg {i}": pillow(WIDE, "JPEG", exif=exif(i)) for i in range(1, 9)},
    "grey jpeg": pillow(GREY, "JPEG", progressive=True),
    **{f"tiff {i}": tiff(GREY, extratags=[(274, 3, 1, i, True)]) for i in range(1, 9)},
    "tiff of planes": tiff(noise(5, 24, 40), planarconfig="separate", photometric="minisblack"),
    "tiff of samples": tiff(noise(24, 40, 3), photometric="rgb", compression="zlib", tile=(16, 16)),
    "big tiff": tiff(GREY, bigtiff=True, byteorder=">"),
    **{f"webp {i}": pillow(WIDE, "WEBP", lossless=True, exif=exif(i)) for i in range(1, 9)},
    "webp with loss": pillow(WIDE, "WEBP"),
    "webp without loss": pillow(WIDE, "WEBP", lossless=True),
    "webp with loss, turned": pillow(WIDE, "WEBP", exif=exif(8)),
    "bmp": pillow(WIDE, "BMP"),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_size_is_that_of_the_decoded_image(kind: str, tmp_path: Path):
    path = tmp_path / "image"
    path.write_bytes(FILES[kind])
    shape = decode(FILES[kind]).shape[:2]
    assert sorted(shape) == [24, 40]
    assert size_of(path) == shape


def test_a_bmp_from_top_to_bottom(tmp_path: Path):
    bmp = bytearray(pillow(WIDE, "BMP"))
    struct.pack_into("<i", bmp, 22, -24)
    (tmp_path / "a.bmp").write_bytes(bmp)
    assert size_of(tmp_path / "a.bmp") == decode(bytes(bmp)).shape[:2] == (24, 40)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_the_header_is_enough(kind: str, tmp_path: Path):
    whole = tiff(noise(300, 200)) if kind == "TIFF" else pillow(noise(300, 200, 3), kind)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    refused("decoded|truncated", decode, whole[: len(whole) // 2])
    assert size_of(tmp_path / "cut") == (300, 200)


def test_what_does_not_tell_its_size(tmp_path: Path):
    for number, data in enumerate(FILES.values()):
        path = tmp_path / f"{number}"
        path.write_bytes(data[:16])
        assert size_of(path) is None
    (tmp_path / "text").write_text("no image at all")
    refused("is not an image", size_of, tmp_path / "text")
    refused("is not a file", size_of, tmp_path / "nowhere.png")
