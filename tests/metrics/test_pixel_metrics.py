from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import reference
from sklearn.metrics import roc_auc_score

from blemish.core.errors import UsageError
from blemish.metrics.pixels import PixelPool


def images(seed: int, *, ties: bool = True) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three small maps; regions of unequal size, one of them diagonal, and one good image."""
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(6, 8)) for _ in range(3)]
    maps = [(np.round(m * 2) if ties else m).astype(np.float32) for m in maps]
    masks = [np.zeros((6, 8), dtype=bool) for _ in range(3)]
    masks[0][0:3, 0:4] = True  # 12 pixels
    masks[0][5, 7] = True  # 1 pixel
    masks[1][1, 1] = masks[1][2, 2] = masks[1][3, 1] = True  # 3 pixels, joined at their corners
    return maps, masks


def pool_of(maps: list[np.ndarray], masks: list[np.ndarray]) -> PixelPool:
    pool = PixelPool()
    for values, mask in zip(maps, masks, strict=True):
        pool.add(values, mask)
    return pool


def test_pro_by_hand():
    # One row; regions of 1 pixel (score 9) and of 4 pixels (two at 5, two at 1); good pixels 7, 3, 3, 0, 0.
    values = np.array([[9, 7, 5, 5, 1, 1, 3, 3, 0, 0]], dtype=np.float32)
    mask = np.array([[1, 0, 1, 1, 1, 1, 0, 0, 0, 0]], dtype=bool)
    pool = pool_of([values], [mask])
    # PRO: 1/2 from 9 (region one whole), 1/2 + 1/4 from 5 at FPR 1/5, 1 from 1 at FPR 3/5.
    assert pool.pro_roc().tpr_at(0.0) == pytest.approx(0.5)
    assert pool.pro_roc().tpr_at(0.2) == pytest.approx(0.75)
    assert pool.pro_roc().area_up_to(0.3) == pytest.approx(0.2 * 0.5 + 0.1 * 0.75)
    # Pixels alike: 1/5 from 9, 3/5 from 5.
    assert pool.pixel_roc().area_up_to(0.3) == pytest.approx(0.2 * 0.2 + 0.1 * 0.6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_pixels_and_pro_match_brute_force(seed: int, ties: bool):
    maps, masks = images(seed, ties=ties)
    assert sorted(len(r) for mask in masks for r in reference.regions_of(mask)) == [1, 3, 12]
    pool = pool_of(maps, masks)
    points = reference.pro_points(maps, masks)
    every, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    assert pool.pixel_roc().auroc() == pytest.approx(roc_auc_score(labels, every), abs=1e-12)
    for limit in (0.05, 0.3, 1.0):
        assert pool.pro_roc().area_up_to(limit) == pytest.approx(
            reference.area_up_to(points, limit), abs=1e-12
        )
    assert pool.pro_roc().auroc() != pytest.approx(pool.pixel_roc().auroc(), abs=1e-3)


def test_how_images_are_added_changes_nothing():
    maps, masks = images(7)
    pool = pool_of(maps, masks)
    backwards = pool_of(maps[::-1], masks[::-1])
    asked_between = pool_of(maps[:1], masks[:1])
    asked_between.pro_roc()
    for values, mask in zip(maps[1:], masks[1:], strict=True):
        asked_between.add(values, mask)
    for other in (backwards, asked_between):
        assert other.pixel_roc().auroc() == pool.pixel_roc().auroc()
        assert other.pro_roc().area_up_to(0.3) == pytest.approx(pool.pro_roc().area_up_to(0.3), abs=1e-12)
    assert pool.pixel_roc().auroc() == pool.pixel_roc().auroc()


def test_pro_does_not_depend_on_the_size_of_a_region():
    # Every pixel twice as wide: regions and good pixels double alike.
    maps, masks = images(8)
    doubled = pool_of([np.repeat(m, 2, axis=1) for m in maps], [np.repeat(m, 2, axis=1) for m in masks])
    assert doubled.pro_roc().area_up_to(0.3) == pytest.approx(pool_of(maps, masks).pro_roc().area_up_to(0.3))


def test_pool_needs_about_twice_its_maps():
    rng = np.random.default_rng(0)
    mask = np.zeros((512, 512), dtype=bool)
    mask[100:140, 100:200] = True
    tracemalloc.start()
    pool = PixelPool()
    for _ in range(16):
        pool.add(rng.random((512, 512), dtype=np.float32), mask)
    pool.pixel_roc().auroc()
    pool.pro_roc().normalised_auroc(0.3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.3 * 16 * mask.size * 4


def test_the_pool_copies_and_sorts_for_itself_alone():
    values = np.array([[3, 1], [2, 0]], dtype=np.float32)
    pool_of([values], [values > 2]).pixel_roc()
    assert values.tolist() == [[3, 1], [2, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_images_are_refused(bad: float):
    pool = PixelPool()
    with pytest.raises(UsageError, match="NaN or infinity"):
        pool.add(np.array([[bad]]), np.array([[True]]))
    with pytest.raises(UsageError, match="bool"):
        pool.add(np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(UsageError, match=r"\(2, 3\)"):
        pool.add(np.zeros((2, 2)), np.zeros((2, 3), dtype=bool))


def test_a_single_class_is_refused():
    with pytest.raises(UsageError, match="0 good and 0 defective"):
        PixelPool().pro_roc()
    with pytest.raises(UsageError, match="4 good and 0 defective"):
        pool_of([np.zeros((2, 2))], [np.zeros((2, 2), dtype=bool)]).pixel_roc()
    with pytest.raises(UsageError, match="0 good and 4 defective"):
        pool_of([np.zeros((2, 2))], [np.ones((2, 2), dtype=bool)]).pro_roc()


def test_pixels_of_one_label_stand_against_all_good_pixels():
    pool = PixelPool()
    pool.add(np.array([[1.0, 5.0]], np.float32), np.array([[False, True]]), "scratch")
    pool.add(np.array([[3.0, 2.0]], np.float32), np.array([[False, True]]), "spot")
    # good pixels 1 and 3; scratch 5 beats both; spot 2 beats one; together 3 of 4 pairs
    assert pool.pixel_roc("scratch").auroc() == 1.0
    assert pool.pixel_roc("spot").auroc() == 0.5
    assert pool.pixel_roc().auroc() == 0.75
