from __future__ import annotations

from pathlib import Path

import pytest
from pictures import mask_of, picture, refusal

from blemish.core.types import GOOD
from blemish.data.dataset import open_dataset


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
