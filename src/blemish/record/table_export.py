"""Writing inspections as a table for other programs: CSV, or Parquet through pyarrow."""

from __future__ import annotations

import io
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from blemish.core.errors import UsageError
from blemish.core.files import temporary_for
from blemish.core.spreadsheet import TableWriter
from blemish.core.types import Result, field_types
from blemish.record.conversion import Judged, regions_json
from blemish.record.rows import Inspection
from blemish.record.tables import LABELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_NAMED = ("id", "time", "source", "part", "path", "model", "image", "map", "width", "height")
_RESULT = tuple(name for name in field_types(Result) if name not in _NAMED)
_SAID = ("verdict", "model_name", "reason", "note", "by", "judged")
_LATER = (*LABELS, "sample")
COLUMNS = (*_NAMED, *_RESULT, "error", "seconds", "files_removed", "decision", *_SAID, *_LATER)
"""Times are ISO 8601 in CSV and timestamps in Parquet, `regions` JSON in both; in CSV None is empty.

`verdict`, `reason`, `note`, `by` and `judged`, which is when, are those of the verdict that counts.
"""
_TIMES = ("time", "files_removed", "judged")
_BATCH_SIZE = 1000  # rows written at a time


def write(path: Path, rows: Iterable[Judged]) -> int:
    """Write inspections with the verdict that counts, whole or not at all; returns their number.

    Raises UsageError for a suffix other than .csv and .parquet, and without pyarrow.
    """
    kinds = {".csv": _write_csv, ".parquet": _write_parquet}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: must end in .csv or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_for(path) as part:
        return kind(part, iter(rows))


def csv_pieces(rows: Iterable[Judged]) -> Iterator[str]:
    """Yield the text of a CSV file, piece by piece, so that it is never whole in memory or on disk."""
    left = iter(rows)
    text = io.StringIO(newline="")
    writer = TableWriter(text, COLUMNS)
    while True:
        batch = list(islice(left, _BATCH_SIZE))
        for judged in batch:
            row = _row(judged)
            writer.write(row | {k: row[k] and row[k].isoformat(timespec="milliseconds") for k in _TIMES})
        yield text.getvalue()
        if len(batch) < _BATCH_SIZE:
            return
        text.seek(0)
        text.truncate()


def _row(judged: Judged) -> dict[str, Any]:
    inspection = judged.inspection
    row = {name: getattr(judged if name in _SAID else inspection, name) for name in COLUMNS}
    return row | {"regions": regions_json(inspection)}


def _write_csv(path: Path, rows: Iterator[Judged]) -> int:
    number = 0

    def counted() -> Iterator[Judged]:
        nonlocal number
        for row in rows:
            number += 1
            yield row

    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(csv_pieces(counted()))
    return number


def _write_parquet(path: Path, rows: Iterator[Judged]) -> int:
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(f"{path}: pyarrow is missing; pip install pyarrow, or write .csv") from error
    types = {datetime: pa.timestamp("ms", tz="UTC"), int: pa.int32(), bool: pa.bool_(), float: pa.float64()}
    kinds = field_types(Inspection) | {"judged": datetime}
    schema = pa.schema([(name, types.get(kinds.get(name), pa.string())) for name in COLUMNS])
    number = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while batch := [_row(each) for each in islice(rows, _BATCH_SIZE)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            number += len(batch)
    return number
