"""MKD: its losses by hand, its cloner, both of its maps, and the method as it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from resumed import stopped_and_resumed, trained
from scipy import ndimage

from blemish.core.errors import ModelError, TrainingError, UsageError
from blemish.export.onnx import export
from blemish.inference import load
from blemish.methods.baselines import mkd
from blemish.methods.baselines.mkd import Mkd, MkdConfig

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = MkdConfig(
    image_size=(32, 40), strides=(4, 8), steps=9, batch_size=4, width=4, calibration_fraction=0.2
)
GRADIENT = replace(SMALL, localisation="gradient", image_score="mean", standardise=False)


def images(n: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, channels, 32, 40, generator=torch.Generator().manual_seed(seed))


def a_network(config: MkdConfig, channels: int = 3) -> Mkd:
    torch.manual_seed(0)
    network, x = Mkd(config, channels), images(6, channels)
    network.prepare(lambda: x.split(4))
    return network


A_S = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])  # one image, two channels, 1×2 places
A_C = torch.tensor([[[[4.0, 1.0]], [[3.0, 0.0]]]])


def test_losses_of_a_critical_point_by_hand():
    # squares 1, 1, 1 and 0; the product 24, the lengths 5 and √26
    assert mkd.value_loss(A_S, A_C).tolist() == [0.75]
    assert mkd.direction_loss(A_S, A_C).item() == pytest.approx(1 - 24 / (5 * math.sqrt(26)))
    assert mkd.direction_loss(A_S, 7 * A_S).item() == pytest.approx(0, abs=1e-6)


def test_total_loss_by_hand():
    # equal values add nothing, opposite ones a direction of 2 and squares of 4 a²
    a = torch.ones(1, 1, 2, 2)
    assert mkd.total_loss([a, a], [a, -a], 0.5).item() == pytest.approx(2 + 0.5 * 4)


def test_loss_of_places_by_hand():
    # first place: 1 - 24 / 25 and (1 + 1) / 2; second: no direction, so a cosine of 0, and 1 / 2
    found = mkd.place_loss(A_S, A_C, 0.5).flatten().tolist()
    assert found == pytest.approx([0.04 + 0.5, 1 + 0.25], abs=1e-6)


def test_opening_is_scipys_with_a_cross():
    x = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0))
    cross = ndimage.generate_binary_structure(2, 1)
    for ours, image in zip(mkd.opening(x).numpy(), x.numpy(), strict=True):
        theirs = ndimage.grey_erosion(image, footprint=cross, mode="constant", cval=9.0)
        theirs = ndimage.grey_dilation(theirs, footprint=cross, mode="constant", cval=-9.0)
        assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("size", [(32, 40), (33, 47)])
def test_the_cloner_says_as_much_as_the_source_network(size):
    network = a_network(replace(SMALL, image_size=size, strides=(2, 8), grid_stride=8))
    source, clone = network.values(torch.rand(2, 3, *size))
    assert [a.shape for a in source] == [a.shape for a in clone]
    assert len(source) == 2


@torch.no_grad()
def test_values_are_standardised_by_channel():
    network, x = a_network(SMALL), images(6)
    for values in network.values(x)[0]:
        std, mean = torch.std_mean(values.transpose(0, 1).flatten(1), dim=1, correction=0)
        assert mean.abs().max() < 1e-3
        assert std.median().item() == pytest.approx(1, abs=1e-3)


def test_only_the_cloner_learns():
    network = a_network(SMALL)
    network.loss(images(3)).backward()
    moved = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert moved == {"cloner"}


def test_the_gradient_is_that_of_finite_differences():
    network = a_network(replace(GRADIENT, smoothing=0.0), 1).double().eval()
    x = images(1, 1).double()
    maps, scores = network(x)
    assert scores.shape == (1,)
    slopes = torch.zeros(3, 3, dtype=torch.float64)
    for i, j in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
        step = torch.zeros_like(x)
        step[0, 0, 10 + i, 12 + j] = 1e-5
        slopes[i, j] = ((network(x + step)[1] - network(x - step)[1]) / 2e-5).abs()
    # the least of the cross around the middle is not above what the opening leaves there, and not 0
    cross = torch.stack([slopes[1, 1], slopes[0, 1], slopes[2, 1], slopes[1, 0], slopes[1, 2]])
    assert 0 < cross.min() <= maps[0, 11, 13] * 1.01
    assert maps[0, 11, 13] <= slopes[1, 1] * 1.01


@torch.no_grad()
def test_images_are_scored_by_the_loss_or_by_the_map():
    x = images(2)
    maps, scores = a_network(replace(SMALL, image_score="mean")).eval()(x)
    assert (maps.shape, scores.shape) == ((2, 32, 40), (2,))
    only = a_network(SMALL).eval()(x)
    assert isinstance(only, torch.Tensor)
    torch.testing.assert_close(only, maps)


@torch.no_grad()
def test_values_are_means_over_a_neighbourhood():
    one, nine = (a_network(replace(SMALL, neighbourhood=n)).eval() for n in (1, 3))
    nine.load_state_dict(one.state_dict())
    pairs = one.values(images(2))
    alone, means = one._places(*pairs), nine._places(*pairs)
    assert means.std() < 0.95 * alone.std()
    torch.testing.assert_close(means.mean(), alone.mean(), rtol=0.1, atol=0)


def test_a_cloner_that_says_the_same_of_all_is_not_saved():
    network, x = a_network(SMALL).eval(), images(4)
    network.finish(lambda: [x])
    for p in network.cloner.outs["8"].parameters():
        torch.nn.init.zeros_(p)
    with pytest.raises(TrainingError, match=r"^--method mkd: the network says the same of all images"):
        network.finish(lambda: [x])


@pytest.mark.heavy
def test_a_stopped_training_gives_the_same_bytes(tiny_category, tmp_path):
    whole = trained("mkd", SMALL, tiny_category, tmp_path / "whole")
    assert stopped_and_resumed("mkd", SMALL, tiny_category, tmp_path / "stopped", 4) == whole


def test_a_gradient_is_scored_and_not_exported(tiny_category, tmp_path):
    trained("mkd", replace(GRADIENT, steps=3), tiny_category, tmp_path / "run")
    detector = load.load(tmp_path / "run", device="cpu")
    prediction = detector.predict(next((tiny_category / "test" / "hole").iterdir()))
    assert prediction.anomaly_map.max() > 0
    with pytest.raises(ModelError, match=r"a model of mkd cannot be exported: its map is a gradient"):
        export(tmp_path / "run", tmp_path / "model.onnx")


def test_papers_preset_is_the_sources():
    paper = Mkd.presets["paper"]
    assert (paper.size, paper.strides, paper.width, paper.value_weight) == (
        (128, 128), (4, 8, 16, 32), 16, 0.5
    )  # fmt: skip
    assert (paper.localisation, paper.image_score, paper.smoothing) == ("gradient", "mean", 4.0)
    assert not paper.standardise
    assert paper.calibration_fraction == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value_weight": -1.0}, "--value-weight -1.0: must be a finite number, 0 or larger"),
        ({"width": 0}, "--width 0: must be 1 or larger"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes: dict, said: str):
    with pytest.raises(UsageError, match=said) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)
