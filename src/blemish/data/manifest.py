"""The CSV manifest: a data set as a table `path,split,label,mask`, one image a row.

Paths are absolute or relative to the manifest. `split` is train, calibration or test. An empty label means
good, an empty mask means none. UTF-8, commas; blanks around a cell do not count.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Literal

from blemish.core.errors import DataError
from blemish.core.types import GOOD, Sample

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COLUMNS = ("path", "split", "label", "mask")
"""The columns of a manifest; `label` and `mask` may be left out."""

SPLITS: dict[str, Literal["train", "calibration", "test"]] = {
    "train": "train",
    "calibration": "calibration",
    "test": "test",
}


def read(manifest: Path) -> list[Sample]:
    """Return the samples of a manifest in row order, not sorted.

    Raises `DataError`, naming the row (the header is row 1), for: an unknown column, split or spelling of
    good; a file that does not exist; a path named twice; a defect outside test; a mask on a good image;
    masks on some defective images but not on all.
    """
    samples: list[Sample] = []
    rows_of: dict[Path, int] = {}
    masked: bool | None = None  # of the defective images so far
    for row, cells in _read_rows(manifest):
        where = f"{manifest}, row {row}"
        sample = _make_sample(manifest.parent, where, cells)
        first = rows_of.setdefault(sample.path.resolve(), row)
        if first != row:
            raise DataError(f"{where}: {cells['path']} is also in row {first}; keep one of them")
        has_mask = sample.mask is not None
        if sample.is_defect and masked not in (None, has_mask):
            before = "a" if masked else "no"
            raise DataError(f"{where}: defects before it have {before} mask; give all a mask, or none")
        masked = has_mask if sample.is_defect else masked
        samples.append(sample)
    return samples


def _read_rows(manifest: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows as dicts with all of `COLUMNS`, each with its line number (the header is line 1)."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [c.strip() for c in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{manifest}: not readable as a CSV file in UTF-8 ({reason}); save it so") from error
    header = lines[0][1] if lines else []
    unknown = [c for c in header if c not in COLUMNS]
    if unknown or len(set(header)) < len(header) or not {"path", "split"} <= set(header):
        raise DataError(
            f"{manifest}, row 1: columns {header}; must be {','.join(COLUMNS)}, once, comma-separated"
        )
    for row, cells in lines[1:]:
        if len(cells) > len(header):
            raise DataError(
                f"{manifest}, row {row}: {len(cells)} cells under {len(header)} columns; quote commas"
            )
    empty = dict.fromkeys(COLUMNS, "")
    return [(row, empty | dict(zip(header, cells, strict=False))) for row, cells in lines[1:] if any(cells)]


def _make_sample(folder: Path, where: str, cells: Mapping[str, str]) -> Sample:
    split = SPLITS.get(cells["split"])
    if split is None:
        raise DataError(f"{where}: split {cells['split']!r} is unknown; write one of {', '.join(SPLITS)}")
    label = cells["label"] or GOOD
    check_label(label, where)
    if label != GOOD and split != "test":
        raise DataError(f"{where}: defect {label!r} in split {split}, which takes good images only; use test")
    if label == GOOD and cells["mask"]:
        raise DataError(
            f"{where}: mask {cells['mask']} on a good image; remove it, or give the defect's label"
        )
    path = _find_file(folder, cells["path"], where, "image")
    mask = _find_file(folder, cells["mask"], where, "mask") if cells["mask"] else None
    return Sample(path=path, split=split, label=label, mask=mask)


def _find_file(folder: Path, cell: str, where: str, kind: str) -> Path:
    path = folder / cell
    if not path.is_file():
        raise DataError(f"{where}: {kind} {cell!r} is not a file; paths are absolute or relative to {folder}")
    return path


def check_label(label: str, where: str) -> None:
    """Refuse a spelling such as `Good`; `where` opens the message. Raises `DataError`."""
    if label != GOOD and label.lower() == GOOD:
        raise DataError(f"{where}: label {label!r} would count as a defect; write {GOOD!r}")
