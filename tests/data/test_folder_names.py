"""Folders that hold classes, splits or masks are refused by name; harmless names are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import mask_of, picture, refusal

from blemish.cli.commands.train import print_what_is_learnt
from blemish.data.dataset import describe_training, open_dataset


def fill(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        for i in range(2):
            picture(root / name / f"{i}.png", 10 * number + i)
    return root


# --- classes and splits ---


@pytest.mark.parametrize(
    ("names", "give"),
    [
        (("normal", "abnormal"), "give {}/normal"),
        (("OK", "NG"), "give {}/OK"),
        (("training", "testing"), "give {}/training if it holds"),
        (("good_parts", "bad"), "give {}/good_parts"),
        (("Pass", "FAIL"), "give {}/Pass"),
        (("0", "1"), "give a folder that holds"),
        (("Positive", "negative"), "give a folder that holds"),
        (("parts/OK", "parts/NG"), "give {}/parts/OK"),
        (("line1/shift2/normal", "line1/shift2/defective"), "give {}/line1/shift2/normal"),
        (("training/ok", "training/nok", "testing/ok"), "give {}/training/ok"),
        (("normal", "scratch"), "give {}/normal"),
        (("cam1", "Rejected-Parts"), "give a folder that holds"),
        (("defects",), "give a folder that holds"),
        (("val",), "give a folder that holds"),
        (("lot1", "NotOK 2"), "give a folder that holds"),
        (("goodParts", "badParts"), "give {}/goodParts"),
        (("i.O.", "n.i.O."), "give {}/i.O."),
        (("良品", "不良品"), "give {}/良品"),
        (("no_defect", "defect"), "give {}/no_defect"),
        (("good", "2026-11-01"), "give {}/good"),
    ],
)
def test_classes_and_splits_are_refused(tmp_path: Path, names: tuple[str, ...], give: str):
    line = refusal(fill(tmp_path / "set", *names))
    assert line.startswith(f"{tmp_path / 'set'}: has ")
    assert give.format(tmp_path / "set") in line


@pytest.mark.parametrize(
    "names",
    [
        ("2026-11-01", "2026-11-02"),
        ("cam0", "cam1", "cam2"),
        ("0", "1", "2"),
        ("1", "2"),
        ("lot_7", "lot_8"),
        ("good_light", "bad_light"),
        ("contest", "latest", "nightshift"),
        ("failsafe", "ngk", "okra"),
        ("ok",),
        ("cam1/ok", "cam2/ok"),
        ("Good",),
        ("left", "right"),
        ("label",),
        ("testbench 3",),
        ("testbench", "trainstation"),
    ],
)
def test_harmless_folders_are_learnt(tmp_path: Path, names: tuple[str, ...]):
    assert len(open_dataset(fill(tmp_path / "set", *names)).train) == 2 * len(names)


def test_the_folder_itself_may_have_any_name(tmp_path: Path):
    for name in ("NG", "test", "masks", "0"):
        assert len(open_dataset(fill(tmp_path / name, ".")).train) == 2


@pytest.mark.parametrize(
    "bad", ["train/good/NG", "train/good/sub/defects", "calibration/good/bad", "test/good/ng"]
)
def test_bad_parts_among_the_good_ones_of_the_layout(tmp_path: Path, bad: str):
    assert "by their names are classes" in refusal(fill(tmp_path, "train/good", bad))


# --- the layout, spelled otherwise ---


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (("Train/Good", "Test/Good"), "T"),
        (("Train/good", "test/good"), "Train"),
        (("TRAIN/good",), "TRAIN"),
        (("train/good", "Test/dent"), "Test"),
        (("train/good", "test/good", "Ground_Truth/dent"), "Ground_Truth"),
        (("train/good", "ground-truth/dent"), "ground-truth"),
        (("train/good", "GroundTruth/dent"), "GroundTruth"),
        (("train/good", "Calibration/good"), "Calibration"),
        (("train/Good",), "Good"),
        (("train/good", "test/GOOD"), "GOOD"),
        (("train/good", "calibration/GOOD"), "GOOD"),
        (("train/ok",), "ok"),
        (("train/good", "test/dent", "ground_truth/Dent"), "Dent"),
    ],
)
def test_the_layout_in_another_spelling_is_refused(tmp_path: Path, names: tuple[str, ...], wrong: str):
    line = refusal(fill(tmp_path / "set", *names))
    assert wrong in line
    assert "rename" in line or "write 'good'" in line


def test_categories_spelled_otherwise_are_not_learnt_together(tmp_path: Path):
    fill(tmp_path, "bolt/Train/Good", "bolt/Test/Dent", "nut/Train/Good")
    assert "classes or splits" in refusal(tmp_path)


def test_service_folders_are_no_labels(tmp_path: Path):
    names = ("train/good", "train/@eaDir", "test/good", "test/dent", "test/#recycle", "test/@eaDir/dent")
    data = open_dataset(fill(tmp_path, *names))
    assert (len(data.train), len(data.test)) == (2, 4)


# --- masks ---


@pytest.mark.parametrize(
    ("part", "mask"),
    [
        ("Part1.png", "Part1_label.bmp"),
        ("10000.png", "10000_GT.png"),
        ("a.png", "a-mask.png"),
        ("a.png", "A_Mask.PNG"),
        ("a.png", "mask_a.png"),
        ("a.png", "a ground truth.tif"),
        ("a.png", "a.mask.png"),
        ("a.png", "a.png_seg.bmp"),
        ("sub/a.png", "sub/a_segmentation.png"),
    ],
)
@pytest.mark.parametrize("place", [".", "train/good", "test/dent"])
def test_a_mask_beside_its_image_is_refused(tmp_path: Path, place: str, part: str, mask: str):
    root = fill(tmp_path / "set", "train/good") if place != "." else tmp_path / "set"
    picture(root / place / part, 90)
    mask_of((root / place / mask).with_suffix(".png")).rename(root / place / mask)
    line = refusal(root)
    assert Path(part).name in line
    assert Path(mask).name in line


@pytest.mark.parametrize(
    "names",
    [
        ("images/a.png", "masks/a.png"),
        ("images/a.png", "Mask/a_mask.png"),
        ("img/a.png", "ground_truth_images/x.png"),
        ("a.png", "GT/a.png"),
        ("images/a.png", "labels/a.png"),
        ("rgb/1/a.png", "annotations/1/a.png"),
        ("a.png", "cam1/segmentation/7.png"),
    ],
)
def test_folders_of_masks_are_refused(tmp_path: Path, names: tuple[str, str]):
    for number, name in enumerate(names):
        picture(tmp_path / "set" / name, number)
    line = refusal(tmp_path / "set")
    assert names[1] in line
    assert "by its folder's name a mask" in line


def test_masks_as_a_test_label_are_refused(tmp_path: Path):
    assert "masks lie in ground_truth/" in refusal(fill(tmp_path, "train/good", "test/dent", "test/masks"))


@pytest.mark.parametrize(
    "names", [("bottle_label.png", "bottle_cap.png"), ("label.png", "gt.png"), ("labels/7.png", "8.png")]
)
def test_names_without_a_pair_are_parts(tmp_path: Path, names: tuple[str, ...]):
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    assert len(open_dataset(tmp_path).train) == 2


# --- what was learnt is said ---


def test_what_is_learnt_is_said(tmp_path: Path):
    root = fill(tmp_path / "set", "train/good", "train/good/cam1", "calibration/good")
    (root / "train" / "good" / "a.pgm").write_bytes(b"P5 1 1 255\n\xff")
    data = open_dataset(root)
    good = root / "train" / "good"
    assert describe_training(data) == [
        f"learning from 4 images: 2 in {good}, 2 in {good / 'cam1'}",
        f"calibrating on 2 images: 2 in {root / 'calibration' / 'good'}",
    ]
    assert (str(data.left_out), data.left_out.parts) == ("1 .pgm", 1)
    many = open_dataset(fill(tmp_path / "many", *(f"{i}" for i in range(7))))
    assert describe_training(many)[0].endswith(f"2 in {tmp_path / 'many' / '4'} and 2 more folders")


def test_the_command_says_it_and_leaves_errors_to_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = fill(tmp_path / "set", "cam1", "cam2")
    (root / "a.gif").write_bytes(b"GIF89a\0\xff")
    print_what_is_learnt(root)
    told = capsys.readouterr()
    assert told.out == f"learning from 4 images: 2 in {root / 'cam1'}, 2 in {root / 'cam2'}\n"
    assert told.err.startswith("left out: 1 .gif; read are PNG, JPEG, TIFF, BMP and WebP")
    print_what_is_learnt(fill(tmp_path / "other", "ok", "ng"))
    assert capsys.readouterr() == ("", "")
