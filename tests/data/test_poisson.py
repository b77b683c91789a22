"""Poisson's equation on a rectangle: against a dense solve, and by what must hold whatever the images."""

import numpy as np
import pytest
import reference_planting as reference
import torch

from blemish.data.poisson import solve_poisson, solve_poisson_mixed

pytestmark = pytest.mark.usefixtures("single_thread")

SIZES = [(3, 3), (3, 7), (8, 5)]


def images(channels, size):
    """Two noisy images that differ, in [0.2, 0.8]."""
    g = torch.Generator().manual_seed(0)
    return (0.2 + 0.6 * torch.rand(2, channels, *size, generator=g)).unbind()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("solve", "slow"), [(solve_poisson, reference.poisson), (solve_poisson_mixed, reference.poisson_mixed)]
)
def test_poisson_equals_a_dense_solve(solve, slow, size):
    border, gradients = images(2, size)
    found = solve(border, gradients)
    assert found.dtype == torch.float32
    for c in range(2):
        expected = slow(border[c].double().numpy(), gradients[c].double().numpy())
        np.testing.assert_allclose(found[c], expected, atol=1e-5)
        for side in (0, -1):
            np.testing.assert_allclose(found[c, side], border[c, side], atol=1e-6)
            np.testing.assert_allclose(found[c, :, side], border[c, :, side], atol=1e-6)


def test_poisson_of_the_same_gradients_moves_the_light_alone():
    (g, _) = images(1, (9, 11))
    torch.testing.assert_close(solve_poisson(g + 0.2, g), g + 0.2)


def test_mixed_keeps_what_lies_below_something_flat():
    (b, _) = images(1, (9, 11))
    torch.testing.assert_close(solve_poisson_mixed(b, torch.full_like(b, 0.7)), b)
    assert not torch.allclose(solve_poisson(b, torch.full_like(b, 0.7)), b, atol=0.05)


def test_mixed_over_something_flat_is_the_other_image_in_our_light():
    (g, _) = images(1, (9, 11))
    flat = torch.full_like(g, 0.5)
    torch.testing.assert_close(solve_poisson_mixed(flat, g), solve_poisson(flat, g))
