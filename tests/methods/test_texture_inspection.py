"""Texture inspection against scikit-learn's mixture, scipy's densities and loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from blemish.core.errors import UsageError
from blemish.methods.baselines import texture_inspection as ti
from blemish.methods.baselines.texture_inspection import TextureInspection, TextureInspectionConfig

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = TextureInspectionConfig(image_size=(16, 24), levels=2, patch_size=3, components=2, patches=500)


def images(n=6, channels=1, size=(16, 24), seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def clusters(seed=0):
    """300 points of three clouds in four dimensions that overlap, and where they start from."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 2, (3, 4))
    shapes = rng.normal(0, 1, (3, 4, 4))
    x = np.concatenate([rng.normal(0, 1, (100, 4)) @ s + c for c, s in zip(centres, shapes, strict=True)])
    return torch.tensor(x), torch.tensor(centres + 0.5)


def mixture(seed=0, K=3, D=4):
    """Weights, means, covariances and their factors, at random."""
    g = torch.Generator().manual_seed(seed)
    w = torch.rand(K, generator=g, dtype=torch.float64) + 0.1
    mu = torch.randn(K, D, generator=g, dtype=torch.float64)
    root = torch.randn(K, D, D, generator=g, dtype=torch.float64)
    sigma = root @ root.mT + 0.1 * torch.eye(D)
    P = torch.linalg.inv(torch.linalg.cholesky(sigma)).mT
    return w / w.sum(), mu, sigma, P


# --- the mixture ---


def test_log_density_by_hand():
    # N(x; 1, σ = 2) at x = 4: -½ (log 2π + (3 / 2)²) - log 2 = -½ (1.837877 + 2.25) - 0.693147 = -2.737086
    found = ti.log_densities(torch.tensor([[4.0]]), torch.tensor([[1.0]]), torch.tensor([[[0.5]]]))
    assert found.item() == pytest.approx(-2.737086, abs=1e-5)


def test_expectation_equals_scipy():
    w, mu, sigma, P = mixture()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_p, r = ti.expectation(x, w, mu, P)
    joint = np.stack(
        [w[k].item() * multivariate_normal(mu[k], sigma[k]).pdf(x.numpy()) for k in range(3)], axis=1
    )
    np.testing.assert_allclose(log_p.numpy(), np.log(joint.sum(axis=1)), rtol=1e-9)
    np.testing.assert_allclose(r.numpy(), joint / joint.sum(axis=1, keepdims=True), atol=1e-12)


def test_maximisation_equals_numpys_weighted_moments():
    x, _ = clusters()
    r = torch.rand(300, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(dim=1)
    w, mu, P = ti.maximisation(x, r, floor=0.25)
    sigma = torch.linalg.inv(P @ P.mT).numpy()
    for k in range(3):
        share = r[:, k].numpy()
        assert w[k].item() == pytest.approx(share.sum() / 300)
        np.testing.assert_allclose(mu[k], np.average(x.numpy(), axis=0, weights=share), atol=1e-9)
        expected = np.cov(x.numpy().T, aweights=share, ddof=0) + 0.25 * np.eye(4)
        np.testing.assert_allclose(sigma[k], expected, atol=1e-8)
    assert P.tril(-1).abs().max() == 0


@pytest.mark.parametrize("iterations", [1, 5, 100])
def test_em_equals_scikit_learn_from_the_same_start(iterations):
    x, start = clusters()
    w = torch.full((3,), 1 / 3, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    theirs = GaussianMixture(
        3,
        weights_init=w.numpy(),
        means_init=start.numpy(),
        precisions_init=eye.numpy(),
        max_iter=iterations,
        tol=ti.TOLERANCE,
        reg_covar=1e-6,
    )
    if iterations < 100:
        with pytest.warns(match="did not converge"):
            theirs.fit(x.numpy())
    else:
        theirs.fit(x.numpy())
    w, mu, P = ti.em(x, w, start, eye, iterations=iterations, floor=1e-6)
    np.testing.assert_allclose(w.numpy(), theirs.weights_, atol=1e-4)
    np.testing.assert_allclose(mu.numpy(), theirs.means_, atol=1e-4)
    np.testing.assert_allclose((P @ P.mT).numpy(), theirs.precisions_, rtol=1e-4, atol=1e-4)
    log_p, _ = ti.expectation(x, w, mu, P)
    np.testing.assert_allclose(log_p.numpy(), theirs.score_samples(x.numpy()), atol=1e-4)


def test_each_round_of_em_gains_likelihood():
    x, start = clusters()
    at = (torch.full((3,), 1 / 3, dtype=torch.float64), start, torch.eye(4).double().repeat(3, 1, 1))
    found = []
    for _ in range(8):
        found.append(ti.expectation(x, *at)[0].mean().item())
        at = ti.em(x, *at, iterations=1)
    assert all(b > a - 1e-6 for a, b in pairwise(found))
    assert found[-1] > found[0] + 0.1


def test_k_means_finds_clouds_that_lie_apart():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    truth = rng.permutation(np.repeat(np.arange(4), 25))
    x = torch.tensor(centres[truth] + rng.normal(0, 0.5, (100, 2)))
    torch.manual_seed(0)
    found = ti.k_means(x, 4)
    assert found.sum(dim=1).tolist() == [1] * 100
    pairs = set(zip(truth.tolist(), found.argmax(dim=1).tolist(), strict=True))
    assert len(pairs) == 4  # one cluster for each cloud
    torch.manual_seed(0)
    assert torch.equal(found, ti.k_means(x, 4))


@pytest.mark.parametrize("seed", range(4))
def test_k_means_starts_far_apart(seed):
    # 200 points near 0, 5 near 100 and 5 near 140: started among the 200, Lloyd's rounds would split those
    clouds = torch.tensor([0.0]).repeat(200), torch.tensor([100.0]).repeat(5), torch.tensor([140.0]).repeat(5)
    x = torch.cat(clouds)[:, None] + torch.rand(210, 1, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(seed)
    assert sorted(ti.k_means(x, 3).sum(dim=0).tolist()) == [5, 5, 200]


def test_fewer_different_patches_than_components_are_no_trouble():
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double().repeat(5, 1)
    start = ti.maximisation(x, ti.k_means(x, 4), ti.VARIANCE_FLOOR)
    for value in ti.em(x, *start, iterations=10):
        assert value.isfinite().all()


# --- images ---


def test_pyramid_by_hand():
    x = torch.tensor([[0.0, 2, 4, 4], [2, 4, 4, 4]])[None, None]
    first, second = ti.pyramid(x, 2)
    assert torch.equal(first, x)
    assert second.flatten().tolist() == [2, 4]  # (0 + 2 + 2 + 4) / 4, (4 + 4 + 4 + 4) / 4


def test_patches_equal_loops():
    x = images(2, channels=2, size=(5, 6))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    found = ti.patches_of(x, 3).numpy()
    assert found.shape == (2, 30, 18)
    for b in range(2):
        for i in range(5):
            for j in range(6):
                expected = padded[b, :, i : i + 3, j : j + 3].ravel()
                np.testing.assert_array_equal(found[b, 6 * i + j], expected)


def test_map_is_the_mean_of_each_levels_standardised_negative_log_density():
    network = TextureInspection(SMALL, channels=1)
    network.fit(lambda: images(8).split(4))
    x = images(1, seed=9)
    halved = x[0, 0].numpy().reshape(8, 2, 12, 2).mean(axis=(1, 3))
    levels = []
    for level, image in enumerate((x[0, 0].numpy(), halved)):
        padded = np.pad(image, 1, mode="reflect").astype(np.float64)
        w, mu, P = (getattr(network, n)[level].double() for n in ("weights", "means", "factors"))
        sigma = torch.linalg.inv(P @ P.mT)
        parts = [multivariate_normal(m, s) for m, s in zip(mu, sigma, strict=True)]
        levels.append(np.zeros(image.shape))
        for i, j in np.ndindex(*image.shape):
            patch = padded[i : i + 3, j : j + 3].ravel()
            p = sum(k.item() * part.pdf(patch) for k, part in zip(w, parts, strict=True))
            levels[-1][i, j] = (-math.log(p) - network.level_mean[level]) / network.level_spread[level]
    enlarged = zoom(levels[1], 2, order=1, mode="nearest", grid_mode=True)
    with torch.no_grad():
        ours = network(x)[0].numpy()
    np.testing.assert_allclose(ours, (levels[0] + enlarged) / 2, rtol=1e-3, atol=1e-3)


def test_patches_are_drawn_evenly_and_no_more_than_asked(monkeypatch):
    seen = []
    whole = ti.k_means
    monkeypatch.setattr(ti, "k_means", lambda x, K: seen.append(x) or whole(x, K))
    shades = torch.arange(1, 6).view(5, 1, 1, 1) / 10  # image i is constant and says who it is
    network = TextureInspection(SMALL, channels=1)
    network.fit(lambda: shades.expand(5, 1, 16, 24).split(2))
    # 500 patches of 5 images: 100 of each on level 0; level 1 has 8 · 12 = 96 of an image
    for x, each in zip(seen, (100, 96), strict=True):
        values, counts = x[:, 0].float().unique(return_counts=True)
        assert values.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
        assert counts.tolist() == [each] * 5
    assert seen[0].dtype == torch.float64


def test_a_foreign_texture_is_less_likely():
    columns = torch.arange(24.0).expand(1, 1, 16, 24)
    good = 0.5 + 0.4 * torch.sin(columns + torch.arange(20.0).view(20, 1, 1, 1)) + 0.02 * images(20)
    bad = good[:1].clone()
    bad[..., 4:12, 8:16] = bad[..., 4:12, 8:16].mT  # same grey values, turned by 90 degrees
    network = TextureInspection(SMALL, channels=1)
    network.fit(lambda: good.split(5))
    with torch.no_grad():
        found = network(bad)[0]
    inside = torch.zeros(16, 24, dtype=torch.bool)
    inside[4:12, 8:16] = True
    assert found[inside].mean() > found[~inside].mean() + 3


def test_levels_are_standardised_by_the_training_patches():
    x = images(1)  # 500 patches are more than its 16 · 24 pixels, so that all are drawn
    network = TextureInspection(SMALL, channels=1)
    network.fit(lambda: [x])
    with torch.no_grad():
        for level in network.level_maps(x):
            assert level.mean().item() == pytest.approx(0, abs=1e-3)
            assert level.std(correction=0).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"image_size": 100},
            "--image-size 100x100: 4 levels of 7-pixel patches need multiples of 8 from 56 on",
        ),
        ({"image_size": 48}, "--image-size 48x48"),
        ({"patch_size": 6}, "--patch-size 6: must be odd"),
        ({"levels": 0}, "--levels 0: must be 1 or larger"),
        ({"components": 0}, "--components 0"),
        ({"patches": 0}, "--patches 0"),
        ({"iterations": 0}, "--iterations 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes, said):
    with pytest.raises(UsageError, match=said) as caught:
        TextureInspectionConfig(**changes)
    assert "\n" not in str(caught.value)
