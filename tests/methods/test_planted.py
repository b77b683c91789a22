"""Planted: its labels and loss by hand, what it cuts out and plants, its network, and whole runs."""

import csv
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.data import planting
from blemish.data.dataset import open_dataset
from blemish.data.part import background_of, cells_of_part, draw_centres, views
from blemish.export.int8 import quantise
from blemish.methods import planted
from blemish.methods.components.distributed import share_of
from blemish.methods.components.unet import Block, UNet
from blemish.methods.planted import Planted, PlantedConfig
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = {"image_size": (48, 64), "crop_size": 32, "width": 0.25, "steps": 3, "batch_size": 4}


def images(n=4, channels=3, size=(48, 64), seed=0):
    return 0.3 + 0.4 * torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def small(channels=3, **changes):
    torch.manual_seed(0)
    return Planted(PlantedConfig(**(SMALL | changes)), channels)


def prepared(x, **changes):
    network = small(x.shape[1], image_size=tuple(x.shape[2:]), **changes)
    network.prepare(lambda: x.split(3))
    return network


# --- labels and loss ---


def test_soft_label_by_hand():
    # (d - 3) / 12: nothing up to 3 grey levels, a half at 9, all from 15 on
    d = torch.tensor([[0.0, 3, 6], [9, 15, 90]])
    assert planted.soft_label(d).tolist() == [[0, 0, 0.25], [0.5, 1, 1]]


def test_weighted_loss_by_hand():
    # logit 0 costs log 2 whatever the label. Logit log 3 has p = 3/4: label 1 costs -log 3/4 and counts
    # thrice, label 0.5 costs -(log 3/4 + log 1/4) / 2 and counts once, as it is not above a half
    logits = torch.tensor([0.0, math.log(3), math.log(3)])
    labels = torch.tensor([0.0, 1.0, 0.5])
    expected = (math.log(2) - 3 * math.log(3 / 4) - (math.log(3 / 4) + math.log(1 / 4)) / 2) / 5
    assert planted.weighted_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_weighted_loss_of_sure_labels_is_scikit_learns():
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 5, 6, generator=g), torch.rand(3, 5, 6, generator=g).round()
    y = labels.flatten().numpy()
    expected = log_loss(y, logits.sigmoid().flatten().numpy(), sample_weight=1 + 2 * y)
    assert planted.weighted_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


# --- the part and what surrounds it ---


def part_on(colour, size=(48, 64), n=5, noise=0.01):
    """A part of 0.6, rows 16 to 31 and columns 24 to 47, on a plain background."""
    x = torch.tensor(colour)[None, :, None, None].expand(n, -1, *size).clone()
    x[:, :, 16:32, 24:48] = 0.6
    return x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def test_a_plain_border_is_background():
    x = part_on([0.1, 0.2, 0.3])
    colour, apart = background_of(x.mean(dim=0), x.std(dim=0))
    assert colour.tolist() == pytest.approx([0.1, 0.2, 0.3], abs=0.01)
    assert apart.item() == pytest.approx(0.08)


def test_a_textured_or_varying_border_is_not():
    x = part_on([0.1, 0.2, 0.3])
    steep = torch.linspace(0, 0.5, 64).expand(3, 48, 64)
    for mean, std in ((x.mean(dim=0) + steep, x.std(dim=0)), (x.mean(dim=0), x.std(dim=0) + 0.1)):
        colour, apart = background_of(mean, std)
        assert apart.item() == -1
        torch.testing.assert_close(colour, mean.mean(dim=(1, 2)))


def test_only_the_two_outer_pixels_are_the_border():
    mean = torch.full((1, 20, 20), 0.9)
    mean[:, 2:-2, 2:-2] = 0.1
    assert background_of(mean, torch.zeros(1, 20, 20))[0].item() == pytest.approx(0.9)
    mean[:, 1:-1, 1:-1] = 0.1  # the second ring as well: no longer plain
    assert background_of(mean, torch.zeros(1, 20, 20))[1].item() == -1


def test_cells_of_the_part():
    x = part_on([0.1, 0.2, 0.3])
    found = cells_of_part(x, torch.tensor([0.1, 0.2, 0.3]), torch.tensor(0.08))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[2:4, 3:6] = True
    assert (found == expected).all()
    # where nothing stands out all cells count, and those of other images do not change
    x[1] = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    found = cells_of_part(x, torch.tensor([0.1, 0.2, 0.3]), torch.tensor(0.08))
    assert found[1].all()
    assert (found[0] == expected).all()
    assert cells_of_part(x, torch.zeros(3), torch.tensor(-1.0)).all()


def test_a_part_darker_than_its_background_is_a_part():
    x = part_on([0.9])
    found = cells_of_part(x, torch.tensor([0.9]), torch.tensor(0.08))
    assert found[0, 2:4, 3:6].all()
    assert found.sum().item() == 5 * 6


def test_centres_lie_on_the_part():
    part = torch.zeros(400, 6, 8, dtype=torch.bool)
    part[:, 2:4, 3:6] = True
    torch.manual_seed(0)
    centres = draw_centres(part, (8, 8), (48, 64))
    low, high = centres.amin(dim=0).tolist(), centres.amax(dim=0).tolist()
    assert low == pytest.approx([16, 24], abs=0.5)
    assert high == pytest.approx([32, 48], abs=0.5)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (48, 64)])
def test_crops_lie_whole_inside_the_image(size):
    torch.manual_seed(0)
    centres = draw_centres(torch.ones(400, 6, 8, dtype=torch.bool), size, (48, 64))
    half = torch.tensor(size) / 2
    assert (centres >= half).all()
    assert (centres <= torch.tensor([48, 64]) - half).all()
    spread = centres.amax(dim=0) - centres.amin(dim=0)
    assert spread.tolist() == pytest.approx([48 - size[0], 64 - size[1]], abs=1)


@pytest.mark.parametrize("size", [(16, 24), (15, 21)])
def test_views_without_turn_and_zoom_are_slices(size):
    x, (h, w) = images(3), size
    corners = [(0, 0), (10, 31), (48 - h, 64 - w)]
    centres = torch.tensor([[top + h / 2, left + w / 2] for top, left in corners])
    transform = views(centres, size, (48, 64), torch.zeros(3), torch.ones(3))
    found = planting.sample(x, transform, size)
    for i, (top, left) in enumerate(corners):
        np.testing.assert_allclose(found[i], x[i, :, top : top + h, left : left + w], atol=1e-4)


def test_views_turn_about_their_middle_and_zoom_out():
    x = torch.zeros(1, 1, 48, 64)
    x[0, 0, 24, 32 + 8] = 1  # eight to the right of the middle (24.5, 32.5)
    centre = torch.tensor([[24.5, 32.5]])
    quarter = torch.tensor([math.pi / 2])
    for turn, zoom, expected in (
        (torch.zeros(1), torch.ones(1), (10, 18)),
        (quarter, torch.ones(1), (2, 10)),  # right goes up
        (torch.zeros(1), torch.full((1,), 2.0), (10, 14)),  # half as far off
    ):
        seen = planting.sample(x, views(centre, (21, 21), (48, 64), turn, zoom), (21, 21))[0, 0]
        assert divmod(int(seen.argmax()), 21) == expected


# --- crops ---


def test_crops_are_good_but_for_what_is_planted():
    x = images(40)
    network = prepared(x)
    torch.manual_seed(0)
    good, bad, corners = network.draw_crops(x)
    assert good.shape == bad.shape == (40, 3, 32, 32)
    untouched = (good == bad).flatten(1).all(dim=1)
    assert 0 < untouched.sum() < 16  # 15 % have none; a few defects show nothing
    for i, (top, left) in enumerate(corners.tolist()):
        assert 0 <= top <= 48 - 32
        assert 0 <= left <= 64 - 32
        # up to two pixels off, turned, and 3 % and 3 grey levels brighter: the same place on the whole
        apart = good[i].mean() - x[i, :, top : top + 32, left : left + 32].mean()
        assert abs(apart) < 0.03 * 0.5 + 3 / 255 + 0.02


def test_defects_of_another_image_than_its_own_are_planted(monkeypatch):
    x = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 48, 64) / 5
    network, seen = prepared(x), []

    def look(good, other, *, kinds, **_):
        pieces = [kind in planting.PIECES for kind in kinds]
        seen.append((good[pieces], other[pieces]))
        return good

    monkeypatch.setattr(planting, "plant", look)
    torch.manual_seed(0)
    for _ in range(5):
        network.draw_crops(x)
    for good, other in seen:
        assert ((good - other).abs().amax(dim=(1, 2, 3)) > 0.1).all()
    assert 1 < len(seen) <= 15
    assert sum(len(good) for good, _ in seen) > 5


def test_crops_hardly_move_and_pieces_are_turned_and_resized(monkeypatch):
    x, asked, draw = images(8), set(), planted.uniform
    network = prepared(x)
    monkeypatch.setattr(planting, "plant", lambda good, *_, **__: good)
    monkeypatch.setattr(
        planted, "uniform", lambda low, high, *shape: asked.add((low, high)) or draw(low, high, *shape)
    )
    torch.manual_seed(0)
    network.draw_crops(x)
    crops = {
        (-2, 2),
        (-1, 1),
        (0.99, 1.01),
        (0.97, 1.03),
        (-3, 3),
    }  # pixels, degrees, zoom, gain, grey levels
    assert asked == crops | {(-math.pi, math.pi), (0.7, 1.3)}


@pytest.mark.parametrize(("kinds", "family"), [("first", 0), ("second", 1), ("all", None)])
def test_kinds_come_from_their_family(kinds, family, monkeypatch):
    x = images(16)
    network, seen = prepared(x, kinds=kinds), set()
    monkeypatch.setattr(planting, "plant", lambda good, *_, kinds, **__: seen.update(kinds) or good)
    torch.manual_seed(0)
    for _ in range(12):
        network.draw_crops(x)
    assert seen == set(planting.KINDS if family is None else planting.FAMILIES[family])


def test_the_loss_is_that_of_labels_at_half_size(monkeypatch):
    x = images(4)
    network = prepared(x)
    torch.manual_seed(1)
    found = network.loss(x)
    x = x / network.white
    torch.manual_seed(1)
    good, bad, corners = network.draw_crops(x)
    labels = ((planting.changed(good, bad) - 3) / 12).clamp(0, 1)
    halved = labels.unflatten(1, (16, 2)).unflatten(3, (16, 2)).mean(dim=(2, 4))
    inputs = []
    for i, (top, left) in enumerate(corners.tolist()):
        place = slice(top, top + 32), slice(left, left + 32)
        plain = (bad[i] - x.mean()) / x.std(correction=0)
        own = (bad[i] - x.mean(dim=0)[:, *place]) / (x.std(dim=0, correction=0)[:, *place] + 0.03)
        rows = torch.linspace(-1, 1, 48)[place[0], None].expand(32, 32)
        cols = torch.linspace(-1, 1, 64)[None, place[1]].expand(32, 32)
        inputs.append(torch.cat([plain, own.clamp(-5, 5) / 2, rows[None], cols[None]]))
    logits = network.network(torch.stack(inputs))
    weights = torch.where(halved > 0.5, 3.0, 1.0)
    costs = F.softplus(logits) - halved * logits
    expected = (weights * costs).sum() / weights.sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert found.requires_grad


def test_with_a_region_nothing_is_planted_on_what_does_not_count():
    x = images(16)
    x[..., 32:] = 127 / 255  # the cover, of the right half
    network = small()
    network.covered = True
    network.prepare(lambda: x.split(4))
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        good, bad, corners = network.draw_crops(x / network.white)
        columns = corners[:, 1, None] + torch.arange(32)  # of the image, for each column of a crop
        changed = (bad != good).any(dim=1).any(dim=1)
        assert not changed[columns >= 32 + 3].any()  # a crop is turned by a degree and moved by 2 pixels
        found.append(changed.any(dim=1).float().mean())
    assert min(found) > 0.5  # an image in seven stays good


# --- the network ---


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("channels", [1, 5])
def test_inputs_are_the_image_the_standardised_one_and_the_place(positions, channels):
    x = images(3, channels)
    network = prepared(x, positions=positions)
    x = x / network.white
    found = network.inputs(x, network.place_mean, network.place_std, network.position)
    assert found.shape == (3, 2 * channels + 2 * positions, 48, 64)
    plain, standard = found[:, :channels], found[:, channels : 2 * channels]
    assert plain.mean().item() == pytest.approx(0, abs=1e-4)
    assert plain.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(standard, (x - x.mean(dim=0)) / (x.std(dim=0, correction=0) + 0.03) / 2)
    far = network.inputs(x + 9, network.place_mean, network.place_std, network.position)
    assert far[:, channels : 2 * channels].unique().tolist() == [2.5]
    if positions:
        assert found[0, -2:, 0, 0].tolist() == [-1, -1]
        assert found[0, -2:, -1, 0].tolist() == [1, -1]  # rows, then columns
        assert found[0, -2:, 0, -1].tolist() == [-1, 1]


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (96, 70), (63, 129)])
def test_the_network_halves_any_size(size):
    torch.manual_seed(0)
    network = UNet(3, [2, 3, 4, 5, 6]).eval()
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        found = network(x)
    assert found.shape == (2, size[0] // 2, size[1] // 2)
    assert found.std() > 0


def test_the_network_has_five_levels_of_two_convolutions():
    network = UNet(8, planted.CHANNELS)
    blocks = [m.convolution for m in network.modules() if isinstance(m, Block)]
    shapes = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in blocks]
    down = [
        (16, 16),
        (16, 16),
        (16, 32),
        (32, 32),
        (32, 64),
        (64, 64),
        (64, 96),
        (96, 96),
        (96, 128),
        (128, 128),
    ]
    up = [(128 + 96, 96), (96 + 64, 64), (64 + 32, 32), (32 + 16, 16)]
    assert shapes == [(8, 16, 4, 2), *((a, b, 3, 1) for a, b in down + up)]
    assert (network.head.in_channels, network.head.out_channels, network.head.kernel_size) == (16, 1, (1, 1))


def test_a_defect_moves_the_logits_around_it_alone():
    """Without the coarse levels, which see everything: what is far away stays as it is."""
    torch.manual_seed(0)
    network = UNet(1, [4, 4]).eval()
    x = torch.rand(1, 1, 64, 64)
    other = x.clone()
    other[..., 40:44, 20:24] += 1
    with torch.no_grad():
        change = (network(other) - network(x)).abs()[0]
    row, col = divmod(int(change.argmax()), 32)
    assert 17 <= row <= 24
    assert 7 <= col <= 14
    assert not change[:10].any()
    assert not change[:, 24:].any()


def test_folding_changes_nothing():
    x = images(6)
    network = prepared(x)
    for _ in range(4):
        network.loss(x)  # so that the running statistics are not those of the beginning
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.eval()
    with torch.no_grad():
        before = network(x)
        network.finish(lambda: [x])
        assert (network(x) - before).abs().max() < 1e-5
        blocks = [m for m in network.modules() if isinstance(m, Block)]
        for block in blocks:
            seen = torch.rand(1, block.convolution.in_channels, 8, 8)
            torch.testing.assert_close(block(seen), block.convolution(seen).relu(), rtol=0, atol=1e-6)


def test_the_map_is_smoothed_logits():
    x = images(2)
    network, plain = prepared(x), prepared(x, smoothing=0)
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        rough, smooth = plain.eval()(x), network.eval()(x)
    assert rough.shape == smooth.shape == (2, 24, 32)
    from scipy.ndimage import gaussian_filter

    for i in range(2):  # σ 3 of the image is 1.5 of the map, cut off at 6
        expected = gaussian_filter(rough[i].double().numpy(), 1.5, mode="reflect", radius=6)
        np.testing.assert_allclose(smooth[i], expected, atol=1e-5)


def test_statistics_are_those_of_the_training_images():
    x = part_on([0.1, 0.2, 0.3], n=7)
    network = prepared(x)
    brightest = x.mean(dim=1).flatten(1).sort(dim=1).values[:, -(x[0, 0].numel() // 10) :]
    assert network.white.item() == pytest.approx(brightest.mean().item(), rel=1e-5)
    x = x / network.white
    torch.testing.assert_close(network.place_mean, x.mean(dim=0))
    torch.testing.assert_close(network.place_std, x.std(dim=0, correction=0), rtol=1e-3, atol=1e-5)
    assert network.pixel_mean.item() == pytest.approx(x.mean().item(), rel=1e-5)
    assert network.pixel_spread.item() == pytest.approx(x.std(correction=0).item(), rel=1e-4)
    assert network.apart.item() == pytest.approx(0.08)
    white = network.white.item()
    assert network.colour.tolist() == pytest.approx([0.1 / white, 0.2 / white, 0.3 / white], abs=0.02 / white)


def test_of_few_images_there_are_several_crops_each(monkeypatch):
    x, seen = images(3), []
    network = prepared(x, batch_size=8)
    real = Planted.draw_crops
    monkeypatch.setattr(Planted, "draw_crops", lambda self, x: (seen.append(x), real(self, x))[1])
    network.loss(x)
    network.loss_of_share(x, share_of(6, process=1, processes=2))
    assert [len(s) for s in seen] == [8, 4]
    torch.testing.assert_close(seen[0], torch.cat([x, x, x[:2]]) / network.white)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 31}, "--image-size 31: planted needs 32 pixels or more"),
        ({"image_size": (64, 16)}, "--image-size 16"),
        ({"crop_size": 31}, "--crop-size 31: must be 32 or larger"),
        ({"width": 0.2}, "--width 0.2: must be from 0.25 to 8"),
        ({"width": float("nan")}, "--width nan"),
        ({"smoothing": -0.5}, "--smoothing -0.5: must be a finite number, 0 or larger"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes, said):
    with pytest.raises(UsageError, match=said) as caught:
        PlantedConfig(**changes)
    assert "\n" not in str(caught.value)


def test_the_default_is_what_its_page_says():
    config = Planted.presets["default"]
    assert (config.size, config.crop_size, config.width, config.smoothing) == ((256, 256), 96, 1.0, 3.0)
    assert (config.batch_size, config.learning_rate, config.schedule) == (32, 2e-3, "cosine")
    assert (config.positions, config.kinds, config.image_score) == (True, "all", "top1")


# --- whole runs ---

RUN = PlantedConfig(
    image_size=48, crop_size=32, width=0.25, epochs=3, batch_size=4, calibration_fraction=0.25, smoothing=2.0
)


def learn(data, out, config=RUN, *, seed=0, resume=False):
    return fit.fit(
        data,
        method="planted",
        config=config,
        out=out,
        seed=seed,
        resume=resume,
        device="cpu",
        precision="fp32",
    )


def losses(run):
    with (run / "log.csv").open(newline="") as file:
        return [row["train_loss"] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def learnt(tiny_category, tmp_path_factory):
    """A run of 60 steps of eight crops."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("planted") / "run"
    config = PlantedConfig(
        image_size=64, crop_size=48, width=0.25, epochs=60, batch_size=8, calibration_fraction=0.4
    )
    return learn(tiny_category, run, config), run


@pytest.mark.slow
def test_it_learns_to_see_real_defects(learnt, tiny_category):
    detector, run = learnt
    found = [float(loss) for loss in losses(run)]
    assert np.mean(found[-10:]) < 0.95 * np.mean(found[:10])
    test = open_dataset(tiny_category).test
    scores = [detector.predict(s.path).score for s in test]
    good, bad = ([v for v, s in zip(scores, test, strict=True) if s.is_defect == d] for d in (False, True))
    assert min(bad) > max(good)


@pytest.mark.slow
@pytest.mark.usefixtures("operators_read_once")
def test_it_goes_into_8_bits(learnt, tiny_category, tmp_path):
    _, run = learnt
    found = quantise(run, tiny_category, tmp_path / "model.onnx")
    assert found.layers == 1 + 10 + 4 + 1  # stem, five levels of two, four on the way up, head
    assert found.image_auroc == (1.0, 1.0)
    assert found.pixel_auroc is not None
    assert found.pixel_auroc[1] > found.pixel_auroc[0] - 0.02


@pytest.mark.heavy
def test_it_learns_and_scores_tiles(tiny_category, tmp_path):
    config = PlantedConfig(
        image_size=32,
        crop_size=32,
        width=0.25,
        steps=2,
        batch_size=4,
        tile_size=40,
        calibration_fraction=0.25,
    )
    detector = learn(tiny_category, tmp_path / "run", config)
    found = detector.predict(open_dataset(tiny_category).test[0].path)
    assert found.anomaly_map.shape == (64, 64)
    assert np.isfinite(found.anomaly_map).all()
