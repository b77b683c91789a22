from __future__ import annotations

import io
import itertools
import math
import os
import struct
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from blemish.images import (
    ImageFormat,
    as_image,
    convert,
    decode,
    format_of,
    list_images,
    load,
    read,
    resize,
    write_map,
    write_overlay,
)
from blemish.types import DataError, ImageError, UsageError

RNG = np.random.default_rng(0)
U8 = ImageFormat(dtype="uint8", channels=3, value_range=(0, 255))
GREY8 = ImageFormat(dtype="uint8", channels=1, value_range=(0, 255))
GREY12 = ImageFormat(dtype="uint16", channels=1, value_range=(0, 4095))
FLOAT = ImageFormat(dtype="float32", channels=1, value_range=(20, 120))


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


# ---- every format, dtype and channel count, exactly


def _cases() -> list:
    cases = []
    for channels in (None, 3):
        shape = (20, 24) if channels is None else (20, 24, channels)
        a, b = noise(*shape), noise(*shape, dtype="uint16")
        cases += [(f"{kind} {shape}", a, pillow(a, kind)) for kind in ("PNG", "BMP", "TIFF")]
        cases += [(f"png16 {shape}", b, png16(b))]
        for dtype, comp in itertools.product(("uint8", "uint16", "float32"), (None, "lzw", "zlib")):
            c = noise(*shape, dtype=dtype)
            options = {"photometric": "rgb" if channels else "minisblack", "compression": comp}
            cases.append((f"tiff {dtype} {comp} {shape}", c, tiff(c, rowsperstrip=7, **options)))
    a = noise(20, 24, 3)
    cases += [("webp", a, pillow(a, "WEBP", lossless=True)), ("big-endian", a, tiff(a, byteorder=">"))]
    cases += [("bigtiff", a, tiff(a, bigtiff=True)), ("tiles", a, tiff(a, tile=(16, 16), compression="lzw"))]
    c = noise(20, 24, 5, dtype="uint16")
    first = np.moveaxis(c, -1, 0)
    grey = {"photometric": "minisblack"}
    cases += [("5 contiguous", c, tiff(c, planarconfig="contig", compression="lzw", **grey))]
    cases += [("5 planar", c, tiff(first, planarconfig="separate", compression="lzw", **grey))]
    cases += [("ImageJ C", c, tiff(first, imagej=True, metadata={"axes": "CYX"}))]
    cases += [("OME C", c, tiff(first, ome=True, metadata={"axes": "CYX"}))]
    cases += [("RGB planar", a, tiff(np.moveaxis(a, -1, 0), photometric="rgb", planarconfig="separate"))]
    half = noise(20, 24, dtype="float32").astype(np.float16)
    cases += [("float16", half.astype(np.float32), tiff(half))]
    twelve = (noise(20, 24, dtype="uint16") >> 4).astype(np.uint16)
    cases += [("12 bits packed", twelve, _packed12(twelve))]
    return [pytest.param(image, data, id=name) for name, image, data in cases]


def _packed12(image: np.ndarray) -> bytes:
    # Two 12-bit values in three bytes, most significant bits first.
    a, b = image[:, ::2].astype(int), image[:, 1::2].astype(int)
    raw = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()
    height, width = image.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    return _tiff_header([*tags, (279, len(raw))], raw)


def _tiff_header(tags: list[tuple[int, int]], raw: bytes = b"") -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + directory


@pytest.mark.parametrize(("image", "data"), _cases())
def test_decodes_exactly(image, data, tmp_path):
    path = tmp_path / "a.png"  # whatever the content: the name does not matter
    path.write_bytes(data)
    got = read(path)
    np.testing.assert_array_equal(got, image.reshape(20, 24, -1))
    assert got.dtype == image.dtype and got.dtype.isnative and got.flags.c_contiguous
    np.testing.assert_array_equal(as_image(image), got)


def test_jpeg_matches_pillow_in_files_and_in_tiff():
    smooth = np.linspace(0, 255, 32 * 40 * 3).reshape(32, 40, 3).astype(np.uint8)
    for image in (smooth, smooth[..., 0]):
        data = pillow(image, "JPEG")
        expected = np.asarray(Image.open(io.BytesIO(data))).reshape(32, 40, -1)
        np.testing.assert_array_equal(decode(data), expected)
    got = decode(tiff(smooth, compression="jpeg")).astype(int)  # stored as YCbCr
    assert got.shape == smooth.shape and np.abs(got - smooth).mean() < 4


def test_interlaced_16_bit_png():
    image = noise(20, 24, dtype="uint16")
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = [row for y, x, dy, dx in passes for row in image[y::dy, x::dx]]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    np.testing.assert_array_equal(decode(png(24, 20, 16, 0, raw, interlace=1))[..., 0], image)


@settings(max_examples=25, deadline=None)
@given(arrays(np.uint16, st.tuples(st.integers(16, 24), st.integers(16, 24), st.sampled_from([1, 3]))))
def test_png_uint16_round_trip(image):
    data = png16(image)
    np.testing.assert_array_equal(decode(data), image)


_FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=25, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(16, 20), st.integers(16, 20)), elements=_FINITE))
def test_tiff_float32_round_trip(image):
    np.testing.assert_array_equal(decode(tiff(image, compression="zlib"))[..., 0], image)


# ---- palettes, bits, alpha


def test_palette_one_bit_and_low_depths():
    rgb = noise(20, 24, 3)
    palette = Image.fromarray(rgb).quantize(16)
    np.testing.assert_array_equal(decode(pillow(palette, "PNG")), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(decode(pillow(palette, "TIFF")), np.asarray(palette.convert("RGB")))
    bits = noise(20, 24) > 127
    for kind in ("PNG", "BMP"):
        np.testing.assert_array_equal(decode(pillow(bits, kind))[..., 0], bits * np.uint8(255))
    four = b"".join(b"\0" + bytes([0xF0, 0x5A] * 6) for _ in range(20))  # nibbles 15 0 5 10, times 17
    assert decode(png(24, 20, 4, 0, four))[3, :4, 0].tolist() == [255, 0, 85, 170]
    white = noise(20, 24)
    np.testing.assert_array_equal(decode(tiff(white, photometric="miniswhite"))[..., 0], 255 - white)


def test_transparent_palette_is_black_where_transparent():
    image = Image.fromarray(np.repeat(np.arange(16, dtype=np.uint8)[:, None], 20, 1), "L").convert("P")
    image.putpalette([200, 100, 50] * 256)
    image.info["transparency"] = bytes([0, 128] + [255] * 254)
    got = decode(pillow(image, "PNG"))
    # row 0: alpha 0; row 1: 200*128/255 = 100.39, 100*128/255 = 50.2, 50*128/255 = 25.1; then opaque
    assert got[:3, 5].tolist() == [[0, 0, 0], [100, 50, 25], [200, 100, 50]]


def test_transparent_key_colour_is_black_at_8_and_16_bits():
    for bits, key in ((8, 7), (16, 700)):
        pixels = np.full((20, 20), 50, f">u{bits // 8}")
        pixels[2, 3] = key
        raw = b"".join(b"\0" + row.tobytes() for row in pixels)
        got = decode(png(20, 20, bits, 0, raw, png_chunk(b"tRNS", struct.pack(">H", key))))
        assert got.shape == (20, 20, 1) and got[2, 3] == 0 and got[2, 4] == 50


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha(colours, dtype):
    image = noise(20, 24, colours + 1, dtype=dtype)
    encode = (lambda a: pillow(a, "PNG")) if dtype == "uint8" else (lambda a: png16(a))
    image[..., -1] = 3  # constant, even when nearly transparent: says nothing
    np.testing.assert_array_equal(decode(encode(image)), image[..., :-1])
    top = np.iinfo(dtype).max
    image[4:, :, -1] = top
    image[0, 0] = [top] * colours + [top]
    image[0, 1] = [top // 5] * colours + [top // 3]
    image[0, 2] = [top] * colours + [0]
    got = decode(encode(image))
    np.testing.assert_array_equal(got[4:], image[4:, :, :-1])
    # (top/5) * (top/3) / top = top/15: 17 at 8 bits, 4369 at 16
    assert got[0, :3, 0].tolist() == [top, top // 15, 0] and got.dtype == dtype


def test_tiff_alpha_only_where_declared():
    image = noise(20, 24, 4)
    opaque = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    composite = np.round(image[..., :3] * (image[..., 3:] / 255.0))
    np.testing.assert_array_equal(decode(tiff(image, **opaque)), composite)
    done = tiff(image, photometric="rgb", extrasamples=["assocalpha"])  # already multiplied
    np.testing.assert_array_equal(decode(done), image[..., :3])
    plain = tiff(image, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(decode(plain), image)
    floats = noise(20, 24, 4, dtype="float32")
    refused("varying alpha channel of float32", decode, tiff(floats, **opaque), name="a.tif")


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation):
    image = noise(20, 24, 3)
    expected = Image.fromarray(image)
    expected.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(expected))
    tags = exif(orientation)
    files = [pillow(image, "PNG", exif=tags), pillow(image, "WEBP", lossless=True, exif=tags)]
    files.append(tiff(image, extratags=[(274, 3, 1, orientation, True)]))
    for data in files:
        np.testing.assert_array_equal(decode(data), expected)
        np.testing.assert_array_equal(as_image(Image.open(io.BytesIO(data))), expected)
    jpeg = pillow(image, "JPEG", exif=tags)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg))))
    np.testing.assert_array_equal(decode(jpeg), upright)
    deep = png16(image.astype(np.uint16) * 257)
    deep = deep[:33] + png_chunk(b"eXIf", tags.tobytes().removeprefix(b"Exif\0\0")) + deep[33:]
    np.testing.assert_array_equal(decode(deep), expected.astype(np.uint16) * 257)


def test_orientation_by_hand_and_damaged():
    image = np.zeros((16, 20), np.uint8)
    image[0, 3] = 9
    # 6 = turn right: row 0 becomes the last column, column 3 becomes row 3
    assert decode(pillow(image, "PNG", exif=exif(6)))[3, 15, 0] == 9
    for damaged in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM", b"", b"junk"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decode(pillow(image, "PNG", exif=damaged))[0, 3, 0] == 9


# ---- refusals


def test_refused_by_content(tmp_path, capfd):
    for name, data in (
        ("text.png", b"hello, I am text"),
        ("empty.tif", b""),
        ("sound.webp", b"RIFF0000WAVE"),
    ):
        (tmp_path / name).write_bytes(data)
        text = refused("is not an image blemish can read", read, tmp_path / name)
        assert text.startswith(str(tmp_path / name))
    (tmp_path / "a\nb.png").write_bytes(b"text")
    refused("a b.png: is not an image", read, tmp_path / "a\nb.png")
    refused("is not a file", read, tmp_path / "absent.png")
    refused("is not a file", read, tmp_path)
    refused("image: is a list; give a path", as_image, [1, 2])
    assert capfd.readouterr() == ("", "")


_SAMPLES = {
    "png8": pillow(noise(40, 50, 3), "PNG"),
    "png16": png16(noise(40, 50, 3, dtype="uint16")),
    "jpeg": pillow(noise(40, 50, 3), "JPEG"),
    "progressive": pillow(noise(40, 50, 3), "JPEG", progressive=True),
    "bmp": pillow(noise(40, 48, 3), "BMP"),
    "webp": pillow(noise(40, 50, 3), "WEBP"),
    "webp lossless": pillow(noise(40, 50, 3), "WEBP", lossless=True),
    "tiff": tiff(noise(40, 50, 3)),
    "tiff lzw": tiff(noise(40, 50, 3), compression="lzw", rowsperstrip=8),
    "tiff zlib": tiff(noise(40, 50, dtype="float32"), compression="zlib", rowsperstrip=8),
    "tiff jpeg": tiff(noise(40, 50, 3), compression="jpeg"),
    "tiff tail": pillow(noise(40, 50, 3), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", _SAMPLES)
def test_truncated_is_refused(kind, capfd):
    data = _SAMPLES[kind]
    decode(data)
    for kept in (17, 60, len(data) // 3, len(data) // 2, len(data) * 9 // 10, len(data) - 20, len(data) - 1):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            text = refused("truncated", decode, data[:kept], name="cut.img")
        assert text.startswith("cut.img: ") and len(text) < 400
    assert capfd.readouterr() == ("", "")


def test_damaged_and_incomplete_data_is_refused():
    image = noise(40, 50, 3)
    broken = bytearray(pillow(image, "PNG"))
    broken[len(broken) // 2] ^= 1
    refused("checksum", decode, bytes(broken), name="a.png")
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    for bits, shape in ((8, (50, 40)), (16, (25, 40))):
        decode(png(*shape, bits, 2, rows))
        refused("truncated", decode, png(*shape, bits, 2, rows[:-30]), name="short.png")
    tags = [(256, 20), (257, 20), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 20), (279, 400)]
    pixels = noise(20, 20)
    whole = _tiff_header(tags, pixels.tobytes())
    np.testing.assert_array_equal(decode(whole)[..., 0], pixels)
    refused("truncated", decode, _tiff_header([*tags[:-1], (279, 0)], pixels.tobytes()), name="sparse.tif")


def test_size_bombs_are_refused_before_decoding():
    side = 30_000
    bmp = struct.pack("<2sIHHI", b"BM", 100, 0, 0, 54) + struct.pack("<IiiHHI", 40, side, side, 1, 24, 0)
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side)]
    size = (side - 1).to_bytes(3, "little")
    jpeg = pillow(noise(40, 50, 3), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    bombs = {
        "png8": png(side, side, 8, 2, b"\0" * 100),
        "png16": png(side, side, 16, 2, b"\0" * 100),
        "bmp": bmp + bytes(200),
        "tiff": _tiff_header([*tags, (279, side * side)], b"x" * 100),
        "jpeg": jpeg[: frame + 5] + struct.pack(">HH", side, side) + jpeg[frame + 9 :],
        "webp": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + size + size,
    }
    for name, data in bombs.items():
        start = time.perf_counter()
        refused(f"{name}: 30000 x 30000 px is more than the 268435456 px", decode, data, name=name)
        assert time.perf_counter() - start < 1
    many = [(256, 16_000), (257, 16_000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 60_000), (279, 9)]
    refused("16000 x 16000 px x 60000 channels is more", decode, _tiff_header(many, b"x" * 100), name="a.tif")
    tiled = [(256, 20), (257, 20), (258, 8), (259, 1), (262, 1), (277, 1), (322, 60_000), (323, 60_000)]
    data = _tiff_header([*tiled, (324, 8), (325, 9)], b"x" * 100)
    refused("has tiles of", decode, data, name="a.tif")


def test_small_sides_are_refused():
    refused("a.png: 15 x 40 px has a side below 16 px", decode, pillow(noise(40, 15), "PNG"), name="a.png")
    refused("below 16 px", as_image, noise(3, 40, 40))
    assert as_image(noise(16, 16)).shape == (16, 16, 1)


@pytest.mark.parametrize("dtype", ["int16", "float64", "uint32", "int8", "complex64"])
def test_other_dtypes_are_refused(dtype):
    image = np.ones((20, 24), dtype)
    refused(f"a.tif: {dtype}.*save it as uint16 or float32", decode, tiff(image), name="a.tif")
    refused(f"image: {dtype}.*save it as uint16 or float32", as_image, image)


def test_bits_and_shapes_are_refused():
    refused("1-bit TIFF values", decode, tiff(np.ones((20, 24), bool)), name="a.tif")
    refused("bool values", as_image, np.ones((20, 24), bool))
    for shape in ((20,), (2, 20, 24, 3), (20, 24, 0)):
        refused("give \\(H, W\\) or", as_image, np.zeros(shape, np.uint8))
    refused("int32 values", as_image, Image.new("I", (20, 20)))


def test_colour_modes_and_frames_are_refused():
    cmyk = Image.new("CMYK", (20, 20))
    refused("a.jpg: the colour mode CMYK.*convert to RGB", decode, pillow(cmyk, "JPEG"), name="a.jpg")
    refused("image: the colour mode HSV.*convert to RGB", as_image, Image.new("HSV", (20, 20)))
    four, three = noise(20, 24, 4), noise(20, 24, 3)
    refused("SEPARATED.*convert to RGB", decode, tiff(four, photometric="separated"), name="a.tif")
    for colours in ("cielab", "ycbcr"):
        refused("convert to RGB", decode, tiff(three, photometric=colours), name="a.tif")
    stack = noise(4, 20, 24)
    for options in (
        {"photometric": "minisblack"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
    ):
        refused("a.tif: has several pages", decode, tiff(stack, **options), name="a.tif")
    pair = io.BytesIO()
    with tifffile.TiffWriter(pair) as file:
        file.write(three)
        file.write(noise(30, 30))
    refused("holds 2 images", decode, pair.getvalue(), name="a.tif")
    uuid = "urn:uuid:00000000-0000-0000-0000-00000000000"
    ome = (
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}1"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="24" SizeY="20" SizeC="2" SizeZ="1"'
        ' SizeT="1">'
        f'<TiffData FirstC="0" IFD="0" PlaneCount="1"><UUID FileName="a.tif">{uuid}1</UUID></TiffData>'
        f'<TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID FileName="b.tif">{uuid}2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    half = tiff(stack[0], description=ome, metadata=None)
    refused("a.tif: is one file of several", decode, half, name="a.tif")
    frames = [Image.fromarray(noise(20, 24, 3)) for _ in range(2)]
    for kind in ("PNG", "WEBP"):
        data = pillow(frames[0], kind, save_all=True, append_images=frames[1:])
        refused("frame", decode, data, name="a.img")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_is_refused_with_place(value):
    image = noise(20, 24, 2, dtype="float32")
    image[3, 4, 1] = image[7, 0, 0] = value
    match = "2 values are NaN or infinite, the first at row 3, column 4, channel 1"
    data = tiff(image, photometric="minisblack", planarconfig="contig")
    refused("a.tif: " + match, decode, data, name="a.tif")
    refused("image: " + match, as_image, image)


# ---- the same whatever the caller


def test_pillow_images(tmp_path):
    path = tmp_path / "a.png"
    for image in (noise(20, 24), noise(20, 24, 2), noise(20, 24, 4), noise(20, 24, dtype="uint16")):
        path.write_bytes(png16(image))
        with Image.open(path) as opened:
            np.testing.assert_array_equal(as_image(opened), read(str(path)))
    floats = noise(20, 24, dtype="float32")
    np.testing.assert_array_equal(as_image(Image.fromarray(floats))[..., 0], floats)
    path.write_bytes(png16(noise(20, 24, 3, dtype="uint16")))
    with Image.open(path) as opened:
        assert refused("reduces this 16-bit image", as_image, opened).startswith(str(path))
    path.write_bytes(path.read_bytes()[:300])
    with Image.open(path) as opened:
        refused("a.png: ", as_image, opened)


def test_load_is_the_same_for_path_array_and_pillow(tmp_path):
    image = noise(40, 50, 3)
    path = tmp_path / "a.png"
    path.write_bytes(pillow(image, "PNG"))
    planes, size = load(path, U8, (32, 24))
    assert size == (40, 50) and planes.shape == (3, 32, 24) and planes.dtype == np.float32
    for source in (str(path), image, Image.fromarray(image), Image.open(path)):
        np.testing.assert_array_equal(load(source, U8, (32, 24))[0], planes)
    assert refused("3 channels", load, path, GREY8, (32, 24)).startswith(str(path))


def test_arrays_of_foreign_byte_order():
    image = noise(20, 24, dtype="uint16")
    got = as_image(image.astype(">u2"))
    np.testing.assert_array_equal(got[..., 0], image)
    assert got.dtype == np.uint16 and got.dtype.isnative


# ---- the format of a data set


def test_format_of_and_describe():
    images = [("a", noise(20, 24, 3)), ("b", noise(30, 24, 3))]
    assert format_of(iter(images)) == U8 and U8.describe() == "3-channel uint8 [0, 255]"
    twelve = [("a", noise(20, 24, 1, dtype="uint16") >> 4)]
    assert format_of(twelve, bit_depth=12) == GREY12
    assert format_of(twelve).value_range == (0, 65535)
    assert format_of([("a", noise(20, 24, 1))], bit_depth=8) == GREY8
    hot = [("a", np.full((20, 24, 1), 130, np.float32))]  # outside of its declared range: not refused
    assert format_of(hot, value_range=(20, 120)) == FLOAT
    unit = np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24, 1)
    assert format_of([("a", unit)]).value_range == (0, 1)
    mixed = [("a", noise(20, 24, 3)), ("b", noise(20, 24, 1))]
    assert format_of(mixed, channels=1) == GREY8 and format_of(mixed, channels=3) == U8


def test_format_of_refuses_mixtures_naming_the_first_deviation():
    grey, rgb = noise(20, 24, 1), noise(20, 24, 3)
    mixed = [("a", rgb), ("b", rgb), ("c", grey), ("d", grey)]
    text = refused("^c: is 1-channel uint8", format_of, mixed)
    assert "a is 3-channel" in text and "--channels 1 or --channels 3" in text
    text = refused("^b: is 3-channel uint16", format_of, [("a", rgb), ("b", rgb.astype(np.uint16))])
    assert "--channels" not in text
    refused("^b: has 5 channels", format_of, [("a", rgb), ("b", noise(20, 24, 5))], channels=3)
    refused("no image", format_of, [], error=DataError)


def test_format_of_refuses_values():
    image = np.zeros((20, 24, 1), np.uint16)
    image[3, 3] = 4095
    format_of([("a", image)], bit_depth=12)
    image[3, 3] = 4096
    refused("b: has the value 4096, above the declared maximum 4095", format_of, [("b", image)], bit_depth=12)
    for value in (-0.01, 1.01):
        floats = np.full((20, 24, 1), 0.5, np.float32)
        floats[0, 0] = value
        refused("b: has values in .*--value-range LOW HIGH", format_of, [("b", floats)])
    refused("b: is uint8, but --bit-depth 12", format_of, [("b", noise(20, 24, 1))], bit_depth=12)
    refused("b: is uint16, but --bit-depth 8", format_of, [("b", image)], bit_depth=8)
    refused("b: is uint16, but --value-range", format_of, [("b", image)], value_range=(0.0, 1.0))
    for options in (
        {"channels": 2},
        {"bit_depth": 11},
        {"value_range": (1, 1)},
        {"value_range": (0, math.inf)},
    ):
        refused("--", format_of, [("b", image)], error=UsageError, **options)


# ---- convert


def test_convert_maps_the_range_and_never_clips():
    image = np.full((20, 24, 3), 51, np.uint8)  # 51 / 255 = 0.2
    image[1, 2] = [0, 255, 102]
    planes = convert(image, U8)
    assert planes.dtype == np.float32 and planes.shape == (3, 20, 24) and planes.flags.c_contiguous
    np.testing.assert_array_equal(planes[:, 1, 2], np.array([0, 1, 0.4], np.float32))
    assert planes[0, 0, 0] == np.float32(0.2)
    deep = np.full((20, 24, 1), 819, np.uint16)  # 819 / 4095 = 0.2
    assert convert(deep, GREY12)[0, 0, 0] == np.float32(0.2)
    deep[5, 5] = 5000
    refused("part.tif: has the value 5000", convert, deep, GREY12, name="part.tif")
    floats = np.full((20, 24, 1), 45, np.float32)  # (45 - 20) / 100 = 0.25
    floats[0, 0], floats[0, 1] = 220, -80  # 2 and -1: beyond what was declared, and kept
    assert convert(floats, FLOAT)[0, 0, :3].tolist() == [2, -1, 0.25]


def test_convert_channels_only_when_allowed():
    rgb, grey = noise(20, 24, 3), noise(20, 24, 1)
    allow = frozenset({"channels"})
    text = refused("a.png: has 1 channels, but the model takes 3-channel", convert, grey, U8, name="a.png")
    assert "--allow channels" in text
    refused("--allow channels", convert, rgb, GREY8, allow=frozenset({"depth"}))
    np.testing.assert_array_equal(convert(grey, U8, allow=allow), np.repeat(convert(grey, GREY8), 3, 0))
    rgb[0, 0] = [100, 150, 200]  # 0.299*100 + 0.587*150 + 0.114*200 = 140.75
    luma = convert(rgb, GREY8, allow=allow)
    assert luma.shape == (1, 20, 24) and abs(luma[0, 0, 0] * 255 - 140.75) < 1e-4
    np.testing.assert_allclose(luma[0] * 255, np.asarray(Image.fromarray(rgb).convert("L")), atol=0.51)
    text = refused("has 5 channels", convert, noise(20, 24, 5), U8, allow=allow)
    assert "--allow" not in text


def test_convert_depth_only_when_allowed():
    deep, flat = np.full((20, 24, 1), 13107, np.uint16), np.full((20, 24, 1), 51, np.uint8)
    allow = frozenset({"depth"})
    assert convert(deep, GREY8, allow=allow)[0, 0, 0] == np.float32(0.2)  # 13107 / 65535
    assert convert(flat, GREY12, allow=allow)[0, 0, 0] == np.float32(0.2)  # 51 / 255, not / 4095
    refused("a.png: is uint16, but the model.*--allow depth", convert, deep, GREY8, name="a.png")
    refused("is uint8.*--allow depth", convert, flat, GREY12, allow=frozenset({"channels"}))
    for image, fmt in ((np.zeros((20, 24, 1), np.float32), GREY8), (flat, FLOAT)):
        assert "--allow" not in refused("but the model takes", convert, image, fmt, allow=allow)


# ---- resize


def _triangle(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in) weights: a triangle around each output centre, as wide as the reduction."""
    scale = n_in / n_out
    width = max(scale, 1.0)
    weights = np.zeros((n_out, n_in))
    for i in range(n_out):
        for j in range(n_in):
            weights[i, j] = max(0.0, 1 - abs((j + 0.5) - (i + 0.5) * scale) / width)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(7, 9), (16, 40), (50, 45), (20, 8)])
def test_resize_equals_the_triangle_filter(size):
    image = 10 * noise(2, 20, 24, dtype="float32")
    rows, columns = _triangle(20, size[0]), _triangle(24, size[1])
    expected = np.stack([rows @ plane.astype(float) @ columns.T for plane in image])
    got = resize(image, size)
    assert got.dtype == np.float32 and got.shape == (2, *size)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_resize_keeps_an_image_of_that_size_and_is_quick():
    image = noise(3, 20, 24, dtype="float32")
    assert resize(image, (20, 24)) is image
    assert load(noise(900, 900, 3), U8, (256, 256))[0].shape == (3, 256, 256)


# ---- writing and listing


def test_write_map(tmp_path):
    path = tmp_path / "maps" / "deep" / "a.tiff"
    values = noise(20, 3, dtype="float32")  # three columns are no RGB
    write_map(path, values + 5)
    write_map(str(path), values)
    got = tifffile.imread(path)
    np.testing.assert_array_equal(got, values)
    assert got.dtype == np.float32 and os.listdir(path.parent) == ["a.tiff"]  # noqa: PTH208
    refused("give \\(H, W\\)", write_map, path, values[None])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.tiff"
    write_map(path, np.ones((20, 20)))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_map(path, np.zeros((20, 20)))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.tiff"]


def test_overlay_colours_by_hand(tmp_path):
    path = tmp_path / "out" / "a.png"
    image = np.full((20, 30, 3), 100, np.uint8)
    values = np.zeros((20, 30))
    values[5:10, 5:12], values[15, 20], values[0, 0], values[19, 29] = 4, 3, 99, -99
    write_overlay(path, image, values, low=2, high=4, contour_level=3)  # strictly above
    got = np.asarray(Image.open(path)).astype(int)
    assert got.shape == (20, 30, 3)
    assert got[12, 25].tolist() == got[19, 29].tolist() == [100, 100, 100]  # at or below low: the image
    # t = 1/2: jet (0.5, 1, 0.5), opacity 0.3: 0.7*100 + 0.3*255*(0.5, 1, 0.5) = 108.25, 146.5, 108.25
    np.testing.assert_allclose(got[15, 20], [108.25, 146.5, 108.25], atol=0.6)
    # t = 1: jet (0.5, 0, 0), opacity 0.6: 0.4*100 + 0.6*127.5 = 116.5, then 40, 40
    np.testing.assert_allclose(got[7, 8], [116.5, 40, 40], atol=0.6)
    red = (got == [255, 0, 0]).all(-1)
    expected = np.zeros((20, 30), bool)
    expected[5:10, 5:12] = True
    expected[6:9, 6:11] = False
    expected[0, 0] = True  # a single pixel in the corner is its own edge
    np.testing.assert_array_equal(red, expected)


def test_overlay_of_any_image(tmp_path):
    path = tmp_path / "a.png"
    for image in (noise(20, 30, 1), noise(20, 30, 5, dtype="uint16"), noise(20, 30, 3, dtype="float32")):
        write_overlay(path, image, np.zeros((20, 30)), low=0, high=0, contour_level=None)
        got = np.asarray(Image.open(path)).astype(float)
        top = 255.0 if image.dtype == np.uint8 else float(image.max() - image.min())
        base = 0.0 if image.dtype == np.uint8 else float(image.min())
        seen = (image.astype(float) - base) / top * 255
        seen = seen if image.shape[2] == 3 else seen.mean(-1, keepdims=True).repeat(3, -1)
        np.testing.assert_allclose(got, seen, atol=0.51)
    tall = np.zeros((2048, 100))
    tall[1000, 50] = 1  # a defect of one pixel is still outlined at half size
    write_overlay(path, np.zeros((2048, 100, 1), np.uint8), tall, low=0, high=1, contour_level=0.5)
    got = np.asarray(Image.open(path))
    assert got.shape == (1024, 50, 3) and got[500, 25].tolist() == [255, 0, 0]
    refused("is not of its image", write_overlay, path, image, tall, low=0, high=1, contour_level=None)


def test_list_images(tmp_path):
    for name in (
        "b/x.PNG",
        "a.jpeg",
        "b/a.TIFF",
        "c.txt",
        ".hidden.png",
        ".git/y.png",
        "c.webp",
        "d.png/e.bmp",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a.jpeg", "b/a.TIFF", "b/x.PNG", "broken.png", "c.webp", "d.png/e.bmp"]
    refused("is not a folder", list_images, tmp_path / "absent", error=DataError)


# ---- real images


@pytest.mark.data
@pytest.mark.parametrize(("name", "channels"), [("head_ct", 3), ("mtd", 1)])
def test_real_images_share_their_channels(name, channels, data_root):
    if not (data_root / name).is_dir():
        pytest.skip(f"{data_root / name} is absent")
    paths = [path for path in list_images(data_root / name) if "ground_truth" not in path.parts]
    assert len(paths) > 100
    fmt = format_of((str(path), read(path)) for path in paths)
    assert fmt == ImageFormat(dtype="uint8", channels=channels, value_range=(0, 255))
    if name == "head_ct":
        modes = []
        for path in paths:
            with Image.open(path) as image:
                modes.append(image.mode)
        assert modes.count("RGBA") == 12
