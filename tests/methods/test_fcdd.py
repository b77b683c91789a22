"""FCDD: its losses by hand, its upsampling and confetti, and the method as it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from resumed import stopped_and_resumed, trained
from torch.nn import functional as F

from blemish.core.errors import TrainingError, UsageError
from blemish.inference import load
from blemish.methods.baselines import fcdd
from blemish.methods.baselines.fcdd import Fcdd, FcddConfig

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = FcddConfig(
    image_size=(32, 40), strides=(4, 8), steps=9, batch_size=4, width=4, calibration_fraction=0.2
)


def images(n: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, channels, 32, 40, generator=torch.Generator().manual_seed(seed))


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-5)


def test_pseudo_huber_by_hand():
    # √(3 + 1) - 1 and √(8 + 1) - 1
    found = fcdd.pseudo_huber(torch.tensor([0.0, -(3**0.5), 8**0.5])).tolist()
    assert found == pytest.approx([0, 1, 2], abs=1e-6)


def test_loss_of_images_by_hand():
    # a = 3 of a good image and log 2 of a made one: 3 and -log(1 - 1/2), the mean
    A = torch.tensor([[[2.0, 4.0]], [[0.0, 2 * math.log(2)]]])
    assert fcdd.image_loss(A, torch.tensor([0.0, 1.0])).item() == near((3 + math.log(2)) / 2)


def test_loss_of_pixels_by_hand():
    # good pixels: 2 / 2 and 6 / 2, the made image's other one 2 log 2 / 2 = log 2
    A = torch.tensor([[[2.0, 2 * math.log(2)]], [[4.0, 2.0]]])
    Y = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]])
    assert fcdd.pixel_loss(A, Y).item() == near((1 + math.log(2) + 3) / 2)


def test_the_repulsion_is_finite_at_nothing_and_pulls_away_from_it():
    A = torch.zeros(2, 3, 3, requires_grad=True)
    loss = fcdd.image_loss(A + 1e-3, torch.ones(2))
    loss.backward()
    assert A.grad is not None
    assert (A.grad < 0).all()
    assert fcdd.repulsion(torch.tensor(0.0)).isfinite()


def test_upsampling_is_a_transposed_convolution_with_a_gaussian():
    rows, cols = fcdd.spread_matrix(24, 8, 2.0), fcdd.spread_matrix(16, 8, 2.0)
    A = images(2)[:, :1, :3, :2]
    off = torch.arange(16) - 7.5  # the Gaussian reaches 8 pixels, 4 σ
    kernel = torch.exp(-(off[:, None] ** 2 + off[None] ** 2) / (2 * 2.0**2))[None, None]

    def spread(values: torch.Tensor) -> torch.Tensor:
        return F.conv_transpose2d(values, kernel, stride=8)[:, 0, 4:-4, 4:-4]

    # place j has its middle at 8 j + 3.5; what falls outside of the image is cut off
    torch.testing.assert_close(rows @ A[:, 0] @ cols.T, spread(A) / spread(torch.ones_like(A)))


@pytest.mark.parametrize("channels", [1, 3])
def test_confetti_changes_places_of_an_image_and_white_ones_too(channels: int):
    torch.manual_seed(0)
    x = torch.cat([torch.zeros(1, channels, 64, 64), torch.ones(1, channels, 64, 64)])
    made = fcdd.confetti(x)
    assert made.min() >= 0
    assert made.max() <= 1
    changed = (made - x).abs().amax(dim=1) > 0.05
    for share in changed.flatten(1).float().mean(dim=1).tolist():
        assert 0.002 < share < 0.6
    torch.manual_seed(0)
    assert torch.equal(fcdd.confetti(x), made)


@pytest.mark.parametrize("anomalies", ["planted", "confetti"])
def test_half_of_the_images_are_made_anomalous(anomalies):
    torch.manual_seed(0)
    network, x = Fcdd(replace(SMALL, anomalies=anomalies), 3), images(5)
    network.prepare(lambda: [x])
    before = x.clone()
    made = network.make_anomalous(x)
    assert made.shape == (2, 3, 32, 40)
    assert torch.equal(x, before)
    assert (made != x[:2]).flatten(1).any(dim=1).all()


def test_only_the_head_learns_and_without_anomalies_it_has_no_bias():
    torch.manual_seed(0)
    for anomalies, biases in (("none", 0), ("planted", 5)):
        network, x = Fcdd(replace(SMALL, anomalies=anomalies), 3), images(4)
        network.prepare(lambda x=x: [x])
        network.loss(x).backward()
        moved = {name for name, p in network.named_parameters() if p.grad is not None}
        assert moved
        assert all(name.startswith("head.") for name in moved)
        assert sum(name.endswith("bias") for name in moved) == biases


def test_a_network_that_says_the_same_of_all_is_not_saved():
    torch.manual_seed(0)
    network, x = Fcdd(SMALL, 3).eval(), images(4)
    network.finish(lambda: [x])
    for p in network.head[2].parameters():
        torch.nn.init.zeros_(p)
    with pytest.raises(TrainingError, match=r"^--method fcdd: the network says the same of all images"):
        network.finish(lambda: [x])


@pytest.mark.heavy
def test_a_stopped_training_gives_the_same_bytes_and_tells_defects(tiny_category, tmp_path):
    whole = trained("fcdd", SMALL, tiny_category, tmp_path / "whole")
    assert stopped_and_resumed("fcdd", SMALL, tiny_category, tmp_path / "stopped", 4) == whole
    detector = load.load(tmp_path / "whole", device="cpu")
    prediction = detector.predict(next((tiny_category / "test" / "hole").iterdir()))
    assert prediction.anomaly_map.shape == (64, 64)
    assert prediction.anomaly_map.min() >= 0


def test_papers_preset_is_the_sources():
    paper = Fcdd.presets["paper"]
    assert (paper.size, paper.grid, paper.smoothing) == ((224, 224), (28, 28), 12.0)
    assert (paper.anomalies, paper.labels, paper.image_score) == ("confetti", "images", "mean")
    assert (paper.epochs, paper.batch_size, paper.calibration_fraction) == (2000, 128, 0.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"smoothing": 0.5}, "--smoothing 0.5: must be 1 or larger"),
        ({"width": 0}, "--width 0: must be 1 or larger"),
        ({"grid_stride": 2}, "--grid-stride 2: must be one of --strides 4 8"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes: dict, said: str):
    with pytest.raises(UsageError, match=said) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)
