"""A folder of known defects: what is read of it, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import save

from blemish.core.errors import DataError
from blemish.data.known_defects import read_known_defects

IMAGE = np.zeros((16, 16), np.uint8)


def folder(root: Path, *names: str) -> Path:
    for name in names:
        save(root / name, IMAGE)
    return root


def test_images_without_masks_are_named_by_their_folder(tmp_path: Path):
    found = read_known_defects(folder(tmp_path, "a.png", "dent/b.png", "dent/deep/c.png"))
    assert [(s.path.name, s.label, s.mask, s.split) for s in found] == [
        ("a.png", "known", None, "test"),
        ("b.png", "dent", None, "test"),
        ("c.png", "dent", None, "test"),
    ]


def test_masks_lie_beside_the_images_or_elsewhere(tmp_path: Path):
    found = read_known_defects(folder(tmp_path, "a.png", "a_mask.png", "dent/b.png", "masks/b_mask.png"))
    assert [(s.path.name, s.mask and s.mask.name) for s in found] == [
        ("a.png", "a_mask.png"),
        ("b.png", "b_mask.png"),
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no such folder"),
        (("x_mask.png",), "holds no image"),
        (("a.png", "b.png", "a_mask.png"), "b.png: has no mask, and others have"),
        (("a.png", "a_mask.png", "b_mask.png"), "b_mask.png: a mask without an image b"),
        (("1/a.png", "2/a.png", "a_mask.png"), "masks pair by name"),
        (("a.png", "1/a_mask.png", "2/a_mask.png"), "masks pair by name"),
        (("good/a.png", "dent/b.png"), "good images are no known defects"),
    ],
)
def test_what_contradicts_itself_is_refused(names: tuple[str, ...], said: str, tmp_path: Path):
    with pytest.raises(DataError, match=said):
        read_known_defects(folder(tmp_path / "known", *names))
