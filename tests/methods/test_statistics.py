"""What is taken of good images: each statistic by hand, or against numpy."""

import math

import numpy as np
import pytest
import torch

from blemish.methods.components import statistics

pytestmark = pytest.mark.usefixtures("single_thread")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariances(g, d):
    """(g, d, d), positive definite, far from diagonal."""
    root = normal(g, d, d)
    return root @ root.mT + 0.1 * torch.eye(d)


# --- how bright white is ---


def test_white_point_by_hand():
    # 2 channels of 2×10 pixels: channel means 0, 0.05, ..., 0.95; the brightest tenth is 2 of 20 pixels
    values = torch.arange(20.0) / 20
    x = torch.stack([values - 0.1, values + 0.1]).view(1, 2, 2, 10)
    assert statistics.white_point(x).item() == pytest.approx((0.95 + 0.9) / 2)


def test_the_white_point_of_few_pixels_is_the_brightest_one():
    x = torch.tensor([0.1, 0.9, 0.4, 0.3]).view(1, 1, 2, 2)  # a tenth of four pixels is none
    assert statistics.white_point(x).item() == pytest.approx(0.9)
    nineteen = (torch.arange(19.0) / 20).view(1, 1, 1, 19)  # and of nineteen one
    assert statistics.white_point(nineteen).item() == pytest.approx(0.9)


def test_mean_white_counts_images_not_batches():
    batches = [torch.tensor([0.2, 0.6]), torch.tensor([1.0])]
    found = statistics.mean_white(x[:, None, None, None].expand(-1, 3, 2, 2) for x in batches)
    assert found.item() == pytest.approx((0.2 + 0.6 + 1.0) / 3)
    assert found.dtype == torch.float64


# --- numbers one by one ---


def test_mean_and_variance_by_hand():
    batches = [torch.tensor([[1.0, 7], [2.0, 7]]), torch.tensor([[6.0, 7]])]
    mean, variance = statistics.mean_and_variance(batches)
    # (1 + 2 + 6) / 3; ((1 - 3)² + (2 - 3)² + (6 - 3)²) / 3
    assert mean.tolist() == [3, 7]
    assert variance.tolist() == pytest.approx([14 / 3, 0])
    assert variance.dtype == torch.float64
    _, variance = statistics.mean_and_variance([torch.full((3, 1), 0.1, dtype=torch.float64)] * 7)
    assert 0 <= variance.item() < 1e-15  # rounding never makes it negative


def test_place_statistics_by_hand():
    # Two images of two kinds of score at three places; spreads of the first 0, 1, 2, of the second 3, 3, 0.
    scores = torch.tensor([[[5.0, 1, 2], [0, 0, 4]], [[5.0, 3, 6], [6, 6, 4]]])
    mean, spread = statistics.position_statistics([scores[:1], scores[1:]], positions=1)
    assert mean.tolist() == [[5, 2, 4], [3, 3, 4]]
    # half the median, 1 and 3, is added, and a millionth
    assert (spread - 1e-6).tolist() == [pytest.approx([0.5, 1.5, 2.5]), pytest.approx([4.5, 4.5, 1.5])]
    _, spread = statistics.position_statistics([torch.ones(2, 1, 3)], positions=1)
    assert spread.flatten().tolist() == pytest.approx([1e-6] * 3)


def test_statistics_of_images_equal_numpy():
    x = 0.2 + normal(5, 3, 4, 6).abs() / 10
    white, mean, std, spread = statistics.image_statistics(lambda: x.float().split(2))
    brightest = np.sort(x.numpy().mean(axis=1).reshape(5, -1))[:, -2:]  # a tenth of 24 pixels
    assert white.item() == pytest.approx(brightest.mean(), rel=1e-6)
    in_white = x.numpy() / brightest.mean()
    np.testing.assert_allclose(mean, in_white.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, in_white.std(axis=0), rtol=1e-5)
    assert spread.item() == pytest.approx(in_white.std(), rel=1e-6)


def test_statistics_of_black_images_divide_by_no_zero():
    white, mean, std, spread = statistics.image_statistics(lambda: [torch.zeros(2, 1, 4, 4)])
    assert white.item() == pytest.approx(1e-3)
    assert spread.item() == pytest.approx(1e-3)
    assert not mean.any()
    assert not std.any()


def test_a_feature_that_never_varies_is_divided_by_a_thousandth_of_the_largest_spread():
    found = statistics.spread_of(torch.tensor([4.0, 0.25, 0.0]))
    assert found.tolist() == pytest.approx([2, 0.5, 0.002001])  # 2 / 1000 + a millionth


# --- covariances ---


@pytest.mark.parametrize("sets", [(), (3,), (2, 3)])
def test_moments_in_parts_equal_numpy(sets):
    samples = normal(*sets, 9, 4) + 2
    found = statistics.Moments()
    for part in samples.float().split((1, 5, 3), dim=-2):
        found.add(part)
    assert found.n == 9
    assert found.mean.dtype == found.second.dtype == found.covariance.dtype == torch.float64
    for at in np.ndindex(sets):
        z = samples[at].numpy()
        np.testing.assert_allclose(found.mean[at], z.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(found.second[at], z.T @ z / 9, rtol=1e-5)
        np.testing.assert_allclose(found.covariance[at], np.cov(z.T, bias=True), rtol=1e-4, atol=1e-5)


def test_shrink_by_hand():
    # two places, d = 2, n = 6: a quarter of the way to the mean [[2, 0], [0, 3]]
    cov = torch.tensor([[[1.0, 0.4], [0.4, 2.0]], [[3.0, -0.4], [-0.4, 4.0]]])
    found = statistics.shrink_to_mean(cov, 6)
    expected = [[[1.25, 0.3], [0.3, 2.25]], [[2.75, -0.3], [-0.3, 3.75]]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_image_takes_most_of_the_covariance_from_all_places():
    # n = 1, d = 3: three quarters of the mean
    cov = covariances(5, 3)
    torch.testing.assert_close(statistics.shrink_to_mean(cov, 1), cov / 4 + 0.75 * cov.mean(dim=0))


def test_whitening_matrix_is_a_triangular_root_of_the_inverse():
    cov = covariances(4, 5)
    A = statistics.whitening_matrix(cov)
    np.testing.assert_allclose(A.mT @ A, np.linalg.inv(cov.numpy()), rtol=1e-8, atol=1e-8)
    assert A.triu(1).abs().max() == 0
    np.testing.assert_allclose(A @ cov @ A.mT, np.broadcast_to(np.eye(5), (4, 5, 5)), atol=1e-8)


def test_a_ridge_is_added_to_each_variance():
    # diag(3 + 1, 15 + 1): roots of 1/4 and 1/16, also where there is no inverse without it
    A = statistics.whitening_matrix(torch.tensor([[3.0, 0.0], [0.0, 15.0]]), 1.0)
    assert A.tolist() == [[0.5, 0.0], [0.0, 0.25]]
    assert statistics.whitening_matrix(torch.zeros(2, 2), 0.25).tolist() == [[2.0, 0.0], [0.0, 2.0]]


def test_shrunk_whitening_by_hand():
    # variances 4 and 1, covariance 1, two samples in two dimensions: half of the covariance goes, so 1/2,
    # and 1.1 % of the mean variance 2.5 are added: [[4.0275, 0.5], [0.5, 1.0275]]
    covariance = torch.tensor([[4.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    factor = statistics.shrunk_whitening_matrix(covariance, n=2)
    assert factor[0, 1] == 0
    expected = np.linalg.inv([[4.0275, 0.5], [0.5, 1.0275]])
    np.testing.assert_allclose((factor.T @ factor).numpy(), expected, rtol=1e-6)


def test_where_every_sample_is_the_same_rounding_is_no_deviation():
    # beside variances of 2.5 in the mean, a place without any gets 0.001 * 1.25 of the mean of both: an
    # encoding that is off by 7e-6, as another library's sums may be, lies 7e-6 / sqrt(0.00125) = 2e-4 away
    covariance = torch.tensor([[[4.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    factor = statistics.shrunk_whitening_matrix(covariance, n=50)[1]
    assert (factor @ torch.tensor([7e-6, 0.0])).norm() == pytest.approx(7e-6 / math.sqrt(0.00125), rel=1e-3)
