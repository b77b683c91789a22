from __future__ import annotations

import math

import numpy as np
import pytest
from encoded import noise, pillow, refused
from PIL import Image

from blemish.core.errors import DataError, UsageError
from blemish.images.decode import read
from blemish.images.folders import list_images
from blemish.images.preprocess import ImageFormat, convert, format_of, load, prepare
from blemish.images.resize import resize

U8 = ImageFormat(dtype="uint8", channels=3, value_range=(0, 255))
GREY8 = ImageFormat(dtype="uint8", channels=1, value_range=(0, 255))
GREY12 = ImageFormat(dtype="uint16", channels=1, value_range=(0, 4095))
FLOAT = ImageFormat(dtype="float32", channels=1, value_range=(20, 120))


# ---- the format of a data set


def test_format_of_and_describe():
    named = [("a", noise(20, 24, 3)), ("b", noise(30, 24, 3))]
    assert format_of(iter(named)) == U8 and U8.describe() == "3-channel uint8 [0, 255]"
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
    refused("b: is uint16, but --value-range -1 5 is not", format_of, [("b", image)], value_range=(-1, 5))
    for options in (
        {"channels": 2},
        {"bit_depth": 11},
        {"value_range": (1, 1)},
        {"value_range": (0, math.inf)},
        {"value_range": (0, 4095), "bit_depth": 12},
    ):
        refused("--", format_of, [("b", image)], error=UsageError, **options)


def test_a_declared_range_of_16_bits_bounds_no_value():
    image = np.array([[[29200], [29300], [29500], [65535]]], np.uint16)
    fmt = format_of([("a", image)], value_range=(29300, 29500))
    assert fmt == ImageFormat(dtype="uint16", channels=1, value_range=(29300, 29500))
    expected = (image[..., 0].astype(np.float64) - 29300) / 200
    np.testing.assert_allclose(convert(image, fmt)[0], expected, rtol=1e-6)
    eight = np.zeros((1, 4, 1), np.uint8)
    text = refused(
        "a: is uint8, but the model takes", convert, eight, fmt, allow=frozenset({"depth"}), name="a"
    )
    assert "--allow" not in text  # 0 to 255 are not those counts


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


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    ("shape", "size"), [((2000, 40), (16, 16)), ((90, 700), (64, 800)), ((64, 64), (300, 20))]
)
def test_resize_is_right_within_a_millionth_of_the_range_and_as_pillow_does_it(shape, size, dtype):
    image = noise(*shape, 3, dtype=dtype).transpose(2, 0, 1)
    span = float(image.max()) - float(image.min())
    rows, columns = _triangle(shape[0], size[0]), _triangle(shape[1], size[1])
    expected = np.stack([rows @ plane.astype(float) @ columns.T for plane in image])
    got = resize(image, size)
    np.testing.assert_allclose(got, expected, atol=1e-6 * span, rtol=0)
    pictures = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in image]
    theirs = [np.asarray(p.resize(size[::-1], Image.Resampling.BILINEAR)) for p in pictures]
    np.testing.assert_allclose(got, np.stack(theirs), atol=1e-6 * span, rtol=0)


@pytest.mark.parametrize("size", [(64, 48), (64, 200), (900, 48), (700, 48), (64, 90)])
def test_resizing_depends_on_values_alone_not_on_strips_memory_or_dtype(size, monkeypatch):
    image = noise(700, 90, 2).transpose(2, 0, 1)
    whole = resize(image, size)
    for other in (np.ascontiguousarray(image), np.asfortranarray(image), image.astype(np.float64)):
        np.testing.assert_array_equal(resize(other, size), whole)
    np.testing.assert_array_equal(np.concatenate([resize(image[i : i + 1], size) for i in (0, 1)]), whole)
    monkeypatch.setattr("blemish.images.resize._STRIP_VALUES", 1000)
    np.testing.assert_array_equal(resize(image, size), whole)
    assert whole.dtype == np.float32 and whole.flags.c_contiguous


@pytest.mark.parametrize("size", [(16, 24), (90, 24), (16, 77), (90, 77), (50, 60)])
@pytest.mark.parametrize("value", [0, 60, 255, 1e-3, -7.7])
def test_resizing_an_area_of_one_value_keeps_it(value, size):
    image = np.full((3, 50, 60), value, np.float32)
    np.testing.assert_array_equal(resize(image, size), np.full((3, *size), value, np.float32))


def test_resize_keeps_an_image_of_that_size():
    image = noise(3, 20, 24, dtype="float32")
    assert resize(image, (20, 24)) is image


@pytest.mark.parametrize(
    ("channels", "dtype", "fmt"),
    [(3, "uint8", U8), (1, "uint8", U8), (3, "uint8", GREY8), (1, "uint16", GREY8), (1, "float32", FLOAT)],
)
@pytest.mark.parametrize("size", [(16, 12), (50, 45), (40, 50)])
def test_prepare_is_convert_then_resize(channels, dtype, fmt, size):
    image, allow = noise(40, 50, channels, dtype=dtype), frozenset({"channels", "depth"})
    expected = resize(convert(image, fmt, allow=allow), size)
    got = prepare(image, fmt, size, allow=allow)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)
    if size == (40, 50):
        np.testing.assert_array_equal(got, expected)


# ---- files


def test_load_is_the_same_for_path_array_and_pillow(tmp_path):
    image = noise(40, 50, 3)
    path = tmp_path / "a.png"
    path.write_bytes(pillow(image, "PNG"))
    planes, size = load(path, U8, (32, 24))
    assert size == (40, 50) and planes.shape == (3, 32, 24) and planes.dtype == np.float32
    for source in (str(path), image, Image.fromarray(image), Image.open(path)):
        np.testing.assert_array_equal(load(source, U8, (32, 24))[0], planes)
    assert refused("3 channels", load, path, GREY8, (32, 24)).startswith(str(path))


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


@pytest.mark.data
@pytest.mark.heavy
@pytest.mark.parametrize(("name", "channels"), [("head_ct", 3), ("mtd", 1)])
def test_real_images_share_their_channels(name, channels, data_root):
    if not (data_root / name).is_dir():
        pytest.skip(f"{data_root / name} is absent")
    paths = [path for path in list_images(data_root / name) if "ground_truth" not in path.parts]
    assert len(paths) > 100
    paths = paths[:: 5 if name == "mtd" else 1]  # all would take seconds
    fmt = format_of((str(path), read(path)) for path in paths)
    assert fmt == ImageFormat(dtype="uint8", channels=channels, value_range=(0, 255))
    if name == "head_ct":
        modes = []
        for path in paths:
            with Image.open(path) as image:
                modes.append(image.mode)
        assert modes.count("RGBA") == 12
