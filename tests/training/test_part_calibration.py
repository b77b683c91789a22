"""Which good parts calibrate decisions of parts, and which never do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_detector, grey

from blemish.core.errors import DataError, UsageError
from blemish.core.types import Sample
from blemish.data.hashing import file_digest
from blemish.data.part_names import PartNames
from blemish.inference.calibration import calibrate
from blemish.inference.detector import Detector
from blemish.inference.part_models import ViewModels
from blemish.inference.products import Product, ProductCalibration
from blemish.training.part_calibration import calibrate_views, whole_parts

SPLITS = ("train", "calibration")


def named(*names: str) -> list[Sample]:
    """Samples of SPLIT/PART_VIEW names."""
    told = PartNames(part=r"(\d+)_")
    return told.name([Sample(path=Path(name), split=SPLITS[name[0] == "c"]) for name in names])


def test_equal_names_in_two_splits_are_two_parts():
    """Else two parts of two views would be one of four, and views of different parts be put together."""
    both = [f"{split}/{part}_{i}.png" for split in SPLITS for part in range(3) for i in range(2)]
    good = named(*both, "train/7_0.png", "calibration/7_1.png")
    held_out = [sample for sample in good if sample.split == "calibration"]
    whole, views = whole_parts(held_out, good)
    assert [[s.path.as_posix() for s in members] for members in whole] == [
        [f"calibration/{part}_{i}.png" for i in range(2)] for part in range(3)
    ]
    assert views == ()
    assert [members[0].part for members in whole_parts(good, good)[0]] == ["0", "0", "1", "1", "2", "2"]


@pytest.fixture
def photos(tmp_path: Path) -> list[Sample]:
    """Parts 0 to 3 of two views, which train and calibrate under equal names."""
    for number, split in enumerate(SPLITS):
        for part in range(4):
            for i in range(2):
                grey(tmp_path / split / f"{part}_{i}.png", 20 + 60 * number + 10 * part + i)
    samples = [
        Sample(path=path, split=split) for split in SPLITS for path in sorted((tmp_path / split).iterdir())
    ]
    return PartNames(part=r"(\d+)_").name(samples)


def run(
    tmp_path: Path, samples: list[Sample], learnt: list[Path], **changes: object
) -> tuple[int, list[str]]:
    model = tmp_path / "model.safetensors"
    model.write_text("one")
    detector = fake_detector(grey_levels=(100, 120))
    provenance = {"training_digests": {file_digest(path): path.name for path in learnt}}
    given = replace(detector.model_file, provenance=provenance, **changes)
    detectors: dict[Path, Detector] = {model: replace(detector, model_file=given)}
    file = tmp_path / "parts.json"
    _, left_out = calibrate_views(ViewModels(usual=model), detectors, samples, file, data="photos")
    content = json.loads(file.read_text())
    assert len(content["scores"]) == len(content["parts"])
    return left_out, content["parts"]


def test_a_part_of_which_one_image_was_learnt_does_not_calibrate(tmp_path: Path, photos: list[Sample]):
    learnt = [sample.path for sample in photos if sample.split == "train"][::2]
    assert run(tmp_path, photos, learnt) == (4, ["0", "1", "2", "3"])
    with pytest.raises(DataError, match="of each of its 8 parts an image was learnt"):
        run(tmp_path, photos, [sample.path for sample in photos][::2])


def test_a_model_of_several_products_calibrates_no_parts(tmp_path: Path, photos: list[Sample]):
    """One rank among the parts of all products would keep its rate for none of them."""
    known = calibrate(np.arange(3.0), np.arange(3.0))
    products = tuple(
        ProductCalibration(product=Product(name=name), calibration=known, display_range=(0.0, 1.0))
        for name in ("bolt", "nut")
    )
    shown = [replace(sample, product=("bolt", "nut")[i % 4 // 2]) for i, sample in enumerate(photos)]
    with pytest.raises(UsageError, match="several products, which decides of no parts"):
        run(tmp_path, shown, [], products=products, calibration=None)
