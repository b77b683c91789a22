"""PNG read and written by chunks: as libpng does it, damage included."""

from __future__ import annotations

import gc
import io
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
from encoded import noise, pillow, png16, png_chunk, refused
from PIL import Image

from blemish.images.decode import decode
from blemish.images.png import chunks_of, decode_png, encode_png


def _repacked(data: bytes, change) -> bytes:
    """A PNG whose packed data, and chunks around them, are changed: change(IHDR, IDAT) -> chunks."""
    found = chunks_of(data)
    packed = b"".join(body for kind, body in found if kind == b"IDAT")
    made = [png_chunk(kind, body) for kind, body in change(found[0][1], packed)]
    return data[:8] + b"".join(made) + png_chunk(b"IEND", b"")


_CHANGES = {
    "one": lambda head, packed: [(b"IHDR", head), (b"IDAT", packed)],
    "three": lambda head, packed: [
        (b"IHDR", head),
        *((b"IDAT", part) for part in (packed[:1], b"", packed[1:])),
    ],
    "texts": lambda head, packed: [
        (b"IHDR", head),
        (b"tEXt", b"Title\0a"),
        (b"IDAT", packed),
        (b"tIME", bytes(7)),
    ],
    "more behind": lambda head, packed: [(b"IHDR", head), (b"IDAT", packed + b"more")],
    "another window": lambda head, packed: [(b"IHDR", head), (b"IDAT", b"\x48\x89" + packed[2:])],
    "no sum": lambda head, packed: [(b"IHDR", head), (b"IDAT", packed[:-4] + bytes(4))],
    "unknown": lambda head, packed: [(b"IHDR", head), (b"abCd", b"1"), (b"IDAT", packed)],
    "critical": lambda head, packed: [(b"IHDR", head), (b"ABCD", b"1"), (b"IDAT", packed)],
    "two heads": lambda head, packed: [(b"IHDR", head), (b"IHDR", head), (b"IDAT", packed)],
    "scattered": lambda head, packed: [
        (b"IHDR", head),
        (b"IDAT", packed[:9]),
        (b"tEXt", b"Title\0a"),
        (b"IDAT", packed[9:]),
    ],
    "short": lambda head, packed: [(b"IHDR", head), (b"IDAT", zlib.compress(zlib.decompress(packed)[:-9]))],
    "long": lambda head, packed: [(b"IHDR", head), (b"IDAT", zlib.compress(zlib.decompress(packed) + b"9"))],
    "bomb": lambda head, packed: [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(10**6)))],
    "filter 9": lambda head, packed: [
        (b"IHDR", head),
        (b"IDAT", zlib.compress(b"\x09" + zlib.decompress(packed)[1:])),
    ],
}


@pytest.mark.parametrize("how", _CHANGES)
@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint8"), (4, "uint8"), (2, "uint16")])
def test_a_png_is_what_libpng_makes_of_it(how, channels, dtype):
    data = _repacked(png16(noise(33, 70, channels, dtype=dtype)), _CHANGES[how])
    try:
        expected = imagecodecs.png_decode(data)
    except Exception as error:  # down to UnicodeDecodeError, of its own message
        with pytest.raises(type(error)):
            decode_png(data, chunks_of(data))
        refused("truncated or damaged", decode, data)
    else:
        got = decode_png(data, chunks_of(data))
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype and got.shape == expected.shape


def test_damage_costs_no_reference_to_none():
    data = _repacked(png16(noise(20, 20, 3)), _CHANGES["short"])
    gc.collect()  # garbage of other tests refers to None too
    gc.disable()
    try:
        before = sys.getrefcount(None)
        for _ in range(300):
            refused("truncated or damaged", decode, data)
        assert sys.getrefcount(None) > before - 100
    finally:
        gc.enable()


def test_a_plain_png_is_unpacked_by_the_faster_library(monkeypatch):
    image, given = noise(64, 64, 3), []
    whole = imagecodecs.png_decode
    monkeypatch.setattr(imagecodecs, "png_decode", lambda data: given.append(data) or whole(data))
    for data in (png16(image), pillow(image, "PNG")):
        np.testing.assert_array_equal(decode(data), image)
    assert all(len(data) > image.size for data in given)  # not compressed any more
    given.clear()
    monkeypatch.setattr("blemish.images.png._FAST_PIXELS", 64 * 64 - 1)
    decode(png16(image))
    assert given == [png16(image)]


@pytest.mark.parametrize("shape", [(16, 16, 3), (17, 31, 3), (300, 20, 3)])
def test_a_png_holds_its_pixels_and_texts(shape):
    pixels = noise(*shape)
    data = encode_png(pixels, b"Title\0of a test", b"Software\0this")
    np.testing.assert_array_equal(decode(data), pixels)
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert image.info == {"Title": "of a test", "Software": "this"}
