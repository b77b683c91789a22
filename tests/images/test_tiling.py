"""Tiles: by hand, as a partition of unity, and against the map of the whole image."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import run
from conftest import save
from fakes import RGB8, fake_detector, with_options
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from blemish.core.errors import ImageError, UsageError
from blemish.core.types import Prediction, Tiling
from blemish.data.cache import ImageCache
from blemish.images import preprocess
from blemish.images.tiling import Grid
from blemish.inference import load
from blemish.inference.detector import Detector
from blemish.methods.baselines.pca import PcaConfig
from blemish.training import fit


def rows_of(length: int, tile: int, overlap: float) -> list[int]:
    grid = Grid((length, 16), Tiling(size=(tile, 16), overlap=overlap))
    return [rows.start for rows, _ in grid.boxes]


def test_places_by_hand():
    assert rows_of(16, 16, 0.25) == [0]
    assert rows_of(17, 16, 0.25) == [0, 1]
    # steps of 16 * 3/4 = 12 at most: 40 - 16 = 24 is two of them
    assert rows_of(40, 16, 0.25) == [0, 12, 24]
    # 41 - 16 = 25 takes three: 25/3 and 50/3, rounded down
    assert rows_of(41, 16, 0.25) == [0, 8, 16, 25]
    assert rows_of(48, 16, 0.0) == [0, 16, 32]


def test_weights_by_hand():
    # Two tiles of 16 on 24 pixels share 8 = o. Weights: nothing within o/4 = 2 of the edge, then 4 pixels of
    # ramp, at their centres 1/8, 3/8, 5/8, 7/8.
    grid = Grid((24, 16), Tiling(size=(16, 16), overlap=0.5))
    first, second = np.ones((16, 16)), np.zeros((16, 16))
    stitched = grid.stitch([first, second])[:, 5]
    expected = [1] * 10 + [7 / 8, 5 / 8, 3 / 8, 1 / 8] + [0] * 10
    np.testing.assert_allclose(stitched, expected, atol=1e-7)
    assert grid.stitch([first, first]).dtype == np.float32


def test_without_overlap_tiles_lie_side_by_side():
    grid = Grid((32, 16), Tiling(size=(16, 16), overlap=0.0))
    parts = [np.full((16, 16), value) for value in (1.0, 2.0)]
    np.testing.assert_array_equal(grid.stitch(parts), np.vstack(parts))


sizes = st.tuples(st.integers(32, 120), st.integers(24, 120))


@given(size=sizes, tile=st.tuples(st.integers(16, 32), st.integers(16, 24)), overlap=st.floats(0, 0.5))
def test_pieces_of_a_map_join_to_the_map(size: tuple[int, int], tile: tuple[int, int], overlap: float):
    whole = np.random.default_rng(0).normal(size=size).astype(np.float32)
    grid = Grid(size, Tiling(size=tile, overlap=overlap))
    assert all(whole[box].shape == tile for box in grid.boxes)
    np.testing.assert_allclose(grid.stitch(whole[box] for box in grid.boxes), whole, atol=1e-5)


@given(size=sizes, overlap=st.floats(0.25, 0.5))
def test_what_a_tile_says_near_its_inner_edges_counts_for_nothing(size: tuple[int, int], overlap: float):
    grid = Grid(size, Tiling(size=(32, 24), overlap=overlap))
    margin = (int(overlap * 32 / 4), int(overlap * 24 / 4))
    parts = []
    for rows, columns in grid.boxes:
        part = np.full((32, 24), 1e6)
        inner = (
            slice(margin[0] if rows.start else 0, 32 - (margin[0] if rows.stop < size[0] else 0)),
            slice(margin[1] if columns.start else 0, 24 - (margin[1] if columns.stop < size[1] else 0)),
        )
        part[inner] = 1
        parts.append(part)
    np.testing.assert_allclose(grid.stitch(parts), 1, atol=1e-6)


def test_too_small_an_image_and_impossible_tiles_are_refused():
    with pytest.raises(ImageError, match=r"a\.png: 40 x 20 px is smaller than the model's tiles, 16 x 32"):
        Grid((20, 40), Tiling(size=(32, 16), overlap=0.25), name="a.png")
    with pytest.raises(UsageError, match="--tile-size 8: must be 16 or larger"):
        Tiling(size=(8, 64), overlap=0.25)
    for overlap in (-0.1, 0.51, float("nan")):
        with pytest.raises(UsageError, match="--tile-overlap"):
            Tiling(size=(64, 64), overlap=overlap)


# --- through the pipeline ---


def tiled(network, *, side: int = 32, overlap: float = 0.5) -> Detector:
    detector = fake_detector(network=network, side=side, grey_levels=[100, 120, 140])
    return with_options(detector, tile_size=side, tile_overlap=overlap)


def blurred(x: np.ndarray) -> np.ndarray:
    """Look 4 pixels far, and see nothing beyond the edges."""
    return ndimage.uniform_filter(x.mean(axis=1), size=(0, 9, 9), mode="constant").astype(np.float32)


def noise(height: int, width: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(32, 32), (32, 75), (97, 64), (100, 133)])
def test_a_network_that_looks_as_far_as_a_quarter_of_the_overlap_gives_the_map_of_the_whole(size):
    picture = noise(*size)
    whole = blurred(preprocess.convert(picture, RGB8)[None])[0]
    found = tiled(blurred).predict(picture)  # 32 * 0.5 / 4 = 4
    assert found.anomaly_map.shape == size
    np.testing.assert_allclose(found.anomaly_map, whole, atol=1e-5)


def test_one_that_looks_farther_does_not(size=(32, 75)):
    whole = blurred(preprocess.convert(noise(*size), RGB8)[None])[0]
    found = tiled(blurred, overlap=0.25).predict(noise(*size))
    assert np.abs(found.anomaly_map - whole).max() > 0.01


def test_an_image_of_one_tile_is_scored_as_without_tiles(tiny_model: Path, tiny_category: Path):
    plain = load.load(tiny_model, device="cpu")
    cut = with_options(plain, tile_size=64, tile_overlap=0.25)
    for path in sorted((tiny_category / "test").rglob("*.png"))[:4]:
        a, b = plain.predict(path), cut.predict(path)
        np.testing.assert_array_equal(a.anomaly_map, b.anomaly_map)
        assert replace(a, anomaly_map=0) == replace(b, anomaly_map=0)


def test_a_part_is_as_bad_as_its_worst_tile():
    picture = np.full((32, 96, 3), 50, np.uint8)
    picture[:, 70:] = 200  # only the last tile, from 64, is 200 on the average of its brightest hundredth
    picture[5, 5] = 255
    detector = tiled(lambda x: x.mean(axis=1), overlap=0.0)
    top = with_options(detector, image_score="mean")
    assert detector.predict(picture).score == 1.0
    assert top.predict(picture).score == pytest.approx((26 * 200 + 6 * 50) / 32 / 255, rel=1e-6)
    assert [(r.x0, r.x1) for r in detector.predict(picture).regions] == [(5, 6), (70, 96)]


def test_each_tile_is_resized_to_what_the_network_takes():
    seen = []

    def network(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape)
        return x.mean(axis=1)

    detector = tiled(network, overlap=0.0)
    half = replace(with_options(detector, image_size=(16, 8)), batch_size=4)
    assert half.predict(noise(64, 96)).anomaly_map.shape == (64, 96)
    assert seen == [(4, 3, 16, 8), (2, 3, 16, 8)]  # 2 x 3 tiles, four at a time


def test_files_come_in_order_and_a_small_one_is_an_error_in_its_place(tmp_path: Path):
    sizes = [(40, 40), (20, 64), (32, 32)]
    paths = [save(tmp_path / f"{i}.png", noise(*size)) for i, size in enumerate(sizes)]
    first, small, last = tiled(blurred).predict_many(paths)
    assert isinstance(first, Prediction)
    assert first.path == str(paths[0])
    assert isinstance(small, ImageError)
    assert str(small).startswith(f"{paths[1]}: 64 x 20 px is smaller than the model's tiles, 32 x 32 px")
    assert isinstance(last, Prediction)


# --- trained on tiles ---


@pytest.mark.slow
@pytest.mark.usefixtures("operators_read_once")
def test_training_on_tiles_makes_a_model_that_cuts_tiles(tmp_path: Path):
    good, bad = tmp_path / "good", noise(96, 130) // 8 + 100
    for i in range(8):
        texture = np.random.default_rng(i).integers(100, 131, (96, 130, 3), np.uint8)
        save(good / f"{i}.png", texture)
    bad[40:52, 100:112] = 0
    config = PcaConfig(image_size=16, components=3, tile_size=32, calibration_fraction=0.5)
    ours = fit.fit(good, method="pca", config=config, out=tmp_path / "run", device="cpu")
    assert run("export", "--model", tmp_path / "run", "--out", tmp_path / "model.onnx") == 0
    for detector in (ours, load.load(tmp_path / "run"), load.load(tmp_path / "model.onnx")):
        found = detector.predict(bad)
        assert detector.model_file.tiling == Tiling(size=(32, 32), overlap=0.25)
        assert found.anomalous
        row, column = np.unravel_index(found.anomaly_map.argmax(), found.anomaly_map.shape)
        assert 38 <= row < 54
        assert 98 <= column < 114
        assert found.score == pytest.approx(ours.predict(bad).score, rel=1e-4)


def test_as_many_tiles_are_kept_as_fit_equally_many_of_each_image(tmp_path: Path):
    paths = [save(tmp_path / f"{i}.png", np.full((64, 64 + 32 * i, 3), 10 * i, np.uint8)) for i in range(3)]
    tiling = Tiling(size=(32, 32), overlap=0.0)  # 4, 6 and 8 tiles

    def levels(fits: int, seed: int = 0) -> list[float]:
        cache = ImageCache(paths, RGB8, (16, 16), tiling=tiling, budget=fits * 4 * 3 * 16 * 16, seed=seed)
        everything = cache.batch(np.arange(len(cache)))
        np.testing.assert_array_equal(cache.files.batch(np.arange(len(cache))), everything)
        np.testing.assert_array_equal(cache.files.at_size((8, 8)).batch(np.array([0]))[0], 0)
        return np.rint(everything[:, 0, 0, 0] * 255).tolist()

    assert levels(100) == [0] * 4 + [10] * 6 + [20] * 8
    assert levels(15) == [0] * 4 + [10] * 5 + [20] * 5
    assert levels(6) == [0] * 2 + [10] * 2 + [20] * 2
    assert levels(1) == [0, 10, 20]  # one of each at least; those without room are read again


def test_the_seed_draws_the_tiles(tmp_path: Path):
    path = save(tmp_path / "a.png", noise(256, 256))

    def kept(seed: int) -> np.ndarray:
        cache = ImageCache(
            [path], RGB8, (32, 32), tiling=Tiling(size=(32, 32), overlap=0.0), budget=50_000, seed=seed
        )
        return cache.batch(np.arange(len(cache)))

    np.testing.assert_array_equal(kept(1), kept(1))
    assert not np.array_equal(kept(1), kept(2))


@pytest.mark.slow
@pytest.mark.usefixtures("operators_read_once")
def test_a_hundred_million_pixels_fit_in_two_gigabytes(tmp_path: Path):
    code = f"""
import json, re
from pathlib import Path
import blemish
from blemish.inference.predict_folder import predict_to_folder
from blemish.inference.inputs import find_inputs
detector = blemish.load({str(tmp_path / "model.onnx")!r}, false_alarm_rate=0.5)
inputs, out = find_inputs([{str(tmp_path / "large")!r}]), Path({str(tmp_path / "out")!r})
counts = predict_to_folder(detector, inputs, out)
assert (counts.scored, counts.anomalous) == (2, 2), counts
regions = [len(json.loads(row)["regions"]) for row in (out / "predictions.jsonl").open()]
assert all(regions) and max(regions) < 1000, regions
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    for i in range(4):
        save(tmp_path / "good" / f"{i}.png", noise(512, 512, i) // 8 + 100)
    config = PcaConfig(image_size=32, components=2, tile_size=512, calibration_fraction=0.5)
    fit.fit(tmp_path / "good", method="pca", config=config, out=tmp_path / "run", device="cpu")
    assert run("export", "--model", tmp_path / "run", "--out", tmp_path / "model.onnx") == 0
    large = np.tile(noise(250, 250, 9) // 8 + 100, (20, 80, 1))
    large[3000:3200, 15000:15100] = 0
    (tmp_path / "large").mkdir()
    Image.fromarray(large).save(tmp_path / "large" / "a.bmp")
    (tmp_path / "large" / "b.bmp").hardlink_to(tmp_path / "large" / "a.bmp")
    del large
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    # not ru_maxrss, which begins at what this process held when it forked
    assert int(said.stdout) < 2 * 2**20  # KiB at its peak
