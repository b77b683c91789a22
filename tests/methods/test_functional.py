import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from blemish.methods.components.functional import (
    blur,
    gaussian_window,
    same_blur_matrix,
    ssim_map,
    valid_blur_matrix,
)


def test_gaussian_window_by_hand():
    # e^(-1/2) = 0.60653: 0.60653 / (1 + 2 * 0.60653) = 0.27407, 1 / 2.21306 = 0.45186
    assert gaussian_window(3, 1.0).tolist() == pytest.approx([0.27407, 0.45186, 0.27407], abs=1e-5)


@pytest.mark.parametrize(("shape", "seed"), [((1, 1, 24, 24), 0), ((2, 3, 40, 33), 1)])
def test_ssim_equals_scikit_image(shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.random(shape)
    y = np.clip(x + 0.2 * rng.standard_normal(shape), 0, 1)
    rows, cols = valid_blur_matrix(shape[2]), valid_blur_matrix(shape[3])
    ours = ssim_map(torch.tensor(x).float(), torch.tensor(y).float(), rows, cols)
    for b in range(shape[0]):
        for c in range(shape[1]):
            mean, full = structural_similarity(
                x[b, c], y[b, c], data_range=1, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False, full=True,
            )  # fmt: skip
            assert ours[b, c].mean().item() == pytest.approx(mean, abs=1e-5)
            np.testing.assert_allclose(ours[b, c].numpy(), full[5:-5, 5:-5], atol=1e-5)


def test_ssim_is_one_only_for_equal_images():
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    matrix = valid_blur_matrix(32)
    assert ssim_map(x, x, matrix, matrix).min() == pytest.approx(1, abs=1e-6)
    assert ssim_map(x, 1 - x, matrix, matrix).mean() < 0


@pytest.mark.parametrize(("n", "sigma"), [(32, 1.0), (20, 4.0), (9, 3.0)])
def test_same_blur_equals_scipy(n, sigma):
    x = np.random.default_rng(0).random((n, n + 4))
    reach = int(4 * sigma + 0.5)
    ours = blur(
        torch.tensor(x).float(), same_blur_matrix(n, 2 * reach + 1, sigma),
        same_blur_matrix(n + 4, 2 * reach + 1, sigma),
    )  # fmt: skip
    np.testing.assert_allclose(ours.numpy(), ndimage.gaussian_filter(x, sigma, radius=reach), atol=1e-6)


def test_valid_blur_is_the_inside_of_same_blur():
    inside = same_blur_matrix(30, 11, 1.5)[5:-5]
    assert torch.allclose(inside, valid_blur_matrix(30))
