from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from conftest import save

pytest.importorskip("jinja2", reason="blemish[report] is not installed")

from blemish.cli.main import main
from blemish.core.errors import DataError, UsageError
from blemish.data.dataset import open_dataset
from blemish.evaluation.audit import FEWEST, Audit, _is_other, assign_folds, audit
from blemish.evaluation.looks import Looks, likeness, look_at


def part(seed: int) -> np.ndarray:
    """A grey disc whose shades vary a little."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48] - 24
    disc = np.where(np.hypot(y, x) < 18, 130.0 + rng.normal(0, 3), 40.0)
    return np.repeat(np.clip(disc[..., None] + rng.normal(0, 4, (48, 48, 1)), 0, 255), 3, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty discs; of further ones one has a bright square, one is dark, and one is a copy."""
    folder = tmp_path_factory.mktemp("doubtful")
    for seed in range(20):
        save(folder / f"{seed:02d}.png", part(seed))
    defect = part(30)
    defect[20:28, 20:28] = 250
    save(folder / "defect.png", defect)
    save(folder / "dark.png", (part(31) * 0.4).astype(np.uint8))
    save(folder / "twin.png", part(3))
    return folder


@pytest.fixture(scope="module")
def audited(doubtful: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, Path]:
    out = tmp_path_factory.mktemp("audit")
    return audit(open_dataset(doubtful), out, method="pca", folds=3, device="cpu"), out


def test_a_planted_defect_and_a_dark_image_are_suspects_and_a_copy_is_told(audited: tuple[Audit, Path]):
    found, _ = audited
    reasons = {each.path: each.reasons for each in found.suspects}
    assert "unlike the others" in reasons["defect.png"]
    assert "darker than the others" in reasons["dark.png"]
    assert {each.path for each in found.findings[:2]} == {"defect.png", "dark.png"}
    assert [(pair.a, pair.b, pair.across) for pair in found.copies] == [("03.png", "twin.png", False)]
    folds = {each.path: each.fold for each in found.findings}
    assert folds["03.png"] == folds["twin.png"]
    assert found.threshold_without_suspects is not None
    assert found.threshold_without_suspects < found.threshold


def test_what_is_written_has_every_image_and_its_pictures(audited: tuple[Audit, Path]):
    found, out = audited
    content = json.loads((out / "audit.json").read_text())
    assert (content["images"], content["suspects"], content["method"]) == (23, len(found.suspects), "pca")
    assert [each["path"] for each in content["findings"]] == [each.path for each in found.findings]
    page = (out / "audit.html").read_text()
    for each in found.findings:
        assert (out / each.overlay).is_file()
        assert (out / each.thumbnail).is_file()
        assert each.overlay in page
    assert "twin.png" in page
    assert "Of 23 good images" in page


def test_the_command_names_suspects(doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["audit", "--data", str(doubtful), "--out", str(tmp_path / "out"), "--method", "pca"]
    assert main([*arguments, "--folds", "2", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "defect.png: unlike the others" in said
    assert "1 pair is nearly the same" in said
    assert "without the suspects" in said


def test_folds_are_even_and_keep_groups_whole():
    groups = [[0, 1, 2, 3], [4], [5], [6], [7], [8, 9], [10], [11]]
    fold = assign_folds(groups, 3, seed=1)
    assert sorted(Counter(fold.tolist()).values()) == [4, 4, 4]
    assert all(len({fold[i] for i in group}) == 1 for group in groups)
    assert np.array_equal(fold, assign_folds(groups, 3, seed=1))
    assert not np.array_equal(fold, assign_folds(groups, 3, seed=2))
    with pytest.raises(UsageError, match="2 or larger"):
        assign_folds(groups, 1, seed=0)
    with pytest.raises(DataError, match="8 different images for 9 folds"):
        assign_folds(groups, 9, seed=0)


def test_too_few_images_are_refused(tmp_path: Path):
    for seed in range(3):
        save(tmp_path / "good" / f"{seed}.png", part(seed))
    with pytest.raises(DataError, match=f"3 good images; an audit needs {FEWEST}"):
        audit(open_dataset(tmp_path / "good"), tmp_path / "out")


def test_what_cannot_be_done_is_refused_before_the_work(doubtful: Path, tmp_path: Path):
    dataset = open_dataset(doubtful)
    for wrong, why in (
        ({"folds": 1}, "--folds 1: must be 2 or larger"),
        ({"seed": -1}, "--seed -1: must be at least 0 and below"),
        ({"method": "none"}, "--method none: no such method"),
        ({"false_alarm_rate": 2.0}, "2"),
        ({"false_alarm_rate": 0.0001}, "0.0001"),
    ):
        with pytest.raises(UsageError, match=why):
            audit(dataset, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_what_the_page_needs_is_looked_for_before_the_work(
    doubtful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"jinja2 is missing; pip install 'blemish\[report\]'"):
        audit(open_dataset(doubtful), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def ring(seed: int) -> np.ndarray:
    """Another product: a bright ring where the disc is dark, and the other way round."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48] - 24
    grey = np.where(np.hypot(y, x) < 18, 60.0, 110.0) + rng.normal(0, 4, (48, 48))
    return np.repeat(np.clip(grey[..., None], 0, 255), 3, 2).astype(np.uint8)


def test_pictures_of_another_product_are_told_also_where_there_are_several():
    def looks(pictures: list[np.ndarray], folder: Path) -> list[Looks]:
        return [look_at(save(folder / f"{i}.png", picture)) for i, picture in enumerate(pictures)]

    with TemporaryDirectory() as folder:
        alike = likeness(looks([*(part(i) for i in range(12)), ring(1), ring(2)], Path(folder)))
    assert [_is_other(float(own), alike) for own in alike] == [False] * 12 + [True] * 2
    assert alike[:12].min() > 0.9
    defective = part(1)
    defective[20:32, 20:32] = 250  # a large defect is no other product
    noise = [np.random.default_rng(i).integers(0, 255, (48, 48, 3)).astype(np.uint8) for i in range(12)]
    with TemporaryDirectory() as folder:
        alike = likeness(looks([*(part(i) for i in range(12)), defective], Path(folder)))
        assert not any(_is_other(float(own), alike) for own in alike)
        alike = likeness(looks(noise, Path(folder)))  # nothing is alike, so nothing can be told
        assert not any(_is_other(float(own), alike) for own in alike)
        assert likeness(looks([np.full((48, 48, 3), 9, np.uint8)] * 3, Path(folder))).tolist() == [0, 0, 0]


def test_the_audit_says_another_product(audited: tuple[Audit, Path]):
    found, out = audited
    assert not any("perhaps another product" in each.reasons for each in found.findings)
    assert all(
        -1 <= each["likeness"] <= 1 for each in json.loads((out / "audit.json").read_text())["findings"]
    )


def test_a_layout_is_read_as_it_is_named(doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["audit", "--data", str(doubtful), "--out", str(tmp_path / "out"), "--layout", "btad"]
    assert main(words) == 2
    assert "is no category of btad, which has train/ok and test/ko" in capsys.readouterr().err
