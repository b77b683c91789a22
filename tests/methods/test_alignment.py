"""Turning parts to one angle: poses against scipy's turns, maps that come back, and when parts are turned."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from conftest import save

from blemish.core.errors import UsageError
from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.export.onnx import export
from blemish.images.regions import Regions
from blemish.images.resize import resize
from blemish.inference.load import load
from blemish.inference.model_file import MODEL_NAME, save_model_file
from blemish.methods.auto import AutoConfig
from blemish.methods.baselines.pca import PcaConfig
from blemish.methods.components.alignment import (
    ANGLES,
    RINGS,
    Alignment,
    Pose,
    angle_of,
    centre_of,
    part_weights,
    pull_of,
    signature,
)
from blemish.methods.config import DetectorConfig
from blemish.methods.cpc_ad_config import CpcAdConfig
from blemish.methods.density.filters import Filters, FiltersConfig
from blemish.methods.metal_config import MetalConfig
from blemish.methods.registry import METHODS
from blemish.methods.scorer import Scorer
from blemish.training.alignment import aligned, alignment_of, variance_left, with_alignment
from blemish.training.fit import fit
from blemish.training.images import ImageOptions, load_images
from blemish.training.learn import resized

pytestmark = pytest.mark.usefixtures("single_thread")

SIDE, GREY = 96, 0.8
ONE = torch.tensor(1.0)


def key(*, notch: float = 0.5) -> np.ndarray:
    """Draw a part that has no symmetry, in colour on a plain background: (3, SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    image = np.full((3, SIDE, SIDE), GREY)
    image[:, (np.abs(y) < 7) & (np.abs(x) < 34)] = 0.3
    image[0, np.hypot(x - 26, y) < 14] = 0.1
    image[1, (np.abs(x + 20) < 5) & (y > 0) & (y < 7)] = notch
    return scipy.ndimage.gaussian_filter(image, (0, 1, 1))


def turned(image: np.ndarray, degrees: float, moved: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Turn (C, H, W) by an angle that grows from the columns' axis towards the rows', and move it."""
    out = scipy.ndimage.rotate(image, -degrees, axes=(1, 2), reshape=False, order=3, cval=GREY)
    return scipy.ndimage.shift(out, (0, *moved), order=3, cval=GREY)


def stack(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images).astype(np.float32)).clamp(0, 1)


@functools.cache
def good(n: int = 12, seed: int = 0) -> torch.Tensor:
    """The same images, drawn once: no test changes them."""
    draws = np.random.default_rng(seed)
    parts = (turned(key(), draws.uniform(0, 360), tuple(draws.uniform(-6, 6, 2))) for _ in range(n))
    return stack(*(part + draws.normal(0, 0.01, part.shape) for part in parts))


def learnt(x: torch.Tensor) -> Alignment:
    alignment = Alignment(x.shape[1], (SIDE, SIDE))
    assert alignment.learn(x)
    return alignment


# --- the equations ---


def test_weights_and_centre_by_hand():
    x = torch.full((1, 2, 4, 6), 0.5)
    x[0, :, 1, 4] = torch.tensor([0.7, 0.5])  # 0.1 away
    x[0, :, 2, 4] = 0.9  # 0.4 away
    w = part_weights(x, torch.tensor([0.5, 0.5]), torch.tensor(0.08))
    expected = torch.zeros(1, 4, 6)
    expected[0, 1, 4], expected[0, 2, 4] = 0.25, 1.0
    torch.testing.assert_close(w, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        centre_of(w).float(), torch.tensor([[(0.25 * 1.5 + 2.5) / 1.25, 4.5]]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(centre_of(torch.zeros(1, 4, 6)).float(), torch.tensor([[2.0, 3.0]]))


def test_rings_are_read_at_their_places_less_their_mean():
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    ramp = (0.01 * x + 0.005 * y)[None, None]
    found = signature(ramp, torch.zeros(1), torch.tensor([[24.0, 32.0]]), ONE)
    assert found.shape == (1, 1, RINGS, ANGLES)
    radius = (np.arange(RINGS) + 0.5) * 24 / RINGS
    theta = np.arange(ANGLES) * 2 * np.pi / ANGLES
    wave = radius[:, None] * (0.01 * np.cos(theta) + 0.005 * np.sin(theta))
    inside = radius < 23  # beyond the middles of the outer pixels lies the colour
    expected = wave * np.sqrt(radius)[:, None]
    np.testing.assert_allclose(found[0, 0].numpy()[inside], expected[inside], atol=1e-4)


@pytest.mark.parametrize("angle", [0.0, 1.4, 3.0, 91.7, 180.0, 268.2, 359.0])
def test_the_angle_of_a_part_is_found_to_half_a_degree(angle: float):
    x = stack(key(), turned(key(), angle))
    centre = torch.full((2, 2), SIDE / 2)
    first, second = signature(x, torch.full((3,), GREY), centre, ONE)
    found = math.degrees(float(angle_of(second[None], first)[0]))
    assert abs((found - angle + 180) % 360 - 180) < 0.5


def test_a_small_move_is_read_off_the_difference_from_the_mean():
    y, x = np.mgrid[:64, :64] - 31.5

    def blobs(rows: float, cols: float, angle: float) -> torch.Tensor:
        """A mean as it looks where the part lies by so much elsewhere, at half size."""
        cos, sin = math.cos(angle), math.sin(angle)
        down, right = sin * x + cos * y + rows, cos * x - sin * y + cols
        picture = np.exp(-((down - 8) ** 2 + right**2) / 60) + np.exp(-(down**2 + (right + 12) ** 2) / 90)
        return torch.from_numpy(picture.reshape(1, 32, 2, 32, 2).mean(axis=(2, 4)))

    mean = blobs(0, 0, 0)
    off = blobs(-0.3, 0.2, -0.01) - mean
    pull = pull_of(mean.float(), torch.full_like(mean, 0.01).float(), ONE)
    rows, cols, border = (pull.double() @ off.flatten()).tolist()
    assert rows == pytest.approx(0.3, abs=0.05)
    assert cols == pytest.approx(-0.2, abs=0.05)
    assert border / 32 == pytest.approx(0.01, abs=0.002)


def test_an_image_without_a_part_has_the_angle_zero():
    template = signature(stack(key()), torch.full((3,), GREY), torch.full((1, 2), SIDE / 2), ONE)[0]
    empty = torch.full((1, 3, RINGS, ANGLES), 1e-6).cumsum(dim=3)
    assert float(angle_of(empty, template)[0]) == 0


# --- the module ---


def test_parts_are_turned_alike_and_moved_to_the_middle():
    alignment = learnt(good())
    x = good(seed=1)
    turned_alike = alignment.align(x, alignment.pose_of(x))
    assert turned_alike.var(dim=0).mean() < 0.1 * x.var(dim=0).mean()
    centre = centre_of(part_weights(turned_alike, alignment.colour, alignment.apart))
    torch.testing.assert_close(centre.float(), torch.full((12, 2), SIDE / 2), atol=0.7, rtol=0)


def test_maps_come_back_to_where_the_parts_lay():
    x = good()
    alignment = learnt(x)
    pose = alignment.pose_of(x)
    there_and_back = alignment.back(alignment.align(x, pose), pose)
    assert (there_and_back - x).abs().mean() < 0.01
    still = Pose(centre=torch.full((12, 2), SIDE / 2), angle=torch.zeros(12))
    torch.testing.assert_close(alignment.align(x, still), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(alignment.back(x, still), x, atol=1e-5, rtol=0)


def test_parts_that_are_longer_than_the_image_is_high_are_seen_whole():
    rod = np.full((1, SIDE, SIDE), GREY)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    rod[0, (np.abs(x - y) < 5) & (np.abs(x + y) < 80)] = 0.2
    rod[0, (np.abs(x - y) < 16) & (x + y > 70) & (x + y < 80)] = 0.2
    quarters = stack(*(np.rot90(rod, i % 4, (1, 2)) for i in range(8)))
    alignment = learnt(quarters)
    assert 1.1 < float(alignment.zoom) < 1.3
    pose = alignment.pose_of(quarters)
    upright = alignment.align(quarters, pose)
    size = (quarters < 0.5).float().sum(dim=(1, 2, 3))
    seen = (upright < 0.5).float().sum(dim=(1, 2, 3)) * alignment.zoom**2
    torch.testing.assert_close(seen, size, rtol=0.05, atol=0)
    assert (alignment.back(upright, pose) - quarters).abs().mean() < 0.02


def test_a_missing_piece_does_not_move_the_part():
    alignment, whole = learnt(good()), key()
    lacking = key()
    lacking[:, :, : SIDE // 4] = GREY  # a tenth of the part, at its end
    lacking = scipy.ndimage.gaussian_filter(lacking, (0, 1, 1))
    x = stack(turned(whole, 77.0), turned(lacking, 77.0))
    rough, fine = alignment._rough(x), alignment.pose_of(x)
    assert (rough.centre[0] - rough.centre[1]).norm() > 4
    assert (fine.centre[0] - fine.centre[1]).norm() < 1
    assert math.degrees(abs(float(fine.angle[0] - fine.angle[1]))) < 0.5


def test_a_defect_is_found_again_at_its_place():
    x = good(1, seed=5)
    alignment = learnt(good())
    rows, cols = (part_weights(x, alignment.colour, alignment.apart)[0] > 0.9).nonzero()[40].tolist()
    spot = torch.zeros(1, 1, SIDE, SIDE)
    spot[0, 0, rows - 1 : rows + 2, cols - 1 : cols + 2] = 1
    pose = alignment.pose_of(x)
    back = alignment.back(Alignment(1, (SIDE, SIDE)).align(spot, pose), pose)[0, 0]
    found = divmod(int(back.argmax()), SIDE)
    assert abs(found[0] - rows) <= 1
    assert abs(found[1] - cols) <= 1


def test_parts_far_longer_than_the_image_is_high_are_not_turned():
    wide = torch.full((8, 1, 32, 128), GREY)
    wide[:, :, 12:20, 10:118] = 0.2
    assert not Alignment(1, (32, 128)).learn(wide)


def test_without_a_plain_background_nothing_is_learnt():
    noise = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert not Alignment(3, (SIDE, SIDE)).learn(noise)


# --- whether parts are turned ---


def training(x: torch.Tensor, *, regions: Regions | None = None, aspect: float = 1.0) -> Any:
    batches = SimpleNamespace(batch=lambda i: x.numpy()[i], __len__=lambda: len(x))
    images = type("Images", (), {"__len__": lambda _: len(x), "batch": lambda _, i: batches.batch(i)})()
    return SimpleNamespace(train=images, regions=regions or Regions(), aspect=aspect)


def test_good_images_alone_say_whether_parts_are_turned():
    draws = np.random.default_rng(2)
    moved = turned(key(), 0, (0.5, 0.5))  # so that noise would be averaged when it is moved back
    alike = stack(*(moved + draws.normal(0, 0.01, (3, SIDE, SIDE)) for _ in range(12)))
    assert alignment_of(AutoConfig(image_size=SIDE), training(good())) is not None
    assert alignment_of(AutoConfig(image_size=SIDE), training(alike)) is None
    assert alignment_of(AutoConfig(image_size=SIDE, aligned=True), training(alike)) is not None
    assert alignment_of(AutoConfig(image_size=SIDE, aligned=False), training(good())) is None
    assert alignment_of(AutoConfig(image_size=SIDE, tile_size=32), training(good())) is None
    assert alignment_of(AutoConfig(image_size=SIDE), training(good(4))) is None
    covered: Any = SimpleNamespace(cover_something=True)
    assert alignment_of(AutoConfig(image_size=SIDE), training(good(), regions=covered)) is None


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.02, 0.04])
@pytest.mark.parametrize("moved", [(0.0, 0.0), (0.5, 0.5), (3.5, -2.5)])
def test_noise_alone_turns_no_parts(noise: float, moved: tuple[float, float]):
    draws, part = np.random.default_rng(4), turned(key(), 0, moved)
    alike = stack(*(part + draws.normal(0, noise, part.shape) for _ in range(16)))
    assert alignment_of(AutoConfig(image_size=SIDE), training(alike)) is None


def test_images_that_were_squeezed_are_turned_as_they_were_before():
    wide = [np.pad(image, ((0, 0), (0, 0), (16, 16)), constant_values=GREY) for image in good().numpy()]
    squeezed = stack(*(resize(image.astype(np.float32), (SIDE, SIDE)) for image in wide))  # of 4:3
    found, without = (
        alignment_of(AutoConfig(image_size=SIDE, aligned=True), training(squeezed, aspect=aspect))
        for aspect in (4 / 3, 1.0)
    )
    assert found is not None
    assert without is not None
    assert variance_left(found, squeezed) < 0.01
    assert variance_left(found, squeezed) < 0.3 * variance_left(without, squeezed)
    pose = found.pose_of(squeezed)
    assert (found.back(found.align(squeezed, pose), pose) - squeezed).abs().mean() < 0.01


def test_dark_images_are_turned_as_bright_ones():
    bright, dark = learnt(good()), learnt(good() / 16)
    one, other = bright.pose_of(good(seed=8)), dark.pose_of(good(seed=8) / 16)
    torch.testing.assert_close(one.centre, other.centre, atol=0.02, rtol=0)
    torch.testing.assert_close(one.angle, other.angle, atol=0.002, rtol=0)


def test_images_say_how_much_they_were_squeezed(tmp_path: Path):
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 255, (30, 40, 3), np.uint8)
        save(tmp_path / f"{number}.png", picture)
    split = split_good(open_dataset(tmp_path), validation_fraction=0, calibration_fraction=0, seed=0)
    for size, aspect in ((64, 4 / 3), ((30, 40), 1.0)):
        images = load_images(split, AutoConfig(image_size=size), ImageOptions(), lambda _: lambda: None, 0)
        assert images.aspect == pytest.approx(aspect)


def test_what_cannot_be_turned_is_refused_where_it_was_asked_for():
    noise = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UsageError, match="on a plain background that fit into"):
        alignment_of(AutoConfig(image_size=SIDE, aligned=True), training(noise))
    with pytest.raises(UsageError, match="do not turn with the part"):
        regions: Any = SimpleNamespace(cover_something=True)
        alignment_of(AutoConfig(image_size=SIDE, aligned=True), training(good(), regions=regions))
    with pytest.raises(UsageError, match="--aligned: a tile does not show where the part lies"):
        AutoConfig(aligned=True, tile_size=32)


def test_turned_images_are_kept_and_given_in_any_order(monkeypatch: pytest.MonkeyPatch):
    x = good()
    alignment = learnt(x)
    expected = alignment.align(x, alignment.pose_of(x)).numpy()
    images: Any = aligned(training(x).train, alignment, (SIDE, SIDE))
    for order in ([3, 1, 3], list(range(12)), [11, 0]):
        np.testing.assert_allclose(images.batch(np.array(order)), expected[order], atol=1e-5)
    assert len(images.kept) == len(images) == 12
    monkeypatch.setattr("blemish.training.learn.CHANGED_BYTES", 1)
    few: Any = aligned(training(x).train, alignment, (SIDE, SIDE))
    np.testing.assert_allclose(few.batch(np.array([4, 2])), expected[[4, 2]], atol=1e-5)
    assert not few.kept


def test_larger_images_for_crops_are_turned_as_those_that_are_scored(tmp_path: Path):
    for number, image in enumerate(good()):
        save(tmp_path / f"{number:02d}.png", as_bytes(image))
    split = split_good(open_dataset(tmp_path), validation_fraction=0.2, calibration_fraction=0.2, seed=0)
    images = load_images(split, CpcAdConfig(image_size=SIDE), ImageOptions(), lambda _: lambda: None, 0)
    config, found = with_alignment(CpcAdConfig(image_size=SIDE), images)
    assert config.aligned is True
    assert found.held_out is images.held_out
    everyone = np.arange(len(found.train))
    larger, scored = (resized(each, (SIDE, SIDE)).batch(everyone) for each in (found.train, found.scored))
    assert found.train.batch(everyone).shape[2:] == config.loading_size != config.size
    np.testing.assert_allclose(larger, scored, atol=0.05)
    assert found.validation is not None
    for turned_images in (larger, scored, found.validation.batch(np.arange(len(found.validation)))):
        assert np.abs(turned_images - scored.mean(axis=0)).mean() < 0.02


# --- a whole training ---


@pytest.mark.slow
@pytest.mark.usefixtures("operators_read_once")
@pytest.mark.parametrize(
    "config",
    [
        AutoConfig(members=("filters",)),
        MetalConfig(steps=60, batch_size=8),
    ],
    ids=["auto", "metal"],
)
def test_parts_at_any_angle_are_learnt_scored_and_exported(tmp_path: Path, config: DetectorConfig):
    for number, image in enumerate(good(30, seed=3)):
        save(tmp_path / "good" / f"{number:02d}.png", as_bytes(image))
    config = replace(config, image_size=SIDE, calibration_fraction=0.2)
    detector = fit(tmp_path / "good", config=config, out=tmp_path / "run", seed=0, device="cpu")
    assert detector.model_file.config["aligned"] is True
    assert detector.model_file.provenance.get("choice", {"aligned": True})["aligned"] is True
    again = fit(tmp_path / "good", config=config, out=tmp_path / "run", seed=0, device="cpu", resume=True)
    assert again.model_file.config["aligned"] is True
    marks = {}
    for name, notch in (("whole", 0.5), ("dark", 0.05)):  # the notch tells by its place alone
        image = stack(turned(key(notch=notch), 133.0, (3.0, -4.0)))[0]
        marks[name] = save(tmp_path / f"{name}.png", as_bytes(image))
    whole, dark = (detector.predict(marks[name]) for name in ("whole", "dark"))
    assert dark.score > whole.score
    rows, cols = np.unravel_index(int(dark.anomaly_map.argmax()), dark.anomaly_map.shape)
    angle = math.radians(133.0)
    x, y = -20.0, 3.5  # of the notch, from the part's middle
    expected = (
        SIDE / 2 + 3 + x * math.sin(angle) + y * math.cos(angle),
        SIDE / 2 - 4 + x * math.cos(angle) - y * math.sin(angle),
    )
    assert math.dist((rows, cols), expected) < 8
    assert export(tmp_path / "run", tmp_path / "model.onnx") < 1e-3
    exported = load(tmp_path / "model.onnx", device="cpu").predict(marks["dark"])
    assert exported.score == pytest.approx(dark.score, rel=1e-3)


def test_parts_that_lie_alike_are_learnt_to_the_same_bits_as_without(tmp_path: Path):
    draws = np.random.default_rng(0)
    for number in range(10):
        image = torch.from_numpy(key() + draws.normal(0, 0.01, (3, SIDE, SIDE)))
        save(tmp_path / "good" / f"{number:02d}.png", as_bytes(image))
    config = FiltersConfig(image_size=SIDE, calibration_fraction=0.2)
    files = [
        fit(tmp_path / "good", config=replace(config, aligned=asked), seed=0, device="cpu").model_file
        for asked in (None, False)
    ]
    for name, values in files[0].tensors.items():
        np.testing.assert_array_equal(values, files[1].tensors[name])


def test_a_scorer_is_made_on_the_device_of_its_network():
    network = Filters(FiltersConfig(image_size=64, aligned=True), 1).to("meta")
    assert Scorer(network).to("meta")(torch.zeros(1, 1, 64, 64, device="meta")).shape == (1, 64, 64)


def test_a_finished_run_from_before_the_option_is_recognised(tmp_path: Path):
    for number, image in enumerate(good(8)):
        save(tmp_path / "good" / f"{number}.png", as_bytes(image))
    options: Any = {"config": PcaConfig(image_size=32), "out": tmp_path / "run", "device": "cpu"}
    model_file = fit(tmp_path / "good", **options).model_file
    before = {key: value for key, value in model_file.config.items() if key != "aligned"}
    save_model_file(tmp_path / "run" / MODEL_NAME, replace(model_file, config=before))
    assert fit(tmp_path / "good", **options, resume=True).model_file.config == before


def test_what_papers_published_turns_no_parts():
    for kind in METHODS.values():
        for name, preset in kind.presets.items():
            assert preset.aligned is False or not name.startswith("paper")


def as_bytes(image: torch.Tensor) -> np.ndarray:
    return np.rint(image.clamp(0, 1).numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
