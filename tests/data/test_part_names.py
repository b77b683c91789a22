from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import picture

from blemish.core.errors import DataError, UsageError
from blemish.core.types import Sample
from blemish.data.dataset import Dataset, open_dataset
from blemish.data.part_names import PartNames, check_parts, make_part_names
from blemish.data.split import split_good


@pytest.mark.parametrize(
    ("part", "view", "path", "found"),
    [
        (r"(\d+)_", None, "a9/17_top.png", ("17", None)),
        (r"(\d+)_", r"_(\w+)\.", "17_top.png", ("17", "top")),
        (r"(\d+)/\w+\.png$", r"(\w+)\.png$", "line/17/top.png", ("17", "top")),
        (r"(?:part|teil)-(\w+)_", None, "teil-a_1.png", ("a", None)),
    ],
)
def test_names_tell_part_and_view(part: str, view: str | None, path: str, found: tuple[str, str | None]):
    assert PartNames(part=part, view=view).of(Path(path)) == found


@pytest.mark.parametrize(
    ("part", "view", "text"),
    [
        (r"\d+", None, r"--part-pattern \d+: has 0 groups"),
        (r"(\d)(\d)", None, "has 2 groups"),
        ("(", None, "--part-pattern (: is no regular expression"),
        (r"(\d)", "a|b", "--view-pattern a|b: has 0 groups"),
        (None, "(a)", "--view-pattern (a): is for views of parts; give --part-pattern too"),
    ],
)
def test_patterns_of_another_form_are_refused(part: str | None, view: str | None, text: str):
    with pytest.raises(UsageError) as caught:
        make_part_names(part, view)
    assert text in str(caught.value)


def test_a_name_without_a_part_is_refused():
    with pytest.raises(DataError, match=r"top.png: --part-pattern .* does not find anything in its name"):
        PartNames(part=r"(\d+)_").of("9/top.png")


def manifest(folder: Path, *rows: str) -> Path:
    for i in range(6):
        picture(folder / f"{i}.png", i)
    path = folder / "parts.csv"
    path.write_text("\n".join(("path,split,part,view", *rows)) + "\n")
    return path


def test_a_manifest_names_parts(tmp_path: Path):
    rows = ["0.png,train,a,top", "1.png,train,a,side", "2.png,train,b,top", "3.png,train,b,side"]
    data = open_dataset(manifest(tmp_path, *rows))
    assert [(s.part, s.view) for s in data.train] == [
        ("a", "top"),
        ("a", "side"),
        ("b", "top"),
        ("b", "side"),
    ]
    with pytest.raises(DataError, match="leave the pattern out"):
        open_dataset(tmp_path / "parts.csv", names=PartNames(part=r"(\d)"))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("4.png,test,a,left", "row 4: part a is in test here, and in train above; all its images"),
        ("4.png,train,a,top", "part a has the view top already"),
        ("4.png,train,,", "4.png: its part is not told"),
        ("4.png,train,c,", "4.png: its view is not told"),
    ],
)
def test_parts_that_cannot_be_are_refused(tmp_path: Path, row: str, text: str):
    path = manifest(tmp_path, "0.png,train,a,top", "1.png,train,b,top", row)
    with pytest.raises(DataError, match=text):
        open_dataset(path)


def test_equal_names_in_two_splits_are_two_parts(tmp_path: Path):
    for i, split in enumerate(("train/good", "test/good", "test/dent")):
        for view in ("top", "side"):
            picture(tmp_path / split / f"00{i % 2}_{view}.png", 7 * i + len(view))
    data = open_dataset(tmp_path, names=PartNames(part=r"(\d+)_", view=r"_(\w+)\."))
    assert [s.part for s in data.train] == ["000", "000"]
    assert [(s.part, s.label) for s in data.test] == [("000", "dent")] * 2 + [("001", "good")] * 2


def samples_of(folder: Path, parts: list[str | None]) -> list[Sample]:
    return [
        Sample(path=picture(folder / f"{i:03}.png", i), split="train", part=part)
        for i, part in enumerate(parts)
    ]


def test_no_part_is_split(tmp_path: Path):
    rng = np.random.default_rng(0)
    samples = samples_of(tmp_path, [str(p) for p in rng.integers(0, 20, 60)])
    samples[7].path.write_bytes(samples[40].path.read_bytes())  # two parts share an image
    data = Dataset(name="d", root=tmp_path, train=samples, calibration=[], test=[], has_masks=False)
    for seed in range(20):
        split = split_good(data, validation_fraction=0.2, calibration_fraction=0.3, seed=seed)
        kinds = [{s.part for s in part} for part in (split.train, split.validation, split.calibration)]
        assert sum(map(len, kinds)) == len(set.union(*kinds)) == len({s.part for s in samples})
        assert sum(map(len, (split.train, split.validation, split.calibration))) == 60
        assert any({samples[7].part, samples[40].part} <= kind for kind in kinds)


def test_without_parts_the_split_is_as_before(tmp_path: Path):
    samples = samples_of(tmp_path, [None] * 20)
    alone = [replace(s, part=str(i)) for i, s in enumerate(samples)]
    splits = []
    for train in (samples, alone):
        data = Dataset(name="d", root=tmp_path, train=train, calibration=[], test=[], has_masks=False)
        split = split_good(data, validation_fraction=0.2, calibration_fraction=0.2, seed=3)
        splits.append([[s.path for s in part] for part in (split.train, split.validation, split.calibration)])
    assert splits[0] == splits[1]


def test_no_names_are_no_parts():
    check_parts([Sample(path=Path("a.png"), split="train"), Sample(path=Path("b.png"), split="train")])
    assert make_part_names(None, None) is None
