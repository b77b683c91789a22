"""Real-IAD, a category: `OK/S0001/*.jpg`, `NG/<defect>/S0001/*.jpg` with `*_mask.png`, split by a JSON file.

`realiad_jsons/realiad_jsons/<category>.json`, beside the folders of a resolution, lists `train` and `test`:
for each image `image_path` and `mask_path` below the category, and its `anomaly_class`, OK or the defect. A
part has a folder and five views, C1 to C5 in the names; a view that does not show the defect is labelled OK.
Source: Wang et al., CVPR 2024, and the data set's folders.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from blemish.core.errors import DataError
from blemish.core.types import Sample
from blemish.data.layouts.pairs import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from blemish.images.folders import LeftOut

VIEWS = ("C1", "C2", "C3", "C4", "C5")
"""The five cameras, as they are in the names of images."""


def recognises(data: Path) -> bool:
    """Whether a folder looks like a category of Real-IAD."""
    return (data / "OK").is_dir() and (data / "NG").is_dir() and _find_table(data) is not None


def read(data: Path, _left_out: LeftOut) -> list[Sample]:
    """Return the samples of a category, all its views. Raises DataError for a table of another form."""
    table = _find_table(data)
    if table is None:
        raise DataError(
            f"{data}: has no {data.resolve().name}.json in realiad_jsons; put it beside the images"
        )
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        return [_sample(data, table, split, row) for split in SPLITS for row in content[split]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{table}: {type(error).__name__} {error}; must have train and test, lists of image_path, "
            "mask_path and anomaly_class; take the data set's own file"
        ) from error


def read_view(data: Path, left_out: LeftOut, view: str) -> list[Sample]:
    """Return the samples of one of `VIEWS`. Raises as `read`."""
    return [replace(sample, part=None, view=None) for sample in read(data, left_out) if sample.view == view]


def _find_table(data: Path) -> Path | None:
    category = data.resolve()
    roots = [parent / "realiad_jsons" for parent in (category.parent.parent, category.parent)]
    places = [place / f"{category.name}.json" for root in roots for place in (root / "realiad_jsons", root)]
    return next((place for place in places if place.is_file()), None)


def _sample(data: Path, table: Path, split: Literal["train", "test"], row: Mapping[str, Any]) -> Sample:
    path, label = data / row["image_path"], row["anomaly_class"]
    mask = data / row["mask_path"] if row.get("mask_path") else None
    for file in (path, mask):
        if file is not None and not file.is_file():
            raise DataError(f"{table}: {file} is not a file; unpack all of the category")
    view = next((each for each in VIEWS if f"_{each}_" in path.name), None)
    sample = Sample(path=path, split=split, part=path.parent.relative_to(data).as_posix(), view=view)
    return sample if label == "OK" else replace(sample, label=label, mask=mask, any_value=True)
