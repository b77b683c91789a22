"""The conversion of the record's rows to and from Python."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from blemish.core.types import Region
from blemish.record.identifiers import from_milliseconds, milliseconds, time_of
from blemish.record.rows import ANOMALOUS, Alarm, Inspection, ModelRecord, Recorded, Verdict
from blemish.record.tables import LABELS, escape_text

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Row

    from blemish.record.rows import Judgement

_ALARM_TIMES = ("time", "peak_time", "acknowledged")


def regions_json(inspection: Inspection) -> str:
    """Write the regions of an inspection as predictions.jsonl has them."""
    return json.dumps([asdict(region) for region in inspection.regions])


def row_of(inspection: Inspection) -> dict[str, Any]:
    """Return the row of an inspection that nobody has judged yet."""
    row = dict(vars(inspection))
    del row["anomalous"], row["decided"]
    missing = inspection.missing
    return row | {
        "time": milliseconds(inspection.time),
        "part": escape_text(inspection.part),
        "path": escape_text(inspection.path),
        "error": escape_text(inspection.error),
        "key": escape_text(inspection.key),
        **{name: escape_text(getattr(inspection, name)) for name in LABELS},
        "decision": inspection.decision,
        "view": escape_text(inspection.view),
        "missing": None if missing is None else json.dumps(missing),
        "regions": regions_json(inspection),
        "files_removed": None,
    }


def lag_of(inspection: Inspection) -> int:
    """Return how far the time of a row lies before the one of its identifier, in milliseconds."""
    return milliseconds(time_of(inspection.id)) - milliseconds(inspection.time)


def recorded_of(row: dict[str, Any]) -> Recorded:
    """Return what a watcher of the record reads of a row that `row_of` has made, with its number."""
    values: dict[str, Any] = row | {"time": from_milliseconds(row["time"])}
    return Recorded(**{each.name: values[each.name] for each in fields(Recorded)})


def _values(row: Row, changed: dict[str, Any]) -> dict[str, Any]:
    return dict(row._mapping) | changed


def inspection_of(row: Row) -> Inspection:
    """Return the inspection of a row; files that were removed are named no more."""
    removed, of_views = row.files_removed is not None, row.missing is not None
    changed = {
        "time": from_milliseconds(row.time),
        "anomalous": ANOMALOUS.get(row.decision),
        "regions": [Region(**region) for region in json.loads(row.regions)],
        "image": None if removed else row.image,
        "map": None if removed else row.map,
        "files_removed": from_milliseconds(row.files_removed) if removed else None,
        "decided": row.decision if of_views else None,
        "missing": tuple(json.loads(row.missing)) if of_views else None,
    }
    values = _values(row, changed)
    return Inspection(**{each.name: values[each.name] for each in fields(Inspection)})


SAID = ("verdict", "reason", "note", "by", "time")
"""What a table says of the verdict that counts."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An inspection, the name of its model, and what the verdict that counts says; None: there is none."""

    inspection: Inspection
    model_name: str | None
    verdict: Judgement | None = None
    reason: str | None = None
    note: str | None = None
    by: str | None = None
    judged: datetime | None = None


def judged_of(row: Row) -> Judged:
    """Return the inspection of a row that was joined with its model and the verdict that counts."""
    said = {name: row._mapping[f"said_{name}"] for name in SAID}
    said["judged"] = _time_of(said.pop("time"))
    return Judged(inspection=inspection_of(row), model_name=row.model_name, **said)


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """Return the row of a verdict."""
    texts = {
        name: escape_text(getattr(verdict, name)) for name in ("note", "by", "key", "withdrawn_by", "reason")
    }
    times = {"time": milliseconds(verdict.time), "withdrawn": _milliseconds_of(verdict.withdrawn)}
    return vars(verdict) | times | texts


def verdict_of(row: Row) -> Verdict:
    """Return the verdict of a row."""
    times = {"time": from_milliseconds(row.time), "withdrawn": _time_of(row.withdrawn)}
    values = _values(row, times)
    del values["number"]
    return Verdict(**values)


def model_row(model: ModelRecord) -> dict[str, Any]:
    """Return the row of a model."""
    texts = {name: escape_text(getattr(model, name)) for name in ("name", "method", "preset", "dataset")}
    return {
        "digest": model.digest,
        **texts,
        "first_used": milliseconds(model.first_used),
        "description": json.dumps(model.description),
    }


def model_of(row: Row) -> ModelRecord:
    """Return the model of a row."""
    changed = {"first_used": from_milliseconds(row.first_used), "description": json.loads(row.description)}
    return ModelRecord(**_values(row, changed))


def alarm_row(alarm: Alarm) -> dict[str, Any]:
    """Return the row of an alarm."""
    times = {name: _milliseconds_of(getattr(alarm, name)) for name in _ALARM_TIMES}
    texts = {name: escape_text(getattr(alarm, name)) for name in ("message", "acknowledged_by", "note")}
    return vars(alarm) | times | texts


def alarm_of(row: Row) -> Alarm:
    """Return the alarm of a row."""
    return Alarm(**_values(row, {name: _time_of(row._mapping[name]) for name in _ALARM_TIMES}))


def _milliseconds_of(time: datetime | None) -> int | None:
    return None if time is None else milliseconds(time)


def _time_of(ms: int | None) -> datetime | None:
    return None if ms is None else from_milliseconds(ms)
