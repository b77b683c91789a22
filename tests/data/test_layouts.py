"""Each layout on a small generated copy of its tree."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import mask_of, mvtec_loco, picture, pictures, refusal

from blemish.core.errors import DataError, UsageError
from blemish.core.types import Sample
from blemish.data.dataset import Dataset, dataset_fingerprint, describe_training, open_dataset
from blemish.data.layouts import LAYOUTS, find_categories, recognised
from blemish.data.masks import Saturation, read_mask, read_regions


def mvtec_ad_2(root: Path) -> Path:
    data = root / "can"
    pictures(data / "train" / "good", "000_regular.png", "001_regular.png")
    pictures(data / "validation" / "good", "002_regular.png", start=10)
    pictures(data / "test_public" / "good", "003_overexposed.png", start=20)
    pictures(data / "test_public" / "bad", "000_regular.png", "001_shift_1.png", start=30)
    for stem in ("000_regular", "001_shift_1"):
        mask_of(data / "test_public" / "ground_truth" / "bad" / f"{stem}_mask.png")
    for split in ("test_private", "test_private_mixed"):
        pictures(data / split, "000_regular.png", start=40)
    return data


def visa(root: Path) -> Path:
    data = root / "candle"
    pictures(data / "Data" / "Images" / "Normal", "0000.JPG", "0001.JPG", "0002.JPG")
    pictures(data / "Data" / "Images" / "Anomaly", "000.JPG", start=10)
    mask_of(data / "Data" / "Masks" / "Anomaly" / "000.png", (0, 1, 3))
    rows = ["object,split,label,image,mask"]
    for i, split in enumerate(("train", "train", "test")):
        rows.append(f"candle,{split},normal,candle/Data/Images/Normal/000{i}.JPG,")
    rows.append("candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png")
    rows.append("capsules,test,normal,capsules/Data/Images/Normal/0000.JPG,")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows))
    return data


def btad(root: Path) -> Path:
    data = root / "01"
    pictures(data / "train" / "ok", "0000.bmp", "0001.bmp")
    pictures(data / "test" / "ok", "0000.bmp", start=10)
    pictures(data / "test" / "ko", "0000.bmp", start=20)
    mask_of(data / "ground_truth" / "ko" / "0000.png", (0, 0, 0, 255), shape=(16, 16))
    return data


def ksdd2(root: Path) -> Path:
    data = root / "KolektorSDD2"
    for split, numbers in (("train", (10000, 10001, 10002)), ("test", (20000, 20001))):
        for number in numbers:
            picture(data / split / f"{number}.png", number)
            defective = number in (10002, 20001)
            mask_of(data / split / f"{number}_GT.png", (0, 255) if defective else (0,))
    for name in ("10000 (copy).png", "10000_GT (copy).png"):  # as in the published archive
        picture(data / "train" / name, 10000)
    return data


def dagm(root: Path) -> Path:
    data = root / "Class1"
    for split, defective in (("Train", "0003"), ("Test", "0002")):
        pictures(data / split, "0001.PNG", "0002.PNG", "0003.PNG", start=ord(split[1]))
        mask_of(data / split / "Label" / f"{defective}_label.PNG")
        (data / split / "Label" / "Labels.txt").write_text("1")
    return data


def real_iad(root: Path) -> Path:
    data = root / "realiad_256" / "audiojack"
    rows: dict[str, list] = {"train": [], "test": []}

    def add(split: str, label: str, name: str, mask: str | None = None) -> None:
        picture(data / name, len(rows["train"]) + 10 * len(rows["test"]))
        if mask is not None:
            mask_of(data / mask, (0, 0, 128, 255))
        rows[split].append({"anomaly_class": label, "image_path": name, "mask_path": mask})

    for view in ("C1", "C2"):
        add("train", "OK", f"OK/S0001/audiojack_0001_OK_{view}_1.jpg")
    add("test", "OK", "NG/BX/S0002/audiojack_0002_NG_C1_1.jpg")
    ng = "NG/BX/S0002/audiojack_0002_NG_C2_1"
    add("test", "BX", f"{ng}.jpg", f"{ng}_mask.png")
    table = root / "realiad_jsons" / "realiad_jsons" / "audiojack.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps({"meta": {"normal_class": "OK"}} | rows))
    return data


MADE: dict[str, tuple[Callable[[Path], Path], tuple[int, int, int, int]]] = {
    "mvtec-ad-2": (mvtec_ad_2, (2, 1, 1, 2)),
    "mvtec-loco": (mvtec_loco, (2, 1, 1, 2)),
    "visa": (visa, (2, 0, 1, 1)),
    "btad": (btad, (2, 0, 1, 1)),
    "ksdd2": (ksdd2, (2, 0, 1, 1)),
    "dagm": (dagm, (2, 0, 2, 1)),
    "real-iad": (real_iad, (2, 0, 1, 1)),
}
"""How a tree is made, and how many images train, calibrate, are good and are defective in the test."""


def opened(name: str, root: Path) -> Dataset:
    return open_dataset(MADE[name][0](root))


def defective(dataset: Dataset) -> list[Sample]:
    return [s for s in dataset.test if s.is_defect]


def test_every_layout_is_tested():
    assert set(MADE) == {name for name in LAYOUTS if not name.startswith("real-iad-c")}


@pytest.mark.parametrize("name", MADE)
def test_a_tree_is_recognised_and_read_with_its_splits_and_masks(name: str, tmp_path: Path):
    make, counts = MADE[name]
    data = make(tmp_path)
    layout = recognised(data)
    assert layout is not None
    assert layout.name == name
    dataset = open_dataset(data)
    bad = defective(dataset)
    assert (len(dataset.train), len(dataset.calibration), len(dataset.test) - len(bad), len(bad)) == counts
    assert dataset.has_masks
    assert len({s.path for s in (*dataset.train, *dataset.calibration, *dataset.test)}) == sum(counts)
    for sample in bad:
        assert 0 < read_mask(sample, (16, 16)).mean() < 1
    assert len(dataset_fingerprint(dataset)) == 64


def test_no_tree_is_taken_for_another(tmp_path: Path):
    for name, (make, _) in MADE.items():
        data = make(tmp_path / name)
        found = [each.name for each in LAYOUTS.values() if each.recognises(data)]
        assert found == [name, *(each for each in LAYOUTS if each.startswith(f"{name}-c"))]
        assert find_categories(tmp_path / name) == [data]
    assert len(find_categories(tmp_path)) == len(MADE) - 1  # Real-IAD's are a level deeper


def test_a_usual_category_is_in_no_other_layout(tiny_category: Path):
    assert recognised(tiny_category) is None


def test_regions_and_saturations_of_loco(tmp_path: Path):
    dataset = opened("mvtec-loco", tmp_path)
    assert dataset.saturations == {
        255: Saturation(amount=5, relative=False),
        254: Saturation(amount=0.5, relative=True),
    }
    logical, structural = defective(dataset)
    assert (logical.label, structural.label) == ("logical_anomalies", "structural_anomalies")
    regions = read_regions(logical, (16, 16), dataset.saturations)
    assert [(int(region.sum()), enough) for region, enough in regions] == [(128, 5), (32, 5)]
    assert np.array_equal(read_mask(logical, (16, 16)), regions[0][0] | regions[1][0])
    assert [enough for _, enough in read_regions(structural, (16, 16), dataset.saturations)] == [64]
    assert read_regions(dataset.test[0], (16, 16), dataset.saturations) == []


def test_a_further_mask_is_part_of_what_a_figure_stands_for(tmp_path: Path):
    before = dataset_fingerprint(opened("mvtec-loco", tmp_path))
    mask_of(tmp_path / "pushpins" / "ground_truth" / "logical_anomalies" / "000" / "001.png", (0, 0, 255))
    assert dataset_fingerprint(open_dataset(tmp_path / "pushpins")) != before


def test_defective_training_images_are_left_out(tmp_path: Path):
    for name, stems in (("ksdd2", ["10000", "10001"]), ("dagm", ["0001", "0002"])):
        dataset = opened(name, tmp_path)
        assert [s.path.stem for s in dataset.train] == stems
        assert describe_training(dataset)[-1] == "leaving out 1 defective images of the training split"


def test_a_view_without_the_defect_is_good(tmp_path: Path):
    dataset = opened("real-iad", tmp_path)
    assert {s.path.stem.split("_")[-2]: s.label for s in dataset.test} == {"C1": "good", "C2": "BX"}
    assert [(s.part, s.view) for s in dataset.test] == [("NG/BX/S0002", "C1"), ("NG/BX/S0002", "C2")]


def test_one_view_alone(tmp_path: Path):
    data = real_iad(tmp_path)
    (second,) = open_dataset(data, need_train=False, layout="real-iad-c2").test
    assert (second.label, "_C2_" in second.path.name, second.part) == ("BX", True, None)


def test_a_layout_by_name(tmp_path: Path):
    data = mvtec_loco(tmp_path)
    assert open_dataset(data, layout="mvtec-loco") == open_dataset(data)
    with pytest.raises(DataError, match="is no category of visa, which has Data/Images/Normal"):
        open_dataset(data, layout="visa")
    with pytest.raises(DataError, match=r"000\.png: has no mask"):
        open_dataset(data, layout="mvtec")
    with pytest.raises(UsageError, match="--layout loco: is unknown; choose auto, mvtec, mvtec-ad-2"):
        open_dataset(data, layout="loco")
    table = tmp_path / "list.csv"
    table.write_text("path,split\n")
    with pytest.raises(UsageError, match=r"is for a folder, and .*list\.csv is a file"):
        open_dataset(table, layout="visa")


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("mvtec-ad-2", "can/test_public/ground_truth/bad/000_regular_mask.png", "has no mask; add"),
        ("mvtec-loco", "pushpins/ground_truth/structural_anomalies/000/000.png", "has no mask; add"),
        ("visa", "split_csv/1cls.csv", "keep it beside the categories"),
        ("visa", "candle/Data/Masks/Anomaly/000.png", "row 5: .* is not a file"),
        ("btad", "01/ground_truth/ko/0000.png", "has no mask; add"),
        ("ksdd2", "KolektorSDD2/test/20000_GT.png", "has no mask; add"),
        ("dagm", "Class1/Test/0002.PNG", "a mask without an image"),
        ("real-iad", "realiad_256/audiojack/OK/S0001/audiojack_0001_OK_C1_1.jpg", "is not a file"),
    ],
)
def test_what_is_missing_is_named(name: str, file: str, said: str, tmp_path: Path):
    data = MADE[name][0](tmp_path)
    (tmp_path / file).unlink()
    assert re.search(said, refusal(data))


def test_tables_of_another_form_are_refused(tmp_path: Path):
    loco = mvtec_loco(tmp_path / "a")
    (loco / "defects_config.json").write_text('[{"pixel_value": 255}]')
    assert "must be a list of objects with pixel_value" in refusal(loco)
    (loco / "defects_config.json").write_text(
        '[{"pixel_value": 255, "saturation_threshold": 0, "relative_saturation": false}]'
    )
    assert "must be above 0" in refusal(loco)
    real = real_iad(tmp_path / "b")
    table = tmp_path / "b" / "realiad_jsons" / "realiad_jsons" / "audiojack.json"
    table.write_text("{}")
    assert "must have train and test" in refusal(real)
    candle = visa(tmp_path / "c")
    (tmp_path / "c" / "split_csv" / "1cls.csv").write_text("a,b\n1,2\n")
    assert "must have object, split, label, image, mask" in refusal(candle)
