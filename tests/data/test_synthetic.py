from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import uniform_filter

from blemish.core.errors import DataError, UsageError
from blemish.core.types import GOOD
from blemish.data import synthetic
from blemish.data.dataset import open_dataset
from blemish.data.masks import read_mask

SMALL = {"n_train": 3, "n_good": 2, "n_defect": 2, "size": 64}


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.generate(tmp_path_factory.mktemp("demo") / "disc", seed=5, **SMALL)


def test_layout(demo: Path):
    data = open_dataset(demo)
    assert len(data.train) == 3
    assert [s.label for s in data.test].count(GOOD) == 2
    assert {d: [s.label for s in data.test].count(d) for d in synthetic.DEFECTS} == {
        "scratch": 2,
        "spot": 2,
        "missing": 2,
    }
    assert data.has_masks
    for sample in data.train + data.test:
        with Image.open(sample.path) as image:
            assert (image.mode, image.size, image.format) == ("RGB", (64, 64), "PNG")
        mask = read_mask(sample, (64, 64))
        assert mask.any() == sample.is_defect
    assert len({s.path.read_bytes() for s in data.train + data.test}) == 3 + 2 + 6  # no two alike


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(demo: Path, tmp_path: Path):
    again = synthetic.generate(tmp_path / "again", seed=5, **SMALL)
    other = synthetic.generate(tmp_path / "other", seed=6, **SMALL)
    assert files(again) == files(demo)
    pngs = [n for n in files(demo) if n.startswith(("train", "test"))]
    assert len(pngs) == 11
    assert all(files(other)[n] != files(demo)[n] for n in pngs)


def test_leaves_only_the_folder_behind(demo: Path):
    assert [p.name for p in demo.parent.iterdir()] == ["disc"]


@pytest.mark.parametrize("label", synthetic.DEFECTS)
@pytest.mark.parametrize("size", [64, 256])
def test_the_mask_is_what_the_defect_changed(label: str, size: int):
    for i in range(6):
        difficulty = i / 5
        good, none = synthetic.render((1, i), size, GOOD)
        image, mask = synthetic.render((1, i), size, label, difficulty)
        changed = (good != image).any(axis=2)
        assert not none.any()
        assert mask.any()
        assert not (changed & ~mask).any()  # outside the mask: the same part, untouched
        assert changed[mask].mean() > 0.8  # inside: nearly all pixels really differ
        assert mask.mean() < 0.05  # a blemish, not another picture


@pytest.mark.parametrize("label", ["scratch", "spot"])
def test_difficulty_makes_a_defect_fainter(label: str):
    def contrast(difficulty: float) -> float:
        good, _ = synthetic.render((2, 0), 256, GOOD)
        image, mask = synthetic.render((2, 0), 256, label, difficulty)
        return float(np.abs(image.astype(int) - good)[mask].mean())

    contrasts = [contrast(d) for d in (0.0, 0.5, 1.0)]
    assert contrasts[0] > contrasts[1] > contrasts[2] > 1


def test_easiest_defects_come_last_in_a_set(tmp_path: Path):
    root = synthetic.generate(tmp_path / "set", seed=0, n_train=2, n_good=1, n_defect=2, size=64)
    name = "test/spot/001.png"
    expected, _ = synthetic.render((0, 3, 1), 64, "spot", synthetic.MAX_DIFFICULTY * (1 - 1.5 / 2))
    np.testing.assert_array_equal(np.asarray(Image.open(root / name)), expected)


def test_good_parts_differ_by_at_most_a_small_shift_and_turn():
    # The centre hole (radius 27 of 256) is dark, so the mean place of its pixels is the part's centre.
    centres = []
    for i in range(12):
        image, _ = synthetic.render((3, i), 256, GOOD)
        y, x = np.mgrid[:256, :256] - 127.5
        dark = (uniform_filter(image.mean(axis=2), 3) < 90) & (np.hypot(x, y) < 40) & (y > -20)
        centres.append((x[dark].mean(), y[dark].mean()))
    centres = np.array(centres) - np.mean(centres, axis=0)
    assert np.abs(centres).max() < 4.5  # shifts lie in +-2, so two differ by at most 4, and a little light
    assert centres.std() > 0.3


def test_reuses_its_own_set_and_refuses_others(tmp_path: Path):
    out = synthetic.generate(tmp_path / "set", seed=1, **SMALL)
    mine = out / "train" / "good" / "000.png"
    stamp = mine.stat().st_mtime_ns
    assert synthetic.generate(out, seed=1, **SMALL) == out
    assert mine.stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match=r"holds the demo set .*another folder") as refusal:
        synthetic.generate(out, seed=2, **SMALL)
    assert "\n" not in str(refusal.value)
    assert json.loads((out / synthetic.MARKER).read_text())["seed"] == 1


def test_fills_an_empty_folder_and_refuses_a_foreign_one(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert len(open_dataset(synthetic.generate(empty, **SMALL)).train) == 3
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("dear")
    with pytest.raises(DataError, match="not made by the demo"):
        synthetic.generate(foreign, **SMALL)
    assert files(foreign) == {"thesis.txt": b"dear"}
    with pytest.raises(DataError, match=r"thesis\.txt"):
        synthetic.generate(foreign / "thesis.txt", **SMALL)


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("n_train", 1), ("n_defect", 0), ("size", 63)])
def test_refuses_bad_numbers(tmp_path: Path, name: str, value: int):
    with pytest.raises(UsageError, match=f"{name} {value}: must be"):
        synthetic.generate(tmp_path / "set", **{**SMALL, name: value})
    assert not (tmp_path / "set").exists()


def test_refuses_an_unknown_label():
    with pytest.raises(UsageError, match="'dent'"):
        synthetic.render((0,), 64, "dent")
