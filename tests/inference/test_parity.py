"""Two backends of one model are compared on noise and on flat images."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.inference.backend import Output
from blemish.inference.parity import differences, too_large

SHAPE = (1, 4, 5)


class Brightness:
    """Maps of how bright each pixel is; images of one brightness may get another answer."""

    def __init__(self, wrong: float | None = None, by: float = 0.0) -> None:
        self.wrong, self.by = wrong, by

    def run(self, images: np.ndarray) -> Output:
        """Score images (B, 1, h, w)."""
        flat = (images == self.wrong).all(axis=(1, 2, 3))
        return Output(images[:, 0] + self.by * flat[:, None, None])


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_black_grey_and_white_are_compared(grey: float):
    found = differences(Brightness(), Brightness(wrong=grey, by=0.25), SHAPE)
    assert found["noise"] == 0
    assert found["flat images"] == pytest.approx(0.25, rel=0.1)  # noise has a range of nearly 1
    assert "0.2" in (too_large(found) or "")


def test_equal_backends_differ_by_nothing():
    found = differences(Brightness(), Brightness(), SHAPE)
    assert set(found.values()) == {0.0}
    assert too_large(found) is None
