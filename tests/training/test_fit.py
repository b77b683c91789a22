"""From a folder to a model: what is trained on, what is held out, what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import tifffile
from conftest import save, tiny_image
from fakes import count_decodes
from imagecodecs import png_encode
from PIL import Image

from blemish.core.errors import BlemishError, DataError, ImageError, Interrupted, TrainingError, UsageError
from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.images.preprocess import ImageFormat
from blemish.inference import load
from blemish.inference.model_file import load_model_file
from blemish.methods.baselines.pca import PcaConfig
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig
from blemish.training.fit import ImageOptions, Watcher, fit

SMALL = {"image_size": 32, "patch_size": 8, "embedding": 8, "hidden": 16, "heads": 2, "batch_size": 4}
TINY = MetalConfig(**SMALL, epochs=2, learning_rate=1e-3, validation_fraction=0.25, calibration_fraction=0.25)


pytestmark = pytest.mark.usefixtures("single_thread")


def trained(data: Path, **options):
    return fit(data, **{"config": TINY, "device": "cpu", "precision": "fp32", **options})


def refusal(kind: type[BlemishError], data: Path, *words: object, **options) -> str:
    with pytest.raises(kind) as error:
        trained(data, **options)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text
    return text


@pytest.fixture
def good(tiny_category, tmp_path) -> Path:
    """A folder with the twelve good images, free to be spoilt."""
    return Path(shutil.copytree(tiny_category / "train" / "good", tmp_path / "good"))


def split_of(data: Path, seed: int = 0):
    return split_good(open_dataset(data), validation_fraction=0.25, calibration_fraction=0.25, seed=seed)


def same_weights(a, b) -> bool:
    return all(np.array_equal(a.model_file.tensors[k], v) for k, v in b.model_file.tensors.items())


def noise_into(path: Path, seed: int = 1) -> None:
    pixels = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


class Counting(Watcher):
    """Counts what it is told, and stops the training after a step."""

    def __init__(self, stop_after: int = -1) -> None:
        self.stop_after, self.total, self.loaded, self.steps = stop_after, 0, 0, 0

    def loading(self, total):
        self.total += total

        def one() -> None:
            self.loaded += 1

        return one

    def training(self, trainer):
        self.steps += 1
        if self.steps == self.stop_after:
            trainer.ask_to_stop()


# --- the run folder ---


def test_run_folder_and_provenance(good, tmp_path):
    watcher = Counting()
    detector = trained(good, out=tmp_path / "run", seed=5, watcher=watcher)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "log.csv",
        "model.safetensors",
        "run.json",
    ]
    # 12 images, a quarter each held out twice: 3 and 3; 6 to train on in batches of 4: 2 steps, 2 epochs.
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["images"] == {"train": 6, "validation": 3, "calibration": 3}
    assert (run["seed"], run["dataset"], run["result"]["epochs"], run["result"]["steps"]) == (5, "good", 2, 4)
    assert (watcher.total, watcher.loaded, watcher.steps) == (12, 12, 4)
    assert run["config"] == json.loads(json.dumps(asdict(TINY)))
    assert run["machine"]["precision"] == "fp32"
    split = split_of(good, seed=5)
    fitted = {s.path.name for s in (*split.train, *split.validation)}
    assert set(detector.model_file.provenance["training_digests"].values()) == fitted
    assert detector.model_file.calibration.n == 3


def test_the_saved_model_is_the_returned_one(good, tmp_path):
    returned = trained(good, out=tmp_path / "run")
    loaded = load.load(tmp_path / "run")
    assert same_weights(returned, loaded)
    for path in sorted(good.iterdir())[:2]:
        a, b = returned.predict(path), loaded.predict(str(path))
        assert (a.score, a.p_value, a.threshold, a.regions) == (b.score, b.p_value, b.threshold, b.regions)
        np.testing.assert_array_equal(a.anomaly_map, b.anomaly_map)


def test_a_finished_run_is_not_overwritten(good, tmp_path):
    out = tmp_path / "run"
    trained(good, out=out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    refusal(UsageError, good, out, "finished run", "--out", out=out)
    watcher = Counting()
    again = trained(good, out=out, resume=True, watcher=watcher)  # is only loaded
    assert watcher.steps == 0
    assert same_weights(again, load.load(out))
    other = replace(TINY, learning_rate=0.5)
    refusal(UsageError, good, out, "seed was 0, not 1", "--out", out=out, resume=True, seed=1)
    refusal(UsageError, good, out, "learning_rate was", "--out", out=out, resume=True, config=other)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"image_options": ImageOptions(channels=1)}, "image format was 3-channel uint8"),
        ({"image_options": ImageOptions(channels=3)}, "--channels was not given, not given"),
        ({"precision": "bf16"}, "precision was fp32, not bf16"),
        ({"seed": 4}, "seed was 0, not 4"),
        ({"config": replace(TINY, calibration_fraction=0.5)}, "calibration_fraction was"),
    ],
)
def test_a_finished_run_of_other_options_is_refused(once_finished, good, options, text):
    refusal(UsageError, good, once_finished, text, "--out", out=once_finished, resume=True, **options)
    trained(good, out=once_finished, resume=True, image_options=ImageOptions(bit_depth=8), precision="fp32")


@pytest.fixture
def once_finished(good, tmp_path):
    trained(good, out=tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_of_other_calibration_images_is_refused(tiny_category, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_category, data)
    (data / "calibration").mkdir()
    shutil.copytree(data / "test" / "good", data / "calibration" / "good")
    out = tmp_path / "run"
    trained(data, out=out)
    trained(data, out=out, resume=True)
    noise_into(data / "calibration" / "good" / "000.png", 9)
    refusal(UsageError, data, out, "calibration images was", "--out", out=out, resume=True)


# --- images that show nothing ---


@pytest.mark.parametrize("method", ["metal", "pca", "kde"])
@pytest.mark.parametrize("levels", [(0,), (255,), (7, 90, 200), (0, 1)])
def test_images_without_contrast_are_refused(tmp_path, method, levels):
    for i in range(8):
        pixels = np.full((64 + i, 64, 3), levels[i % len(levels)], np.uint8)
        pixels[0, 0] = min(255, int(pixels[0, 0, 0]) + (i % 2 and levels == (0, 1)))
        save(tmp_path / "good" / f"{i}.png", pixels)
    with pytest.raises(
        DataError, match=r"\.png, all .*: has no contrast, nor has any of the \d training images"
    ) as e:
        fit(tmp_path / "good", method=method, device="cpu")
    assert "\n" not in str(e.value)


def test_deep_images_without_contrast_are_refused_and_contrast_is_enough(tmp_path):
    def write(contrast: int) -> None:
        for i in range(8):
            pixels = np.full((64, 64), 300 + i, np.uint16) + np.uint16(contrast) * np.eye(64, dtype=np.uint16)
            tifffile.imwrite(tmp_path / f"{i}.tif", pixels)

    write(1)
    with pytest.raises(DataError, match="has no contrast"):
        fit(tmp_path, method="pca", device="cpu")
    write(900)
    fit(tmp_path, method="pca", device="cpu")


def test_deep_images_of_a_small_range_are_learnt_where_it_is_declared(tmp_path: Path):
    def write(name: str, hot: int) -> Path:
        pixels = np.random.default_rng(hot).integers(29300, 29500, (64, 64), np.uint16)
        pixels[20:30, 20:30] += hot
        tifffile.imwrite(tmp_path / name, pixels)
        return tmp_path / name

    for i in range(8):
        write(f"{i}.tif", i)
    with pytest.raises(DataError, match="use a small part of \\[0, 65535\\], declare it: --value-range"):
        fit(tmp_path, method="pca", device="cpu")
    detector = fit(
        tmp_path, method="pca", device="cpu", image_options=ImageOptions(value_range=(29300, 29500))
    )
    assert detector.model_file.image_format == ImageFormat(
        dtype="uint16", channels=1, value_range=(29300, 29500)
    )
    beyond, usual = (detector.predict(write("new.tif", hot)) for hot in (600, 9))
    assert beyond.score > 3 * usual.score


@pytest.mark.heavy
def test_an_unfinished_run(good, tmp_path):
    out, options = tmp_path / "run", {"out": tmp_path / "run", "resume": True}
    refusal(Interrupted, good, "--resume", out, out=out, watcher=Counting(3))
    refusal(UsageError, good, out, "unfinished run", "--resume", out=out)
    refusal(TrainingError, good, "seed was 0 and is now 1", seed=1, **options)
    other = replace(TINY, learning_rate=0.5)
    text = refusal(TrainingError, good, "learning_rate was 0.001 and is now 0.5", config=other, **options)
    assert len(text) < 250 + len(str(out))
    refusal(TrainingError, good, "precision was no and is now bf16", precision="bf16", **options)
    spoilt = Path(shutil.copytree(good, tmp_path / "spoilt"))
    noise_into(spoilt / split_of(good).train[0].path.name)
    refusal(TrainingError, spoilt, "training images was", **options)
    assert same_weights(trained(good, **options), trained(good))


def test_resume_with_the_images_read_otherwise_is_refused(tmp_path):
    data = float_images(tmp_path / "data")
    out, before = tmp_path / "run", ImageOptions(value_range=(0.0, 2.0))
    refusal(Interrupted, data, out=out, watcher=Counting(1), image_options=before)
    after = ImageOptions(value_range=(0.0, 4.0))
    refusal(TrainingError, data, "[0, 2]", "[0, 4]", out=out, resume=True, image_options=after)


# --- held out images ---


def test_calibration_images_take_no_part_in_training(good):
    split = split_of(good)
    before = trained(good)
    for i, sample in enumerate(split.calibration):
        noise_into(sample.path, i)
    after = trained(good)
    assert split_of(good) == split
    assert same_weights(before, after)
    calibrated = [detector.model_file.provenance.pop("calibration_digests") for detector in (before, after)]
    assert calibrated[0].keys().isdisjoint(calibrated[1])
    assert before.model_file.provenance == after.model_file.provenance
    assert after.model_file.calibration.scores.min() > before.model_file.calibration.scores.max()
    noise_into(split.train[0].path)  # the check can fail
    assert not same_weights(before, trained(good))


def test_the_threshold_is_the_score_of_a_calibration_image(good):
    detector = trained(good)
    scores = [detector.predict(s.path).score for s in split_of(good).calibration]
    # 3 images promise 1 / 4 at the lowest; at that rate the threshold is the largest of their scores.
    assert detector.model_file.calibration.scores == pytest.approx(sorted(scores), rel=1e-4)
    assert (detector.rate, detector.threshold) == (0.25, pytest.approx(max(scores), rel=1e-4))


def test_a_bad_calibration_image_is_found_before_training(good):
    path = split_of(good).calibration[1].path
    path.write_bytes(path.read_bytes()[:200])
    watcher = Counting()
    refusal(ImageError, good, path, watcher=watcher)
    assert watcher.steps == 0


@pytest.mark.parametrize("preset", ["paper-object", "paper-texture"])
def test_paper_presets_have_no_threshold(good, preset):
    config = replace(Metal.presets[preset], **SMALL, epochs=1)
    detector = trained(good, preset=preset, config=config)
    prediction = detector.predict(sorted(good.iterdir())[0])
    assert detector.model_file.calibration is None
    assert detector.model_file.preset == preset
    assert (prediction.p_value, prediction.threshold, prediction.anomalous) == (None, None, None)
    assert prediction.regions == []
    assert detector.model_file.provenance["images"] == {"train": 11, "validation": 1, "calibration": 0}


def test_a_calibration_folder_calibrates_even_a_paper_preset(tiny_category, tmp_path):
    shutil.copytree(tiny_category / "train", tmp_path / "data" / "train")
    shutil.copytree(tiny_category / "test" / "good", tmp_path / "data" / "calibration" / "good")
    config = replace(Metal.presets["paper-object"], **SMALL, epochs=1)
    detector = trained(tmp_path / "data", config=config)
    assert detector.model_file.provenance["images"] == {"train": 11, "validation": 1, "calibration": 4}
    own = [detector.predict(p).score for p in (tmp_path / "data" / "calibration" / "good").iterdir()]
    assert detector.threshold == pytest.approx(max(own), rel=1e-4)


def test_without_validation(good):
    detector = trained(good, config=replace(TINY, validation_fraction=0.0))
    assert detector.model_file.provenance["images"] == {"train": 9, "validation": 0, "calibration": 3}


# --- images of many kinds ---


@pytest.mark.parametrize("part", ["train", "validation", "calibration"])
@pytest.mark.heavy
def test_mixed_channels_are_refused_and_cured(good, part):
    path = getattr(split_of(good), part)[1].path
    with Image.open(path) as image:
        grey = image.convert("L")
    grey.save(path)
    refusal(ImageError, good, path, "1-channel", "3-channel", "--channels")
    for channels in (1, 3):
        detector = trained(good, image_options=ImageOptions(channels=channels))
        assert detector.model_file.image_format.channels == channels
        assert all(np.isfinite(detector.predict(p).score) for p in good.iterdir())


def pixels_of(n: int, channels: int) -> list[np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(0))
    return [rng.random((40, 48, channels), dtype=np.float32) for _ in range(n)]


def float_images(folder: Path) -> Path:
    folder.mkdir()
    for i, x in enumerate(pixels_of(8, 1)):
        tifffile.imwrite(folder / f"{i}.tiff", 2 * x[..., 0])
    return folder


def check_kind(data: Path, expected: ImageFormat, **options) -> None:
    detector = trained(data, out=data.parent / "run", **options)
    assert detector.model_file.image_format == expected
    assert load_model_file(data.parent / "run").image_format == expected
    prediction = detector.predict(min(data.iterdir()))
    assert prediction.anomaly_map.shape == (40, 48)
    assert np.isfinite(prediction.anomaly_map).all()
    with pytest.raises(ImageError):
        detector.predict(np.zeros((40, 48, 3), np.uint8))


def test_float_tiff(tmp_path):
    data = float_images(tmp_path / "data")
    refusal(ImageError, data, ".tiff", "outside [0, 1]", "--value-range")
    expected = ImageFormat(dtype="float32", channels=1, value_range=(0.0, 2.0))
    check_kind(data, expected, image_options=ImageOptions(value_range=(0.0, 2.0)))


def test_sixteen_bit_png(tmp_path):
    (tmp_path / "data").mkdir()
    for i, x in enumerate(pixels_of(8, 1)):
        (tmp_path / "data" / f"{i}.png").write_bytes(png_encode((x[..., 0] * 4095).astype(np.uint16)))
    expected = ImageFormat(dtype="uint16", channels=1, value_range=(0.0, 4095.0))
    check_kind(tmp_path / "data", expected, image_options=ImageOptions(bit_depth=12))


def test_five_channel_tiff(tmp_path):
    (tmp_path / "data").mkdir()
    for i, x in enumerate(pixels_of(8, 5)):
        file = tmp_path / "data" / f"{i}.tif"
        tifffile.imwrite(file, (x * 255).astype(np.uint8), photometric="minisblack", planarconfig="contig")
    check_kind(tmp_path / "data", ImageFormat(dtype="uint8", channels=5, value_range=(0.0, 255.0)))


# --- names and fractions ---


def test_unknown_names(good):
    refusal(UsageError, good, "--method other", "metal", method="other", config=None)
    options = {"method": "metal", "config": None}
    refusal(UsageError, good, "--preset other", "paper-object", preset="other", **options)


def test_options_belong_to_a_method(good):
    assert trained(good).model_file.method == "metal"
    refusal(UsageError, good, "config MetalConfig", "PcaConfig", method="pca")


def test_fractions_that_leave_nothing(good):
    config = replace(TINY, validation_fraction=0.5, calibration_fraction=0.49)
    refusal((DataError, UsageError), good, config=config)


def test_several_precisions_in_one_process(good):
    for precision in ("fp32", "bf16"):
        assert np.isfinite(trained(good, precision=precision).predict(min(good.iterdir())).score)


def test_training_images_are_hashed_once_and_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [save(tmp_path / "good" / f"{i}.png", tiny_image(i)) for i in range(12)]
    decoded, hashed, digest = count_decodes(monkeypatch), Counter[str](), hashlib.file_digest

    def counting(file: IO[bytes], name: str) -> Any:
        hashed[file.name] += 1
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    config = PcaConfig(image_size=32, components=3, calibration_fraction=0.5)
    detector = fit(tmp_path / "good", method="pca", config=config, device="cpu")
    assert hashed == decoded == {str(path): 1 for path in paths}
    calibration = detector.model_file.calibration
    assert calibration is not None
    trained = set(detector.model_file.provenance["training_digests"].values())
    alone = [detector.predict(path).score for path in paths if path.name not in trained]
    np.testing.assert_allclose(calibration.scores, sorted(alone), rtol=1e-5)
