"""When parts are turned to one angle, by good images alone, and whole trainings of parts that were."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save
from turned_parts import GREY, SIDE, as_bytes, good, key, learnt, stack, turned

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
