"""MeTAL's option `gradients`: MSGMS against scipy, as one more kind of error, and its export."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from blemish.core.errors import UsageError
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig
from blemish.methods.metal_equations import gradient_similarity

SMALL = MetalConfig(
    image_size=(32, 48),
    patch_size=8,
    embedding=8,
    hidden=16,
    heads=2,
    exposure=False,
    gradients=True,
    smoothing=(1.0, 2.0),
)


def images(n: int = 2, size: tuple[int, int] = (32, 48), seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 2, *size, generator=torch.Generator().manual_seed(seed))


def small(**changes) -> Metal:
    torch.manual_seed(0)
    return Metal(replace(SMALL, **changes), 2)


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate linearly between the middles of pixels, level beyond the outermost."""
    for axis, n in enumerate(size):
        old = values.shape[axis]
        at = (np.arange(n) + 0.5) * old / n - 0.5
        values = np.apply_along_axis(lambda line: np.interp(at, np.arange(len(line)), line), axis, values)  # noqa: B023
    return values


@pytest.mark.parametrize("size", [(32, 48), (24, 40)])
def test_similarity_of_gradients_equals_scipy(size: tuple[int, int]):
    x, x_hat = images(2, size), images(2, size, seed=1)
    ours = gradient_similarity(x, x_hat).numpy()
    assert ours.shape == (2, 1, *size)
    for i in range(2):
        expected = np.zeros(size)
        a, b = (y[i].double().numpy().mean(axis=0) for y in (x, x_hat))
        for _ in range(3):
            # scipy's filter sums what ours averages over three
            g, g_hat = (
                np.hypot(ndimage.prewitt(y, 0, mode="nearest"), ndimage.prewitt(y, 1, mode="nearest")) / 3
                for y in (a, b)
            )
            expected += enlarged((2 * g * g_hat + 0.0026) / (g**2 + g_hat**2 + 0.0026), size) / 3
            a, b = (y.reshape(y.shape[0] // 2, 2, y.shape[1] // 2, 2).mean(axis=(1, 3)) for y in (a, b))
        np.testing.assert_allclose(ours[i, 0], expected, atol=1e-5)


def test_equal_images_have_equal_gradients_and_an_edge_that_is_lost_has_not():
    x = torch.zeros(1, 2, 16, 16)
    x[:, :, :, 8:] = 1.0
    assert gradient_similarity(x, x).min().item() == pytest.approx(1.0)
    lost = gradient_similarity(x, torch.full_like(x, 0.5))[0, 0]
    # beside the edge g = 1/1 · (3 · 1 / 3) = 1 against 0: 0.0026 / 1.0026; both coarser scales have it too
    assert lost[8, 8].item() < 0.1
    assert lost[8, 0].item() == pytest.approx(1.0)


def test_gradients_are_the_last_kind_of_error():
    network, plain, x = small(), small(gradients=False), images(1)
    with torch.no_grad():
        found, before = network.errors(x), plain.errors(x)
        different = 1 - gradient_similarity(x, network.reconstruct(x))[0, 0].numpy()
    assert found.shape == (1, 2, 6, 32, 48)
    torch.testing.assert_close(found[:, :, :-1], before)
    for s, sigma in enumerate((1.0, 2.0)):
        smooth = ndimage.gaussian_filter(different, sigma, radius=4 * int(sigma))
        np.testing.assert_allclose(found[0, s, -1].numpy(), smooth, atol=1e-5)


@pytest.mark.parametrize("error", ["combined", "squared"])
def test_gradients_are_refused_beside_other_errors(error: str):
    with pytest.raises(UsageError, match=rf"^--gradients needs --error joint, not {error}"):
        replace(SMALL, error=error)
