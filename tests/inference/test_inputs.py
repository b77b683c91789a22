"""What is said of inputs by manifests beside folders, and by several manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import fake_detector, grey

from blemish.core.errors import UsageError
from blemish.inference.detector import Detector
from blemish.inference.inputs import find_inputs, named, open_manifests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, their regions, and a manifest of each region."""
    for name in ("a", "b"):
        grey(tmp_path / "photos" / f"{name}.png", 100)
    for name in ("left", "top"):
        shape = "[[0, 0], [40, 0], [0, 40]]" if name == "top" else "[[0, 0], [20, 0], [20, 40], [0, 40]]"
        (tmp_path / f"{name}.json").write_text(f'{{"size": [64, 64], "polygons": [{shape}]}}')
        (tmp_path / f"{name}.csv").write_text(f"path,split,roi\nphotos/a.png,test,{name}.json\n")
    return tmp_path


def told(*inputs: Path | str) -> Detector:
    patterns, samples = open_manifests([str(each) for each in inputs])
    return named(fake_detector(), samples, None, [path for path, _ in find_inputs(patterns)])


def test_a_manifest_beside_its_own_folder_keeps_its_regions(folder: Path):
    detector = told(folder / "photos", folder / "left.csv", folder / "left.csv")
    assert detector.rois == {str(folder / "photos" / "a.png"): folder / "left.json"}


def test_a_region_is_never_lost_as_an_image_is_given_by_two_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first path of a file counts, and the region belongs to that of the manifest."""
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match=r"a\.png: is given by its manifest and by another path"):
        told("photos", folder / "left.csv")


def test_manifests_that_say_different_things_of_an_image_are_refused(folder: Path):
    with pytest.raises(UsageError, match=r"a\.png: two manifests say different things of it"):
        told(folder / "left.csv", folder / "top.csv")


@pytest.mark.parametrize("others", [[], ["photos"]])
def test_an_empty_path_is_refused_and_is_not_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, others: list[str]
):
    monkeypatch.chdir(folder / "photos")
    with pytest.raises(
        UsageError, match=r"^PATH: one is empty, as from a variable that is not set; give images"
    ):
        told(*(folder / each for each in others), "")
