"""Writing inspections as a table for other programs: CSV, or Parquet through pyarrow."""

from __future__ import annotations

import csv
import json
from dataclasses import fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from blemish.core.errors import UsageError
from blemish.core.files import temporary_for
from blemish.record.rows import Inspection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from blemish.record.rows import Judgement

COLUMNS = (*(field.name for field in fields(Inspection)), "decision", "verdict")
"""Times are ISO 8601 in CSV and timestamps in Parquet, `regions` JSON in both; in CSV None is empty."""
_PORTION = 1000  # rows of Parquet written at a time
_TYPES = {
    "time": "time",
    "files_removed": "time",
    "width": "int32",
    "height": "int32",
    "anomalous": "bool_",
} | dict.fromkeys(("score", "p_value", "threshold", "seconds"), "float64")


def write(path: Path, rows: Iterable[tuple[Inspection, Judgement | None]]) -> int:
    """Write inspections with their last verdict, whole or not at all; returns their number.

    Raises UsageError for a suffix other than .csv and .parquet, and without pyarrow.
    """
    kinds = {".csv": _write_csv, ".parquet": _write_parquet}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: must end in .csv or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_for(path) as part:
        return kind(part, (_row(*row) for row in rows))


def _row(inspection: Inspection, verdict: Judgement | None) -> dict[str, Any]:
    row = {name: getattr(inspection, name) for name in COLUMNS[:-1]}
    return row | {"regions": json.dumps(inspection.regions), "verdict": verdict}


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    number = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            times = {
                k: row[k] and row[k].isoformat(timespec="milliseconds") for k in ("time", "files_removed")
            }
            writer.writerow(row | times)
            number += 1
    return number


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(f"{path}: pyarrow is missing; pip install pyarrow, or write .csv") from error
    types = {"time": pa.timestamp("ms", tz="UTC")} | {
        k: getattr(pa, k)() for k in ("int32", "bool_", "float64")
    }
    schema = pa.schema([(name, types.get(_TYPES.get(name, ""), pa.string())) for name in COLUMNS])
    number = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while portion := list(islice(rows, _PORTION)):
            writer.write_table(pa.Table.from_pylist(portion, schema=schema))
            number += len(portion)
    return number
