"""Regions of single images: with the model's own, what is refused, and that a changed file is read anew."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import save

from blemish.core.errors import ImageError
from blemish.core.types import Sample
from blemish.images.regions import Regions, own_regions
from blemish.images.roi import Roi, roi_of


def drawn(*, rows: slice = slice(None), columns: slice = slice(None), side: int = 20) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    mask[rows, columns] = True
    return mask


def written(file: Path, mask: np.ndarray) -> Path:
    return save(file, mask.astype(np.uint8) * 255)


def test_an_image_counts_inside_its_own_region_and_the_models(tmp_path: Path):
    left, top = drawn(columns=slice(10)), drawn(rows=slice(5))
    own = {"a.png": written(tmp_path / "top.png", top)}
    regions = Regions(common=roi_of(left), own=own)
    found = regions.of("a.png")
    assert found is not None
    np.testing.assert_array_equal(found.mask, left & top)
    assert regions.of("b.png") == regions.of(None) == roi_of(left)
    assert Regions(own=own).of("b.png") is None
    alone = Regions(own=own).of(Path("a.png"))
    assert alone is not None
    np.testing.assert_array_equal(alone.mask, top)


@pytest.mark.parametrize(("own_side", "side"), [(20, 60), (60, 20)])
def test_both_meet_at_the_finer_size(tmp_path: Path, own_side: int, side: int):
    own = written(tmp_path / "m.png", drawn(rows=slice(own_side // 2), side=own_side))
    common = roi_of(drawn(columns=slice(side // 2), side=side))
    found = Regions(common=common, own={"a.png": own}).of("a.png")
    assert found is not None
    np.testing.assert_array_equal(found.mask, drawn(rows=slice(30), columns=slice(30), side=60))


def test_what_leaves_next_to_nothing_or_has_another_aspect_is_refused(tmp_path: Path):
    right, wide = drawn(columns=slice(10, 20), side=20), np.ones((20, 40), bool)
    own = {"a.png": written(tmp_path / "r.png", right), "w.png": written(tmp_path / "w.png", wide)}
    regions = Regions(common=roi_of(drawn(columns=slice(10))), own=own)
    with pytest.raises(ImageError, match=r"r\.png: leaves 0 % of the image inside the model's region"):
        regions.of("a.png")
    with pytest.raises(
        ImageError, match=r"w\.png: is 40 x 20 px, but the model's region of interest is 20 x 20"
    ):
        regions.of("w.png")
    roi = Regions(own=own).of("w.png")
    assert roi is not None
    with pytest.raises(
        ImageError, match=r"w\.png: is 20 x 20 px, but its own region of interest is 40 x 20 px"
    ):
        roi.at((20, 20), name="w.png")
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read"):
        Regions(own={"a.png": tmp_path / "gone.png"}).of("a.png")


def test_a_changed_file_is_read_anew(tmp_path: Path):
    file = written(tmp_path / "m.png", drawn(rows=slice(5)))
    regions = Regions(own={"a.png": file})
    before = regions.of("a.png")
    os.utime(written(file, drawn(rows=slice(10))), ns=(1, 1))
    after = regions.of("a.png")
    assert isinstance(before, Roi)
    assert isinstance(after, Roi)
    assert (before.share, after.share) == (0.25, 0.5)


def test_samples_with_a_region_are_named_by_their_path():
    samples = [
        Sample(path=Path("a.png"), split="test", roi=Path("m.png")),
        Sample(path=Path("b.png"), split="test"),
    ]
    assert own_regions(samples) == {"a.png": Path("m.png")}
