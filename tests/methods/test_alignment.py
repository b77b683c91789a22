"""Turning parts to one angle: poses against scipy's turns, and maps that come back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from turned_parts import GREY, SIDE, good, key, learnt, stack, turned

from blemish.methods.components.alignment import (
    ANGLES,
    RINGS,
    Alignment,
    Pose,
    angle_of,
    centre_of,
    part_weights,
    pull_of,
    signature,
)

pytestmark = pytest.mark.usefixtures("single_thread")

ONE = torch.tensor(1.0)


# --- the equations ---


def test_weights_and_centre_by_hand():
    x = torch.full((1, 2, 4, 6), 0.5)
    x[0, :, 1, 4] = torch.tensor([0.7, 0.5])  # 0.1 away
    x[0, :, 2, 4] = 0.9  # 0.4 away
    w = part_weights(x, torch.tensor([0.5, 0.5]), torch.tensor(0.08))
    expected = torch.zeros(1, 4, 6)
    expected[0, 1, 4], expected[0, 2, 4] = 0.25, 1.0
    torch.testing.assert_close(w, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        centre_of(w).float(), torch.tensor([[(0.25 * 1.5 + 2.5) / 1.25, 4.5]]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(centre_of(torch.zeros(1, 4, 6)).float(), torch.tensor([[2.0, 3.0]]))


def test_rings_are_read_at_their_places_less_their_mean():
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    ramp = (0.01 * x + 0.005 * y)[None, None]
    found = signature(ramp, torch.zeros(1), torch.tensor([[24.0, 32.0]]), ONE)
    assert found.shape == (1, 1, RINGS, ANGLES)
    radius = (np.arange(RINGS) + 0.5) * 24 / RINGS
    theta = np.arange(ANGLES) * 2 * np.pi / ANGLES
    wave = radius[:, None] * (0.01 * np.cos(theta) + 0.005 * np.sin(theta))
    inside = radius < 23  # beyond the middles of the outer pixels lies the colour
    expected = wave * np.sqrt(radius)[:, None]
    np.testing.assert_allclose(found[0, 0].numpy()[inside], expected[inside], atol=1e-4)


@pytest.mark.parametrize("angle", [0.0, 1.4, 3.0, 91.7, 180.0, 268.2, 359.0])
def test_the_angle_of_a_part_is_found_to_half_a_degree(angle: float):
    x = stack(key(), turned(key(), angle))
    centre = torch.full((2, 2), SIDE / 2)
    first, second = signature(x, torch.full((3,), GREY), centre, ONE)
    found = math.degrees(float(angle_of(second[None], first)[0]))
    assert abs((found - angle + 180) % 360 - 180) < 0.5


def test_a_small_move_is_read_off_the_difference_from_the_mean():
    y, x = np.mgrid[:64, :64] - 31.5

    def blobs(rows: float, cols: float, angle: float) -> torch.Tensor:
        """A mean as it looks where the part lies by so much elsewhere, at half size."""
        cos, sin = math.cos(angle), math.sin(angle)
        down, right = sin * x + cos * y + rows, cos * x - sin * y + cols
        picture = np.exp(-((down - 8) ** 2 + right**2) / 60) + np.exp(-(down**2 + (right + 12) ** 2) / 90)
        return torch.from_numpy(picture.reshape(1, 32, 2, 32, 2).mean(axis=(2, 4)))

    mean = blobs(0, 0, 0)
    off = blobs(-0.3, 0.2, -0.01) - mean
    pull = pull_of(mean.float(), torch.full_like(mean, 0.01).float(), ONE)
    rows, cols, border = (pull.double() @ off.flatten()).tolist()
    assert rows == pytest.approx(0.3, abs=0.05)
    assert cols == pytest.approx(-0.2, abs=0.05)
    assert border / 32 == pytest.approx(0.01, abs=0.002)


def test_an_image_without_a_part_has_the_angle_zero():
    template = signature(stack(key()), torch.full((3,), GREY), torch.full((1, 2), SIDE / 2), ONE)[0]
    empty = torch.full((1, 3, RINGS, ANGLES), 1e-6).cumsum(dim=3)
    assert float(angle_of(empty, template)[0]) == 0


# --- the module ---


def test_parts_are_turned_alike_and_moved_to_the_middle():
    alignment = learnt(good())
    x = good(seed=1)
    turned_alike = alignment.align(x, alignment.pose_of(x))
    assert turned_alike.var(dim=0).mean() < 0.1 * x.var(dim=0).mean()
    centre = centre_of(part_weights(turned_alike, alignment.colour, alignment.apart))
    torch.testing.assert_close(centre.float(), torch.full((12, 2), SIDE / 2), atol=0.7, rtol=0)


def test_maps_come_back_to_where_the_parts_lay():
    x = good()
    alignment = learnt(x)
    pose = alignment.pose_of(x)
    there_and_back = alignment.back(alignment.align(x, pose), pose)
    assert (there_and_back - x).abs().mean() < 0.01
    still = Pose(centre=torch.full((12, 2), SIDE / 2), angle=torch.zeros(12))
    torch.testing.assert_close(alignment.align(x, still), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(alignment.back(x, still), x, atol=1e-5, rtol=0)


def test_parts_that_are_longer_than_the_image_is_high_are_seen_whole():
    rod = np.full((1, SIDE, SIDE), GREY)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    rod[0, (np.abs(x - y) < 5) & (np.abs(x + y) < 80)] = 0.2
    rod[0, (np.abs(x - y) < 16) & (x + y > 70) & (x + y < 80)] = 0.2
    quarters = stack(*(np.rot90(rod, i % 4, (1, 2)) for i in range(8)))
    alignment = learnt(quarters)
    assert 1.1 < float(alignment.zoom) < 1.3
    pose = alignment.pose_of(quarters)
    upright = alignment.align(quarters, pose)
    size = (quarters < 0.5).float().sum(dim=(1, 2, 3))
    seen = (upright < 0.5).float().sum(dim=(1, 2, 3)) * alignment.zoom**2
    torch.testing.assert_close(seen, size, rtol=0.05, atol=0)
    assert (alignment.back(upright, pose) - quarters).abs().mean() < 0.02


def test_a_missing_piece_does_not_move_the_part():
    alignment, whole = learnt(good()), key()
    lacking = key()
    lacking[:, :, : SIDE // 4] = GREY  # a tenth of the part, at its end
    lacking = scipy.ndimage.gaussian_filter(lacking, (0, 1, 1))
    x = stack(turned(whole, 77.0), turned(lacking, 77.0))
    rough, fine = alignment._rough(x), alignment.pose_of(x)
    assert (rough.centre[0] - rough.centre[1]).norm() > 4
    assert (fine.centre[0] - fine.centre[1]).norm() < 1
    assert math.degrees(abs(float(fine.angle[0] - fine.angle[1]))) < 0.5


def test_a_defect_is_found_again_at_its_place():
    x = good(1, seed=5)
    alignment = learnt(good())
    rows, cols = (part_weights(x, alignment.colour, alignment.apart)[0] > 0.9).nonzero()[40].tolist()
    spot = torch.zeros(1, 1, SIDE, SIDE)
    spot[0, 0, rows - 1 : rows + 2, cols - 1 : cols + 2] = 1
    pose = alignment.pose_of(x)
    back = alignment.back(Alignment(1, (SIDE, SIDE)).align(spot, pose), pose)[0, 0]
    found = divmod(int(back.argmax()), SIDE)
    assert abs(found[0] - rows) <= 1
    assert abs(found[1] - cols) <= 1


def test_parts_far_longer_than_the_image_is_high_are_not_turned():
    wide = torch.full((8, 1, 32, 128), GREY)
    wide[:, :, 12:20, 10:118] = 0.2
    assert not Alignment(1, (32, 128)).learn(wide)


def test_without_a_plain_background_nothing_is_learnt():
    noise = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert not Alignment(3, (SIDE, SIDE)).learn(noise)
