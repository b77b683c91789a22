"""Places and shapes of planted defects against loops."""

import math

import numpy as np
import pytest
import reference_planting as reference
import torch
from drawn import MIDDLE, fixed, places

from blemish.data import shapes

pytestmark = pytest.mark.usefixtures("single_thread")


# --- places ---


def test_uniform_draws_between_its_ends():
    torch.manual_seed(0)
    drawn = shapes.uniform(-2, 3, 4000)
    assert (drawn.min().item(), drawn.max().item()) == pytest.approx((-2, 3), abs=0.01)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.1)
    assert shapes.uniform(0, 1, 2, 3).shape == (2, 3)


def test_a_turned_frame_equals_loops():
    each = (((3.0, 4.5), (2.0, 5.0), 0.7), ((0.0, 9.0), (1.0, 1.0), 2.5))
    down, right = places(*each).frame(6, 10)
    for i, (centre, half, angle) in enumerate(each):
        expected = reference.in_frame((6, 10), centre, half, angle)
        np.testing.assert_allclose(down[i], expected[0], atol=1e-5)
        np.testing.assert_allclose(right[i], expected[1], atol=1e-5)


def test_places_are_in_range():
    torch.manual_seed(0)
    drawn = shapes.draw_places(4000, 40, 60, side=200)
    assert (drawn.centre.amin(dim=0) >= 0).all()
    assert drawn.centre.amax(dim=0).tolist() == pytest.approx([39, 59], abs=0.2)
    assert (drawn.angle.min().item(), drawn.angle.max().item()) == pytest.approx((0, math.pi), abs=0.01)
    # half sizes: 0.01 to 0.25 of the side, stretched by √3 at most
    mean = drawn.half.prod(dim=1).sqrt()
    assert mean.min() >= 0.01 * 200 - 1e-4
    assert mean.max().item() == pytest.approx(0.25 * 200, abs=1e-3)
    ratio = drawn.half[:, 0] / drawn.half[:, 1]
    assert (ratio.min().item(), ratio.max().item()) == pytest.approx((1 / 3, 3), rel=0.02)
    # 0.01 and Gamma(2, 0.05), whose median is 1.678 of its scale
    assert mean.median().item() / 200 == pytest.approx(0.01 + 1.678 * 0.05, abs=0.004)


def test_a_place_is_no_narrower_than_two_pixels():
    torch.manual_seed(0)
    assert shapes.draw_places(2000, 40, 40, side=32).half.min() == 1


# --- shapes ---


def test_a_box_equals_loops():
    mask = shapes.box(places(MIDDLE), 40, 48)[0, 0]
    down, right = reference.in_frame((40, 48), *MIDDLE)
    off = np.maximum((np.abs(down) - 1) * 8, (np.abs(right) - 1) * 10)  # pixels beyond the nearer edge
    np.testing.assert_allclose(mask, np.clip(0.5 - off, 0, 1), atol=1e-4)
    assert mask.sum().item() == pytest.approx(16 * 20, rel=0.02)


def test_a_cloud_equals_loops_and_is_strongest_in_the_middle():
    mask = shapes.cloud(places(MIDDLE), 40, 48)[0, 0]
    down, right = reference.in_frame((40, 48), *MIDDLE)
    np.testing.assert_allclose(mask, np.clip(1 - (down**2 + right**2) / 2, 0, None) ** 2, atol=1e-5)
    assert divmod(int(mask.argmax()), 48) == (20, 24)


def test_a_blob_without_waves_is_an_ellipse(monkeypatch):
    monkeypatch.setattr(shapes, "uniform", fixed(*[0, 0] * 4, 1.0))  # no waves, edges a pixel soft
    mask = shapes.blob(places(MIDDLE), 40, 48)[0, 0]
    down, right = reference.in_frame((40, 48), *MIDDLE)
    inside = (1 - np.hypot(down, right)) * 9  # 9 pixels is the mean half size
    np.testing.assert_allclose(mask, np.clip(inside + 0.5, 0, 1), atol=1e-4)
    assert mask.sum().item() == pytest.approx(math.pi * 8 * 10, rel=0.02)


def test_a_wave_moves_the_edge_of_a_blob(monkeypatch):
    # two waves of height 0.3: 1.3 of the half size where 2θ = 0, that is to the right and left, 0.7 across
    monkeypatch.setattr(shapes, "uniform", fixed(0.3, 0, *[0, 0] * 3, 1.0))
    mask = shapes.blob(places(((40.0, 40.0), (20.0, 20.0), 0.0)), 81, 81)[0, 0]
    assert (mask[40] > 0.49).sum() == 2 * 26 + 1
    assert (mask[:, 40] > 0.49).sum() == 2 * 14 + 1


def test_blobs_lie_at_their_place_and_differ():
    torch.manual_seed(0)
    masks = shapes.blob(places(*[((30.0, 30.0), (12.0, 12.0), 0.0)] * 30), 61, 61)[:, 0]
    assert ((masks >= 0) & (masks <= 1)).all()
    rows, cols = torch.meshgrid(torch.arange(61.0) - 30, torch.arange(61.0) - 30, indexing="ij")
    far = (rows**2 + cols**2).sqrt()
    assert (masks[:, far < 0.2 * 12 - 2] == 1).all()
    assert not masks[:, far > 2.1 * 12 + 2].any()
    assert masks.std(dim=0).max() > 0.3


def test_a_line_that_does_not_wander_is_straight(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.zeros(shape))
    monkeypatch.setattr(shapes, "uniform", fixed(1.5))  # half as thick in pixels
    mask = shapes.line(places(((20.0, 24.0), (6.0, 3.0), math.pi / 6)), 40, 48)[0, 0]
    # twelve points, 4·6/12 = 2 pixels apart, the middle of all at the place: 11 pixels to either side
    step = np.array([math.sin(math.pi / 6), math.cos(math.pi / 6)])
    start, end = (tuple(np.array([20.0, 24.0]) + way * step) for way in (-11, 11))
    distance = reference.distance_to_segment((40, 48), start, end)
    np.testing.assert_allclose(mask, np.clip(1.5 - distance + 0.5, 0, 1), atol=1e-3)


def test_lines_wander_and_are_one_to_four_pixels_wide():
    torch.manual_seed(0)
    masks = shapes.line(places(*[((60.0, 60.0), (12.0, 12.0), 0.0)] * 40), 121, 121)[:, 0]
    # a line of 44 pixels, 2·(0.5 to 2) wide and its round ends
    areas = masks.sum(dim=(1, 2))
    assert areas.min() > 44 * 0.9
    assert areas.max() < 44 * 4.2 + 15
    assert areas.max() > 2.5 * areas.min()
    rows = (masks > 0.5).any(dim=2).sum(dim=1)  # straight, each would be as high as it is thick
    assert rows.float().mean() > 6


def test_dots_are_a_first_one_at_the_place_and_some_around_it(monkeypatch):
    torch.manual_seed(0)
    masks = shapes.dots(places(*[((30.0, 30.0), (8.0, 8.0), 0.0)] * 60), 61, 61)[:, 0]
    assert (masks[:, 30, 30] == 1).all()
    areas = masks.sum(dim=(1, 2))
    assert areas.min() >= 1
    assert areas.max() < 4 * math.pi * 2.4**2
    assert masks.mean(dim=0)[:20].sum() + masks.mean(dim=0)[41:].sum() > 0.3  # more than a half size away
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.full(shape, 0.7))  # no second one below a half
    monkeypatch.setattr(shapes, "uniform", fixed(1.2, 1, 1, 1))
    one = shapes.dots(places(((5.0, 6.0), (3.0, 3.0), 0.0)), 11, 13)[0, 0]
    rows, cols = np.mgrid[:11, :13]
    expected = np.clip(1.2 - np.hypot(rows - 5, cols - 6) + 0.5, 0, 1)
    np.testing.assert_allclose(one, expected, atol=1e-5)
