"""NSA: sizes, places and labels by hand and against loops, its network, its loss, and whole runs."""

from __future__ import annotations

import csv
import itertools
import math

import numpy as np
import pytest
import reference_nsa as reference
import torch
from scipy import stats
from scipy.ndimage import median_filter
from torch import nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.data.dataset import open_dataset
from blemish.data.poisson import solve_poisson, solve_poisson_mixed
from blemish.methods.baselines import nsa, nsa_patches
from blemish.methods.baselines.cutpaste_backbones import BasicBlock
from blemish.methods.baselines.nsa import Nsa, NsaConfig
from blemish.methods.baselines.nsa_network import EncoderDecoder, TransposedBlock, spread
from blemish.methods.baselines.nsa_patches import OBJECT, TEXTURE, Piece
from blemish.methods.components.distributed import share_of
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = {"image_size": (48, 64), "width": 4, "steps": 3, "batch_size": 4}


def images(n=4, channels=3, size=(48, 64), seed=0):
    return 0.3 + 0.4 * torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def part_on(colour, n=5, noise=0.01):
    """A noisy part of 0.6, rows 16 to 31 and columns 24 to 47, on a plain background."""
    x = torch.tensor(colour)[None, :, None, None].expand(n, -1, 48, 64).clone()
    x[:, :, 16:32, 24:48] = 0.6
    return x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def prepared(x, **changes):
    torch.manual_seed(0)
    network = Nsa(NsaConfig(**(SMALL | {"image_size": tuple(x.shape[2:])} | changes)), x.shape[1])
    network.prepare(lambda: x.split(3))
    return network


def everywhere(n=1, size=(48, 64)):
    return torch.ones(n, *size, dtype=torch.bool)


# --- sizes ---


def test_half_sides_by_hand_and_against_loops():
    # u v = exp(-1): Gamma is 1, half of the side 0.03 + 0.05; u = v = 1 is the least; exp(-20) is too much
    u = torch.tensor([[math.exp(-0.25), math.exp(-0.75)], [1, 1], [math.exp(-10), math.exp(-10)]])
    assert nsa_patches.half_side(u).tolist() == pytest.approx([0.08, 0.03, 0.4])
    drawn = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    expected = [reference.half_side(*pair) for pair in drawn.double().tolist()]
    np.testing.assert_allclose(nsa_patches.half_side(drawn), expected, rtol=1e-5)


def test_half_sides_are_distributed_as_scipys_gamma():
    drawn = torch.rand(4000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shares = nsa_patches.half_side(drawn).numpy()
    expected = stats.gamma(2, loc=0.03, scale=0.05)
    assert stats.kstest(shares[shares < 0.4], expected.cdf).pvalue > 0.05
    assert np.mean(shares == 0.4) == pytest.approx(expected.sf(0.4), abs=0.003)


def test_zoom_by_hand():
    normal = torch.tensor([-3.0, -0.2, 0, 0.5, 9])  # 1 + half of it
    assert nsa_patches.zoom_of(normal, 0.7, 1.3).tolist() == pytest.approx([0.7, 0.9, 1, 1.25, 1.3])
    assert nsa_patches.zoom_of(normal, 0.5, 2).tolist() == pytest.approx([0.5, 0.9, 1, 1.25, 2])


@pytest.mark.parametrize(
    ("size", "zoom", "expected"),
    [
        ((30, 20), 1.2, (36, 24)),
        ((60, 30), 1.0, (40, 20)),  # 0.4 of 100 pixels at most; the shape stays
        ((10, 100), 1.3, (8, 80)),  # 0.4 of 200
        ((2, 4), 0.7, (3, 6)),  # 0.03 of 100 and of 200 at least
    ],
)
def test_pasted_sizes_by_hand(size, zoom, expected):
    assert nsa_patches.pasted_size(size, zoom, (100, 200)) == expected


def test_pasted_sizes_against_loops():
    for size in itertools.product((2, 9, 31, 60), (4, 50, 120)):
        for zoom in (0.5, 0.97, 2.0):
            expected = reference.pasted_size(size, zoom, (80, 150))
            assert nsa_patches.pasted_size(size, zoom, (80, 150)) == expected


# --- pieces ---


def test_a_piece_is_a_resized_rectangle_of_the_image(monkeypatch):
    # rows tell 0 to 1, columns too: from the values of a piece follows where it was cut
    rows = torch.linspace(0, 1, 101)[:, None].expand(101, 201)
    cols = torch.linspace(0, 1, 201).expand(101, 201)
    halves = torch.tensor([0.1, 0.08])
    monkeypatch.setattr(nsa_patches, "half_side", lambda _: halves)
    monkeypatch.setattr(nsa_patches, "zoom_of", lambda *_: torch.tensor(1.5))
    torch.manual_seed(0)
    for _ in range(10):
        piece = nsa_patches.draw_piece(torch.stack([rows, cols]), everywhere(1, (101, 201))[0], TEXTURE)
        assert piece is not None
        height, width = piece.pixels.shape[1:]
        assert height <= 30  # 2 × 10 × 1.5, less where the image's border cuts it off
        assert width <= 48
        down = piece.pixels[0, :, 0].diff()[2:-2]  # steps of 1 / 100, stretched
        assert down.mean().item() == pytest.approx(1 / 100 / 1.5, rel=0.03)
        across = piece.pixels[1, 0].diff()[2:-2]
        assert across.mean().item() == pytest.approx(1 / 200 / 1.5, rel=0.03)


def test_a_piece_of_an_object_shows_enough_of_the_part(monkeypatch):
    part = torch.zeros(48, 64, dtype=torch.bool)
    part[16:32, 24:48] = True
    monkeypatch.setattr(nsa_patches, "ON_PART", (0.6, 0.6))
    torch.manual_seed(0)
    found = [nsa_patches.draw_piece(part[None].float(), part, OBJECT) for _ in range(60)]
    pieces = [piece for piece in found if piece is not None]
    assert len(pieces) > 40  # the largest find no place
    for piece in pieces:
        assert piece.pixels.mean() > 0.5  # 0.6 before resizing
        assert torch.equal(piece.pixels[0] > 0.5, piece.part)
    assert nsa_patches.draw_piece(part[None].float(), torch.zeros_like(part), OBJECT) is None


def test_a_place_meets_the_part_by_a_quarter_of_what_the_piece_shows():
    part = torch.zeros(48, 64, dtype=torch.bool)
    part[16:32, 24:48] = True
    shown = torch.ones(12, 10, dtype=torch.bool)
    shown[:, :4] = False
    torch.manual_seed(0)
    tops, overlaps = set(), []
    for _ in range(200):
        place = nsa_patches.draw_place(Piece(pixels=torch.zeros(1, 12, 10), part=shown), part)
        assert place is not None
        tops.add(place[0].start)
        overlaps.append(((part[place] & shown).sum() / shown.sum()).item())
    assert 0.25 <= min(overlaps) < 0.4
    assert max(overlaps) == 1
    assert min(tops) < 12  # it hangs over
    nothing = Piece(pixels=torch.zeros(1, 12, 10), part=torch.zeros_like(shown))
    assert nsa_patches.draw_place(nothing, part) is None


# --- images ---


@pytest.mark.parametrize("habit", [OBJECT, TEXTURE], ids=["object", "texture"])
def test_pieces_are_blended_where_they_are_put_and_nowhere_else(habit, monkeypatch):
    good, other = images(2)
    put = []
    real = nsa_patches.draw_place
    monkeypatch.setattr(nsa_patches, "draw_place", lambda *a: put.append((a[0], real(*a))) or put[-1][1])
    monkeypatch.setattr(torch, "rand", lambda *s, real=torch.rand: real(*s) if s[0] else torch.tensor(0.4))
    torch.manual_seed(3)
    found, touched = nsa_patches.alter(good, other, everywhere()[0], everywhere()[0], habit)
    expected = good.clone()
    inside = torch.zeros(48, 64, dtype=torch.bool)
    solve = solve_poisson if habit is OBJECT else solve_poisson_mixed
    assert put
    for piece, place in put:
        assert 0.2 < piece.pixels.mean() < 0.8
        expected[:, *place] = solve(expected[:, *place], piece.pixels)
        inside[place] = True
    torch.testing.assert_close(found, expected.clamp(0, 1))
    assert torch.equal(touched, inside)


def test_one_piece_always_and_further_ones_by_a_coin(monkeypatch):
    good, other = images(2)
    for habit, most in ((OBJECT, 3), (TEXTURE, 4)):
        counts = []
        monkeypatch.setattr(
            nsa_patches, "draw_piece", lambda *_, counts=counts: counts.append(counts.pop() + 1)
        )
        torch.manual_seed(0)
        for _ in range(800):
            counts.append(0)
            nsa_patches.alter(good, other, everywhere()[0], everywhere()[0], habit)
        shares = np.bincount(counts, minlength=most + 1) / 800
        expected = [0, *(math.comb(most - 1, k) / 2 ** (most - 1) for k in range(most))]
        np.testing.assert_allclose(shares, expected, atol=0.05)


def test_pieces_come_from_another_image(monkeypatch):
    x = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 48, 64) / 5
    pairs = []
    monkeypatch.setattr(
        nsa_patches, "alter", lambda g, o, *_: pairs.append((g[0, 0, 0], o[0, 0, 0])) or (g, g[0] > 2)
    )
    torch.manual_seed(0)
    for _ in range(6):
        altered, touched = nsa_patches.alter_each(x, everywhere(5), OBJECT)
        assert torch.equal(altered, x)
        assert touched.shape == (5, 48, 64)
    assert all(good != other for good, other in pairs)
    assert len({other.item() for _, other in pairs}) == 5
    nsa_patches.alter_each(x[:1], everywhere(1), OBJECT)  # one image alone: of itself
    assert pairs[-1][0] == pairs[-1][1]


def test_what_is_altered_stays_in_the_range_of_images():
    torch.manual_seed(0)
    x = (torch.rand(8, 1, 48, 64) > 0.5).float()
    altered, _ = nsa_patches.alter_each(x, everywhere(8), OBJECT)
    assert altered.min() == 0
    assert altered.max() == 1
    assert ((altered - x).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_only_the_part_is_touched():
    x = part_on([0.1, 0.2, 0.3], n=12)
    network = prepared(x)
    assert network.habit is OBJECT
    x = x / network.white
    torch.manual_seed(0)
    altered, touched = network.alter(x)
    changed = (altered - x).abs().amax(dim=1) > 1e-3
    assert touched.flatten(1).any(dim=1).all()
    assert (changed & ~touched).any()  # noise on the background, which is no defect
    assert touched.float().mean() < 0.3
    assert prepared(images()).habit is TEXTURE


# --- labels ---


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (17, 23)])
def test_median_is_scipys(size):
    x = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    expected = median_filter(x.numpy(), size=(1, 3, 3), mode="nearest")
    assert np.array_equal(nsa.median3(x), expected)


@pytest.mark.parametrize("channels", [1, 5])
def test_change_against_loops(channels):
    good, altered = images(2, channels, (9, 12)).unbind()
    expected = reference.change(good.double().numpy(), altered.double().numpy())
    np.testing.assert_allclose(nsa.change(good[None], altered[None])[0], expected, rtol=1e-4)


def test_label_by_hand():
    # x₀ = 10: a half there, 0.9 at twice of it, log 9 / 10 · (5 - 10) = -log 3 makes 1/4; nothing up to 1
    d = torch.tensor([0.0, 1.0, 5.0, 10.0, 20.0, 20.0])
    touched = torch.tensor([True, True, True, True, True, False])
    found = nsa.label(d, touched, torch.tensor(10.0))
    assert found.tolist() == pytest.approx([0, 0, 0.25, 0.5, 0.9, 0])


def test_label_against_loops():
    d = 40 * torch.rand(100, generator=torch.Generator().manual_seed(0))
    touched = torch.rand(100, generator=torch.Generator().manual_seed(1)) < 0.7
    for half in (3.0, 11.5, 24.0):
        expected = [reference.label(v, t, half) for v, t in zip(d.tolist(), touched.tolist(), strict=True)]
        np.testing.assert_allclose(nsa.label(d, touched, torch.tensor(half)), expected, rtol=1e-4)


def test_counts_are_by_sixteenths_of_a_level():
    counts = nsa.counts_of(torch.tensor([[0.0, 0.05], [1.0, 9999.0]]))
    assert counts.nonzero()[:, 0].tolist() == [0, 16, 1024 * 16 - 1]
    assert counts.sum() == 4


@pytest.mark.parametrize(("between", "of_pieces"), [(6.0, 30.0), (90.0, 12.0), (80.0, 90.0), (0.2, 5.0)])
def test_half_change_is_the_smaller_quantile_within_bounds(between, of_pieces):
    g = torch.Generator().manual_seed(0)
    changes = [scale * torch.rand(3000, generator=g) for scale in (between, of_pieces)]
    found = nsa.half_change(*(nsa.counts_of(d) for d in changes))
    expected = reference.half_change(*(d.double().numpy() for d in changes))
    assert found.item() == pytest.approx(expected, abs=1 / 16)


def test_half_change_by_hand():
    # 0.9 of ten images' changes are at most 9; the middle of five pieces' is 12: the smaller one is 9
    between, of_pieces = torch.arange(1.0, 11), torch.tensor([4.0, 5, 12, 80, 90])
    assert nsa.half_change(nsa.counts_of(between), nsa.counts_of(of_pieces)).item() == 9
    nothing = torch.zeros(1024 * 16, dtype=torch.long)
    assert nsa.half_change(nsa.counts_of(between), nothing).item() == 3


# --- the network ---


def test_spreading_after_a_1x1_convolution_is_a_transposed_one():
    block, x = TransposedBlock(5, 3), torch.randn(2, 5, 4, 6)
    weight = block.mix.weight.transpose(0, 1)  # of a transposed one: inputs before outputs
    expected = F.conv_transpose2d(x, weight, stride=2, output_padding=1)
    torch.testing.assert_close(spread(block.mix(x)), expected)


def test_a_block_is_the_sum_of_both_ways():
    torch.manual_seed(0)
    block, x = TransposedBlock(6, 4).eval(), torch.randn(2, 6, 5, 7)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)

    def normalised(y, norm):
        mean, var, weight, bias = (
            v[:, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (y - mean) / (var + 1e-5).sqrt() * weight + bias

    with torch.no_grad():
        up = F.conv_transpose2d(x, block.first[0].weight, stride=2, padding=1, output_padding=1)
        up = F.conv2d(normalised(up, block.first[1]).relu(), block.second[0].weight, padding=1)
        short = F.conv_transpose2d(x, block.mix.weight.transpose(0, 1), stride=2, output_padding=1)
        expected = (normalised(up, block.second[1]) + normalised(short, block.normalisation)).relu()
        found = block(x)
    assert found.shape == (2, 4, 10, 14)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_network_is_a_resnet_18_down_and_three_blocks_up():
    network = EncoderDecoder(3, 64)
    blocks = [m for m in network.encoder.modules() if isinstance(m, BasicBlock)]
    assert [(b.first[0].in_channels, b.first[0].out_channels, b.first[0].stride[0]) for b in blocks] == [
        (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1),
        (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1),
    ]  # fmt: skip
    points = [m for m in network.bottleneck if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in points] == [
        (512, 256, 1),
        (256, 128, 1),
    ]
    ups = [b.first[0] for b in network.decoder if isinstance(b, TransposedBlock)]
    assert [(c.in_channels, c.out_channels) for c in ups] == [(128, 64), (64, 32), (32, 16)]
    assert network.last.weight.shape == (16, 1, 7, 7)
    # the encoder of torchvision's ResNet-18, 11,176,512 without its last layer, and what leads back up
    assert sum(p.numel() for p in network.encoder.parameters()) == 11_176_512


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96)])
def test_a_map_has_the_size_of_its_image(size):
    x = images(2, 3, size)
    network = prepared(x).eval()
    with torch.no_grad():
        found = network(x)
        logits = network.logits(x / network.white)
    assert found.shape == (2, *size)
    assert found.std() > 0
    torch.testing.assert_close(found, 1 / (1 + (-logits).exp()))


def test_weights_of_convolutions_begin_as_the_sources():
    torch.manual_seed(0)
    first = EncoderDecoder(3, 64).encoder[0][0]
    assert first.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 7 * 7)), rel=0.05)  # by outputs


# --- training ---


@pytest.mark.parametrize("by", [(1, -1), (0, 0), (-1, 1)])
def test_images_are_moved_and_mirrored(by, monkeypatch):
    x = images(3, 2, (70, 64))
    offsets = iter(by)
    monkeypatch.setattr(torch, "randint", lambda low, high, size: torch.full(size, next(offsets)))
    found = nsa.moved(x)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    down, right = 1 + by[0], 1 + by[1]
    assert np.array_equal(found, padded[:, :, down : down + 70, right : right + 64])


def test_images_are_moved_by_a_64th_at_most(monkeypatch):
    asked, real = [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda *a: asked.append(a) or real(*a))
    nsa.moved(images(2, 1, (256, 130)))
    assert [a[:2] for a in asked] == [(-4, 5), (-2, 3)]


def test_the_loss_is_the_cross_entropy_of_labels():
    x = images(4)
    network = prepared(x)
    torch.manual_seed(1)
    found = network.loss(x)
    torch.manual_seed(1)
    good = nsa.moved(x / network.white)
    altered, touched = network.alter(good)
    d = np.stack([reference.change(*pair) for pair in zip(good.numpy(), altered.numpy(), strict=True)])
    half = network.half_way.item()
    y = np.where(touched.numpy() & (d > 1), 1 / (1 + np.exp(-math.log(9) / half * (d - half))), 0)
    mean, spread = (
        (x / network.white).mean(dim=(0, 2, 3), keepdim=True),
        (x / network.white).std(correction=0),
    )
    p = network.network((altered - mean) / spread).sigmoid().detach().double().numpy()
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert 0.01 < y.mean() < 0.5
    assert found.item() == pytest.approx(expected, rel=2e-2)  # the spread is of channels together
    assert found.requires_grad


def test_statistics_are_those_of_the_training_images():
    x = part_on([0.1, 0.2, 0.3], n=7)
    network = prepared(x)
    brightest = x.mean(dim=1).flatten(1).sort(dim=1).values[:, -(x[0, 0].numel() // 10) :]
    assert network.white.item() == pytest.approx(brightest.mean().item(), rel=1e-5)
    x = x / network.white
    torch.testing.assert_close(network.pixel_mean[:, 0, 0], x.mean(dim=(0, 2, 3)))
    assert network.pixel_spread.item() == pytest.approx(x.std(correction=0).item(), rel=1e-3)
    assert network.colour.tolist() == pytest.approx(
        [v / network.white.item() for v in (0.1, 0.2, 0.3)], abs=0.02
    )
    assert network.apart.item() == pytest.approx(0.08)


def test_half_way_depends_on_the_images_alone():
    x = images(6)
    torch.manual_seed(7)
    one = prepared(x).half_way
    torch.manual_seed(8)
    drawn = torch.rand(1)
    torch.manual_seed(8)
    network = Nsa(NsaConfig(**SMALL), 3)
    torch.manual_seed(8)
    network.prepare(lambda: x.split(3))
    assert torch.equal(torch.rand(1), drawn)  # nothing was taken from the caller's sequence
    assert torch.equal(network.half_way, one)
    assert 3 < one.item() < 24


def test_of_few_images_there_are_several_each(monkeypatch):
    x, seen = images(3), []
    network = prepared(x, batch_size=8)
    real = Nsa.alter
    monkeypatch.setattr(Nsa, "alter", lambda self, x: (seen.append(len(x)), real(self, x))[1])
    network.loss(x)
    network.loss_of_share(x, share_of(6, process=1, processes=2))
    assert seen == [8, 4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 31}, "--image-size 31: nsa needs 32 pixels or more"),
        ({"image_size": (64, 16)}, "--image-size 16"),
        ({"width": 18}, "--width 18: must be a multiple of 4, 4 or larger"),
        ({"width": 0}, "--width 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes, said):
    with pytest.raises(UsageError, match=said) as caught:
        NsaConfig(**changes)
    assert "\n" not in str(caught.value)


def test_the_presets_are_what_the_page_says():
    config = Nsa.presets["default"]
    assert (config.size, config.width, config.steps, config.batch_size) == ((192, 192), 16, 1200, 16)
    assert (config.learning_rate, config.schedule, config.image_score) == (1e-3, "cosine", "mean")
    paper = Nsa.presets["paper"]
    assert (paper.size, paper.width, paper.epochs, paper.batch_size) == ((256, 256), 64, 320, 64)
    assert (paper.learning_rate, paper.image_score, paper.calibration_fraction) == (1e-3, "mean", 0.0)


# --- whole runs ---

RUN = NsaConfig(image_size=48, width=4, epochs=3, batch_size=4, calibration_fraction=0.25)


def learn(data, out, config=RUN, *, seed=0, resume=False):
    return fit.fit(
        data,
        method="nsa",
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


@pytest.mark.slow
def test_it_learns_to_see_real_defects(tiny_category, tmp_path):
    config = NsaConfig(
        image_size=64, width=4, epochs=150, batch_size=8, learning_rate=1e-2, calibration_fraction=0.4
    )
    detector = learn(tiny_category, tmp_path / "run", config)
    found = [float(loss) for loss in losses(tmp_path / "run")]
    assert np.mean(found[-10:]) < 0.8 * np.mean(found[:10])
    test = open_dataset(tiny_category).test
    scores = [detector.predict(s.path).score for s in test]
    good, bad = ([v for v, s in zip(scores, test, strict=True) if s.is_defect == d] for d in (False, True))
    assert min(bad) > 1.5 * max(good)
