"""What is planted for the sensitivity card: of the stated kind, size and contrast, in any format."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from blemish.evaluation.sensitivity_defects import (
    FILLINGS,
    Planted,
    Scene,
    Surface,
    plant_defect,
    scene_of,
    surface_of,
)
from blemish.evaluation.sensitivity_plan import CONTRASTS, KINDS, SIZES, Defect

SIDE = 200


def part(seed: int, *, channels: int = 3, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """A bright, finely textured disc on plain dark ground; values in [0, 255], uint8."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[: size[0], : size[1]]
    disc = np.hypot((rows - size[0] / 2) / size[0], (cols - size[1] / 2) / size[1]) < 0.35
    texture = 130 + 40 * rng.random((*size, channels))
    return np.where(disc[..., None], texture, 20).astype(np.uint8)


def surroundings(images: list[np.ndarray], highest: float = 255.0) -> tuple[Surface, list[Scene]]:
    surface = surface_of(images, 0.0, highest)
    return surface, [scene_of(image, surface) for image in images]


@functools.cache
def usual_surroundings() -> tuple[Surface, list[Scene]]:
    return surroundings(IMAGES)


def planted_into(images: list[np.ndarray], defect: Defect, seed: int = 0, highest: float = 255.0) -> Planted:
    surface, scenes = usual_surroundings() if images is IMAGES else surroundings(images, highest)
    planted = plant_defect(scenes[0], scenes[1], defect, surface, seed)
    assert planted is not None
    return planted


IMAGES = [part(i) for i in range(4)]


def test_the_kinds_of_the_card_are_those_that_can_be_planted():
    assert list(FILLINGS) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_changed_lies_in_the_window_and_on_the_part(kind: str):
    defect = Defect(kind=kind, size=0.1, contrast=0.4 if KINDS[kind] else None)
    for seed in range(5):
        planted = planted_into(IMAGES, defect, seed)
        different = (planted.image != IMAGES[0]).any(axis=2)
        outside = different.copy()
        outside[planted.window] = False
        assert not outside.any()
        assert planted.changed.any()
        assert not (planted.changed & ~different[planted.window]).any()
        rows, cols = np.nonzero(different)
        assert np.hypot(rows.mean() - SIDE / 2, cols.mean() - SIDE / 2) < 0.45 * SIDE
        assert planted.share >= 0.25


@pytest.mark.parametrize("kind", ["spot", "missing piece", "scratch"])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_as_large_as_is_said(kind: str, size: float):
    extents = []
    for seed in range(12):
        rows, cols = np.nonzero(
            planted_into(IMAGES, Defect(kind=kind, size=size, contrast=0.4), seed).changed
        )
        extents.append(max(np.ptp(rows), np.ptp(cols)) + 1)
    assert 0.5 < np.median(extents) / max(3, size * SIDE) < 1.8
    assert max(extents) < 2.5 * max(6, size * SIDE)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_it_is_as_much_darker_or_brighter_as_is_said(contrast: float):
    surface, scenes = usual_surroundings()
    signs = set()
    for seed in range(8):
        defect = Defect(kind="spot", size=0.15, contrast=contrast)
        planted = plant_defect(scenes[0], scenes[1], defect, surface, seed)
        assert planted is not None
        difference = planted.image.astype(float) - IMAGES[0]
        strongest = difference.flat[np.abs(difference).argmax()]
        assert abs(strongest) / (surface.one - surface.zero) == pytest.approx(contrast, abs=0.01)
        signs.add(np.sign(strongest))
    assert signs == {-1.0, 1.0}


def test_where_there_is_no_room_above_it_is_darker():
    bright = [np.full((64, 64, 1), 250, np.uint8) + np.uint8(i) for i in range(3)]
    dark_corner = [image.copy() for image in bright]
    for image in dark_corner:
        image[:20, :20] = 0
    for seed in range(4):
        planted = planted_into(dark_corner, Defect(kind="spot", size=0.2, contrast=0.4), seed)
        where = planted.image != dark_corner[0]
        from_bright = where & (dark_corner[0] > 200)
        assert (planted.image[from_bright] < 250).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "channels", "highest"), [("uint16", 1, 4095.0), ("float32", 5, 1.0)])
def test_any_format_keeps_its_type_and_its_range(kind: str, dtype: str, channels: int, highest: float):
    images = [(part(i, channels=channels, size=(80, 120)) / 255 * highest).astype(dtype) for i in range(3)]
    planted = planted_into(
        images, Defect(kind=kind, size=0.2, contrast=0.4 if KINDS[kind] else None), 1, highest
    )
    assert (planted.image.dtype, planted.image.shape) == (images[0].dtype, images[0].shape)
    assert planted.image.min() >= 0
    assert planted.image.max() <= highest
    assert planted.changed.any()


def test_the_same_seed_gives_the_same_bits_and_leaves_torch_s_own_draws_alone():
    defect = Defect(kind="foreign piece", size=0.1, contrast=None)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (planted_into(IMAGES, defect, seed).image for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_blur_of_what_has_no_detail_is_left_out():
    plain = [np.full((64, 64, 3), 90, np.uint8) for _ in range(2)]
    surface, scenes = surroundings(plain)
    defect = Defect(kind="blur", size=0.2, contrast=None)
    assert plant_defect(scenes[0], scenes[1], defect, surface, 0) is None


def test_it_lies_inside_of_what_counts():
    surface = surface_of(IMAGES, 0, 255)
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[:, : SIDE // 2] = True
    scene, other = scene_of(IMAGES[0], surface, inside), scene_of(IMAGES[1], surface, inside)
    for seed in range(6):
        planted = plant_defect(scene, other, Defect(kind="spot", size=0.2, contrast=0.4), surface, seed)
        assert planted is not None
        assert planted.changed.any()
        assert not (planted.image != IMAGES[0])[~inside].any()
