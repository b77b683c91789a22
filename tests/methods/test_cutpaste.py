"""CutPaste: its trunks square by square; its density against scikit-learn; its loss; whole runs."""

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.inference import load
from blemish.inference.torch_backend import TorchBackend
from blemish.methods.baselines import cutpaste, cutpaste_augment
from blemish.methods.baselines.cutpaste import CutPaste, CutPasteConfig
from blemish.methods.baselines.cutpaste_backbones import BasicBlock, DenseTrunk, ResNet18
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = {"image_size": (32, 48), "patch_size": 16, "stride": 2, "width": 4, "steps": 3}


def images(n=2, channels=3, size=(32, 48), seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def small(channels=3, **changes):
    torch.manual_seed(0)
    return CutPaste(CutPasteConfig(**(SMALL | changes)), channels)


def finished(x, **changes):
    """A network with the statistics of x, batch normalisation's too, and its first weights."""
    network = small(x.shape[1], **changes)
    network.prepare(lambda: x.split(3))
    with torch.no_grad():
        for _ in range(20):
            network.loss(x)
    network.eval()
    network.finish(lambda: x.split(3))
    return network


# --- the trunks ---


@pytest.mark.parametrize("side", [8, 16, 32])
@pytest.mark.parametrize("stride", [1, 2])
def test_dense_trunk_encodes_each_square_by_itself(side, stride):
    torch.manual_seed(0)
    trunk, x = DenseTrunk(2, side, 4).eval(), images(2, 2, (side + 6, side + 8))
    with torch.no_grad():
        z = trunk.everywhere(x, stride)
        assert z.shape[1:3] == (6 // stride + 1, 8 // stride + 1)
        for i, j in np.ndindex(*z.shape[1:3]):
            square = x[:, :, i * stride : i * stride + side, j * stride : j * stride + side]
            assert torch.allclose(z[:, i, j], trunk(square), atol=1e-5)
    assert z.std() > 0


def test_residual_block_by_hand():
    # convolutions of weight 1 and 2, no normalisation: relu(x + 2·relu(x)) of 3 and -1
    block = BasicBlock(1, 1, kernel=1).eval()
    with torch.no_grad():
        block.first[0].weight.fill_(1)
        block.second[0].weight.fill_(2)
        made = block(torch.tensor([3.0, -1.0]).view(1, 1, 1, 2))
    assert made.flatten().tolist() == pytest.approx([9, 0], abs=1e-3)


def test_resnet_trunk_is_resnet18_and_encodes_each_square_by_itself():
    # torchvision's resnet18 has 11,689,512 parameters, 513,000 of them its last layer's
    assert sum(p.numel() for p in ResNet18(3, 32, 64).parameters()) == 11_689_512 - 513_000
    torch.manual_seed(0)
    trunk, x = ResNet18(3, 16, 4).eval(), images(2, 3, (20, 24))
    with torch.no_grad():
        z = trunk.everywhere(x, 4)
        assert z.shape == (2, 2, 3, 32)
        for i, j in np.ndindex(2, 3):
            square = x[:, :, 4 * i : 4 * i + 16, 4 * j : 4 * j + 16]
            assert torch.allclose(z[:, i, j], trunk(square), atol=1e-5)


# --- density and map ---


def test_scores_by_hand():
    # z - μ = (1, 2); A = [[2, 0], [1, 3]] makes (2, 7); half of 4 + 49
    z, mean = torch.tensor([[[2.0, 2.0]]]), torch.tensor([[1.0, 0.0]])
    A = torch.tensor([[[2.0, 0.0], [1.0, 3.0]]])
    assert cutpaste.minus_log_density(z, mean, A).tolist() == [[26.5]]
    both = cutpaste.minus_log_density(
        z.repeat(1, 2, 1), mean.repeat(2, 1), A * torch.tensor([1.0, 2]).view(2, 1, 1)
    )
    assert both.tolist() == [[26.5, 106.0]]


@pytest.mark.parametrize("density", ["shared", "place"])
def test_density_equals_scikit_learn(density):
    # enough images that the shrinking is the only difference; d = 4
    x, new = images(30, 2, (16, 20)), images(2, 2, (16, 20), seed=1)
    network = finished(x, image_size=(16, 20), density=density)
    with torch.no_grad():
        seen, z = network.encode(x).double().numpy(), network.encode(new).double().numpy()
        ours = cutpaste.minus_log_density(network.encode(new), network.mean, network.whitening).numpy()
    assert seen.shape == (30, 35, 4)  # (16 - 8)/2 + 1 = 5 by (20 - 8)/2 + 1 = 7
    groups = list(seen.transpose(1, 0, 2)) if density == "place" else [seen.reshape(-1, 4)] * 35
    everywhere = np.mean([EmpiricalCovariance().fit(samples).covariance_ for samples in groups], axis=0)
    level = np.trace(everywhere) / 4
    for place, samples in enumerate(groups):
        fitted, n = EmpiricalCovariance().fit(samples), len(samples)
        drawn = (n * fitted.covariance_ + 4 * everywhere) / (n + 4)
        shrunk = (n * drawn + 4 * np.diag(np.diag(drawn))) / (n + 4)  # `layers.whitening`
        shrunk += (0.01 * np.trace(drawn) / 4 + 0.001 * level + 1e-8) * np.eye(4)
        fitted._set_covariance(shrunk)
        np.testing.assert_allclose(ours[:, place], fitted.mahalanobis(z[:, place]) / 2, rtol=2e-3)


@pytest.mark.parametrize("border", ["fade", "level"])
def test_upsampling_equals_a_transposed_convolution(border):
    rows = cutpaste.upsampling_matrix(20, 8, 4, border)  # squares at 0, 4, 8, 12; σ = 2.5
    cols = cutpaste.upsampling_matrix(12, 8, 4, border)
    scores = images(2, 1, (4, 2))
    offsets = torch.arange(8) - 3.5
    kernel = torch.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 2.5**2))[None, None]
    kernel = kernel / kernel.sum()
    spread = F.conv_transpose2d(scores, kernel, stride=4)
    if border == "level":
        spread = spread / F.conv_transpose2d(torch.ones_like(scores), kernel, stride=4)
    np.testing.assert_allclose((rows @ scores[:, 0] @ cols.T).numpy(), spread[:, 0].numpy(), rtol=1e-5)


def test_a_level_map_of_equal_scores_is_flat_and_a_fading_one_is_not():
    ones = torch.ones(29)
    assert torch.allclose(cutpaste.upsampling_matrix(128, 16, 4, "level") @ ones, torch.ones(128))
    fading = cutpaste.upsampling_matrix(128, 16, 4, "fade") @ ones
    assert fading[0] < 0.2 * fading[64]


# --- the network ---


def test_loss_is_the_cross_entropy_of_three_classes():
    # a head that always says class 1 with log-odds of log 2: -log of 1/4, 1/2, 1/4, averaged
    network = small()
    last = network.head[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, math.log(2), 0.0]))
    expected = (2 * math.log(4) + math.log(2)) / 3
    assert network.loss(images()).item() == pytest.approx(expected, abs=1e-6)


class InOrder(torch.nn.Module):
    """A head that takes the first third for class 0, the next for 1, the last for 2, with log-odds of 50."""

    def forward(self, f):
        return 50 * torch.eye(3).repeat_interleave(len(f) // 3, dim=0)


def test_classes_are_good_pasted_scarred_in_this_order():
    network = small()
    network.head = InOrder()
    assert network.loss(images(4)).item() == pytest.approx(0, abs=1e-6)


def test_crops_are_jittered_before_anything_is_pasted(monkeypatch):
    network, seen = small(), []
    three_ways = cutpaste_augment.three_ways
    monkeypatch.setattr(cutpaste, "three_ways", lambda x, _region: seen.append(x) or three_ways(x))
    torch.manual_seed(0)
    network.loss(torch.full((50, 3, 32, 48), 0.5))
    (crops,) = seen
    assert crops.shape == (50, 3, 16, 16)
    levels = crops.mean(dim=(1, 2, 3))  # grey stays grey, between 0.5·0.9 and 0.5·1.1
    assert 0.449 < levels.min() < 0.46
    assert 0.54 < levels.max() < 0.551
    assert (crops - levels[:, None, None, None]).abs().max() < 1e-5


def three_ways_of(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    """Return good crops and both kinds of pasted ones, which the loss makes of images covered in part."""
    network, made, three_ways = small(), [], cutpaste_augment.three_ways
    monkeypatch.setattr(cutpaste, "jitter", lambda crops, *_: crops)
    monkeypatch.setattr(cutpaste, "three_ways", lambda *given: made.append(three_ways(*given)) or made[-1])
    network.covered = True
    torch.manual_seed(0)
    network.loss(x)
    return made[0].split(len(x))


def test_with_a_region_nothing_is_pasted_on_what_does_not_count(monkeypatch):
    x = 0.3 + 0.1 * images(16)
    x[..., 24:] = 127 / 255  # the cover, of the right half
    good, *pasted = three_ways_of(x, monkeypatch)
    cover = (good == 127 / 255).all(dim=1, keepdim=True)
    assert 0 < cover.float().mean() < 0.4  # crops lie on what counts
    for each in pasted:
        changed = (each != good).any(dim=1, keepdim=True)
        assert changed.flatten(1).any(dim=1).all()  # something is pasted into each
        assert not (changed & cover).any()
        assert (each[changed.expand_as(each)] < 0.45).all()  # and none of the cover


def test_with_a_region_of_one_percent_something_is_pasted_into_each_crop(monkeypatch):
    x = torch.full((200, 3, 32, 48), 127 / 255)  # the cover
    x[..., 14:18, 20:24] = images(200, size=(4, 4))  # 16 of 1536 pixels
    good, *pasted = three_ways_of(x, monkeypatch)
    cover = (good == 127 / 255).all(dim=1, keepdim=True)
    for each in pasted:
        changed = (each != good).any(dim=1, keepdim=True)
        assert changed.flatten(1).any(dim=1).all()
        assert not (changed & cover).any()


def test_a_region_of_all_that_is_seen_changes_no_paste(monkeypatch):
    crops = images(4, 3, (16, 16))
    everywhere = torch.ones_like(crops[:, :1], dtype=torch.bool)
    monkeypatch.setattr(cutpaste_augment, "TRIES", 1)
    found = []
    for seen in (None, everywhere):
        torch.manual_seed(1)
        found.append(cutpaste_augment.three_ways(crops, seen))
    assert torch.equal(*found)


def test_pixels_are_standardised_by_the_training_images():
    x = images(7, 3) * torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    network = small()
    network.prepare(lambda: x.split(3))
    seen = network.plain(x)
    assert seen.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert seen.var(dim=(0, 2, 3), correction=0).mean().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("trunk", ["dense", "resnet18"])
@pytest.mark.parametrize("density", ["shared", "place"])
@pytest.mark.parametrize("channels", [1, 4])
def test_an_odd_spot_shows_where_it_is(trunk, density, channels):
    x = 0.5 + 0.1 * images(12, channels)
    network = finished(x, trunk=trunk, density=density)
    odd = x[:1].clone()
    odd[:, :, 18:24, 30:36] = 1.0
    with torch.no_grad():
        before, after = network(x[:1]), network(odd)
    assert after.shape == (1, 32, 48)
    assert after.min() >= 0
    row, col = divmod(int((after - before).argmax()), 48)
    assert 14 <= row < 28
    assert 26 <= col < 40
    assert after.max() > 1.5 * before.max()


def test_a_map_spreads_the_density_or_its_root():
    x, new = images(8), images(1, seed=1)
    network = finished(x)
    with torch.no_grad():
        density = cutpaste.minus_log_density(network.encode(new), network.mean, network.whitening)
        distance = network(new)
        network.config = CutPasteConfig(**SMALL, score="density")
        squared = network(new)
    for scores, map_ in ((density, squared), ((2 * density) ** 0.5, distance)):
        expected = network.rows @ scores.view(13, 21) @ network.cols.T  # (32 - 8)/2 + 1 by (48 - 8)/2 + 1
        np.testing.assert_allclose(map_[0].numpy(), expected.numpy(), rtol=1e-4)


def test_score_does_not_depend_on_the_company():
    x = images(6)
    network = finished(x)
    backend = TorchBackend(network, torch.device("cpu"))
    together = backend.run(x.numpy()).maps
    for i in range(6):
        assert np.array_equal(together[i], backend.run(x[i : i + 1].numpy()).maps[0])


@pytest.mark.parametrize("density", ["shared", "place"])
def test_equal_constant_images_score_zero_and_another_one_does_not(density):
    x = torch.full((5, 1, 32, 48), 0.5)
    network = finished(x, density=density)
    with torch.no_grad():
        assert network(x[:1]).abs().max() < 1e-2
        other = network(torch.full_like(x[:1], 0.9))
    assert torch.isfinite(other).all()
    assert other.min() > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 24}, "--patch-size 24: must be a power of 2, 16 or larger"),
        ({"stride": 3}, "--stride 3: must be a power of 2 and at most an eighth of --patch-size 32"),
        ({"stride": 8}, "--stride 8: must be a power of 2 and at most an eighth of --patch-size 32"),
        ({"image_size": (128, 24)}, "--image-size 128x24: must be --patch-size 32 or larger"),
        ({"image_size": 126}, "--image-size 126x126: squares at --stride 4 leave pixels uncovered; "),
        ({"width": 0}, "--width 0: must be 1 or larger"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UsageError) as refused:
        CutPasteConfig(**options)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_paper_preset_is_the_papers():
    paper = CutPaste.presets["paper"]
    assert (paper.size, paper.patch_size, paper.side, paper.stride) == (
        (256, 256),
        64,
        32,
        4,
    )  # Sec. 4.2, A.5
    assert paper.grid == (57, 57)  # (256 - 32)/4 + 1
    assert (paper.steps, 3 * paper.batch_size, paper.schedule) == (256 * 256, 96, "cosine")  # A.1
    assert (paper.trunk, 8 * paper.width, paper.border) == ("resnet18", 512, "fade")
    assert (paper.density, paper.score, paper.image_score) == ("shared", "density", "max")  # Eq. (2), Fig. 1


# --- whole runs ---


def test_a_run_saved_and_loaded_scores_the_same(tiny_category, tmp_path):
    config = CutPasteConfig(
        image_size=32, patch_size=16, stride=2, width=4, steps=4, batch_size=8, calibration_fraction=0.25
    )
    models = []
    for name in ("one", "two"):
        made = fit.fit(
            tiny_category,
            method="cutpaste",
            config=config,
            out=tmp_path / name,
            device="cpu",
            precision="fp32",
        )
        models.append((tmp_path / name / "model.safetensors").read_bytes())
    assert models[0] == models[1]
    loaded = load.load(tmp_path / "one", device="cpu")
    for path in sorted((tiny_category / "test").rglob("*.png")):
        before, after = made.predict(path), loaded.predict(path)
        assert before.score == after.score
        assert np.array_equal(before.anomaly_map, after.anomaly_map)
    bad = [made.predict(p).score for p in (tiny_category / "test" / "line").iterdir()]
    good = [made.predict(p).score for p in (tiny_category / "test" / "good").iterdir()]
    assert min(bad) > max(good)
