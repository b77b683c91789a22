"""Writing inspections as a table for other programs: CSV, or Parquet through pyarrow."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from blemish.core.errors import UsageError
from blemish.core.files import temporary_for
from blemish.core.spreadsheet import TableWriter
from blemish.core.types import Result, field_types
from blemish.record.rows import Inspection
from blemish.record.tables import regions_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from blemish.record.rows import Judgement

_NAMED = ("id", "time", "source", "part", "path", "model", "image", "map", "width", "height")
_RESULT = tuple(name for name in field_types(Result) if name not in _NAMED)
COLUMNS = (*_NAMED, *_RESULT, "error", "seconds", "files_removed", "decision", "verdict")
"""Times are ISO 8601 in CSV and timestamps in Parquet, `regions` JSON in both; in CSV None is empty."""
_BATCH_SIZE = 1000  # rows of Parquet written at a time


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
    return row | {"regions": regions_json(inspection), "verdict": verdict}


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    number = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = TableWriter(file, COLUMNS)
        for row in rows:
            times = {
                k: row[k] and row[k].isoformat(timespec="milliseconds") for k in ("time", "files_removed")
            }
            writer.write(row | times)
            number += 1
    return number


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(f"{path}: pyarrow is missing; pip install pyarrow, or write .csv") from error
    types = {datetime: pa.timestamp("ms", tz="UTC"), int: pa.int32(), bool: pa.bool_(), float: pa.float64()}
    kinds = field_types(Inspection)
    schema = pa.schema([(name, types.get(kinds.get(name), pa.string())) for name in COLUMNS])
    number = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, _BATCH_SIZE)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            number += len(batch)
    return number
