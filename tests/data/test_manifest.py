from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from pictures import mask_of, picture, refusal

from blemish.core.types import GOOD
from blemish.data.dataset import dataset_fingerprint, open_dataset


def manifest(folder: Path, *rows: str, header: str = "path,split,label,mask") -> Path:
    path = folder / "parts.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    for i in range(6):
        picture(tmp_path / "img" / f"{i}.png", i)
    mask_of(tmp_path / "m.png")
    return tmp_path


TWO = ("img/1.png,train,good,", "img/0.png,train,,")


def test_manifest(shelf: Path):
    path = manifest(
        shelf,
        *TWO,
        "",
        "img/2.png,calibration",
        f"{shelf / 'img' / '3.png'},test,dent,m.png",
        ' img/4.png , test , good ,""',
    )
    data = open_dataset(path)
    assert (data.name, data.root, data.has_masks) == ("parts", shelf, True)
    assert [s.path.name for s in data.train] == ["0.png", "1.png"]
    assert [(s.path.name, s.split) for s in data.calibration] == [("2.png", "calibration")]
    assert [(s.path, s.label, s.mask) for s in data.test] == [
        (shelf / "img" / "3.png", "dent", shelf / "m.png"),
        (shelf / "img" / "4.png", GOOD, None),
    ]


def test_manifest_of_a_spreadsheet_with_other_column_order(shelf: Path):
    path = shelf / "parts.CSV"
    path.write_bytes(b"\xef\xbb\xbfsplit,path\r\ntrain,img/0.png\r\ntrain,img/1.png\r\n")
    assert len(open_dataset(path).train) == 2


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("img/2.png,dev,,", "split 'dev' is unknown"),
        ("img/2.png,Train,,", "split 'Train' is unknown"),
        ("img/9.png,train,,", "image 'img/9.png' is not a file"),
        ("/nowhere/9.png,train,,", "image '/nowhere/9.png' is not a file"),
        (",train,,", "image '' is not a file"),
        ("img/0.png,test,,", "img/0.png is also in row 3"),
        ("img/../img/0.png,test,,", "is also in row 3"),
        ("img/2.png,train,dent,", "defect 'dent' in split train"),
        ("img/2.png,calibration,dent,", "defect 'dent' in split calibration"),
        ("img/2.png,test,good,m.png", "mask m.png on a good image"),
        ("img/2.png,test,,m.png", "mask m.png on a good image"),
        ("img/2.png,test,dent,n.png", "mask 'n.png' is not a file"),
        ("img/2.png,test,GOOD,", "label 'GOOD' would count as a defect"),
        ("img/2.png,test,dent,m.png,more", "5 cells under 4 columns"),
    ],
)
def test_a_bad_row_is_named(shelf: Path, row: str, text: str):
    line = refusal(manifest(shelf, *TWO, row))
    assert f"{shelf / 'parts.csv'}, row 4: " in line
    assert text in line


MEAN_GOOD = (
    "OK",
    "ok",
    "O.K.",
    "Ok ",
    "normal",
    "Normal",
    "NORMAL",
    "0",
    "0.0",
    "none",
    "No Defect",
    "no_defect",
)
MEAN_GOOD += (
    "non-defective",
    "defect-free",
    "pass",
    "PASSED",
    "negative",
    "false",
    "NaN",
    "ＯＫ",
    "i.O.",
    "良品",
    "Good",
)


@pytest.mark.parametrize("label", MEAN_GOOD)
def test_a_label_that_means_good_elsewhere_is_refused_with_the_cure(shelf: Path, label: str):
    for split in ("test", "train", "calibration"):
        line = refusal(manifest(shelf, *TWO, f"img/2.png,{split},{label},"))
        assert f"row 4: label {label.strip()!r} would count as a defect, and elsewhere it means good" in line
        assert line.endswith("write 'good', or give the defect another name")
    for i in range(2):
        picture(shelf / "set" / "train" / "good" / f"{i}.png", i)
    picture(shelf / "set" / "test" / label / "2.png", 2)
    assert f"{label!r} would count as a defect" in refusal(shelf / "set")


@pytest.mark.parametrize(
    "label", ["NG", "1", "NOK", "not ok", "abnormal", "dent", "goods-scratch", "0_crack", "knot"]
)
def test_labels_of_defects_are_taken(shelf: Path, label: str):
    data = open_dataset(manifest(shelf, *TWO, f"img/2.png,test,{label},", "img/3.png,test,good,"))
    assert [s.is_defect for s in data.test] == [True, False]


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("img/2.png,test,dent,m.png", "img/3.png,test,dent,", "have a mask"),
        ("img/2.png,test,dent,", "img/3.png,test,dent,m.png", "have no mask"),
    ],
)
def test_masks_for_all_defects_or_none(shelf: Path, first: str, second: str, text: str):
    line = refusal(manifest(shelf, *TWO, first, "img/4.png,test,good,", second))
    assert f"row 6: defects before it {text}" in line
    assert open_dataset(manifest(shelf, *TWO, first)).has_masks == (text == "have a mask")


@pytest.mark.parametrize(
    "header", ["path,split,class", "path,label", "path;split", "path,split,split", "Path,split", ""]
)
def test_bad_columns_are_named(shelf: Path, header: str):
    line = refusal(manifest(shelf, *TWO, header=header))
    assert "row 1: columns" in line
    assert "path,split,label,mask" in line


def test_manifest_that_is_no_text(shelf: Path):
    path = shelf / "parts.csv"
    path.write_bytes(b"path,split\n\xff\xfe,train\n")
    assert "not readable as a CSV file in UTF-8" in refusal(path)
    path.write_bytes(b"")
    assert "row 1: columns []" in refusal(path)


def test_manifest_with_too_few_training_images(shelf: Path):
    path = manifest(shelf, "img/0.png,train,,", "img/1.png,test,,")
    assert "1 good image(s)" in refusal(path)
    assert len(open_dataset(path, need_train=False).test) == 1


# --- names that look the same ---

NAME = "Gehäuse-é-ü"
COMPOSED, TAKEN_APART = (unicodedata.normalize(form, NAME) for form in ("NFC", "NFD"))
FORMS = [(COMPOSED, TAKEN_APART), (TAKEN_APART, COMPOSED)]


@pytest.mark.parametrize(("written", "stored"), FORMS)
def test_names_in_another_unicode_form_are_found(written: str, stored: str, tmp_path: Path):
    folder = tmp_path / "set" / stored
    for i in range(3):
        picture(folder / f"{stored}{i}.png", i)
    mask_of(folder / "masks" / f"{stored}.png")
    rows = [f"{written}/{written}{i}.png,train,," for i in range(2)]
    rows += [f"{written}/{written}2.png,test,{written},{written}/masks/{written}.png"]
    path = manifest(tmp_path / "set", *rows)
    data = open_dataset(path)
    assert [s.path.name for s in data.train] == [f"{stored}{i}.png" for i in range(2)]
    (defect,) = data.test
    assert defect.mask == folder / "masks" / f"{stored}.png"
    assert defect.label == COMPOSED  # one kind of defect, however it is written
    line = refusal(manifest(tmp_path / "set", *rows, f"{stored}/{stored}0.png,test,,"))
    assert "is also in row 2" in line  # the same file by its other spelling


@pytest.mark.parametrize(("written", "stored"), FORMS)
def test_folders_and_masks_in_another_form_belong_together(written: str, stored: str, tmp_path: Path):
    root = tmp_path / stored
    for i in range(2):
        picture(root / "train" / "good" / f"{i}.png", i)
    picture(root / "test" / stored / f"{stored}.png", 7)
    mask_of(root / "ground_truth" / written / f"{written}_mask.png")
    (sample,) = open_dataset(tmp_path / written).test
    assert sample.mask == root / "ground_truth" / written / f"{written}_mask.png"


def test_where_two_files_could_be_meant_or_more_differs_the_difference_is_said(shelf: Path):
    for name in ("ä\u0301.png", "a\u0308\u0301.png"):  # composed in part, and taken apart
        picture(shelf / name, 1)
    line = refusal(manifest(shelf, *TWO, "\u01df.png,test,,"))  # letters of another kind: no file
    assert "image 'ǟ.png' is not a file; paths are absolute or relative to the manifest" in line
    for written, stored in (("Teil.PNG", "teil.png"), ("ＡＢ.png", "AB.png"), ("c\u00a0d.png", "c d.png")):
        picture(shelf / stored, 3)
        line = refusal(manifest(shelf, *TWO, f"{written},test,,"))
        assert f"image {written!r} is not a file; beside it is {stored!r}, which is another name" in line
    for form in ("NFC", "NFD"):
        picture(shelf / "two" / unicodedata.normalize(form, "ệ.png"), 3)
    line = refusal(manifest(shelf, *TWO, "two/\u1eb9\u0302.png,test,,"))  # a third form of the same letter
    assert r"beside it is 'e\u0323\u0302.png' and '\u1ec7.png', which is another name: write that one" in line


WITH_ROI = "path,split,label,mask,roi"


def test_a_row_has_its_own_region_of_interest(shelf: Path):
    path = manifest(shelf, "img/0.png,train,,,m.png", "img/1.png,train", header=WITH_ROI)
    assert [sample.roi for sample in open_dataset(path).train] == [shelf / "m.png", None]
    assert dataset_fingerprint(open_dataset(path)) != dataset_fingerprint(
        open_dataset(manifest(shelf, "img/0.png,train", "img/1.png,train"))
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "row 2: region of interest 'r.json' is not a file"),
        ("{}", "r.json: is not of the form"),
        (
            '{"size": [99, 99], "polygons": [[[1, 1], [2, 1], [2, 2]]]}',
            "r.json: leaves 0.031 % of the image, and 1 %",
        ),
    ],
)
def test_a_region_that_is_none_is_refused(shelf: Path, content: str | None, text: str):
    if content is not None:
        (shelf / "r.json").write_text(content)
    path = manifest(shelf, "img/0.png,train,,,r.json", "img/1.png,train", header=WITH_ROI)
    line = refusal(path)
    assert "parts.csv, row 2: " in line
    assert text in line
