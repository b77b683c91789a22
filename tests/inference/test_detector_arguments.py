"""What a detector is given: arrays that are more than numbers, one image in the place of many, options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_detector, grey
from PIL import Image

from blemish.core.errors import ImageError, UsageError
from blemish.images.sources import Frame
from blemish.inference.detector import Detector

PART = np.full((32, 32, 3), 51, np.uint8)


@pytest.fixture
def detector() -> Detector:
    return fake_detector(grey_levels=(51, 102, 153, 204))


class Kelvin(np.ndarray):
    """An array with a unit."""


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.ma.masked_array(PART, mask=PART > 0), "is a MaskedArray, whose mask would be lost"),
        (np.ma.masked_array(PART), "is a MaskedArray, whose mask would be lost"),  # nothing masked
        (PART[:, :, 0].view(np.matrix), "is a matrix, which may mean more than its numbers"),
        (PART.view(Kelvin), "is a Kelvin, which may mean more than its numbers"),
        (np.zeros((32, 32), [("r", "u1"), ("g", "u1")]), "has the fields r, g; give"),
        (np.rec.array(np.zeros((32, 32), [("r", "u1"), ("g", "u1")])), "has the fields r, g; give"),
        (PART.tolist(), "is a list; give a path, an array or a Pillow image"),
        (PART.tobytes(), "is a bytes; give a path"),
        ({"image": PART}, "is a dict; give a path"),
    ],
)
def test_what_is_more_than_its_numbers_is_refused(image: Any, why: str, detector: Detector):
    with pytest.raises(ImageError) as refusal:
        detector.predict(image)
    assert str(refusal.value).startswith(f"image: {why}")
    assert "\n" not in str(refusal.value)
    if isinstance(image, np.ndarray):
        with pytest.raises(ImageError, match=why):
            detector.predict(Frame(path="film#000001", image=image))


def test_plain_arrays_and_memory_maps_are_taken(detector: Detector, tmp_path: Path):
    np.save(tmp_path / "part.npy", PART)
    stored = np.load(tmp_path / "part.npy", mmap_mode="r")
    assert type(stored) is np.memmap
    scores = [detector.predict(x).score for x in (PART, stored, stored[:, ::-1], Image.fromarray(PART))]
    assert scores == pytest.approx([0.2] * 4)


def test_pandas_tables_are_no_images(detector: Detector, tmp_path: Path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pandas.DataFrame({"path": [str(grey(tmp_path / "a.png", 51))]})
    with pytest.raises(ImageError, match="is a DataFrame; give a path"):
        detector.predict(table)
    with pytest.raises(UsageError, match="was given a DataFrame, not images; give a list"):
        detector.predict_many(table)  # would iterate the names of its columns
    assert [p.score for p in detector.predict_many(table["path"])] == pytest.approx([0.2])


@pytest.mark.parametrize("tiles", [False, True])
def test_one_image_in_the_place_of_many_is_refused_at_once(tiles: bool, detector: Detector, tmp_path: Path):
    if tiles:
        model_file = detector.model_file
        options = {"tile_size": 32, "tile_overlap": 0.0}
        detector = replace(detector, model_file=replace(model_file, config=model_file.config | options))
    file = grey(tmp_path / "one.png", 51)
    for one in (str(file), file, bytes(file), PART, Image.fromarray(PART), Frame(path="f", image=PART)):
        with pytest.raises(UsageError, match=r"predict_many: was given a .*; give a list, or use predict$"):
            detector.predict_many(one)  # refused here, not when the first answer is asked for
    for other in ({"a": file}, None, 3):
        with pytest.raises(
            UsageError, match=r"predict_many: was given a .*; give a list of paths or arrays$"
        ):
            detector.predict_many(other)  # pyright: ignore[reportArgumentType]


def test_many_images_of_any_kind_are_taken_and_only_paths_name_them(detector: Detector, tmp_path: Path):
    file = grey(tmp_path / "one.png", 51)
    many = (x for x in (str(file), file, PART, Image.fromarray(PART), Frame(path="film#1", image=PART)))
    answers = list(detector.predict_many(many))
    assert [answer.score for answer in answers if not isinstance(answer, ImageError)] == pytest.approx(
        [0.2] * 5
    )
    assert [a.path for a in answers if not isinstance(a, ImageError)] == [str(file)] * 2 + [
        None,
        None,
        "film#1",
    ]
    assert len(list(detector.predict_many(np.array([str(file)])))) == 1  # an array of names


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"batch_size": 2.5}, "--batch-size 2.5: must be a whole number$"),
        ({"batch_size": "16"}, "--batch-size 16: must be a whole number"),
        ({"batch_size": True}, "--batch-size True: must be a whole number"),
        ({"false_alarm_rate": "0.05"}, "--false-alarm-rate '0.05': must be a number; 0.05 is 5 %"),
        ({"false_alarm_rate": True}, "--false-alarm-rate True: must be a number"),
        ({"false_alarm_rate": float("nan")}, "false-alarm rate nan: it must lie between 0 and 1"),
        ({"allow": "channels"}, "--allow channels: must be a set of: channels, depth"),
        ({"allow": ["channels"]}, r"--allow \['channels'\]: must be a set of"),
        ({"allow": frozenset({"chanels"})}, "--allow chanels: must be a set of"),
    ],
)
def test_options_of_another_kind_are_refused(options: dict[str, Any], why: str, detector: Detector):
    with pytest.raises(UsageError, match=why):
        replace(detector, **options)
