"""The tables of the record, which `migrations` makes, and the conditions by which rows are searched for.

Times are milliseconds since 1970. `decision` and the last `verdict` stand in the row of an inspection so that
both can be searched for by an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    and_,
    literal_column,
    or_,
    select,
)

from blemish.core.types import Result, field_types
from blemish.record.identifiers import first_id, milliseconds_up

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from sqlalchemy import ColumnElement

    from blemish.record.rows import Decision, Judgement


def _id() -> String:
    """Identifiers sort by their bytes, whatever the language of a PostgreSQL database."""
    return String(26).with_variant(String(26, collation="C"), "postgresql")


FIGURES = tuple(name for name, kind in field_types(Result).items() if kind is float)
"""The numbers of a result; `anomalous` is kept as the decision, `regions` as JSON."""

LABELS = ("product", "line", "shift", "station")
"""Texts that say where an inspection belongs."""

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
    Column("number", BigInteger),  # the order in which they were recorded; a view of a part has none
    Column("key", Text),
    *(Column(name, Text) for name in LABELS),
    Column("sample", Double),
    Column("counts", Integer),  # the number of the verdict that counts
    Column("view", Text),
    Column(
        "part_id", _id()
    ),  # the row of the part that a row is a view of; a part alone is counted and judged
    Column("missing", Text),  # of a part that was decided from its views: a list of those that it lacks
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

audit_log = Table(  # who did what; rows are only added, and `hash` is over the row and the one before
    "audit_log",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("station", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("hash", String(64), nullable=False),
)

rollups = Table(  # many rows of inspections in one, for trends; see `rollups`
    "rollups",
    metadata,
    Column("after", BigInteger, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False, index=True),  # the numbers after `after`, up to this one
    Column("begins", BigInteger, nullable=False),
    Column("ends", BigInteger, nullable=False),  # the times of the first and the last row
    Column("models", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

drift_states = Table(  # what the drift of a model stands at, after the row of that number
    "drift_states",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
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
for column in ("product", "line", "station"):  # a screen asks for the newest of one each second
    said = rows[column].is_not(None)
    Index(f"ix_inspections_{column}_id", rows[column], rows.id, sqlite_where=said, postgresql_where=said)
FOR_A_PERSON: tuple[Decision, ...] = ("rejected", "review")
"""Decisions that a person looks at."""
is_view = rows.part_id.is_not(None)
to_judge = and_(
    rows.verdict.is_(None),
    ~is_view,
    or_(*(rows.decision == literal_column(f"'{name}'") for name in FOR_A_PERSON), rows.sample.is_not(None)),
)
Index("ix_inspections_to_judge", rows.id, sqlite_where=to_judge, postgresql_where=to_judge)
Index("ix_inspections_number", rows.number, unique=True)
Index("ix_inspections_model_number", rows.model, rows.number)
Index("ix_inspections_key", rows.key, unique=True)
Index("ix_verdicts_key", verdicts.c.key, unique=True)
Index("ix_inspections_views", rows.part_id, sqlite_where=is_view, postgresql_where=is_view)
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
    """Only what waits for a person: parts that were rejected, sent to review or drawn, without a verdict."""


def conditions(search: Search, *, lag: timedelta) -> list[ColumnElement[bool]]:
    """Return the conditions of a search, which finds parts and no views of them.

    An identifier's time is that of its row, or up to `lag` later where the clock went back.
    """
    verdict, found = search.verdict, [~is_view, *time_conditions(search, lag=lag)]
    for name in ("model", "decision", "part", *LABELS):
        value = escape_text(getattr(search, name))
        found += [] if value is None else [rows[name] == value]
    if verdict is not None:
        found.append(rows.verdict.is_(None) if verdict == "none" else rows.verdict == verdict)
    if search.text:
        found.append(_has_text(search.text))
    return [*found, to_judge] if search.to_judge else found


def time_conditions(search: Search, *, lag: timedelta) -> list[ColumnElement[bool]]:
    """Return the conditions of a search's times, `lag` as above."""
    since, until = search.since, search.until
    found: list[ColumnElement[bool]] = []
    if since is not None:
        found.append(rows.id >= first_id(since))
    if until is not None:
        found.append(rows.id < first_id(until, later=lag))
    if lag:  # else the identifiers say it all
        found += [rows.time >= milliseconds_up(since)] if since is not None else []
        found += [rows.time < milliseconds_up(until)] if until is not None else []
    return found


def _has_text(text: str) -> ColumnElement[bool]:
    text = escape_text(text) or ""
    noted = select(verdicts.c.inspection).where(verdicts.c.note.icontains(text, autoescape=True))
    named = (column.icontains(text, autoescape=True) for column in (rows.part, rows.path))
    view = inspections.alias("view")
    of_view = select(view.c.part_id).where(
        view.c.part_id.is_not(None), view.c.path.icontains(text, autoescape=True)
    )
    return or_(*named, rows.id.in_(noted), rows.id.in_(of_view))
