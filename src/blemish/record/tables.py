"""The tables of the record, and the conversion of their rows to and from Python; `migrations` makes them.

Times are milliseconds since 1970. `decision` and the last `verdict` stand in the row of an inspection so that
both can be searched for by an index.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    literal_column,
    or_,
    select,
)

from blemish.core.types import Region, Result, field_types
from blemish.record.rows import (
    Alarm,
    Inspection,
    ModelRecord,
    Verdict,
    first_id,
    from_milliseconds,
    milliseconds,
    milliseconds_up,
)

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from sqlalchemy import ColumnElement, Row

    from blemish.record.rows import Decision, Judgement


def _id() -> String:
    """Identifiers sort by their bytes, whatever the language of a PostgreSQL database."""
    return String(26).with_variant(String(26, collation="C"), "postgresql")


FIGURES = tuple(name for name, kind in field_types(Result).items() if kind is float)
"""The numbers of a result; `anomalous` is kept as the decision, `regions` as JSON."""

LABELS = ("product", "line", "shift", "station")
"""Texts that say where an inspection belongs."""

_ALARM_TIMES = ("time", "peak_time", "acknowledged")

metadata = MetaData()

models = Table(
    "models",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("preset", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("first_used", BigInteger, nullable=False),
    Column("description", Text, nullable=False),
)

inspections = Table(
    "inspections",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("part", Text),
    Column("path", Text),
    Column("model", String(64), nullable=False),
    Column("image", String(64)),
    Column("map", String(64)),
    Column("width", Integer),
    Column("height", Integer),
    *(Column(name, Double) for name in FIGURES),
    Column("decision", Text, nullable=False),
    Column("regions", Text, nullable=False),
    Column("error", Text),
    Column("seconds", Double, nullable=False),
    Column("verdict", Text),
    Column("files_removed", BigInteger),
    Column("number", BigInteger),  # the order in which they were recorded
    Column("key", Text),
    *(Column(name, Text) for name in LABELS),
    Column("sample", Double),
    Column("counts", Integer),  # the number of the verdict that counts
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("number", Integer, primary_key=True),  # the order in which they were given
    Column("id", _id(), nullable=False, unique=True),
    Column("inspection", _id(), ForeignKey("inspections.id"), nullable=False, index=True),
    Column("time", BigInteger, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("key", Text),
    Column("withdrawn", BigInteger),
    Column("withdrawn_by", Text),
    Column("reason", Text),
)

sampling = Table(  # one row: the plan by which accepted parts are drawn for a person to judge
    "sampling",
    metadata,
    Column("share", Double, primary_key=True),
    Column("seed", BigInteger, nullable=False),
)

reasons = Table(  # kinds of defects; a place of None: not offered any more
    "reasons",
    metadata,
    Column("name", Text, primary_key=True),
    Column("place", Integer),
)

alarms = Table(
    "alarms",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("model", String(64), nullable=False, index=True),
    Column("time", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Double, nullable=False),
    Column("message", Text, nullable=False),
    Column("peak", Double),
    Column("peak_time", BigInteger),
    Column("acknowledged", BigInteger),
    Column("acknowledged_by", Text),
    Column("note", Text),
)

lag = Table(  # one row: how far the time of an identifier lies after the time of its row at most
    "lag",
    metadata,
    Column("milliseconds", BigInteger, primary_key=True, autoincrement=False),
)

rows = inspections.c
has_files = and_(rows.files_removed.is_(None), or_(rows.image.is_not(None), rows.map.is_not(None)))
for column in ("model", "decision", "part", "verdict"):
    Index(f"ix_inspections_{column}_id", rows[column], rows.id)
for column in ("image", "map"):
    Index(f"ix_inspections_{column}", rows[column])
to_judge = and_(
    rows.verdict.is_(None), or_(rows.decision == literal_column("'rejected'"), rows.sample.is_not(None))
)
Index("ix_inspections_to_judge", rows.id, sqlite_where=to_judge, postgresql_where=to_judge)
Index("ix_inspections_number", rows.number, unique=True)
Index("ix_inspections_model_number", rows.model, rows.number)
Index("ix_inspections_key", rows.key, unique=True)
Index("ix_verdicts_key", verdicts.c.key, unique=True)
Index("ix_inspections_files", rows.id, sqlite_where=has_files, postgresql_where=has_files)


def escape_text(text: str | None) -> str | None:
    r"""Spell what no database takes, lone surrogates and zero, with a backslash: \udcff, \x00."""
    return text and text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a list or a table is restricted to; None: not by this."""

    since: datetime | None = None
    until: datetime | None = None
    """Not included."""
    model: str | None = None
    """The digest of one."""
    decision: Decision | None = None
    part: str | None = None
    """The whole of it."""
    verdict: Judgement | Literal["none"] | None = None
    """The last one; none: nobody has judged it."""
    text: str | None = None
    """A fragment of the part, of the file's name or of a verdict's note; large and small letters are one."""
    product: str | None = None
    line: str | None = None
    shift: str | None = None
    station: str | None = None
    to_judge: bool = False
    """Only what waits for a person: rejected parts and drawn ones, without a verdict."""


def conditions(search: Search, *, lag: timedelta) -> list[ColumnElement[bool]]:
    """Return the conditions of a search.

    An identifier's time is that of its row, or up to `lag` later where the clock went back.
    """
    since, until, verdict = search.since, search.until, search.verdict
    found: list[ColumnElement[bool]] = []
    if since is not None:
        found.append(rows.id >= first_id(since))
    if until is not None:
        found.append(rows.id < first_id(until + lag))
    if lag:  # else the identifiers say it all
        found += [rows.time >= milliseconds_up(since)] if since is not None else []
        found += [rows.time < milliseconds_up(until)] if until is not None else []
    for name in ("model", "decision", "part", *LABELS):
        value = escape_text(getattr(search, name))
        found += [] if value is None else [rows[name] == value]
    if verdict is not None:
        found.append(rows.verdict.is_(None) if verdict == "none" else rows.verdict == verdict)
    if search.text:
        found.append(_has_text(search.text))
    return [*found, to_judge] if search.to_judge else found


def _has_text(text: str) -> ColumnElement[bool]:
    text = escape_text(text) or ""
    noted = select(verdicts.c.inspection).where(verdicts.c.note.icontains(text, autoescape=True))
    named = (column.icontains(text, autoescape=True) for column in (rows.part, rows.path))
    return or_(*named, rows.id.in_(noted))


def regions_json(inspection: Inspection) -> str:
    """Write the regions of an inspection as predictions.jsonl has them."""
    return json.dumps([asdict(region) for region in inspection.regions])


def row_of(inspection: Inspection) -> dict[str, Any]:
    """Return the row of an inspection that nobody has judged yet."""
    row = dict(vars(inspection))
    del row["anomalous"]
    return row | {
        "time": milliseconds(inspection.time),
        "part": escape_text(inspection.part),
        "path": escape_text(inspection.path),
        "error": escape_text(inspection.error),
        "key": escape_text(inspection.key),
        **{name: escape_text(getattr(inspection, name)) for name in LABELS},
        "decision": inspection.decision,
        "regions": regions_json(inspection),
        "files_removed": None,
    }


def _values(row: Row, changed: dict[str, Any]) -> dict[str, Any]:
    return dict(row._mapping) | changed


def inspection_of(row: Row) -> Inspection:
    """Return the inspection of a row; files that were removed are named no more."""
    removed = row.files_removed is not None
    changed = {
        "time": from_milliseconds(row.time),
        "anomalous": {"accepted": False, "rejected": True}.get(row.decision),
        "regions": [Region(**region) for region in json.loads(row.regions)],
        "image": None if removed else row.image,
        "map": None if removed else row.map,
        "files_removed": from_milliseconds(row.files_removed) if removed else None,
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
