from __future__ import annotations

import io
import itertools
import struct
import warnings

import numpy as np
import pytest
from encoded import exif, noise, pillow, png, png16, png_chunk, refused, tiff, tiff_header
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from blemish.images.decode import as_image, decode, read

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
    return tiff_header([*tags, (279, len(raw))], raw)


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


# ---- arrays and Pillow images


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


def test_arrays_of_foreign_byte_order():
    image = noise(20, 24, dtype="uint16")
    got = as_image(image.astype(">u2"))
    np.testing.assert_array_equal(got[..., 0], image)
    assert got.dtype == np.uint16 and got.dtype.isnative


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_colour_profiles_and_gamma_change_no_number(kind):
    from PIL import ImageCms
    from PIL.PngImagePlugin import PngInfo

    image = Image.fromarray(noise(32, 40, 3))
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = decode(pillow(image, kind, **options))
    for space in ("sRGB", "LAB", "XYZ"):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
        np.testing.assert_array_equal(decode(pillow(image, kind, icc_profile=profile, **options)), plain)
    if kind == "PNG":
        for chunk, body in ((b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0"), (b"cHRM", bytes(32))):
            info = PngInfo()
            info.add(chunk, body)
            np.testing.assert_array_equal(decode(pillow(image, kind, pnginfo=info)), plain)
