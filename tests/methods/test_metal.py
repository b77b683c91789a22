"""MeTAL against hand arithmetic, brute force and the paper's printed numbers."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from skimage.metrics import structural_similarity

from blemish.core.errors import UsageError
from blemish.methods import metal_equations as equations
from blemish.methods.components.statistics import white_point
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig

STRIPES = ["none", "rows", "cols", "both", "only"]
SMALL = MetalConfig(image_size=(32, 48), patch_size=8, embedding=8, hidden=16, heads=2, exposure=False)
PAPER = Metal.presets["paper-object"]


def images(n=2, channels=2, size=(32, 48), seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def small(channels=2, **changes):
    torch.manual_seed(0)
    return Metal(replace(SMALL, **changes), channels)


# --- the size of the network (Table 6) ---


@pytest.mark.parametrize(("preset", "printed"), [("paper-object", "17.8M"), ("paper-texture", "26.3M")])
def test_parameters_to_the_printed_digit(preset, printed):
    network = Metal(Metal.presets[preset], channels=3)
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}M" == printed


def test_paper_presets_are_the_papers_numbers():
    # Table 2 and Sec. 4.2
    assert (PAPER.size, PAPER.patch_size, PAPER.embedding, PAPER.heads) == ((128, 128), 16, 128, 4)
    assert (PAPER.learning_rate, PAPER.batch_size, PAPER.schedule) == (1e-4, 64, "constant")
    assert (PAPER.epochs, PAPER.min_epochs, PAPER.patience) == (3000, 500, 50)
    assert (PAPER.validation_fraction, PAPER.calibration_fraction) == (0.1, 0.0)
    assert (PAPER.stripes, PAPER.masking, PAPER.error, PAPER.center) == ("rows", "paper", "squared", False)
    assert not PAPER.bounded_context
    assert (PAPER.blocks, Metal.presets["paper-texture"].blocks) == (1, 2)
    assert not PAPER.place_statistics
    assert not PAPER.exposure


# --- attention and its mask (Eq. 1, Sec. 3.2.1) ---


def test_attention_by_hand():
    # One head, two tokens, d_k = 1: q = (1, 2), k = (1, -1), v = (10, 20).
    q, k, v = (torch.tensor(x).view(1, 1, 2, 1) for x in ([1.0, 2.0], [1.0, -1.0], [10.0, 20.0]))
    # QKᵀ = [[1, -1], [2, -2]]
    none = equations.masked_attention(q, k, v, "none").flatten().tolist()
    # row 1: weights e¹, e⁻¹ -> (10 e + 20 / e) / (e + 1 / e) = 11.19203; row 2: (10 e² + 20 e⁻²)/(e² + e⁻²)
    assert none == pytest.approx([11.19203, 10.17986], abs=1e-4)
    paper = equations.masked_attention(q, k, v, "paper").flatten().tolist()
    # own product 0: row 1: weights e⁰, e⁻¹ -> (10 + 20/e) / (1 + 1/e) = 12.68941
    # row 2: weights e², e⁰ -> (10 e² + 20) / (e² + 1) = 11.19203
    assert paper == pytest.approx([12.68941, 11.19203], abs=1e-4)
    strict = equations.masked_attention(q, k, v, "strict").flatten().tolist()
    assert strict == [20.0, 10.0]  # only the other token is left


def test_attention_divides_by_the_root_of_the_head_width():
    # d_k = 4, q·k = 2 for the first key, 0 for the second: weights e^(2/√4) = e against 1
    q = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]]).view(1, 1, 2, 4)
    k = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]]).view(1, 1, 2, 4)
    v = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]).view(1, 1, 2, 4)
    share = equations.masked_attention(q, k, v, "none")[0, 0, 0, 0].item()
    assert share == pytest.approx(math.e / (math.e + 1), abs=1e-6)


@pytest.mark.parametrize("masking", ["strict", "paper", "none"])
def test_attention_equals_loops(masking):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(3))
    ours = equations.masked_attention(q, k, v, masking).numpy()
    slow = reference.masked_attention(q.numpy(), k.numpy(), v.numpy(), masking)
    np.testing.assert_allclose(ours, slow, atol=1e-5)


# --- no leak (strict), and the paper's leak ---


def own_gradients(network, x, *places):
    """Of each patch (i, j): the largest |∂ (random combination of its reconstruction) / ∂ that patch|.

    Random weights, so that parts of the Jacobian cannot cancel: it is zero only if all of it is.
    """
    K = network.config.patch_size
    x = x.clone().requires_grad_()
    reconstruction, largest = network.reconstruct(x), []
    for i, j in places:
        rows, cols = slice(i * K, (i + 1) * K), slice(j * K, (j + 1) * K)
        patch = reconstruction[:, :, rows, cols]
        weights = torch.randn(patch.shape, generator=torch.Generator().manual_seed(i * 100 + j))
        (gradient,) = torch.autograd.grad((weights * patch).sum(), x, retain_graph=True)
        largest.append(gradient[:, :, rows, cols].abs().max().item())
    return largest


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("stripes", STRIPES)
def test_strict_masking_has_an_exactly_zero_own_jacobian(stripes, blocks):
    network, x = small(stripes=stripes, blocks=blocks), images(1)
    assert own_gradients(network, x, *itertools.product(range(4), range(6))) == [0.0] * 24


@pytest.mark.parametrize("stripes", STRIPES)
def test_strict_masking_sees_the_other_patches(stripes):
    network, x = small(stripes=stripes, blocks=2), images(1)
    x = x.clone().requires_grad_()
    network.reconstruct(x)[:, :, :8, :8].sum().backward()
    seen = x.grad.abs().amax(dim=(0, 1))
    assert seen[:8, :8].max() == 0
    others = [(1, 1), (3, 5)] if stripes in ("rows", "cols", "both", "only") else [(0, 1), (1, 0), (3, 5)]
    for i, j in others:
        assert seen[8 * i : 8 * i + 8, 8 * j : 8 * j + 8].max() > 0


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("masking", ["paper", "none"])
def test_paper_masking_leaks(masking, blocks):
    network = small(masking=masking, blocks=blocks)
    assert own_gradients(network, images(1), (1, 2))[0] > 1e-6


def test_whatever_a_patch_holds_strict_masking_reconstructs_it_alike():
    network, x = small(stripes="both", blocks=2), images(1)
    changed = x.clone()
    changed[:, :, 8:16, 16:24] = 1 - changed[:, :, 8:16, 16:24]
    with torch.no_grad():
        before, after = network.reconstruct(x), network.reconstruct(changed)
    assert torch.equal(before[:, :, 8:16, 16:24], after[:, :, 8:16, 16:24])
    assert not torch.equal(before, after)


# --- tokens, and segments of a stripe (Fig. 5) ---


def test_tokens_are_cut_where_loops_cut_them():
    x = images(2, 3, (16, 24))
    squares, rows, cols = equations.squares_of(x, 8), equations.rows_of(x, 8), equations.cols_of(x, 8)
    assert (squares.shape, rows.shape, cols.shape) == ((2, 6, 192), (2, 2, 576), (2, 3, 384))
    for i in range(2):
        assert torch.equal(rows[:, i], x[:, :, 8 * i : 8 * i + 8, :].flatten(1))
        for j in range(3):
            patch = x[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            assert torch.equal(squares[:, 3 * i + j], patch.flatten(1))
            assert torch.equal(cols[:, j], x[:, :, :, 8 * j : 8 * j + 8].flatten(1))
    assert torch.equal(equations.image_of(squares, 3, 2, 3, 8), x)


def test_a_square_gets_its_own_segment_of_the_stripe_that_contains_it():
    # h = 2 rows of w = 3 squares, d = 2. Row stripe i is numbered 100 i + (0 .. 5): its segment j is
    # (100 i + 2 j, 100 i + 2 j + 1). Column stripe j is 100 j + (0 .. 3): segment i is (100 j + 2 i, ...).
    rows = torch.tensor([[0.0, 1, 2, 3, 4, 5], [100, 101, 102, 103, 104, 105]])[None]
    assert equations.row_segments(rows, 3)[0].tolist() == [
        [0, 1], [2, 3], [4, 5], [100, 101], [102, 103], [104, 105],
    ]  # fmt: skip
    cols = torch.tensor([[0.0, 1, 2, 3], [100, 101, 102, 103], [200, 201, 202, 203]])[None]
    assert equations.col_segments(cols, 2)[0].tolist() == [
        [0, 1], [100, 101], [200, 201], [2, 3], [102, 103], [202, 203],
    ]  # fmt: skip


# --- the loss (Eq. 2 to 4) ---


def test_l1_by_hand():
    x = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    x_hat = torch.tensor([[[[0.5, 0.5], [0.0, 0.5]]], [[[0.0, 0.0], [0.0, 1.0]]]])
    # image 1: 0.5 + 0 + 1 + 0.25 = 1.75; image 2: 1; mean of the sums 1.375, of the means 1.375 / 4
    assert equations.l1_loss(x, x_hat, "sum").item() == 1.375
    assert equations.l1_loss(x, x_hat, "mean").item() == 1.375 / 4


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_is_l1_minus_ssim(reduction):
    network, x = small(reduction=reduction, channels=3), images(2, 3)
    with torch.no_grad():
        ours, x_hat = network.loss(x).item(), network.reconstruct(x).numpy()
    a = x.numpy()
    l1 = np.mean(
        [np.abs(p - q).sum() / (p.size if reduction == "mean" else 1) for p, q in zip(a, x_hat, strict=True)]
    )
    ssim = np.mean([
        structural_similarity(
            p, q, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for p, q in zip(a, x_hat, strict=True)
    ])  # fmt: skip
    assert ours == pytest.approx(l1 - ssim, rel=1e-4, abs=1e-4)


# --- the map ---


def test_squared_error_map_sums_channels_and_smooths_as_scipy_does():
    from scipy.ndimage import gaussian_filter

    network, x = small(error="squared", place_statistics=False, smoothing=(1.0,)), images(1)
    with torch.no_grad():
        ours, x_hat = network(x)[0].numpy(), network.reconstruct(x)
    error = ((x - x_hat) ** 2)[0].numpy().sum(axis=0)
    np.testing.assert_allclose(ours, gaussian_filter(error, 1.0, radius=4), atol=1e-5)


def test_mean_image_and_place_statistics_are_those_of_the_training_images():
    network, x = small(exposure=True, error="combined", smoothing=(2.0, 8.0)), images(10)
    batches = lambda: x.split(4)  # noqa: E731
    network.prepare(batches)
    white = white_point(x)
    scaled = x * (white.mean() / white)[:, None, None, None]
    assert network.mean_white.item() == pytest.approx(white.mean().item(), abs=1e-6)
    assert torch.allclose(network.mean_image, scaled.mean(0), atol=1e-6)
    network.finish(batches)
    with torch.no_grad():
        errors = network.errors(x)  # (10, S, E, H, W)
        maps = network(x)
    spread = errors.std(0, correction=0)
    typical = torch.stack([torch.stack([kind.median() for kind in scale]) for scale in spread])
    expected = spread + 0.5 * typical[:, :, None, None]
    assert torch.allclose(network.place_mean, errors.mean(0), atol=1e-5)
    assert torch.allclose(network.place_spread, expected, atol=1e-4)
    # kinds averaged, scales compete
    standardised = (errors - errors.mean(0)) / expected
    assert torch.allclose(maps, standardised.mean(2).amax(1), atol=1e-3)


def test_a_bounded_context_changes_nothing_of_training_images():
    x = images(6)
    bounded, free = small(exposure=True), small(exposure=True, bounded_context=False)
    for network in (bounded, free):
        network.prepare(lambda: x.split(4))
    shuffled = x[[3, 0, 5, 1]]
    assert torch.equal(bounded.loss(shuffled), free.loss(shuffled))


def test_a_bounded_context_holds_what_is_seen_within_the_training_images_range():
    x = images(6)
    bounded, free = small(), small(bounded_context=False)
    for network in (bounded, free):
        network.prepare(lambda: x.split(4))
    assert torch.equal(bounded.darkest, x.amin(0))
    assert torch.equal(bounded.brightest, x.amax(0))
    with torch.no_grad():
        assert torch.equal(bounded.reconstruct(x), free.reconstruct(x))
        # a blemish, however black, is a context like the darkest good pixels
        black, dark = x[:1].clone(), x[:1].clone()
        black[:, :, 8:24, 8:24] = -5.0
        dark[:, :, 8:24, 8:24] = bounded.darkest[:, 8:24, 8:24]
        assert torch.equal(bounded.reconstruct(black), bounded.reconstruct(dark))
        assert not torch.allclose(free.reconstruct(black), free.reconstruct(dark))
        # it is the image itself that is compared, not what the network saw of it
        at = (0, slice(None), slice(None), slice(8, 24), slice(8, 24))
        assert (bounded.errors(black)[at].mean() > 2 * bounded.errors(dark)[at].mean()).item()


def test_combined_error_is_the_root_of_the_squared_error_and_one_minus_ssim():
    from scipy.ndimage import gaussian_filter

    network, x = small(error="combined", smoothing=(1.0, 2.0)), images(1)
    with torch.no_grad():
        ours, x_hat = network.errors(x)[0].numpy(), network.reconstruct(x)
    a, b = x[0].numpy(), x_hat[0].numpy()
    squared = ((a - b) ** 2).sum(axis=0)
    _, ssim = structural_similarity(
        a, b, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    for s, sigma in enumerate((1.0, 2.0)):
        radius = 4 * int(sigma)
        np.testing.assert_allclose(
            ours[s, 0], np.sqrt(gaussian_filter(squared, sigma, radius=radius)), atol=1e-4
        )
        smooth = gaussian_filter(1 - ssim.mean(axis=0), sigma, radius=radius)
        np.testing.assert_allclose(ours[s, 1], smooth, atol=1e-4)


def test_joint_errors_are_each_channels_difference_its_size_and_one_minus_ssim():
    from scipy.ndimage import gaussian_filter

    network, x = small(smoothing=(1.0, 2.0)), images(1)
    with torch.no_grad():
        ours, combined = network.errors(x)[0].numpy(), small(error="combined", smoothing=(1.0, 2.0))
        difference = (x - network.reconstruct(x))[0].numpy()
        similarity = combined.errors(x)[0, :, 1].numpy()
    assert ours.shape == (2, 5, 32, 48)  # σ, kinds of two channels
    for s, sigma in enumerate((1.0, 2.0)):
        for channel in range(2):
            smooth = gaussian_filter(difference[channel], sigma, radius=4 * int(sigma))
            np.testing.assert_allclose(ours[s, channel], smooth, atol=1e-5)
            size = gaussian_filter(difference[channel] ** 2, sigma, radius=4 * int(sigma))
            np.testing.assert_allclose(ours[s, 2 + channel], np.sqrt(size), atol=1e-4)
        np.testing.assert_array_equal(ours[s, 4], similarity[s])


@pytest.mark.parametrize("by_position", [True, False])
def test_joint_map_is_how_unlikely_the_errors_are_among_those_of_good_images(by_position):
    network, x = small(smoothing=(1.0, 2.0), place_statistics=by_position), images(10)
    batches = lambda: x.split(4)  # noqa: E731
    network.prepare(batches)
    network.finish(batches)
    with torch.no_grad():
        errors, maps = network.errors(x).double().numpy(), network(x).numpy()
    d = 10  # two σ, five kinds
    e = (
        errors.reshape(10, d, 16, 2, 24, 2).mean(axis=(3, 5)).reshape(10, d, -1).transpose(2, 0, 1)
    )  # (g, n, d)
    e = e / e.std(axis=(0, 1))
    e = e if by_position else e.reshape(1, -1, d)
    mean = e.mean(axis=1, keepdims=True)
    own = np.einsum("gnd,gne->gde", e - mean, e - mean) / e.shape[1]
    share = d / (d + e.shape[1])
    covariance = (1 - share) * own + share * own.mean(axis=0) + 0.01 * np.eye(d)
    distance = np.einsum("gnd,gde,gne->gn", e - mean, np.linalg.inv(covariance), e - mean)
    expected = np.log1p(distance.T if by_position else distance.reshape(-1, 10).T)
    np.testing.assert_allclose(maps, expected.reshape(10, 16, 24), rtol=4e-3, atol=4e-3)


def test_an_error_that_no_good_image_has_stands_out_more_than_a_larger_usual_one():
    network, x = small(smoothing=(1.0,)), images(12)
    red = x.clone()
    red[:, 0] = (red[:, 0] + 0.3 * torch.rand(12, 1, 1)).clamp(0, 1)  # one channel's light varies
    network.prepare(lambda: red.split(4))
    network.finish(lambda: red.split(4))
    usual, unusual = red[:1].clone(), red[:1].clone()
    usual[:, 0, 8:24, 8:24] += 0.3
    unusual[:, 1, 8:24, 8:24] += 0.3
    with torch.no_grad():
        inside = [network(image)[0, 6:10, 6:10].mean() for image in (usual, unusual)]
    assert inside[1] > inside[0]


def test_exposure_makes_light_not_matter():
    network, x = small(exposure=True), images(3)
    network.prepare(lambda: [x])
    with torch.no_grad():
        white = white_point(x)
        assert torch.allclose(white_point(network.expose(x)), white.mean().expand(3), atol=1e-5)
        assert torch.allclose(network(0.5 * x), network(x), atol=1e-4)
        # darker than a tenth of the training images is amplified tenfold and no further
        assert torch.allclose(network.expose(0.01 * x), 0.1 * x, atol=1e-5)
        assert network.expose(torch.zeros_like(x)).abs().max() == 0
    plain = small(exposure=False)
    assert plain.expose(x) is x


@pytest.mark.heavy
def test_a_blemish_lights_up_where_it_is():
    """A few steps on stripes are enough that a foreign blot is the map's peak."""
    config = MetalConfig(image_size=64, patch_size=8, embedding=16, hidden=64, heads=2, smoothing=(2.0, 8.0))
    torch.manual_seed(0)
    network = Metal(config, channels=1)
    phase = torch.linspace(0, 6.28, 9)[:8, None, None, None]
    columns = torch.arange(64.0)[None, None, None, :]
    good = (0.5 + 0.4 * torch.sin(columns / 4 + phase)).expand(8, 1, 64, 64).contiguous()
    network.prepare(lambda: [good])
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        network.loss(good).backward()
        optimizer.step()
    network.finish(lambda: [good])
    bad = good[:1].clone()
    bad[:, :, 40:48, 12:20] = 0.5
    with torch.no_grad():
        peak = network(bad)[0].argmax().item()  # of 32×32 places
    assert 18 <= peak // 32 < 26
    assert 4 <= peak % 32 < 12


# --- any size that divides, any number of channels; the rest is refused ---


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(("size", "patch"), [((32, 32), 16), ((48, 32), 8), ((40, 60), 20)])
def test_any_channels_and_any_size_that_divides(channels, size, patch):
    network = small(channels, image_size=size, patch_size=patch, stripes="both")
    with torch.no_grad():
        assert network(images(3, channels, size)).shape == (3, size[0] // 2, size[1] // 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 100}, "cannot be cut into patches of 8"),
        ({"image_size": (8, 64)}, "strict masking needs two"),
        ({"image_size": (64, 8), "masking": "paper"}, "SSIM's window"),
        ({"heads": 3}, "multiple of --heads"),
        ({"place_statistics": False, "error": "combined"}, "needs --error joint"),
        ({"smoothing": (2.0, -1.0)}, "--smoothing -1.0: must be a finite number, 0 or larger"),
        ({"smoothing": (math.nan,)}, "--smoothing nan"),
        ({"smoothing": ()}, "--smoothing: give one number or more"),
        ({"feed_forward_squares": -1}, "--feed-forward-squares -1: must be 1 or larger"),
        ({"feed_forward_stripes": 0}, "--feed-forward-stripes 0: must be 1 or larger"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(changes, said):
    with pytest.raises(UsageError, match=said) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)
