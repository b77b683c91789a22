"""Small files for the tests of data sets, and what is expected of a refusal."""

from __future__ import annotations

import json
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


def pictures(folder: Path, *names: str, start: int = 0) -> None:
    """A `picture` for each name."""
    for i, name in enumerate(names):
        picture(folder / name, start + i)


def mvtec_loco(root: Path) -> Path:
    """A category of MVTec LOCO: one image has two overlapping masks, another one of another defect."""
    data = root / "pushpins"
    pictures(data / "train" / "good", "000.png", "001.png")
    pictures(data / "validation" / "good", "000.png", start=10)
    pictures(data / "test" / "good", "000.png", start=20)
    pictures(data / "test" / "logical_anomalies", "000.png", start=30)
    pictures(data / "test" / "structural_anomalies", "000.png", start=31)
    mask_of(data / "ground_truth" / "logical_anomalies" / "000" / "000.png", (0, 255))
    mask_of(data / "ground_truth" / "logical_anomalies" / "000" / "001.png", (255, 0, 0, 0, 0, 0, 0, 0))
    mask_of(data / "ground_truth" / "structural_anomalies" / "000" / "000.png", (0, 0, 254, 254))
    entries = [
        {"defect_name": "extra", "pixel_value": 255, "saturation_threshold": 5, "relative_saturation": False},
        {"defect_name": "bent", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
    ]
    (data / "defects_config.json").write_text(json.dumps(entries))
    return data


def refusal(data: Path, *, need_train: bool = True) -> str:
    with pytest.raises(DataError) as error:
        open_dataset(data, need_train=need_train)
    assert "\n" not in str(error.value)
    return str(error.value)
