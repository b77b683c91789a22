"""CPC-AD against the paper's pipeline in loops (`reference_cpc_ad`), hand arithmetic and printed numbers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import reference_cpc_ad as reference
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from blemish.core.errors import UsageError
from blemish.images import preprocess as pictures
from blemish.inference import postprocess
from blemish.methods import cpc_ad_equations as equations
from blemish.methods import cpc_ad_pairs
from blemish.methods.components.encoders import DenseEncoder, PointBlock, PreActivationBlock, ResNetEncoder
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.cpc_ad_config import CpcAdConfig

# The paper's geometry at an eighth of its size: 5x5 patches of 7x7 sub-patches, 23x23 different ones.
EIGHTH = CpcAdConfig(
    image_size=96,
    patch_size=32,
    sub_patch_size=8,
    width=4,
    encoder="dense",
    shared_encoder=False,
    bank=5,
    exposure=False,
    score="infonce",
    place_statistics=False,
    place_density=False,
    interpolation="nearest",
)
ONE_PATCH = replace(EIGHTH, image_size=32)
PAPER = CpcAd.presets["paper"]


pytestmark = pytest.mark.usefixtures("single_thread")


def images(n=1, channels=3, size=(32, 32), seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def awake(module: nn.Module) -> nn.Module:
    """Give the convolutions that start at zero some weight, so that no part is idle."""
    for part in module.modules():
        if isinstance(part, (PointBlock, PreActivationBlock)):
            nn.init.kaiming_normal_(part.second.weight)
    return module


def network(config=ONE_PATCH, channels=3, *, seed=0, **changes) -> CpcAd:
    """A random network with a random bank, and pixel statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    net = CpcAd(replace(config, **changes), channels)
    awake(net)
    net.pixel_mean.fill_(0.45)
    net.pixel_spread.fill_(0.3)
    net.bank.copy_(torch.randn(net.bank.shape).abs())
    return net.eval()


def by_pair(net: CpcAd, x: torch.Tensor) -> np.ndarray:
    """Losses as (B, direction, k - 1, row, column)."""
    with torch.no_grad():
        scores = net.pair_scores(net.encode(x))
    return scores.unflatten(1, (4, net.config.steps_ahead)).unflatten(3, net.config.grid).numpy()


def place(pair: reference.Pair, config: CpcAdConfig) -> tuple[int, int, int, int]:
    """Where a pair of the reference stands in `by_pair`."""
    (direction, k, _, (y, x)), step = pair, config.sub_patch_size // 2
    return reference.DIRECTIONS.index(direction), k - 1, y // step, x // step


def table(scores: dict[reference.Corner, float], config: CpcAdConfig) -> np.ndarray:
    """Scores by corner as (h, w), in the order of their corners."""
    return np.array([scores[corner] for corner in sorted(scores)]).reshape(config.grid)


# --- encoding each sub-patch once is the paper's pipeline (Eq. 2, Sec. 5) ---


@pytest.mark.parametrize(
    ("channels", "changes"),
    [
        (3, {"image_size": 96, "shared_encoder": True}),  # 25 x 49 = 1,225 sub-patches are cut, 529 encoded
        (3, {"image_size": 48}),
        (1, {"encoder": "resnet18", "width": 2, "image_size": (96, 64), "sub_patch_size": 16,
             "patch_size": 64, "shared_encoder": True, "score": "margin", "combine": "sum", "skip": 0,
             "steps_ahead": 3}),
        (5, {"encoder": "resnet18", "width": 2, "grey": False, "image_size": (32, 48), "skip": 2,
             "steps_ahead": 1, "score": "margin"}),
        (3, {"grey": False, "image_size": (48, 72), "sub_patch_size": 16, "patch_size": 48, "steps_ahead": 2,
             "combine": "sum", "width": 2}),
        (1, {"window": "image", "image_size": (40, 60), "shared_encoder": True, "skip": 2}),
    ],
)  # fmt: skip
def test_encoding_once_equals_cutting_every_patch(channels, changes):
    net = network(channels=channels, **changes)
    config = net.config
    x = images(1, channels, config.size)
    rule = reference.info_nce if config.score == "infonce" else reference.margin
    found = reference.losses(net, x[0].numpy(), reference.bank_of(net), rule)
    ours = by_pair(net, x)[0]
    losses = np.array([loss for _, loss in found])
    assert losses.std() > 0.1
    np.testing.assert_allclose([ours[place(pair, config)] for pair, _ in found], losses, rtol=1e-5, atol=1e-5)
    scores = reference.sub_patch_scores(found, config.combine)
    with torch.no_grad():
        forward = net(x)[0].numpy()
    np.testing.assert_allclose(forward, table(scores, config), rtol=1e-5, atol=1e-5)
    image_score = postprocess.image_score(forward, "top5")
    assert image_score == pytest.approx(reference.top5(scores), rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(
        postprocess.pixel_map(forward, config.size, "nearest"),
        reference.pixel_map(scores, config.sub_patch_size, config.size),
        rtol=1e-5,
        atol=1e-5,
    )


# --- the losses by hand ---


def test_prediction_and_its_agreement_by_hand():
    # W = [[1, 2], [3, 4]] and z_t = (1, 10): W z_t = (1 + 20, 3 + 40); with z = (1, 0) and (2, -1): 21, -1
    predicted = equations.predict(torch.tensor([[[1.0, 2], [3, 4]]]), torch.tensor([[1.0, 10]]))
    assert predicted.tolist() == [[21, 43]]
    assert equations.log_f(torch.tensor([[1.0, 0], [2, -1]]), predicted).tolist() == [[21, -1]]


def test_info_nce_and_margin_by_hand():
    # exp(log f) of the positive is 2, of the negatives 1 and 3: -log(2 / (2 + 1 + 3)) = log 3
    positive, negatives = torch.tensor(2.0).log(), torch.tensor([1.0, 3.0]).log()
    assert equations.info_nce(positive, negatives).item() == pytest.approx(math.log(3), abs=1e-6)
    assert equations.margin(positive, negatives).item() == pytest.approx(math.log(3 / 2), abs=1e-6)
    # a batch: each row has its own negatives; -log(4 / (4 + 1 + 1)) = log 1.5
    batch = equations.info_nce(torch.tensor([2.0, 4]).log(), torch.tensor([[1.0, 3], [1, 1]]).log())
    assert batch.tolist() == pytest.approx([math.log(3), math.log(1.5)], abs=1e-6)


@pytest.mark.parametrize("m", [1, 16, 256])
def test_info_nce_of_equals_is_the_log_of_their_number(m):
    for level in (0.0, -7.0, 200.0):
        loss = equations.info_nce(torch.tensor(level), torch.full((m,), level))
        assert loss.item() == pytest.approx(math.log(1 + m), rel=1e-5)


def test_huge_scores_do_not_overflow():
    positive = torch.tensor([1e4, -1e4, 3e38, -1e30], requires_grad=True)
    negatives = torch.tensor([[-1e4, 0], [1e4, 0], [0, 0], [0, -1e30]])
    loss = equations.info_nce(positive, negatives)
    assert loss.tolist() == pytest.approx([0, 2e4, 0, 1e30])
    loss.sum().backward()
    # d/dp -log(e^p / (e^p + ...)) = the positive's share - 1
    assert positive.grad.tolist() == [0, -1, 0, -1]


# --- the grid and its pairs ---


def test_grid_and_pairs_of_the_paper():
    assert PAPER.grid == (23, 23)  # 768 / 32 - 1
    windows = cpc_ad_pairs._windows(PAPER)
    assert len(windows) == 25
    assert {(bottom - top, right - left) for top, bottom, left, right in windows} == {(7, 7)}
    # 128 pixels are 4 steps of 32
    assert {top for top, *_ in windows} == {0, 4, 8, 12, 16}
    # k = 1..5 lies 2..6 away: 7 columns x (5 + 4 + 3 + 2 + 1) rows = 105 in a window, 25 x 4 x 105 in all
    _, weights = cpc_ad_pairs.targets_of(PAPER)
    assert weights.shape == (20, 529)
    assert weights.sum() == 10_500
    assert weights.sum(1).tolist() == [25 * 7 * rows for rows in (5, 4, 3, 2, 1)] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 96},
        {"image_size": (32, 64), "skip": 0},
        {"image_size": (64, 48), "skip": 2, "steps_ahead": 3},
        {"image_size": (72, 96), "sub_patch_size": 16, "patch_size": 48, "steps_ahead": 2},
        {"image_size": (20, 28), "window": "image", "skip": 0, "steps_ahead": 2},
    ],
)
def test_sources_and_weights_equal_counting_every_patch(changes):
    config = replace(EIGHTH, **changes)
    sources, weights = cpc_ad_pairs.targets_of(config)
    (h, w), step = config.grid, config.sub_patch_size // 2
    counts, contexts = Counter(), {}
    for pair in reference.all_pairs(config):
        at, (y, x) = place(pair, config), pair[2]
        counts[at] += 1
        contexts[at] = y // step * w + x // step
    assert counts
    sources, weights = (t.view(4, config.steps_ahead, h, w) for t in (sources, weights))
    for at in np.ndindex(*weights.shape):
        assert weights[at] == counts[at]
        assert sources[at] == contexts.get(at, at[2] * w + at[3])


# --- an encoding depends on its own sub-patch ---


@pytest.mark.parametrize(("kind", "side"), [(DenseEncoder, 8), (DenseEncoder, 32), (ResNetEncoder, 16)])
def test_an_encoding_depends_on_its_sub_patch_alone(kind, side):
    torch.manual_seed(0)
    encoder = awake(kind(2, side, 4))
    x = images(2, 2, (3 * side, 2 * side))
    with torch.no_grad():
        z = encoder(x)
        assert z.shape == (2, 5, 3, encoder.outputs)
        for i, j in np.ndindex(5, 3):
            rows, cols = (slice(k * side // 2, k * side // 2 + side) for k in (i, j))
            poisoned = torch.full_like(x, math.nan)
            poisoned[1, :, rows, cols] = x[1, :, rows, cols]
            assert torch.equal(encoder(poisoned)[1, i, j], z[1, i, j])
            alone = encoder(x[:, :, rows, cols])
            assert alone.shape[1:3] == (1, 1)
            torch.testing.assert_close(alone[:, 0, 0], z[:, i, j], rtol=1e-5, atol=1e-6)
    assert z.isfinite().all()
    assert z.std() > 0.01


@pytest.mark.parametrize(("kind", "side"), [(DenseEncoder, 16), (ResNetEncoder, 16)])
def test_an_encoding_sees_all_of_its_sub_patch(kind, side):
    torch.manual_seed(0)
    x = images(8, 1, (side, side)).requires_grad_()
    awake(kind(1, side, 8))(x).sum().backward()
    assert (x.grad != 0).any(0).all()


def test_residual_blocks_by_hand():
    # 3x3 kernels with nothing but their centre: 2 and 3. The sum keeps the value from before the ReLU (v2).
    same = PreActivationBlock(1, 1, 1)
    wider = PreActivationBlock(1, 2, 2)
    with torch.no_grad():
        for block in (same, wider):
            block.first.weight.zero_()
            block.second.weight.zero_()
            block.first.weight[:, :, 1, 1], block.second.weight[:, 0, 1, 1] = 2, 3
        wider.shortcut.weight.fill_(5)
        x = torch.tensor([[[[-1.0, 9], [9, 9]]], [[[2.0, 9], [9, 9]]]])
        assert same(x)[:, 0, 0, 0].tolist() == [-1, 14]  # -1 + 0; 2 + 3 * relu(2 * 2)
        assert wider(x).flatten(1).tolist() == [[0, 0], [22, 22]]  # 5 * 0; 5 * 2 + 3 * 4; every second place
        same.first.weight.neg_()
        assert same(x)[:, 0, 0, 0].tolist() == [-1, 2]  # 2 + 3 * relu(-2 * 2)
        point = PointBlock(1)
        for part, weight, bias in ((point.first, 2, 1), (point.second, 3, 0.5)):
            part.weight.fill_(weight)
            part.bias.fill_(bias)
        # -1 + 3 * relu(2 * 0 + 1) + 0.5; 2 + 3 * relu(2 * 2 + 1) + 0.5
        assert point(torch.tensor([-1.0, 2]).view(2, 1, 1, 1)).flatten().tolist() == [2.5, 17.5]


# --- scores depend on the image and the bank alone ---


@pytest.mark.parametrize("changes", [{}, {"encoder": "resnet18", "width": 2}, {"shared_encoder": True}])
def test_another_image_of_the_batch_is_not_seen(changes):
    net, x = network(**changes), images(2)
    poisoned = torch.stack([x[0], torch.full_like(x[1], math.nan)])
    with torch.no_grad():
        before, after = net(x), net(poisoned)
    assert torch.equal(after[0], before[0])
    assert before.isfinite().all()
    assert after[1].isnan().all()


@pytest.mark.parametrize("spot", [(0, 0), (2, 3), (3, 22), (5, 9)])
def test_a_sub_patch_is_seen_by_its_pairs_and_nowhere_else(spot):
    """A sub-patch of the same image is never a negative: only pairs that it begins or ends change."""
    net = network(image_size=(32, 96))
    config, x, (i, j) = net.config, images(1, 3, (32, 96)), spot
    changed = x.clone()
    changed[:, :, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8] += 0.5
    touched = {(4 * y, 4 * x) for y in range(i - 1, i + 2) for x in range(j - 1, j + 2)}
    expected_pairs = np.zeros((4, 5, *config.grid), bool)
    exists = np.zeros_like(expected_pairs)
    for pair in reference.all_pairs(config):
        exists[place(pair, config)] = True
        expected_pairs[place(pair, config)] = not touched.isdisjoint(pair[2:])
    pairs_differ = (by_pair(net, x) != by_pair(net, changed))[0]
    assert (pairs_differ[exists] == expected_pairs[exists]).all()
    with torch.no_grad():
        differs = (net(x) != net(changed))[0].numpy()
    assert (differs == expected_pairs.any((0, 1))).all()
    # patches begin every 4 columns, so those with column j end at j // 4 * 4 + 6 and begin 6 before it
    assert not differs[:, (j + 1) // 4 * 4 + 7 :].any()
    assert not differs[:, : max(0, j - 1 - 6)].any()


def test_scores_are_the_same_in_any_batch_and_order():
    net = network(image_size=(32, 48), place_statistics=True, exposure=True, shared_encoder=True)
    x = images(7, 3, (32, 48)) * torch.linspace(0.3, 1, 7)[:, None, None, None]
    net.finish(lambda: x.split(3))
    with torch.no_grad():
        together = net(x)
        for size in (1, 2, 5):
            parts = torch.cat([net(part) for part in x.split(size)])
            # standardising magnifies the rounding; one by one, as a detector scores, not a bit differs
            torch.testing.assert_close(parts, together, rtol=0, atol=2e-5)
        order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
        torch.testing.assert_close(net(x[order]), together[order], rtol=0, atol=2e-5)
    assert together.std() > 0.1


# --- directions ---


@pytest.mark.parametrize("direction", reference.DIRECTIONS)
def test_context_lies_where_its_direction_says(direction):
    """A stripe of 8 pixels at one side changes the first two rows (columns) of sub-patches there.

    So of targets from the third row on, those with a context in the stripe change: k lies 1 + k rows away
    from its context, so rows 1 + k and 2 + k, and only in the direction that looks at the stripe.
    """
    net, x = network(), images(1)
    changed = x.clone()
    stripe = {"above": np.s_[..., :8, :], "below": np.s_[..., -8:, :]}
    changed[(stripe | {"left": np.s_[..., :8], "right": np.s_[..., -8:]})[direction]] += 0.5
    differs = (by_pair(net, x) != by_pair(net, changed))[0]  # (4, 5, 7, 7)
    exists = np.zeros_like(differs)
    for pair in reference.all_pairs(net.config):
        exists[place(pair, net.config)] = True
    # turned so that the stripe is above
    turn = {"above": lambda a: a, "below": lambda a: a[..., ::-1, :], "left": lambda a: a.swapaxes(-1, -2)}
    differs = (turn | {"right": lambda a: a.swapaxes(-1, -2)[..., ::-1, :]})[direction](differs & exists)
    for i, k in np.ndindex(4, 5):  # k from 0
        rows = [row for row in range(2, 7) if differs[i, k, row].any()]
        if reference.DIRECTIONS[i] == direction:
            assert rows == [row for row in (k + 2, k + 3) if row < 7]
            assert differs[i, k, rows].all()
        else:
            assert rows == []


# --- one bad sub-patch, by hand ---


class Brightness(nn.Module):
    """z = (1 - v, v, 0, 0), where v is the mean of a sub-patch of 16 pixels."""

    def forward(self, x):
        v = F.avg_pool2d(x, 16, 8)[:, 0]
        return torch.stack([1 - v, v, 0 * v, 0 * v], dim=-1)


@pytest.mark.parametrize("score", ["infonce", "margin"])
def test_the_map_of_one_bad_sub_patch_by_hand(score):
    config = replace(
        EIGHTH, image_size=(64, 96), sub_patch_size=16, window="image", skip=2, bank=3, width=1, score=score,
        shared_encoder=True,
    )  # fmt: skip
    net = CpcAd(config, channels=1)
    net.encoders = nn.ModuleList([Brightness()])
    with torch.no_grad():
        net.W.copy_(2 * torch.eye(4).expand_as(net.W))
    net.bank[0, :, 0] = 1  # three black sub-patches
    x = torch.zeros(1, 1, 64, 96)
    x[:, :, 16:32, 56:72] = 1  # sub-patch (2, 7) of 7x11
    # A context is black wherever the target is not, as they are three rows or columns apart. So a target of
    # brightness v scores 2 (1 - v), and the negatives 2 each:
    # InfoNCE log(1 + 3 e^(2 - 2 (1 - v))) = log(1 + 3 e^(2 v)), and the margin 2 v.
    good, corner, edge, bad = (
        math.log(1 + 3 * math.exp(2 * v)) if score == "infonce" else 2 * v for v in (0, 1 / 4, 1 / 2, 1)
    )
    expected = np.full((7, 11), float(good))
    # half of the rows or columns of a neighbour are bad, a quarter of a diagonal one
    expected[1:4, 6:9] = [[corner, edge, corner], [edge, bad, edge], [corner, edge, corner]]
    with torch.no_grad():
        scores = net(x)[0].numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    drawn = postprocess.pixel_map(scores, (64, 96), "nearest")
    peak = (bad + 2 * edge + corner) / 4  # the four sub-patches over each quarter of the bad one
    there = x[0, 0].numpy() > 0
    np.testing.assert_allclose(drawn[there], peak, atol=1e-5)
    assert drawn[~there].max() < peak - 0.1


# --- training ---


@pytest.mark.parametrize(("training", "shared", "size"), [(False, True, (32, 48)), (True, False, (32, 32))])
def test_training_loss_equals_loops_over_the_same_negatives(training, shared, size):
    # the score of testing is not that of training; the sixth step has no pair in 7x7
    changes = {"negatives": 3, "score": "margin", "steps_ahead": 6, "width": 2, "crop": 0.8}
    net = network(image_size=size, shared_encoder=shared, **changes)
    (h, w), n = net.config.grid, 2 if size == (32, 48) else 3
    g = h * w
    x = images(n, 3, net.config.loading_size if training else size)
    net.train(training)
    torch.manual_seed(5)
    loss = net.loss(x)
    torch.manual_seed(5)
    if training:
        assert x.shape[2:] == (40, 40)
        x = equations.random_crops(x, size, 0.8, flip=True)
    drawn = torch.randint(n * g, (n * g * 3,)).view(n, h, w, 3).numpy()
    assert {number // g for number in drawn[0].flatten()} == set(range(n))  # from across the batch
    corners = reference.corners(0, 0, *size, 8)
    encodings = [reference.encoding(net, image, corner) for image in x.numpy() for corner in corners]
    losses = []
    for image, numbers in zip(x.numpy(), drawn, strict=True):

        def negatives(i, target, numbers=numbers):
            return [encodings[number][i] for number in numbers[target[0] // 4, target[1] // 4]]

        losses += [value for _, value in reference.losses(net, image, negatives, reference.info_nce)]
    assert len(losses) == n * (2 if w == 11 else 1) * 4 * 105  # 32x48 pixels are two patches
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    loss.backward()
    for name, parameter in net.encoders.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    gradients = net.W.grad.view(4, 6, -1).abs().amax(2)
    assert (gradients[:, :5] > 0).all()
    assert (gradients[:, 5] == 0).all()


@pytest.mark.heavy
def test_a_step_of_training_lowers_the_loss_of_the_same_draws():
    net, x = network(crop=1.0, flip=False).train(), images(4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    values = []
    for _ in range(10):
        torch.manual_seed(0)
        loss = net.loss(x)
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < values[0] - 0.05


# --- random crops ---


def test_random_crops_equal_pillow_of_a_box_that_the_pixels_tell():
    """Two channels hold each pixel's row and column, which tell the box of a crop; a third is noise."""
    H, W, (h, w), n = 40, 60, (32, 48), 300
    rows, cols = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    x = torch.stack([rows / 100, cols / 100, torch.rand(H, W)]).expand(n, 3, H, W).contiguous()
    draws = []
    for size in ((h, w), (2 * h, 2 * w)):
        torch.manual_seed(0)
        draws.append(equations.random_crops(x, size, 0.8, flip=True).numpy())
    assert [d.shape for d in draws] == [(n, 3, h, w), (n, 3, 2 * h, 2 * w)]
    sides, boxes, mirrored = [], [], 0
    for small, large in zip(*draws, strict=True):
        flipped = large[1, 0, 20] > large[1, 0, 40]
        mirrored += flipped
        if flipped:
            small, large = small[:, :, ::-1], large[:, :, ::-1]
        # enlarged, pixel i of n shows start + (i + 1/2) length / n - 1/2, but for the ends
        box = []
        for line in (100 * large[0, :, 0], 100 * large[1, 0]):
            step = (line[40] - line[20]) / 20
            box += [line[20] - 20.5 * step + 0.5, step * len(line)]
        top, height, left, width = (round(float(v)) for v in box)
        assert box == pytest.approx([top, height, left, width], abs=1e-2)
        cut = x[0, :, top : top + height, left : left + width].numpy()
        for crop in (small, large):
            np.testing.assert_allclose(crop, pictures.resize(cut, crop.shape[1:]), atol=1e-5)
        sides.append((height / H, width / W))
        boxes.append((top / max(1, H - height), left / max(1, W - width)))
    sides, boxes = np.array(sides), np.array(boxes)
    assert np.abs(sides[:, 0] - sides[:, 1]).max() <= 0.5 / H + 0.5 / W  # one share, each side rounded
    assert 0.79 < sides.min() < 0.82
    assert 0.98 < sides.max() <= 1
    assert abs(sides.mean() - 0.9) < 4 * 0.2 / math.sqrt(12 * n)  # uniform on [0.8, 1]
    assert abs(mirrored - n / 2) < 4 * math.sqrt(n) / 2
    for where in boxes.T:  # from one end to the other, and both ends alike
        assert (where.min(), where.max()) == (0, 1)
        assert 0.4 < where.mean() < 0.6
    assert abs(np.corrcoef(boxes.T)[0, 1]) < 0.25
    assert abs(np.corrcoef(sides[:, 0], boxes[:, 1])[0, 1]) < 0.25


def test_half_of_the_images_are_mirrored():
    n = 3000
    torch.manual_seed(0)
    crops = equations.random_crops(torch.tensor([0.0, 1]).expand(n, 1, 2, 2), (2, 2), 1.0, flip=True)
    assert set(crops[:, 0, 0, 0].tolist()) == {0, 1}
    assert abs(crops[:, 0, 0, 0].sum().item() - n / 2) < 4 * math.sqrt(n) / 2


@pytest.mark.parametrize("size", [(32, 48), (20, 31), (40, 60), (64, 96)])
def test_without_crop_and_flip_it_is_the_resize_of_scoring(size):
    x = images(2, 2, (40, 60))
    ours = equations.random_crops(x, size, 1.0, flip=False).numpy()
    for image, resized in zip(x.numpy(), ours, strict=True):
        np.testing.assert_allclose(resized, pictures.resize(image, size), atol=1e-5)


def test_training_images_are_kept_so_large_that_no_crop_is_enlarged():
    assert PAPER.loading_size == (960, 960)  # 768 / 0.8
    assert replace(EIGHTH, crop=0.7).loading_size == (138, 138)  # 96 / 0.7 = 137.1
    assert replace(EIGHTH, crop=1, image_size=(32, 48)).loading_size == (32, 48)


# --- before and after training ---


def planes_of(x: torch.Tensor, config: CpcAdConfig) -> np.ndarray:
    """Grey, if the config says so: (B, 1 or C, H, W)."""
    a = x.double().numpy()
    if config.grey and a.shape[1] == 3:
        a = (0.299 * a[:, 0] + 0.587 * a[:, 1] + 0.114 * a[:, 2])[:, None]
    return a


def white_points(planes: np.ndarray) -> np.ndarray:
    """The mean of each image's brightest tenth."""
    return np.array([np.sort(p.mean(0), axis=None)[-(p[0].size // 10) :].mean() for p in planes])


@pytest.mark.parametrize("exposure", [False, True])
@pytest.mark.parametrize(("channels", "grey"), [(3, True), (1, True), (5, False)])
def test_pixel_statistics_equal_numpy(channels, grey, exposure):
    net = network(channels=channels, grey=grey, exposure=exposure)
    x = images(5, channels) * torch.linspace(0.3, 1, channels)[:, None, None]
    x = x * torch.linspace(0.5, 1, 5)[:, None, None, None]
    net.prepare(lambda: x.split(2))
    planes = planes_of(x, net.config)
    if exposure:
        whites = white_points(planes)
        assert net.mean_white.item() == pytest.approx(whites.mean(), rel=1e-5)
        planes = planes * (whites.mean() / whites)[:, None, None, None]
    assert net.pixel_mean.item() == pytest.approx(planes.mean(), rel=1e-5)
    assert net.pixel_spread.item() == pytest.approx(planes.std(), rel=1e-5)


@pytest.mark.parametrize(("channels", "grey"), [(3, True), (2, False)])
def test_exposure_is_a_scale_of_each_image(channels, grey):
    changes = {"grey": grey, "image_size": (32, 48)}
    net, plain = (network(channels=channels, exposure=e, **changes) for e in (True, False))
    net.mean_white.fill_(0.6)
    x = images(3, channels, (32, 48)) * torch.linspace(0.4, 1, 3)[:, None, None, None]
    scale = torch.from_numpy(0.6 / white_points(planes_of(x, net.config))).float()
    with torch.no_grad():
        scores = net(x)
        torch.testing.assert_close(scores, plain(x * scale[:, None, None, None]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores, net(0.5 * x), rtol=1e-4, atol=1e-4)
        assert (scores - plain(x)).abs().max() > 0.1


def test_images_without_any_contrast_are_not_divided_by_zero():
    net = network()
    net.prepare(lambda: [torch.full((2, 3, 32, 32), 0.5)])
    assert (net.pixel_mean.item(), net.pixel_spread.item()) == pytest.approx((0.5, 1e-3))


def finished(x, parts=3, **changes):
    """A network's bank after training images in batches of `parts`."""
    net = network(image_size=tuple(x.shape[2:]), **changes)
    net.bank.zero_()
    net.finish(lambda: x.split(parts))
    return net


@pytest.mark.parametrize("shared", [True, False])
def test_bank_holds_encodings_of_training_sub_patches(shared):
    x = images(5, 3, (32, 48))
    net = finished(x, shared_encoder=shared, bank=20)
    corners = reference.corners(0, 0, 32, 48, 8)
    every = [reference.encoding(net, image, corner) for image in x.numpy() for corner in corners]
    found = []
    for i in range(len(net.encoders)):
        distances = np.abs(net.bank[i, :, None].numpy() - np.array([z[i] for z in every])).max(2)
        assert distances.min(1).max() < 1e-5
        found.append(distances.argmin(1).tolist())
    assert len(set(found[0])) == 20  # without repetition
    assert all(rows == found[0] for rows in found)  # the same sub-patches for each encoder
    assert len({n // len(corners) for n in found[0]}) > 2  # of several images


def test_bank_is_fixed_by_its_seed_alone():
    x = images(5, 3, (32, 48))
    banks = []
    for parts in (1, 2, 5):
        torch.manual_seed(parts)
        banks.append(finished(x, parts, bank=20).bank)
        torch.testing.assert_close(banks[-1], banks[0], rtol=1e-5, atol=1e-6)
    other = finished(x, bank=20, bank_seed=1).bank
    assert (other - banks[0]).abs().amax() > 0.1


class Place(nn.Module):
    """z = the top left pixel of each sub-patch of 8 pixels, four times."""

    def forward(self, x):
        return x[:, 0, :-4:4, :-4:4, None].expand(-1, -1, -1, 4)


def counting_network(bank: int) -> tuple[CpcAd, torch.Tensor]:
    """Two images of 3x3 sub-patches whose encodings are 0..17."""
    config = replace(
        ONE_PATCH, image_size=16, window="image", skip=0, bank=bank, width=2, shared_encoder=True
    )
    net = CpcAd(config, channels=1)
    net.encoders = nn.ModuleList([Place()])
    x = torch.zeros(2, 1, 16, 16)
    x[:, 0, :-4:4, :-4:4] = torch.arange(18.0).view(2, 3, 3)
    return net, x


@pytest.mark.slow
def test_bank_is_a_uniform_draw():
    net, x = counting_network(bank=6)
    counts, seeds = np.zeros(18), 600
    for seed in range(seeds):
        net.config = replace(net.config, bank_seed=seed)
        net.finish(lambda: x.split(1))
        rows = net.bank[0, :, 0].tolist()
        assert len(set(rows)) == 6
        counts[[int(row) for row in rows]] += 1
    # each of the 18 is in the bank with probability 1/3
    assert np.abs(counts - seeds / 3).max() < 4 * math.sqrt(seeds * (1 / 3) * (2 / 3))


def test_tiny_data_fills_the_bank_more_than_once():
    net, x = counting_network(bank=40)
    net.finish(lambda: x.split(1))
    rows = net.bank[0, :, 0].tolist()
    assert sorted(rows[:18]) == list(range(18))
    assert rows[18:36] == rows[:18]
    assert rows[36:] == rows[:4]


@pytest.mark.parametrize("parts", [1, 4, 6])
def test_place_statistics_equal_loops(parts):
    x = images(6, 3, (32, 48))
    raw = finished(x, parts)
    net = finished(x, parts, place_statistics=True)
    with torch.no_grad():
        seen = torch.cat([raw(image[None]) for image in x]).flatten(1).double().numpy()
        new = raw(images(1, 3, (32, 48), seed=1)).flatten().double().numpy()
        standardised = net(images(1, 3, (32, 48), seed=1)).flatten().numpy()
    means = [np.mean(seen[:, g]) for g in range(seen.shape[1])]
    spreads = [np.std(seen[:, g]) for g in range(seen.shape[1])]
    # half the median (the lower of the two in the middle)
    floor = 0.5 * sorted(spreads)[(len(spreads) - 1) // 2] + 1e-6
    np.testing.assert_allclose(net.place_mean[0].numpy(), means, atol=1e-5)
    np.testing.assert_allclose(net.place_spread[0].numpy(), np.array(spreads) + floor, atol=1e-5)
    expected = (new - means) / (np.array(spreads) + floor)
    np.testing.assert_allclose(standardised, expected, rtol=1e-3, atol=1e-3)


# --- how unlikely an encoding is at its place (ours) ---


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("parts", [2, 7])
def test_density_of_a_place_equals_numpy(shared, parts):
    x, new = images(14, 3, (32, 32)), images(2, 3, (32, 32), seed=1)
    options = {"shared_encoder": shared, "place_statistics": True, "place_density": True}
    net = finished(x, parts, **options)
    with torch.no_grad():
        seen, z = net.encode(x).double().numpy(), net.encode(new).double().numpy()  # (E, n, g, d)
        ours = net.sub_patch_scores(net.encode(new))[:, 1].numpy()
    E, n, g, d = seen.shape
    floor = 1e-3 * seen.var(axis=1).mean() + 1e-8
    for image, place_ in np.ndindex(2, g):
        distances = []
        for e in range(E):
            covariance = np.cov(seen[e, :, place_].T, bias=True)
            diagonal = np.diag(np.diag(covariance))
            shrunk = (n * covariance + d * diagonal) / (n + d)
            shrunk += (0.01 * np.trace(covariance) / d + floor) * np.eye(d)
            off = z[e, image, place_] - seen[e, :, place_].mean(0)
            distances.append(off @ np.linalg.inv(shrunk) @ off)
        assert ours[image, place_] == pytest.approx(math.log1p(np.mean(distances)), abs=1e-3)


def test_both_kinds_of_score_are_standardised_and_averaged():
    x, new = images(9, 3, (32, 32)), images(2, 3, (32, 32), seed=1)
    net = finished(x, place_statistics=True, place_density=True)
    with torch.no_grad():
        seen, scores = net.sub_patch_scores(net.encode(x)), net.sub_patch_scores(net.encode(new))
        forward = net(new)
    assert scores.shape == (2, 2, 49)
    expected = 0
    for kind in range(2):
        spread = seen[:, kind].std(0, correction=0)
        z = (scores[:, kind] - seen[:, kind].mean(0)) / (spread + 0.5 * spread.median() + 1e-6)
        expected = expected + 0.5 * z
    torch.testing.assert_close(forward.flatten(1), expected, rtol=1e-3, atol=1e-3)


def test_nothing_is_known_of_a_sub_patch_that_is_not_finite_and_the_others_stay():
    net = network(image_size=(32, 96))
    x = images(1, 3, (32, 96))
    with torch.no_grad():
        before = net(x)[0]
        x[:, :, :4, :4] = math.nan  # in sub-patch (0, 0) alone, whose patch has columns 0 to 6
        after = net(x)[0]
    assert after[0, 0].isnan()
    assert torch.equal(after[:, 7:], before[:, 7:])


def test_black_training_images_give_finite_scores():
    net = network(exposure=True, place_statistics=True, place_density=True)
    black = torch.zeros(3, 3, 32, 32)
    net.prepare(lambda: [black])
    net.finish(lambda: [black])
    with torch.no_grad():
        assert net(torch.cat([black, images(1)])).isfinite().all()


# --- the paper's numbers ---


def test_paper_preset_is_the_papers_numbers():
    # Sec. 5
    assert (PAPER.size, PAPER.patch_size, PAPER.sub_patch_size) == ((768, 768), 256, 64)
    assert (PAPER.encoder, PAPER.width, PAPER.shared_encoder) == ("resnet18", 64, False)
    assert (PAPER.negatives, PAPER.bank) == (16, 16)
    assert (PAPER.batch_size, PAPER.epochs) == (16, 150)
    assert (PAPER.learning_rate, PAPER.schedule, PAPER.patience) == (1.5e-4, "constant", None)
    assert (PAPER.crop, PAPER.flip, PAPER.grey) == (0.8, True, True)
    assert (PAPER.validation_fraction, PAPER.calibration_fraction) == (0.0, 0.0)
    # Sec. 5.1 and 5.2
    assert (PAPER.image_score, PAPER.interpolation) == ("top5", "nearest")
    # the notes on what it leaves open; nothing of ours
    assert (PAPER.window, PAPER.skip, PAPER.steps_ahead, PAPER.combine) == ("patch", 1, 5, "mean")
    assert (PAPER.score, PAPER.place_statistics, PAPER.exposure) == ("infonce", False, False)
    assert not PAPER.place_density


def test_paper_network_is_four_resnets_without_normalisation():
    net = CpcAd(PAPER, channels=3)
    assert (len(net.encoders), net.W.shape) == (4, (4, 5, 256, 256))
    assert net.bank.shape == (4, 16, 256)
    # 7 * 7 * 64 of the stem; 4 * 9 * 64²; 9 * 64 * 128 + 3 * 9 * 128² + 64 * 128;
    # 9 * 128 * 256 + 3 * 9 * 256² + 128 * 256
    by_hand = 3_136 + 147_456 + 524_288 + 2_097_152
    assert [sum(p.numel() for p in e.parameters()) for e in net.encoders] == [by_hand] * 4
    assert not [m for m in net.modules() if "norm" in type(m).__name__.lower()]


def test_paper_encoder_sees_64_pixels_as_4x4_places_and_256_numbers():
    encoder, x = awake(ResNetEncoder(1, 64, 64)), images(1, 1, (64, 64))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        z = encoder(x)
    assert z.shape == (1, 1, 1, 256)
    with torch.no_grad():
        places = encoder.stages(F.max_pool2d(encoder.stem(x), kernel_size=3, stride=2, padding=1))
    assert places.shape == (1, 256, 4, 4)
    torch.testing.assert_close(z[0, 0, 0], places[0].clamp(min=0).mean((1, 2)))
    # 32² places of the stem, 16², 8², 4²; of stages two and three the first convolution has half the channels
    products = 32**2 * 49 * 64 + 16**2 * 147_456 + 8**2 * 524_288 + 4**2 * 2_097_152
    assert counter.get_total_flops() == 2 * products
    assert 2 * products == pytest.approx(0.22e9, rel=0.05)


# --- what no grid fits is refused ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": 0}, "--patch-size 0: must be 1 or larger"),
        ({"width": 0}, "--width 0: must be 1 or larger"),
        ({"steps_ahead": 0}, "--steps-ahead 0: must be 1 or larger"),
        ({"negatives": -1}, "--negatives -1: must be 1 or larger"),
        ({"bank": 0}, "--bank 0: must be 1 or larger"),
        ({"batch_size": 0}, "--batch-size 0: must be 1 or larger"),
        ({"skip": -1}, "--skip -1: must be 0 or larger"),
        ({"crop": 0.05}, "--crop 0.05: must be from 0.1 to 1"),
        ({"crop": 1.5}, "--crop 1.5: must be from 0.1 to 1"),
        ({"crop": math.nan}, "--crop nan: must be from 0.1 to 1"),
        ({"sub_patch_size": 4}, "--sub-patch-size 4: must be a power of 2, 8 or larger"),
        ({"sub_patch_size": 24}, "--sub-patch-size 24: must be a power of 2, 8 or larger"),
        ({"patch_size": 36}, "--patch-size 36: must be a multiple of --sub-patch-size 8, twice it at least"),
        ({"patch_size": 8}, "--patch-size 8: must be a multiple of --sub-patch-size 8, twice it at least"),
        ({"image_size": (96, 100)}, "--image-size 96x100 does not fit patches of 32 .* multiples of 16, 32"),
        ({"image_size": (16, 96)}, "--image-size 16x96 does not fit patches of 32 .* multiples of 16, 32"),
        ({"image_size": (98, 96), "window": "image"}, "--image-size 98x96 does not fit sub-.* of 4"),
        ({"image_size": (96, 4), "window": "image"}, "--image-size 96x4 does not fit sub-.* of 4"),
        ({"patch_size": 16}, "--patch-size 16: .*--sub-patch-size 8 and --skip 1 .* enlarge it, or lower"),
        ({"image_size": 16, "window": "image"}, "--image-size 16x16: .*--skip 1 .* enlarge it, or lower"),
        ({"place_density": True}, "--no-place-statistics needs --no-place-density"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused_in_one_line(changes, words):
    with pytest.raises(UsageError, match=f"^{words}") as caught:
        replace(EIGHTH, **changes)
    assert "\n" not in str(caught.value)


def test_grey_needs_one_or_three_channels():
    with pytest.raises(UsageError, match=r"^--grey: images have 5 channels, not 3 or 1; give --no-grey$"):
        CpcAd(replace(ONE_PATCH, grey=True), channels=5)
    CpcAd(ONE_PATCH, channels=5)


def test_the_smallest_sizes_that_are_allowed_have_a_context_everywhere():
    # two sub-patches' side and no skip; a window of 3x3
    smallest = replace(EIGHTH, image_size=16, patch_size=16, skip=0)
    assert (cpc_ad_pairs.targets_of(smallest)[1].sum(0) > 0).all()
    wide = replace(EIGHTH, image_size=(8, 12), window="image", skip=0)  # 1x2 sub-patches
    assert network(wide)(images(1, 3, (8, 12))).shape == (1, 1, 2)


# --- the map of sub-patches (Sec. 5.2) ---


@pytest.mark.parametrize(("h", "w", "side"), [(1, 1, 8), (7, 7, 8), (3, 8, 4), (1, 5, 2)])
def test_nearest_map_equals_the_mean_at_each_pixel(h, w, side):
    scores = np.random.default_rng(0).normal(size=(h, w)).astype(np.float32)
    size = ((h + 1) * side // 2, (w + 1) * side // 2)
    corners = {(y * side // 2, x * side // 2): float(scores[y, x]) for y, x in np.ndindex(h, w)}
    drawn = postprocess.pixel_map(scores, size, "nearest")
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, reference.pixel_map(corners, side, size), rtol=1e-6, atol=1e-6)
    # the linear map is its blocks of half a sub-patch, one value each
    blocks = postprocess.pixel_map(scores, size, "linear")
    assert blocks.shape == (h + 1, w + 1)
    np.testing.assert_array_equal(blocks, drawn[:: side // 2, :: side // 2])
    assert postprocess.pixel_map(scores, size, None) is scores


def test_linear_map_by_hand():
    # two sub-patches side by side: the middle blocks belong to both
    blocks = postprocess.pixel_map(np.array([[1.0, 5.0]], np.float32), (8, 12), "linear")
    assert blocks.tolist() == [[1, 3, 5], [1, 3, 5]]


# --- the same bits, with several threads too ---


@pytest.mark.heavy
def test_gradients_are_the_same_to_the_bit_with_several_threads():
    torch.set_num_threads(2)
    net, x = CpcAd(replace(CpcAd.presets["default"], bank=4), channels=1).train(), images(2, 1, (240, 240))
    gradients = []
    for _ in range(3):
        torch.manual_seed(0)
        net.zero_grad()
        net.loss(x).backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    for again in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, gradients[0], strict=True))
