from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from encoded import noise, refused
from PIL import Image

from blemish.images.draw import Heat, heat_over, write_map, write_overlay, write_thumbnail
from blemish.images.preview import preview_of


def test_write_map(tmp_path):
    path = tmp_path / "maps" / "deep" / "a.tiff"
    values = noise(20, 3, dtype="float32")  # three columns are no RGB
    write_map(path, values + 5)
    write_map(str(path), values)
    got = tifffile.imread(path)
    np.testing.assert_array_equal(got, values)
    assert got.dtype == np.float32 and os.listdir(path.parent) == ["a.tiff"]  # noqa: PTH208
    refused("give \\(H, W\\)", write_map, path, values[None])


@pytest.mark.parametrize(
    "write",
    [
        lambda path, image: write_map(path, image[..., 0]),
        lambda path, image: write_overlay(path, image, Heat(map_hw=image[..., 0], low=0, high=1)),
        write_thumbnail,
    ],
)
def test_a_failed_write_leaves_the_old_file(write, tmp_path, monkeypatch):
    path = tmp_path / "a.tiff"
    write(path, noise(20, 20, 3))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, noise(20, 20, 3))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.tiff"]


def test_overlay_colours_by_hand(tmp_path):
    path = tmp_path / "out" / "a.png"
    image = np.full((20, 30, 3), 100, np.uint8)
    values = np.zeros((20, 30))
    values[5:10, 5:12], values[15, 20], values[0, 0], values[19, 29] = 4, 3, 99, -99
    write_overlay(path, image, Heat(map_hw=values, low=2, high=4, contour_level=3))  # strictly above
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


@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint8"), (1, "uint8"), (1, "uint16"), (5, "float32")])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.5, 0.5), (9, 99)])
def test_heat_strip_by_strip_is_the_formula_for_the_whole(channels, dtype, low, high):
    image, heat = noise(150, 30, channels, dtype=dtype), noise(150, 30, dtype="float32")
    heat[:, :7], heat[:70, 20:] = -1, -1  # beside what is hot the picture stays as it is
    t = np.clip((heat - low) / max(high - low, 1e-12), 0, 1)
    jet = np.clip(1.5 - np.abs(4 * t - np.array([3, 2, 1], np.float32)[:, None, None]), 0, 1)
    expected = np.round(((1 - 0.6 * t) * preview_of(image).rgb() + 0.6 * t * jet) * 255)
    got = heat_over(image, Heat(map_hw=heat, low=low, high=high))
    np.testing.assert_array_equal(got, np.moveaxis(expected, 0, -1))


def test_overlay_of_any_image(tmp_path):
    path = tmp_path / "a.png"
    for image in (noise(20, 30, 1), noise(20, 30, 5, dtype="uint16"), noise(20, 30, 3, dtype="float32")):
        write_overlay(path, image, Heat(map_hw=np.zeros((20, 30)), low=0, high=0))
        got = np.asarray(Image.open(path)).astype(float)
        top = 255.0 if image.dtype == np.uint8 else float(image.max() - image.min())
        base = 0.0 if image.dtype == np.uint8 else float(image.min())
        seen = (image.astype(float) - base) / top * 255
        seen = seen if image.shape[2] == 3 else seen.mean(-1, keepdims=True).repeat(3, -1)
        np.testing.assert_allclose(got, seen, atol=0.51)
    tall = np.zeros((2048, 100))
    tall[1000, 50] = 1  # a defect of one pixel is still outlined at half size
    heat = Heat(map_hw=tall, low=0, high=1, contour_level=0.5)
    write_overlay(path, np.zeros((2048, 100, 1), np.uint8), heat)
    got = np.asarray(Image.open(path))
    assert got.shape == (1024, 50, 3) and got[500, 25].tolist() == [255, 0, 0]
    refused("is not of its image", write_overlay, path, image, heat)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_thumbnail_shows_what_the_overlay_shows_without_heat(channels, dtype, tmp_path):
    blocks = noise(3, 5, channels, dtype=dtype).repeat(16, 0).repeat(16, 1)  # JPEG's own: nearly exact
    cold = partial(write_overlay, heat=Heat(map_hw=np.zeros((48, 80)), low=0, high=1))
    cold(tmp_path / "a.png", blocks)
    write_thumbnail(tmp_path / "b" / "a.jpg", blocks)
    expected = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    with Image.open(tmp_path / "b" / "a.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (80, 48))
        got = np.asarray(image).astype(int)
    assert expected.std() > 5
    np.testing.assert_allclose(got[8::16, 8::16], expected[8::16, 8::16], atol=5)


def test_thumbnail_is_reduced_to_its_side(tmp_path):
    path = tmp_path / "a.jpg"
    image = np.zeros((600, 1000, 1), np.uint8)
    image[:300, 500:] = 200
    write_thumbnail(path, image)  # 512 / 1000 of 600 is 307.2
    got = np.asarray(Image.open(path)).astype(int)
    assert got.shape == (307, 512, 3)
    np.testing.assert_allclose(got[:150, 262:], 200, atol=3)
    np.testing.assert_allclose(got[157:], 0, atol=3)
    np.testing.assert_allclose(got[:, :250], 0, atol=3)
    write_thumbnail(path, image.transpose(1, 0, 2), side=100)
    assert Image.open(path).size == (60, 100)  # width, height
    write_thumbnail(path, np.zeros((16, 10_000, 3), np.uint8), side=100)
    assert Image.open(path).size == (100, 1)  # 0.16 rows, at least one
    write_thumbnail(path, image[:20, :30])
    assert Image.open(path).size == (30, 20)  # never enlarged
