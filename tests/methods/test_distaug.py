"""DistAug + KDE: its turns, views and loss by hand; its density against scikit-learn; whole runs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from resumed import stopped_and_resumed, trained
from sklearn.neighbors import KernelDensity

from blemish.core.errors import TrainingError, UsageError
from blemish.inference import load
from blemish.methods.baselines import distaug
from blemish.methods.baselines.cutpaste_backbones import grid_of
from blemish.methods.baselines.distaug import DistAug, DistAugConfig
from blemish.methods.components.contrastive import ContrastiveHead, contrastive_loss

pytestmark = pytest.mark.usefixtures("single_thread")

TINY = DistAugConfig(
    image_size=16, patch_size=8, stride=2, width=4, steps=4, batch_size=4, calibration_fraction=0.3
)


def images(n=3, channels=3, seed=0):
    return torch.rand(n, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


def finished(x, **changes):
    torch.manual_seed(0)
    network = DistAug(replace(TINY, **changes), x.shape[1]).eval()
    network.finish(lambda: x.split(2))
    return network


# --- contrastive learning ---


def test_contrastive_loss_by_hand():
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    # τ = 0.5: products 0.6 and 0 make -1.2 + log(e^1.2 + e^0); 0.8 and 1 make -2 + log(e^1.6 + e^2)
    expected = (-1.2 + math.log(math.exp(1.2) + 1) - 2 + math.log(math.exp(1.6) + math.exp(2))) / 2
    assert contrastive_loss(first, second, 0.5).item() == pytest.approx(expected, abs=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss(first, second, 0.5).item() == pytest.approx(expected, abs=1e-6)
    assert contrastive_loss(first[:1].expand(5, 2), first[:1].expand(5, 2), 0.2).item() == pytest.approx(
        math.log(5)
    )


def test_a_head_gives_codes_of_unit_length():
    torch.manual_seed(0)
    head = ContrastiveHead(4, layers=2, outputs=6)
    codes = head(torch.randn(5, 4))
    assert codes.norm(dim=1).tolist() == pytest.approx([1] * 5, abs=1e-6)
    assert [type(m).__name__ for m in head.layers].count("Linear") == 3


# --- augmentation ---


def test_turns_are_four_things():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    made = distaug.turned(x)
    assert torch.equal(made[:1], x)
    # a quarter turn against the clock brings the right column to the top
    assert made[1, 0, 0].tolist() == [2, 5, 8]
    assert made[2, 0, 0].tolist() == [8, 7, 6]
    assert made[3, 0, 0].tolist() == [6, 3, 0]


def test_blur_is_a_gaussian_of_each_squares_own_width():
    x = torch.zeros(2, 1, 5, 5)
    x[:, :, 2, 2] = 1
    with torch.autocast("cpu", torch.bfloat16):  # as in a training: images stay exact
        made = distaug.blurred(x, torch.tensor([0.0, 1.0]))
    assert torch.equal(made[0], x[0])
    # rows: the pixel's weight at each distance over the sum of weights of who receives it
    weights = [math.exp(-(o**2) / 2) for o in range(5)]
    received = [weights[abs(i - 2)] / sum(weights[abs(i - j)] for j in range(5)) for i in range(5)]
    assert made[1, 0, 2].tolist() == pytest.approx([r * received[2] for r in received])


def test_views_of_a_square_differ_and_stay_images():
    torch.manual_seed(0)
    x = images(40)
    first, second = distaug.views(x, 0.4), distaug.views(x, 0.4)
    assert first.shape == x.shape
    assert 0 <= min(first.min(), second.min()) <= max(first.max(), second.max()) <= 1
    assert (first - second).abs().amax(dim=(1, 2, 3)).min() > 0.01
    grey = (first.std(dim=1).amax(dim=(1, 2)) < 1e-5).float().mean()
    assert 0.05 < grey < 0.45  # a fifth of 40


def test_views_without_jitter_of_a_plain_square_are_the_square():
    x = torch.full((6, 1, 8, 8), 0.3)
    assert torch.allclose(distaug.views(x, 0.0), x, atol=1e-6)


def test_a_loss_compares_two_views_of_each_turn(monkeypatch):
    network = DistAug(TINY, 3)
    seen = []
    monkeypatch.setattr(distaug, "contrastive_loss", lambda a, b, t: seen.append((a, b, t)) or a.sum())
    network.loss(images(3))
    ((first, second, temperature),) = seen
    assert first.shape == second.shape == (12, distaug.CODE)
    assert temperature == 0.2
    assert not torch.equal(first, second)


# --- the density ---


def test_inverse_width_by_hand():
    # about their means: ±1 in one of two components, and 0 in the other; ±3 and ±4 -> mean of 1 and 25
    z = torch.tensor([[[1.0, 5.0], [-1.0, 5.0]], [[3.0, 4.0], [-3.0, -4.0]]])
    assert distaug.inverse_width(z, 10.0).item() == pytest.approx(10 / 13)


def test_squared_distances_keep_their_digits_where_features_are_alike():
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(1 + 1e-3 * torch.randn(1, 40, 64), dim=2)
    bank = z[:, :30]
    middle = bank.mean(dim=1, keepdim=True)
    exact = (z.double()[0, :, None] - bank.double()[0]).square().sum(dim=2)  # about 2e-6
    found = distaug.squared_distances(z, bank - middle, middle)[0].double()
    plain = 2 - 2 * (z @ bank.transpose(1, 2))[0].double()
    worst = exact.max()
    assert (found - exact).abs().max() < 1e-4 * worst
    assert (plain - exact).abs().max() > 1e-2 * worst  # what the middle is for


@pytest.mark.parametrize("density", ["shared", "place"])
def test_density_equals_scikit_learn(density):
    x, new = images(6), images(2, seed=1)
    network = finished(x, density=density, bank=500)
    gamma = network.gamma.item()
    with torch.no_grad():
        seen, z = network.encode(x), network.encode(new)  # (6, 25, d), (2, 25, d)
        maps = network(new)
    assert seen.norm(dim=2).max().item() == pytest.approx(1, abs=1e-5)
    groups = seen.transpose(0, 1) if density == "place" else seen.flatten(0, 1)[None]
    variance = (groups - groups.mean(dim=1, keepdim=True)).square().sum(dim=2).mean()
    assert gamma == pytest.approx(10 / variance.item(), rel=1e-4)
    d, h = z.shape[2], 1 / math.sqrt(2 * gamma)  # exp(-|a|² / 2h²)
    constant = d / 2 * math.log(2 * math.pi * h**2)  # of a normalised Gaussian
    scores = np.zeros((2, 25))
    for place in range(25):
        good = groups[place if density == "place" else 0].double().numpy()
        kde = KernelDensity(bandwidth=h, kernel="gaussian").fit(good)
        scores[:, place] = -kde.score_samples(z[:, place].double().numpy()) - constant
    expected = network.rows.double() @ torch.from_numpy(scores).view(2, 5, 5) @ network.cols.T.double()
    np.testing.assert_allclose(maps.numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)


def test_the_bank_is_bounded():
    assert finished(images(6), bank=4).bank.shape == (25, 4, 4)
    assert finished(images(6), bank=4, density="shared").bank.shape == (1, 4, 4)
    assert finished(images(6), bank=13, density="shared").bank.shape == (1, 12, 4)  # two of each image


def test_the_bank_is_a_draw_of_its_own_seed():
    x = images(6)
    network = finished(x, bank=4)
    kept = sorted(torch.randperm(6, generator=torch.Generator().manual_seed(0))[:4].tolist())
    with torch.no_grad():
        expected = network.encode(x[kept]).transpose(0, 1) - network.middle
    torch.testing.assert_close(network.bank, expected)


@pytest.mark.parametrize("density", ["shared", "place"])
def test_an_odd_spot_shows_where_it_is(density):
    x = 0.4 + 0.1 * images(12, 2)
    network = finished(x, density=density)
    odd = x[:1].clone()
    odd[:, :, 3:7, 9:13] = 1.0
    with torch.no_grad():
        apart = (network(odd) - network(x[:1]))[0]
    row, col = divmod(int(apart.argmax()), 16)
    assert (row < 9, col > 6) == (True, True)


# --- whole runs ---


@pytest.mark.heavy
def test_a_run_resumed_has_the_same_bytes(tiny_category, tmp_path):
    whole = trained("distaug", TINY, tiny_category, tmp_path / "whole")
    assert stopped_and_resumed("distaug", TINY, tiny_category, tmp_path / "two", 2) == whole
    assert load.load(tmp_path / "whole", device="cpu").model_file.calibration is not None


@pytest.mark.slow
def test_a_network_of_the_papers_kind_is_traced_for_any_number_of_images():
    # as an export begins; `tests/export` has the default's
    network = finished(images(4), trunk="resnet18", density="shared")
    batch = torch.export.Dim("batch", min=1, max=2**16)
    traced = torch.export.export(network, (images(2),), dynamic_shapes=({0: batch},)).module()
    new = images(3, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(traced(new), network(new))


def test_a_network_that_says_the_same_of_every_square_is_not_finished():
    network = DistAug(TINY, 1).eval()
    for value in (0.0, math.nan):
        for part in network.trunk.modules():
            if isinstance(part, torch.nn.Conv2d):
                torch.nn.init.constant_(part.weight, value)
        with pytest.raises(TrainingError, match=r"^--method distaug: the network says the same of every"):
            network.finish(lambda: [images(2, 1)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": 12}, "--patch-size 12: must be a power of 2, 8 or larger"),
        ({"stride": 4}, "--stride 4: must be a power of 2 and at most a quarter of --patch-size 8"),
        ({"image_size": 17}, "--image-size 17x17: squares at --stride 2 leave pixels uncovered"),
        ({"image_size": (6, 16)}, "--image-size 6x16: must be 8 or larger"),
        ({"temperature": 0.0}, "--temperature 0.0: must be a finite number above 0"),
        ({"sharpness": math.inf}, "--sharpness inf: must be a finite number above 0"),
        ({"jitter": 1.5}, r"--jitter 1.5: must be in \[0, 1\]"),
        ({"bank": 0}, "--bank 0: must be 1 or larger"),
    ],
)
def test_options_are_refused_in_one_line(changes, said):
    with pytest.raises(UsageError, match=f"^{said}"):
        replace(TINY, **changes)


def test_grid_by_hand():
    assert grid_of((16, 24), 8, 4) == (3, 5)


def test_paper_preset_is_the_sources():
    paper = DistAug.presets["paper"]
    assert (paper.size, paper.patch_size, paper.stride, paper.grid) == ((256, 256), 32, 4, (57, 57))
    assert (paper.trunk, 8 * paper.width, paper.head_layers, distaug.CODE) == ("resnet18", 512, 8, 128)
    assert (paper.temperature, paper.jitter, paper.epochs, paper.batch_size) == (0.2, 0.4, 2048, 32)
    assert (paper.sharpness, paper.density, paper.calibration_fraction) == (10.0, "shared", 0.0)
