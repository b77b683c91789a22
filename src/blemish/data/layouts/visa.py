"""VisA: `Data/Images/{Normal,Anomaly}`, `Data/Masks/Anomaly`, and the split in `../split_csv/1cls.csv`.

The table has the columns object, split, label, image and mask, with paths below the data set's folder. Masks
number their defects: all that is not 0 is defective. Source: Zou et al., ECCV 2022, and its repository
amazon-science/spot-diff.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from blemish.core.errors import DataError
from blemish.core.types import Sample
from blemish.data import manifest
from blemish.data.layouts.pairs import DEFECT

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.images.folders import LeftOut

COLUMNS = ("object", "split", "label", "image", "mask")


def recognises(data: Path) -> bool:
    """Whether a folder looks like a category of VisA."""
    return (data / "Data" / "Images" / "Normal").is_dir()


def read(data: Path, left_out: LeftOut) -> list[Sample]:
    """Return the samples of a category by the one-class split. Raises DataError without it."""
    root = data.parent if data.name else data.resolve().parent  # names stay as they were given
    table = root / "split_csv" / "1cls.csv"
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{table}: {error}; VisA's split is in this file: keep it beside the categories"
        ) from error
    if rows and not set(COLUMNS) <= set(rows[0]):
        raise DataError(f"{table}: columns {', '.join(rows[0])}; must have {', '.join(COLUMNS)}")
    return [
        _sample(root, table, number, row)
        for number, row in enumerate(rows, start=2)
        if row["object"] == data.resolve().name
    ]


def _sample(root: Path, table: Path, number: int, row: dict[str, str]) -> Sample:
    where = f"{table}, row {number}"
    split, is_good = manifest.SPLITS.get(row["split"]), row["label"] == "normal"
    if split is None:
        raise DataError(f"{where}: split {row['split']!r}; must be train or test")
    paths = [root / name for name in (row["image"], "" if is_good else row["mask"]) if name]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{where}: {path} is not a file; unpack all of the data set")
    if is_good:
        return Sample(path=paths[0], split=split)
    if len(paths) < 2:
        raise DataError(f"{where}: a defective image without a mask; take the data set's own table")
    return Sample(path=paths[0], split=split, label=DEFECT, mask=paths[1], any_value=True)
