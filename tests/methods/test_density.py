"""Fixed filters and densities: each function against loops, scipy, scikit-learn, or by hand."""

import math

import numpy as np
import pytest
import reference_density as reference
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.decomposition import PCA as SklearnPca  # noqa: N811
from sklearn.mixture import GaussianMixture
from torch.nn import functional as F

from blemish.methods.components.functional import smoothing_matrix
from blemish.methods.components.statistics import whitening_matrix
from blemish.methods.density import densities
from blemish.methods.density import features as bank

pytestmark = pytest.mark.usefixtures("single_thread")


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariances(g, d, seed=0):
    """(g, d, d), positive definite, far from diagonal."""
    root = normal(g, d, d, seed=seed)
    return root @ root.mT + 0.1 * torch.eye(d)


# --- the filters ---


def test_gabor_pairs_equal_loops():
    found = bank.gabor_bank()
    assert found.shape == (12, 1, 13, 13)
    assert found.dtype == torch.float32
    for direction in range(6):
        for odd in (False, True):
            expected = reference.gabor(direction, odd, directions=6, reach=6)
            np.testing.assert_allclose(found[2 * direction + odd, 0], expected, atol=1e-7)


def test_gabor_pairs_have_norm_one_and_no_mean():
    found = bank.gabor_bank().double()[:, 0]
    assert found.abs().sum(dim=(1, 2)).tolist() == pytest.approx([1] * 12)
    assert found.sum(dim=(1, 2)).abs().max() < 1e-7
    even, odd = found[0::2], found[1::2]
    torch.testing.assert_close(even.flip(1, 2), even, rtol=0, atol=1e-9)
    torch.testing.assert_close(odd.flip(1, 2), -odd, rtol=0, atol=1e-9)


def test_directions_go_from_upright_lines_by_thirty_degrees():
    # a wave of the filters' length whose crests stand upright answers in direction 0, lying ones in 3
    steps = 2 * math.pi * torch.arange(40.0) / 6
    upright = steps.cos().expand(1, 1, 40, 40)
    for x, strongest in ((upright, 0), (upright.mT, 3)):
        assert bank.energies(x, bank.gabor_bank())[0, :, 20, 20].argmax() == strongest
    rows, cols = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    for direction in range(6):
        angle = math.pi * direction / 6
        wave = (2 * math.pi / 6 * (cols * math.cos(angle) + rows * math.sin(angle))).cos()
        assert bank.energies(wave[None, None], bank.gabor_bank())[0, :, 20, 20].argmax() == direction


def test_energies_equal_scipy_and_do_not_depend_on_the_phase():
    x = images(2, 1, 17, 20)
    found = bank.energies(x, bank.gabor_bank())
    assert found.shape == (2, 6, 17, 20)
    for i, direction in np.ndindex(2, 6):
        expected = reference.energy(x[i, 0].double().numpy(), direction, directions=6, reach=6)
        np.testing.assert_allclose(found[i, direction], expected, atol=1e-6)
    wave = (2 * math.pi * torch.arange(40.0) / 6).cos().expand(1, 1, 40, 40)
    along = bank.energies(wave, bank.gabor_bank())[0, 0, 20, 10:30]
    assert along.std() < 0.1 * along.mean()  # as strong on a crest as between two


def test_filters_do_not_see_brightness():
    assert bank.energies(torch.full((1, 1, 9, 9), 0.7), bank.gabor_bank()).max() < 1e-6


def test_local_statistics_equal_loops():
    x = images(2, 2, 6, 5)
    mean, std = bank.local_statistics(x)
    for i, c in np.ndindex(2, 2):
        expected = reference.mean_and_std_of_nine(x[i, c].double().numpy(), 1e-3)
        np.testing.assert_allclose(mean[i, c], expected[0], atol=1e-6)
        np.testing.assert_allclose(std[i, c], expected[1], atol=1e-6)


def test_std_of_a_flat_place_is_a_quarter_of_a_grey_level_and_small_ones_are_seen_on_white():
    flat = torch.full((1, 1, 5, 5), 0.9)
    assert bank.local_statistics(flat)[1].flatten().tolist() == pytest.approx([0.001] * 25, rel=1e-4)
    speck = flat.clone()
    speck[0, 0, 2, 2] += 0.003  # std of eight 0 and one 0.003: 0.003·√8 / 9 = 0.000943; with 0.001: 0.001374
    assert bank.local_statistics(speck)[1][0, 0, 1, 1].item() == pytest.approx(0.0013744, rel=1e-3)


# --- channels ---


def test_opponent_colours_by_hand():
    # (R + G + B) / 3, (R - G) / 2, (R + G) / 4 - B / 2
    mix = bank.opponent_mixing()
    assert (mix @ torch.tensor([0.9, 0.3, 0.6])).tolist() == pytest.approx([0.6, 0.3, 0.0], abs=1e-6)
    assert (mix @ torch.tensor([0.0, 0.0, 1.0])).tolist() == pytest.approx([1 / 3, 0, -0.5], abs=1e-6)
    assert (mix @ torch.ones(3)).tolist() == pytest.approx([1, 0, 0], abs=1e-6)  # grey has no colour


@pytest.mark.parametrize(("channels", "kept"), [(2, 2), (4, 4), (6, 4)])
def test_principal_channels_equal_scikit_learn(channels, kept):
    x = images(300, channels) @ normal(channels, channels).float()
    theirs = np.asarray(SklearnPca(kept, svd_solver="full").fit(x.double().numpy()).components_)
    found = bank.principal_mixing(torch.cov(x.double().T, correction=0))
    assert found.shape == (kept, channels)
    assert bank.kept_channels(channels) == kept
    signs = np.sign(theirs.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, signs * theirs, atol=1e-5)


def test_the_first_principal_channel_is_a_brightness():
    shade = images(200, 1) + 0.01 * images(200, 5, seed=1)
    first = bank.principal_mixing(torch.cov(shade.double().T))[0]
    assert first.tolist() == pytest.approx([5**-0.5] * 5, abs=0.01)


# --- light ---


def test_relative_equals_scipy():
    x = images(2, 3, 12, 20) - 0.1  # a float image may go below black
    rows, cols = smoothing_matrix(12, 2.0), smoothing_matrix(20, 3.0)
    log = np.log(np.clip(x.double().numpy(), 0, None) + 0.04)
    blurred = gaussian_filter(log, (0, 0, 2.0, 3.0), mode="reflect", radius=(0, 0, 8, 12))
    np.testing.assert_allclose(bank.relative(x, rows, cols), log - blurred, atol=1e-5)


# --- the grid ---


@pytest.mark.parametrize(("n", "places"), [(12, 4), (10, 4), (7, 7), (7, 3), (9, 1)])
def test_fewer_places_are_means_of_what_they_cover(n, places):
    line = images(n).double().numpy()
    found = bank.averaging_matrix(n, places)
    assert found.shape == (places, n)
    np.testing.assert_allclose(found.double().numpy() @ line, reference.averaged(line, places), atol=1e-6)
    if n % places == 0:
        np.testing.assert_allclose(
            found.double().numpy() @ line, line.reshape(places, -1).mean(axis=1), atol=1e-6
        )


@pytest.mark.parametrize(("n", "places"), [(4, 8), (5, 7), (1, 3)])
def test_more_places_are_interpolated_as_torch_does(n, places):
    line = images(1, 1, n)
    found = (bank.averaging_matrix(n, places) @ line[0, 0]).numpy()
    theirs = F.interpolate(line, size=places, mode="linear", align_corners=False)[0, 0]
    np.testing.assert_allclose(found, theirs, atol=1e-6)
    np.testing.assert_allclose(found, reference.interpolated(line[0, 0].double().numpy(), places), atol=1e-6)


def test_pyramid_sizes_are_those_of_halving():
    x = torch.zeros(1, 1, 101, 60)
    for size in bank.pyramid_sizes((101, 60)):
        assert tuple(x.shape[2:]) == size
        x = F.avg_pool2d(x, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_equal_loops_in_their_order(channels):
    x = images(1, channels, 57, 64)
    grid = (9, 10)
    averages = [
        (bank.averaging_matrix(rows, grid[0]), bank.averaging_matrix(cols, grid[1]))
        for rows, cols in bank.pyramid_sizes((57, 64))
    ]
    found = bank.features(x, bank.gabor_bank(), averages)[0].numpy()
    assert found.shape == (*grid, bank.feature_width(channels))
    assert bank.feature_width(channels) == {1: 30, 3: 42}[channels]
    expected = reference.features(x[0].double().numpy(), grid, directions=6, reach=6)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- a Gaussian at each place ---


def test_mahalanobis_equals_scipy():
    cov, mean, z = covariances(6, 4), normal(6, 4, seed=1), normal(3, 6, 4, seed=2)
    found = densities.mahalanobis(z, mean, whitening_matrix(cov))
    assert found.shape == (3, 6)
    for b, g in np.ndindex(3, 6):
        expected = mahalanobis(z[b, g], mean[g], np.linalg.inv(cov[g])) ** 2
        assert found[b, g].item() == pytest.approx(expected, rel=1e-8)
        off = (z[b, g] - mean[g]).numpy()
        assert found[b, g].item() == pytest.approx(off @ np.linalg.solve(cov[g].numpy(), off), rel=1e-8)


# --- the nearest good feature ---


@pytest.mark.parametrize("reach", [0, 1, 2, 5])
@pytest.mark.parametrize("size", [(4, 6), (5, 1)])
def test_nearest_equals_loops(reach, size):
    h, w = size
    # far from 0, where what lies beyond the border would be taken for near if it counted
    z, good = normal(2, h, w, 3) + 3, normal(h, w, 4, 3, seed=1) + 6
    found = densities.nearest(z, good, reach).numpy()
    for b in range(2):
        np.testing.assert_allclose(found[b], reference.nearest(z[b].numpy(), good.numpy(), reach), rtol=1e-9)


def test_nearest_in_the_whole_image_is_scipys_least_distance():
    z, good = normal(1, 3, 4, 5), normal(3, 4, 2, 5, seed=1)
    expected = cdist(z.flatten(0, 2), good.flatten(0, 2), "sqeuclidean").min(axis=1).reshape(3, 4)
    np.testing.assert_allclose(densities.nearest(z, good, 3)[0], expected, rtol=1e-9)


def test_a_feature_of_the_bank_is_at_no_distance_wherever_it_moved_within_reach():
    good = 10 * normal(6, 7, 1, 3)
    z = torch.zeros(1, 6, 7, 3, dtype=torch.float64)
    z[0, 2:, 1:] = good[:-2, :-1, 0]  # two down, one to the right
    assert densities.nearest(z, good, 2)[0, 2:, 1:].max() < 1e-9
    assert densities.nearest(z, good, 1)[0, 2:, 1:].min() > 0.01


# --- a mixture of Gaussians ---


def mixture(k=3, d=4):
    weights = torch.arange(1.0, k + 1).double()
    return weights / weights.sum(), normal(k, d, seed=1), covariances(k, d, seed=2)


def log_weights_of(weights, covs):
    return weights.log() - torch.linalg.slogdet(covs)[1] / 2


def test_minus_log_mixture_equals_scipy():
    weights, means, covs = mixture()
    z = normal(2, 5, 4, seed=3)
    found = densities.minus_log_mixture(z, log_weights_of(weights, covs), means, whitening_matrix(covs))
    assert found.shape == (2, 5)
    parts = (v.numpy() for v in (weights, means, covs))
    np.testing.assert_allclose(found.flatten(), reference.minus_log_mixture(z.flatten(0, 1).numpy(), *parts))


def cloud(n=400, seed=0):
    """Two clouds in three dimensions, as far apart as ten of their widths, a quarter in the first."""
    z = normal(n, 3, seed=seed) @ torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0.3, 0.6]]).double()
    z[: n // 4] += torch.tensor([10.0, -4, 0])
    return z


def fitted(z, k, rounds=20, ridge=0.01, seed=0):
    torch.manual_seed(seed)
    log_weights, means, whitenings = densities.fit_mixture(z, k, rounds=rounds, ridge=ridge)
    covs = torch.linalg.inv(whitenings.mT @ whitenings)
    weights = (log_weights + torch.linalg.slogdet(covs)[1] / 2).exp()
    return log_weights, weights, means, whitenings, covs


@pytest.mark.parametrize("seed", range(3))
def test_the_mixture_finds_two_clouds(seed):
    z = cloud()
    _, weights, means, _, covs = fitted(z, 2, seed=seed)
    order = means[:, 0].argsort(descending=True)
    assert weights[order].tolist() == pytest.approx([0.25, 0.75], abs=1e-6)
    for j, own in zip(order, (z[:100], z[100:]), strict=True):
        np.testing.assert_allclose(means[j], own.mean(dim=0), atol=1e-5)
        n, prior = len(own), torch.cov(z.T, correction=0) + 0.01 * torch.eye(3)
        drawn = 3 / (3 + n)
        expected = (1 - drawn) * torch.cov(own.T, correction=0) + drawn * prior + 0.01 * torch.eye(3)
        np.testing.assert_allclose(covs[j], expected, atol=1e-5)


def test_rounds_of_the_mixture_equal_loops():
    z = normal(60, 3) * torch.tensor([1.0, 2.0, 0.5])
    _, weights, means, _, covs = (v.numpy() for v in fitted(z, 3, rounds=0, seed=4))
    prior = np.cov(z.numpy().T, ddof=0) + 0.01 * np.eye(3)
    assert weights.tolist() == pytest.approx([1 / 3] * 3)
    for j in range(3):
        assert (z.numpy() == means[j]).all(axis=1).any()  # it begins at three of the features
        np.testing.assert_allclose(covs[j], prior, atol=1e-9)
    for rounds in (1, 2):
        weights, means, covs = reference.em_round(z.numpy(), weights, means, covs, prior=prior, ridge=0.01)
        found = fitted(z, 3, rounds=rounds, seed=4)
        np.testing.assert_allclose(found[1], weights, atol=1e-8)
        np.testing.assert_allclose(found[2], means, atol=1e-7)
        np.testing.assert_allclose(found[4], covs, atol=1e-7)


def test_each_round_makes_the_features_likelier():
    z = cloud() + 0.3 * cloud(seed=1)
    # without a ridge, and with so many features that the drawing is hardly felt
    likelihoods = [
        -densities.minus_log_mixture(z, f[0], f[2], f[3]).mean().item()
        for f in (fitted(z, 4, rounds=rounds, ridge=1e-6, seed=2) for rounds in range(12))
    ]
    assert np.diff(likelihoods).min() > -5e-3
    assert likelihoods[-1] > likelihoods[0] + 0.5


def test_one_gaussian_is_scikit_learns():
    z = cloud(2000)
    log_weights, weights, means, whitenings, _ = fitted(z, 1, ridge=1e-9)
    theirs = GaussianMixture(1, reg_covar=0).fit(z.numpy())
    assert weights.tolist() == pytest.approx([1])
    np.testing.assert_allclose(means, np.asarray(theirs.means_), atol=1e-9)
    found = densities.minus_log_mixture(z[:5], log_weights, means, whitenings)
    constant = 3 / 2 * math.log(2 * math.pi)
    np.testing.assert_allclose(-found - constant, theirs.score_samples(z[:5].numpy()), atol=1e-6)


def test_the_mixture_begins_far_apart():
    # 200 features near 0 and one at 50: drawn evenly, the one would be met once in a hundred times
    z = torch.cat([0.1 * normal(200, 2), torch.full((1, 2), 50.0).double()])
    for seed in range(5):
        _, _, means, _, _ = fitted(z, 2, rounds=0, seed=seed)
        assert sorted((means[:, 0] > 25).tolist()) == [False, True]
