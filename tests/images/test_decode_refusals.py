from __future__ import annotations

import errno
import io
import os
import struct
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from encoded import noise, pillow, png, png16, refused, tiff, tiff_header
from PIL import Image

from blemish.images.decode import as_image, decode, read


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


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG])
def test_a_file_that_cannot_be_looked_up_is_refused_as_one_that_cannot_be_read(tmp_path, monkeypatch, code):
    """A share that goes away for a moment must cost one image, and not the whole run."""

    def fails(self, **_):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "stat", fails)
    text = refused("a.png: cannot be read", read, tmp_path / "a.png")
    assert os.strerror(code) in text


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
    whole = tiff_header(tags, pixels.tobytes())
    np.testing.assert_array_equal(decode(whole)[..., 0], pixels)
    refused("truncated", decode, tiff_header([*tags[:-1], (279, 0)], pixels.tobytes()), name="sparse.tif")


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing may be decoded, and no picture be given its memory."""
    for decoder in (
        "imagecodecs.png_decode",
        "PIL.ImageFile.ImageFile.load",
        "PIL.WebPImagePlugin._webp.WebPAnimDecoder",
        "tifffile.TiffPageSeries.asarray",
    ):
        monkeypatch.setattr(decoder, lambda *_, name=decoder, **__: pytest.fail(f"{name} was called"))


def test_size_bombs_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch):
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
        "tiff": tiff_header([*tags, (279, side * side)], b"x" * 100),
        "jpeg": jpeg[: frame + 5] + struct.pack(">HH", side, side) + jpeg[frame + 9 :],
        "webp": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + size + size,
    }
    forbid_decoding(monkeypatch)
    for name, data in bombs.items():
        refused(f"{name}: 30000 x 30000 px is more than the 268435456 px", decode, data, name=name)
    many = [(256, 16_000), (257, 16_000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 60_000), (279, 9)]
    refused("16000 x 16000 px x 60000 channels is more", decode, tiff_header(many, b"x" * 100), name="a.tif")
    tiled = [(256, 20), (257, 20), (258, 8), (259, 1), (262, 1), (277, 1), (322, 60_000), (323, 60_000)]
    data = tiff_header([*tiled, (324, 8), (325, 9)], b"x" * 100)
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


def test_a_jpeg_that_lacks_only_its_last_byte_is_refused():
    for seed in range(40):  # with some, the decoder takes what is there for the end
        image = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        refused("truncated", decode, pillow(image, "JPEG")[:-1])


@pytest.mark.heavy
def test_a_jpeg_of_many_scans_is_refused_undecoded(monkeypatch: pytest.MonkeyPatch):
    data = pillow(noise(1000, 1000, 3), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    image = decode(data[:-2] + 20 * last + data[-2:])  # a scan may be repeated
    assert image.shape == (1000, 1000, 3)
    forbid_decoding(monkeypatch)
    refused("is a JPEG of more than 100 scans", decode, data[:-2] + 100 * last + data[-2:])


_FOREIGN = {
    "JPEG-LS": (imagecodecs.jpegls_encode, "is JPEG-LS, another format than JPEG; convert it to PNG or TIFF"),
    "12 bits": (
        lambda x: imagecodecs.jpeg_encode(x.astype(np.uint16) * 16, bitspersample=12),
        "is a JPEG of 12 bits, and only those of 8 are read; convert it to PNG or TIFF",
    ),
    "JPEG 2000": (imagecodecs.jpeg2k_encode, "it is JPEG 2000; give PNG, JPEG, TIFF, BMP or WebP"),
    "JPEG XL": (imagecodecs.jpegxl_encode, "it is JPEG XL; give PNG"),
    "JPEG XR": (imagecodecs.jpegxr_encode, "it is JPEG XR; give PNG"),
    "AVIF": (lambda x: imagecodecs.avif_encode(np.stack([x] * 3, -1)), "it is AVIF; give PNG"),
    "GIF": (lambda x: pillow(x, "GIF"), "it is a GIF; give PNG"),
    "PDF": (lambda x: pillow(x, "PDF"), "it is a PDF; give PNG"),
    "SVG": (lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG drawing; give PNG"),
    "nothing": (lambda _: b"", "it is an empty file; give PNG"),
}


@pytest.mark.parametrize("kind", _FOREIGN)
def test_another_format_is_named_and_not_called_damaged(kind):
    encode, why = _FOREIGN[kind]
    try:
        data = bytes(encode(noise(40, 48)))
    except imagecodecs.DelayedImportError:
        pytest.skip(f"imagecodecs has no encoder of {kind} here")
    for name in ("part.jpg", "part.png"):
        text = refused(why, decode, data, name=name)
        assert "damaged" not in text
        assert "save it again" not in text


@pytest.mark.parametrize("marker", [0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7])
def test_a_kind_of_jpeg_that_nobody_reads_is_named_wherever_its_frame_stands(marker):
    data = pillow(noise(40, 48), "JPEG")
    at = data.index(b"\xff\xc0")
    for fill in (b"", b"\xff"):
        changed = data[:at] + fill + bytes([0xFF, marker]) + data[at + 2 :]
        text = refused("convert it to PNG or TIFF", decode, changed)
        assert "damaged" not in text
    refused("damaged", decode, data[: at + 3])  # before its frame says what it is
