"""The image cache against decoding each image by itself."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tifffile

from blemish.core.errors import DataError, ImageError
from blemish.data.cache import ImageCache, ImageFiles
from blemish.images import preprocess
from blemish.images.preprocess import ImageFormat

RGB8 = ImageFormat(dtype="uint8", channels=3, value_range=(0.0, 255.0))
SIZE = (16, 24)
IMAGE_BYTES = 4 * 3 * 16 * 24


@pytest.fixture
def paths(tiny_category, tmp_path):
    shutil.copytree(tiny_category / "train" / "good", tmp_path / "good")
    return sorted((tmp_path / "good").iterdir())


def one_by_one(paths) -> np.ndarray:
    return np.stack([preprocess.load(path, RGB8, SIZE)[0] for path in paths])


@pytest.mark.parametrize("kept", [1, 5, 12, 100])
def test_any_budget_gives_the_same_images_in_the_order_asked(paths, kept):
    cache = ImageCache(paths, RGB8, SIZE, budget=kept * IMAGE_BYTES)
    assert len(cache) == 12
    assert len(cache.kept) == min(kept, 12)
    expected = one_by_one(paths)
    for indices in (np.arange(12), np.array([11, 0, 5, 4, 5, 1]), np.array([7]), np.array([0])):
        batch = cache.batch(indices)
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, expected[indices])


def test_memory_is_bounded_and_never_nothing(paths):
    for budget, kept in ((0, 1), (IMAGE_BYTES - 1, 1), (2 * IMAGE_BYTES - 1, 1), (2 * IMAGE_BYTES, 2)):
        assert ImageCache(paths, RGB8, SIZE, budget=budget).kept.nbytes == kept * IMAGE_BYTES


def test_a_batch_is_a_copy(paths):
    cache = ImageCache(paths, RGB8, SIZE)
    cache.batch(np.array([0]))[:] = 7
    np.testing.assert_array_equal(cache.batch(np.arange(12)), one_by_one(paths))


def test_kept_images_are_not_read_again_and_others_are(paths):
    cache = ImageCache(paths, RGB8, SIZE, budget=2 * IMAGE_BYTES)
    first = cache.batch(np.array([1]))
    for path in paths[1:3]:
        path.unlink()
    np.testing.assert_array_equal(cache.batch(np.array([1])), first)
    with pytest.raises(ImageError) as error:
        cache.batch(np.array([3, 2]))
    assert str(paths[2]) in str(error.value)
    assert "\n" not in str(error.value)


def test_every_image_is_checked_as_read_and_counted(paths):
    seen, ticks = {}, []
    ImageCache(paths, RGB8, SIZE, check=seen.__setitem__, on_image=lambda: ticks.append(1), budget=0)
    assert len(ticks) == 12
    assert sorted(seen) == [str(path) for path in paths]
    for path in paths:
        np.testing.assert_array_equal(seen[str(path)], preprocess.as_image(path))


def test_conversions_need_leave(tiny_category):
    paths = sorted((tiny_category / "train" / "good").iterdir())[:3]
    grey = ImageFormat(dtype="uint8", channels=1, value_range=(0.0, 255.0))
    with pytest.raises(ImageError, match=r"000\.png.*channels"):
        ImageCache(paths, grey, SIZE)
    allow = frozenset({"channels"})
    batch = ImageCache(paths, grey, SIZE, allow=allow, budget=0).batch(np.array([0, 2]))
    expected = [preprocess.load(paths[i], grey, SIZE, allow=allow)[0] for i in (0, 2)]
    np.testing.assert_array_equal(batch, np.stack(expected))


def test_the_first_bad_image_in_order_is_named(paths):
    for i in (9, 4):
        paths[i].write_bytes(paths[i].read_bytes()[:100])
    with pytest.raises(ImageError) as error:
        ImageCache(paths, RGB8, SIZE)
    assert str(paths[4]) in str(error.value)
    assert "\n" not in str(error.value)


def test_more_images_than_one_round_of_decoding(paths):
    # 64 are decoded at a time; 150 are two rounds and a rest.
    many = [paths[(5 * i) % 12] for i in range(150)]
    cache = ImageCache(many, RGB8, SIZE, budget=70 * IMAGE_BYTES)
    expected = one_by_one(paths)[[(5 * i) % 12 for i in range(150)]]
    np.testing.assert_array_equal(cache.batch(np.arange(150)), expected)


def test_no_images():
    with pytest.raises(DataError):
        ImageCache([], RGB8, SIZE)


# --- images of the size that scoring sees, decoded at each call; and images kept in 8 bits ---


def test_image_files_are_loaded_as_scoring_loads_them(paths):
    files = ImageFiles(paths, RGB8, SIZE)
    assert len(files) == 12
    expected = one_by_one(paths)
    for indices in (np.arange(12), np.array([11, 0, 5, 4, 5, 1]), np.array([7])):
        batch = files.batch(indices)
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, expected[indices])
    grey = ImageFormat(dtype="uint8", channels=1, value_range=(0.0, 255.0))
    with pytest.raises(ImageError, match=r"003\.png.*channels"):
        ImageFiles(paths, grey, SIZE).batch(np.array([3]))
    allow = frozenset({"channels"})
    converted = preprocess.load(paths[3], grey, SIZE, allow=allow)[0]
    np.testing.assert_array_equal(
        ImageFiles(paths, grey, SIZE, allow=allow).batch(np.array([3]))[0], converted
    )
    paths[2].unlink()  # nothing is kept
    with pytest.raises(ImageError, match=r"002\.png"):
        files.batch(np.array([1, 2]))


@pytest.mark.parametrize("kept", [1, 5, 100])
def test_compact_images_are_within_half_a_grey_level_in_a_quarter_of_the_memory(paths, kept):
    cache = ImageCache(paths, RGB8, SIZE, compact=True, budget=kept * IMAGE_BYTES // 4)
    plain = ImageCache(paths, RGB8, SIZE, budget=kept * IMAGE_BYTES)
    assert len(cache.kept) == len(plain.kept) == min(kept, 12)
    assert cache.kept.nbytes * 4 == plain.kept.nbytes
    expected = one_by_one(paths)
    for indices in (np.arange(12), np.array([11, 0, 5, 4, 5, 1]), np.array([7])):
        batch = cache.batch(indices)
        assert batch.dtype == np.uint8
        assert np.abs(batch / 255 - expected[indices]).max() <= 0.5 / 255 + 1e-6
    assert np.abs((cache.batch(np.arange(12)) / 255 - expected).mean()) < 0.02 / 255  # to nearest, not down


def test_compact_images_of_the_files_own_size_are_exact(paths):
    cache = ImageCache(paths, RGB8, (64, 64), compact=True)
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(
            cache.batch(np.array([i]))[0], preprocess.as_image(path).transpose(2, 0, 1)
        )


@pytest.mark.parametrize(("dtype", "top"), [("uint16", 4095.0), ("float32", 2.0)])
def test_only_8_bit_formats_are_kept_compact(tmp_path, dtype, top):
    paths, rng = [], np.random.default_rng(0)
    for i in range(3):
        paths.append(tmp_path / f"{i}.tif")
        tifffile.imwrite(paths[-1], (rng.random((20, 30)) * top).astype(dtype))
    image_format = ImageFormat(dtype=dtype, channels=1, value_range=(0.0, top))
    for budget in (0, 10**6):
        batch = ImageCache(paths, image_format, SIZE, compact=True, budget=budget).batch(np.arange(3))
        assert batch.dtype == np.float32
        expected = np.stack([preprocess.load(path, image_format, SIZE)[0] for path in paths])
        np.testing.assert_array_equal(batch, expected)
