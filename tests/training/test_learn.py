"""What a network is given to learn from: images of others, and the same at another size."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.images.resize import resize
from blemish.training import learn
from blemish.training.learn import ImageSubset, resized


class Counted:
    """Eight images of 3 channels, and how often each was asked for."""

    def __init__(self, dtype: type = np.float32, side: int = 16) -> None:
        rng = np.random.default_rng(3)
        values = rng.integers(0, 256, (8, 3, side, side))
        self.images = values.astype(np.uint8) if dtype is np.uint8 else (values / 255).astype(dtype)
        self.asked = np.zeros(8, int)

    def __len__(self) -> int:
        return 8

    def batch(self, indices: np.ndarray) -> np.ndarray:
        np.add.at(self.asked, indices, 1)
        return self.images[indices]


def test_images_are_resized_once_whatever_their_order():
    source = Counted()
    small = resized(source, (6, 10))
    expected = np.stack([resize(image, (6, 10)) for image in source.images])
    for order in ([1, 7, 1, 2], [2, 1, 0], [0, 7], list(range(8))):
        found = small.batch(np.array(order))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected[order])
    assert source.asked.tolist() == [2, *(7 * [1])]  # the first also tells the size that it has


def test_no_more_of_them_are_kept_than_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learn, "CHANGED_BYTES", 3 * 3 * 8 * 8 * 4 + 1)
    source = Counted()
    small = resized(source, (8, 8))
    expected = small.batch(np.arange(8))
    np.testing.assert_array_equal(small.batch(np.arange(8)[::-1]), expected[::-1])
    assert source.asked.tolist() == [2, 1, 1] + 5 * [2]


def test_bytes_become_shares_of_one():
    source = Counted(np.uint8)
    found = resized(source, (8, 8)).batch(np.arange(8))
    expected = resized(Counted(), (8, 8)).batch(np.arange(8))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_of_that_size_are_given_as_they_are(dtype: type):
    source = Counted(dtype)
    small = resized(source, (16, 16))
    for order in ([3, 1], [3, 3, 1]):
        found = small.batch(np.array(order))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, source.images[order])


def test_a_subset_is_resized_by_its_own_numbers():
    source = Counted()
    small = resized(ImageSubset(source, [5, 2]), (8, 8))
    assert len(small) == 2
    np.testing.assert_array_equal(small.batch(np.array([1, 0]))[0], resize(source.images[2], (8, 8)))
