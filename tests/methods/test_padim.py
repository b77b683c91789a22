"""PaDiM: its equations against loops, and the method as it learns, is saved and scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_backbones as reference
import torch
from backbones import random_state
from conftest import tiny_image
from torch import Tensor

from blemish.core.errors import ImageError, ModelError, UsageError
from blemish.data.dataset import open_dataset
from blemish.data.masks import read_mask
from blemish.export import onnx as exporting
from blemish.inference import load
from blemish.inference.model_file import MODEL_NAME
from blemish.methods.auto import Auto, AutoConfig
from blemish.methods.base import Method, Start
from blemish.methods.baselines.padim import (
    Padim,
    PadimConfig,
    add_products,
    random_dimensions,
)
from blemish.methods.baselines.patchcore import PatchCore
from blemish.methods.components.statistics import whitening_matrix
from blemish.methods.config import DetectorConfig
from blemish.methods.density.densities import mahalanobis
from blemish.metrics.pixels import PixelPool
from blemish.metrics.roc import image_roc
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = PadimConfig(image_size=(32, 40), dimensions=12, calibration_fraction=0.0)
PLAIN = replace(SMALL, standardise=False, shrink=False, score="distance", smoothing=0.0)


def images(n: int, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, 32, 40, generator=torch.Generator().manual_seed(seed))


def fitted(config: PadimConfig, x: Tensor) -> Padim:
    torch.manual_seed(0)
    network = Padim(config, x.shape[1])
    network.fit(lambda: x.split(4))
    return network.eval()


def test_dimensions_are_drawn_without_repeating_and_by_their_seed():
    drawn = random_dimensions(176, 100, 0)
    assert len(set(drawn.tolist())) == 100
    assert drawn.min() >= 0
    assert drawn.max() < 176
    assert torch.equal(drawn, random_dimensions(176, 100, 0))
    assert not torch.equal(drawn, random_dimensions(176, 100, 1))
    assert random_dimensions(5, None, 0).tolist() == random_dimensions(5, 9, 3).tolist() == [0, 1, 2, 3, 4]


def test_means_and_products_in_parts_equal_those_of_all():
    """Also where the mean is a thousand times the spread, as sums of squares would lose it."""
    x = 1000 + torch.randn(11, 3, 4, generator=torch.Generator().manual_seed(0))
    n, mean, products = 0, torch.zeros(3, 4), torch.zeros(3, 4, 4)
    for part in x.split((4, 1, 6)):
        n = add_products(n, mean, products, part)
    assert n == 11
    for place in range(3):
        samples = x[:, place].double().numpy()
        np.testing.assert_allclose(mean[place].numpy(), samples.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(products[place].numpy() / 10, np.cov(samples.T), rtol=1e-3, atol=1e-3)


def test_distance_by_hand():
    # Σ + ε I = diag(3 + 1, 15 + 1), x - μ = (2, 8): 4/4 + 64/16 = 5
    covariance = torch.diag(torch.tensor([3.0, 15.0], dtype=torch.float64))[None]
    whitening = whitening_matrix(covariance, 1.0).float()
    x, mean = torch.tensor([[[3.0, 9.0]]]), torch.tensor([[1.0, 1.0]])
    assert mahalanobis(x, mean, whitening).tolist() == [[pytest.approx(5)]]


@torch.no_grad()
def test_the_papers_map_equals_mahalanobis_in_loops():
    good, new = images(9), images(2, seed=1)
    network = fitted(PLAIN, good)
    samples = torch.cat([network.embedding(one[None]) for one in good]).double().numpy()
    tested = torch.cat([network.embedding(one[None]) for one in new]).double().numpy()
    found = mahalanobis(torch.from_numpy(tested).float(), network.mean, network.whitening).sqrt()
    for i, place in ((0, 0), (1, 7), (1, 19)):
        expected = reference.mahalanobis(samples[:, place], tested[i, place], 0.01)
        assert found[i, place].item() == pytest.approx(expected, rel=1e-3)
    maps = network(new)
    assert maps.shape == (2, 32, 40)
    # places are 8 pixels wide; at a corner nothing is interpolated
    torch.testing.assert_close(maps[:, 0, 0], found[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps[:, -1, -1], found[:, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_default_standardises_shrinks_and_takes_the_logarithm():
    good, new = images(9), images(1, seed=1)
    network = fitted(replace(SMALL, smoothing=0.0), good)
    samples = torch.cat([network.embedding(one[None]) for one in good]).double()
    spread = samples.flatten(0, 1).std(dim=0, correction=0)
    scaled = (samples / spread).numpy()
    covariances = np.stack([np.cov(scaled[:, place].T) for place in range(20)])
    d, n = 12, 9
    shrunk = covariances * (n / (d + n)) + covariances.mean(axis=0) * (d / (d + n)) + 0.01 * np.eye(d)
    x = (network.embedding(new)[0].double() / spread).numpy()
    delta = x[0] - scaled[:, 0].mean(axis=0)
    expected = np.log1p(delta @ np.linalg.solve(shrunk[0], delta))
    assert network(new)[0, 0, 0].item() == pytest.approx(expected, rel=2e-2)  # n or n - 1 in the spread


@torch.no_grad()
def test_a_batch_of_one_and_of_many_learn_alike():
    good = images(9)
    one, many = Padim(SMALL, 3), Padim(SMALL, 3)
    many.load_state_dict(one.state_dict())
    one.fit(lambda: good.split(1))
    many.fit(lambda: good.split(9))
    torch.testing.assert_close(one.whitening, many.whitening, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
def test_equal_and_constant_images_give_finite_maps_and_a_blemish_shows(channels: int):
    flat = torch.full((5, channels, 32, 40), 0.5)
    for x in (flat, flat[:1], images(1, channels).expand(5, -1, -1, -1)):
        network = fitted(SMALL, x)
        bad = x[:1].clone()
        bad[:, :, 12:20, 20:28] = 1.0
        good_map, bad_map = network(x[:1]), network(bad)
        assert good_map.isfinite().all()
        assert bad_map.isfinite().all()
        assert bad_map.mean() > good_map.mean()


def test_the_papers_presets_are_the_papers_numbers():
    paper, wide = Padim.presets["paper"], Padim.presets["paper-wide"]
    assert (paper.backbone, paper.dimensions, paper.size) == ("resnet18", 100, (224, 224))
    assert wide == replace(paper, backbone="wide_resnet50_2", dimensions=550)
    assert (paper.epsilon, paper.score, paper.smoothing, paper.image_score) == (0.01, "distance", 4.0, "max")
    assert (paper.strides, paper.grid, paper.calibration_fraction) == ((4, 8, 16), (56, 56), 0.0)
    assert not (paper.standardise or paper.shrink)
    assert paper.neighbourhood == 1


@pytest.mark.heavy
def test_repeats_are_the_same_bytes_and_the_model_scores_alike(tiny_category: Path, tmp_path: Path):
    config = replace(SMALL, calibration_fraction=0.3)
    runs = [tmp_path / "one", tmp_path / "two"]
    first, _ = (fit.fit(tiny_category, method="padim", config=config, out=run, device="cpu") for run in runs)
    assert (runs[0] / MODEL_NAME).read_bytes() == (runs[1] / MODEL_NAME).read_bytes()
    again = load.load(runs[0], device="cpu")
    for image in sorted((tiny_category / "test").rglob("*.png"))[:3]:
        assert again.predict(image).score == first.predict(image).score
    bad = [first.predict(p).score for p in (tiny_category / "test" / "hole").iterdir()]
    good = [first.predict(p).score for p in (tiny_category / "test" / "good").iterdir()]
    assert min(bad) > max(good)


@pytest.mark.heavy
def test_large_images_are_scored_in_tiles(tiny_category: Path):
    config = replace(SMALL, image_size=32, tile_size=32)
    detector = fit.fit(tiny_category, method="padim", config=config, device="cpu")
    image = tiny_image(500)
    assert detector.predict(image).anomaly_map.shape == (64, 64)
    whole = detector.predict(image).score
    image[40:50, 30:40] = 0
    found = detector.predict(image)
    assert found.score > whole
    y, x = divmod(int(found.anomaly_map.argmax()), 64)
    assert 36 <= y < 54
    assert 26 <= x < 44


@pytest.mark.heavy
def test_resnet18_from_a_file_learns_and_scores(tiny_category: Path, tmp_path: Path):
    torch.save(random_state("resnet18"), tmp_path / "any.pth")
    config = replace(Padim.presets["paper"], backbone=str(tmp_path / "any.pth"), image_size=32)
    detector = fit.fit(tiny_category, method="padim", config=config, device="cpu")
    assert detector.model_file.config["backbone"].startswith("resnet18 sha256:")
    assert detector.predict(tiny_image(7)).anomaly_map.shape == (64, 64)


@pytest.mark.heavy
def test_members_on_one_file_of_weights_share_it(tmp_path: Path):
    torch.save(random_state("resnet18"), tmp_path / "any.pth")
    config = AutoConfig(members=("padim", "patchcore"), backbone=str(tmp_path / "any.pth"), image_size=32)
    started = Auto.start(config)
    assert isinstance(started.config, AutoConfig)
    assert str(started.config.backbone).startswith("resnet18 sha256:")
    assert {name.partition("/")[0] for name in started.tensors} == {"padim", "patchcore"}


def test_members_on_different_networks_are_refused(monkeypatch: pytest.MonkeyPatch):
    """In whichever order they are named: a model has one."""

    def start(kind: type[Method[Any]], config: DetectorConfig) -> Start:
        wide = str(vars(config)["backbone"]).startswith("wide")
        backbone = "wide_resnet50_2 sha256:1" if wide else "lite0 sha256:2"
        return Start(replace(config, backbone=backbone), {"tensor": torch.zeros(1)}, {})  # type: ignore[call-arg]

    for kind in (Padim, PatchCore):
        monkeypatch.setattr(kind, "start", classmethod(start))
    for members in (("padim", "patchcore:paper"), ("patchcore:paper", "padim")):
        with pytest.raises(UsageError, match="stand on different networks") as caught:
            Auto.start(AutoConfig(members=members))
        assert "padim on lite0" in str(caught.value)


def test_what_no_onnx_file_holds_is_refused_in_one_line(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fit.fit(tiny_category, method="padim", config=SMALL, out=tmp_path / "run", device="cpu")
    monkeypatch.setattr(exporting, "LARGEST_BYTES", 1_000_000)
    with pytest.raises(ModelError, match=r"has 0.0 GB of weights, and an ONNX file holds 2 GB"):
        exporting.export(tmp_path / "run", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dimensions": 0}, "--dimensions 0: must be 1 or larger"),
        (
            {"dimension_seed": 2**63},
            "--dimension-seed 9223372036854775808: must be at least 0 and below",
        ),
        ({"epsilon": 0.0}, "--epsilon 0.0: must be a finite number above 0"),
        ({"epsilon": float("inf")}, "--epsilon inf"),
        ({"grid_stride": 2}, "--grid-stride 2: must be one of --strides 4 8 16"),
        ({"neighbourhood": 2}, "--neighbourhood 2: must be odd, 1 or larger"),
        ({"neighbourhood": -1}, "--neighbourhood -1"),
        ({"image_size": 31}, "--image-size 31: must be twice the largest of --strides or more, 32"),
        ({"smoothing": -1.0}, "--smoothing -1.0: must be a finite number, 0 or larger"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes: dict, said: str):
    with pytest.raises(UsageError, match=said) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.data
@pytest.mark.slow
def test_bottle_is_told_from_its_defects(data_root: Path, tmp_path: Path):
    """Learnt on a third of the good images, tested on a third: 1.000 and 0.98 (all: docs/benchmark.md)."""
    category = data_root / "mvtec" / "bottle"
    if not category.is_dir():
        pytest.skip(f"{category} is absent")
    for path in sorted((category / "train" / "good").iterdir())[::3]:
        (tmp_path / path.name).symlink_to(path)
    config = PadimConfig(calibration_fraction=0.0)
    detector = fit.fit(tmp_path, method="padim", config=config, device="cpu")
    test, scores, pool = open_dataset(category, need_train=False).test[::3], [], PixelPool()
    for sample, prediction in zip(test, detector.predict_many([s.path for s in test]), strict=True):
        assert not isinstance(prediction, ImageError)
        scores.append(prediction.score)
        pool.add(prediction.anomaly_map, read_mask(sample, prediction.anomaly_map.shape), sample.label)
    assert image_roc(np.array(scores), np.array([s.is_defect for s in test])).auroc() >= 0.99
    assert pool.pixel_roc().auroc() >= 0.975
