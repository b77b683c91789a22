"""Small files for the tests of data sets, and what is expected of a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish.core.errors import DataError
from blemish.data.dataset import open_dataset


def picture(path: Path, value: int = 0, *, side: int = 16) -> Path:
    """A grey PNG whose bytes depend on `value` alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.Generator(np.random.PCG64(value)).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(array).save(path, format="PNG")
    return path


def mask_of(path: Path, values: tuple[int, ...] = (0, 255), *, shape: tuple[int, ...] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.resize(np.array(values, dtype=np.uint8), shape)
    Image.fromarray(array).save(path)
    return path


def refusal(data: Path, *, need_train: bool = True) -> str:
    with pytest.raises(DataError) as error:
        open_dataset(data, need_train=need_train)
    assert "\n" not in str(error.value)
    return str(error.value)
