from __future__ import annotations

from pathlib import Path

import pytest
from pictures import mask_of, picture, refusal

from blemish.core.types import GOOD
from blemish.data.dataset import open_dataset


@pytest.fixture
def category(tmp_path: Path) -> Path:
    """Three good and, out of step with each other by name, two dented images with masks."""
    root = tmp_path / "part"
    for i in range(3):
        picture(root / "train" / "good" / f"{i}.png", i)
    picture(root / "test" / "good" / "0.png", 10)
    for i, stem in enumerate(("a.1", "b")):
        picture(root / "test" / "dent" / f"{stem}.png", 20 + i)
        mask_of(root / "ground_truth" / "dent" / f"{stem}_mask.png")
    return root


# --- the MVTec layout


def test_tiny_category(tiny_category: Path):
    data = open_dataset(tiny_category)
    assert (data.name, data.root, data.has_masks) == ("tiny", tiny_category, True)
    assert (len(data.train), len(data.calibration), len(data.test)) == (12, 0, 10)
    assert [s.path.name for s in data.train] == [f"{i:03d}.png" for i in range(12)]
    assert {s.split for s in data.train} == {"train"}
    assert {s.split for s in data.test} == {"test"}
    assert [s.label for s in data.test] == [GOOD] * 4 + ["hole"] * 3 + ["line"] * 3
    for s in data.test:
        expected = tiny_category / "ground_truth" / s.label / f"{s.path.stem}_mask.png"
        assert s.mask == (expected if s.is_defect else None)


def test_masks_pair_by_stem_with_any_suffix_and_sub_folder(category: Path):
    picture(category / "test" / "dent" / "night" / "b.bmp", 30)
    mask_of(category / "ground_truth" / "dent" / "night" / "b_mask.tif")
    pairs = {s.path.relative_to(category).as_posix(): s.mask for s in open_dataset(category).test}
    truth = category / "ground_truth" / "dent"
    assert pairs == {
        "test/dent/a.1.png": truth / "a.1_mask.png",
        "test/dent/b.png": truth / "b_mask.png",
        "test/dent/night/b.bmp": truth / "night" / "b_mask.tif",
        "test/good/0.png": None,
    }


def test_masks_may_have_the_names_of_their_images(category: Path):
    truth = category / "ground_truth" / "dent"
    for mask in list(truth.iterdir()):
        mask.rename(mask.with_stem(mask.stem.removesuffix("_mask")))
    assert [s.mask for s in open_dataset(category).test if s.is_defect] == [
        truth / "a.1.png",
        truth / "b.png",
    ]
    (truth / "b.png").unlink()
    assert f"{category / 'test' / 'dent' / 'b.png'}: has no mask; add {truth / 'b.png'}" in refusal(category)


def test_a_missing_mask_is_named(category: Path):
    (category / "ground_truth" / "dent" / "a.1_mask.png").unlink()
    line = refusal(category)
    assert str(category / "test" / "dent" / "a.1.png") in line
    assert str(category / "ground_truth" / "dent" / "a.1_mask.png") in line


@pytest.mark.parametrize("name", ["dent/c_mask.png", "dent/b.png", "good/0_mask.png", "crack/b_mask.png"])
def test_an_extra_mask_is_named(category: Path, name: str):
    extra = mask_of(category / "ground_truth" / name)
    assert f"{extra}: a mask without a defective image" in refusal(category)


@pytest.mark.parametrize("name", ["test/dent/b.bmp", "ground_truth/dent/b_mask.bmp"])
def test_two_files_with_the_same_stem_are_named(category: Path, name: str):
    picture(category / name, 40)
    line = refusal(category)
    assert str(category / name) in line
    assert str((category / name).with_suffix(".png")) in line


def test_without_ground_truth_there_are_no_masks(category: Path):
    for path in sorted((category / "ground_truth").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (category / "ground_truth").rmdir()
    data = open_dataset(category)
    assert not data.has_masks
    assert [s.mask for s in data.test] == [None] * 3
    assert [s.label for s in data.test] == ["dent", "dent", GOOD]


def test_has_no_masks_without_a_defective_image(tmp_path: Path):
    for i in range(2):
        picture(tmp_path / "train" / "good" / f"{i}.png", i)
    (tmp_path / "ground_truth").mkdir()
    assert not open_dataset(tmp_path).has_masks


def test_calibration_folder_and_ignored_entries(category: Path):
    picture(category / "calibration" / "good" / "x.png", 50)
    picture(category / "extra_test_no_mask" / "uneven" / "x.png", 51)
    (category / "train" / ".cache").mkdir()
    (category / "license.txt").write_text("free")
    data = open_dataset(category)
    assert [(s.path.name, s.split) for s in data.calibration] == [("x.png", "calibration")]
    assert (len(data.train), len(data.test)) == (3, 3)


@pytest.mark.parametrize("split", ["train", "calibration"])
def test_training_and_calibration_are_on_good_images_only(category: Path, split: str):
    picture(category / split / "good" / "y.png", 60)
    picture(category / split / "dent" / "x.png", 61)
    assert str(category / split / "dent") in refusal(category)


@pytest.mark.parametrize("folder", ["train", "calibration", "test"])
def test_an_image_without_a_label_is_named(category: Path, folder: str):
    picture(category / folder / "good" / "y.png", 62)
    loose = picture(category / folder / "loose.png", 63)
    assert f"{loose}: has no label" in refusal(category)


def test_train_without_good(tmp_path: Path):
    picture(tmp_path / "train" / "0.png")
    assert "has no folder good/" in refusal(tmp_path)


def test_too_few_training_images(tmp_path: Path):
    (tmp_path / "train" / "good").mkdir(parents=True)
    assert "0 good image(s)" in refusal(tmp_path)
    picture(tmp_path / "train" / "good" / "0.png", 0)
    assert "1 good image(s) to train on; at least 2" in refusal(tmp_path)
    picture(tmp_path / "train" / "good" / "1.png", 1)
    assert len(open_dataset(tmp_path).train) == 2


def test_a_spelling_of_good_would_be_a_defect(tmp_path: Path):
    for i in range(2):
        picture(tmp_path / "train" / "good" / f"{i}.png", i)
    picture(tmp_path / "test" / "Good" / "0.png")
    assert "label 'Good' would count as a defect" in refusal(tmp_path)


def test_test_alone_is_enough_for_an_evaluation(category: Path):
    for path in sorted((category / "train").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (category / "train").rmdir()
    assert "no train/good" in refusal(category)
    data = open_dataset(category, need_train=False)
    assert (len(data.train), len(data.test), data.has_masks) == (0, 3, True)


def test_evaluation_still_refuses_contradictions(category: Path):
    (category / "ground_truth" / "dent" / "b_mask.png").unlink()
    assert "has no mask" in refusal(category, need_train=False)


# --- plain folders


def test_plain_folder(tmp_path: Path):
    picture(tmp_path / "b" / "1.png", 1)
    picture(tmp_path / "a.PNG", 2)
    (tmp_path / "readme.txt").write_text("no image")
    data = open_dataset(tmp_path)
    assert [s.path.relative_to(tmp_path).as_posix() for s in data.train] == ["a.PNG", "b/1.png"]
    assert (data.name, data.calibration, data.test, data.has_masks) == (tmp_path.name, [], [], False)


def test_name_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for i in range(2):
        picture(tmp_path / f"{i}.png", i)
    monkeypatch.chdir(tmp_path)
    assert open_dataset(Path()).name == tmp_path.name


def test_refuses_what_is_no_data_set(tmp_path: Path):
    assert "no such file or folder" in refusal(tmp_path / "nowhere")
    note = tmp_path / "note.txt"
    note.write_text("x")
    assert "not a data set" in refusal(note)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "0 good image(s)" in refusal(empty)
    assert "holds no image" in refusal(empty, need_train=False)
    picture(empty / "one.png")
    assert "1 good image(s)" in refusal(empty)


def test_several_categories_are_named(tmp_path: Path):
    for name in ("bolt", "nut"):
        picture(tmp_path / "sets" / name / "train" / "good" / "0.png")
    for root in (tmp_path / "sets", tmp_path):
        line = refusal(root)
        assert f"give one of {tmp_path / 'sets' / 'bolt'}, {tmp_path / 'sets' / 'nut'}" in line


def test_good_beside_other_classes(tmp_path: Path):
    for i in range(2):
        picture(tmp_path / "good" / f"{i}.png", i)
    assert len(open_dataset(tmp_path).train) == 2
    picture(tmp_path / "bad" / "0.png", 5)
    assert f"give {tmp_path / 'good'}" in refusal(tmp_path)


def test_ground_truth_without_training_images(tmp_path: Path):
    for i in range(2):
        mask_of(tmp_path / "ground_truth" / "dent" / f"{i}_mask.png")
    assert "has ground_truth/ but no train/good" in refusal(tmp_path)
