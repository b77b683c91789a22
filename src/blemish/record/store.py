"""The record of a station: inspections, people's verdicts, models, alarms, and which files are kept.

Every method returns when what it writes is on disk, and may be called from any thread. Identifiers sort by
time, so that a row's place in the order and a page's cursor are the same thing, and an index finds both.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from blemish.core.errors import DataError
from blemish.record import database, table_export, tables, trends
from blemish.record.rows import (
    Alarm,
    Bucket,
    Decision,
    Inspection,
    Judgement,
    ModelRecord,
    StoreError,
    Verdict,
    milliseconds,
    new_id,
    time_of,
)
from blemish.record.tables import rows

__all__ = [
    "Alarm",
    "Bucket",
    "Decision",
    "Inspection",
    "Judgement",
    "ModelRecord",
    "Store",
    "StoreError",
    "Verdict",
    "new_id",
]

_BATCH_SIZE = 500  # identifiers in a query


class Store:
    """A database with the tables of a station; make one with `Store.open`.

    Every method raises StoreError, one line, when the database cannot be reached or refuses.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = threading.Lock()
        self._place = database.without_password(engine.url)

    @classmethod
    def open(cls, url: str | None, folder: Path) -> Store:
        """Open a database, or make it; None: SQLite in `folder`, which is made.

        Raises UsageError, one line, for a URL that cannot be opened, and for a database that a newer blemish
        or another program has written.
        """
        return cls(database.open_database(url, folder))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    # --- writing ---

    def record(self, inspections: Sequence[Inspection]) -> None:
        """Add inspections, all or none; those that are there already are left as they are.

        Raises DataError for one whose identifier was not made of its time.
        """
        for inspection in inspections:
            if milliseconds(time_of(inspection.id)) != milliseconds(inspection.time):
                raise DataError(
                    f"inspection {inspection.id}: its identifier is not of {inspection.time}; "
                    "make it by new_id(time)"
                )
        if inspections:
            with self._write_transaction() as connection:
                connection.execute(self._insert_once(tables.inspections), [*map(tables.row_of, inspections)])

    def add_model(self, model: ModelRecord) -> None:
        """Add a model; one that is there already keeps the time of its first use."""
        with self._write_transaction() as connection:
            connection.execute(self._insert_once(tables.models), tables.model_row(model))

    def add_verdict(self, verdict: Verdict) -> None:
        """Add a verdict, once. Raises DataError for an inspection that is not there."""
        inspected = rows.id == verdict.inspection
        with self._write_transaction() as connection:
            # locked, so that the last verdict in the table is the one in the inspection's row
            if connection.execute(sa.select(rows.id).where(inspected).with_for_update()).first() is None:
                raise DataError(f"inspection {verdict.inspection}: there is none; name one that was recorded")
            adding = self._insert_once(tables.verdicts).values(tables.verdict_row(verdict))
            if connection.execute(adding.returning(tables.verdicts.c.number)).first() is not None:
                change = sa.update(tables.inspections).where(inspected).values(verdict=verdict.verdict)
                connection.execute(change)

    def add_alarm(self, alarm: Alarm) -> None:
        """Add an alarm, once."""
        with self._write_transaction() as connection:
            connection.execute(self._insert_once(tables.alarms), tables.alarm_row(alarm))

    def forget_files(self, ids: Iterable[str], *, time: datetime) -> None:
        """Note that the files of inspections were removed, at `time`; what was noted before stays."""
        with self._write_transaction() as connection:
            for batch in _batches(ids):
                change = sa.update(tables.inspections).where(rows.id.in_(batch), rows.files_removed.is_(None))
                connection.execute(change.values(files_removed=milliseconds(time)))

    # --- reading ---

    def get(self, id: str) -> Inspection | None:
        """Return an inspection, or None."""
        found = self._fetch_all(sa.select(tables.inspections).where(rows.id == id))
        return tables.inspection_of(found[0]) if found else None

    def find(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        model: str | None = None,
        decision: Decision | None = None,
        part: str | None = None,
        verdict: Judgement | Literal["none"] | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Inspection]:
        """Return inspections, newest first.

        Args:
            since, until: from `since` on, up to but without `until`.
            model: the digest of one.
            decision, part: as in the row.
            verdict: the last one; none: nobody has judged it.
            before: the identifier of the last inspection of the page before.
            limit: as many at most.
        """
        where = tables.conditions(since, until, model, decision, part, verdict)
        if before is not None:
            where.append(rows.id < before)
        query = sa.select(tables.inspections).where(*where).order_by(rows.id.desc()).limit(limit)
        return [tables.inspection_of(row) for row in self._fetch_all(query)]

    def verdicts(self, ids: Iterable[str]) -> dict[str, list[Verdict]]:
        """Return the verdicts of inspections, in the order in which they were given."""
        found: dict[str, list[Verdict]] = {id: [] for id in ids}
        table = tables.verdicts
        for batch in _batches(found):
            query = sa.select(table).where(table.c.inspection.in_(batch)).order_by(table.c.number)
            for row in self._fetch_all(query):
                found[row.inspection].append(tables.verdict_of(row))
        return found

    def models(self) -> list[ModelRecord]:
        """Return the models in the order of their first use."""
        table = tables.models
        query = sa.select(table).order_by(table.c.first_used, table.c.digest)
        return [tables.model_of(row) for row in self._fetch_all(query)]

    def alarms(self, model: str | None = None) -> list[Alarm]:
        """Return the alarms, oldest first; of one model, or of all."""
        table = tables.alarms
        where = [] if model is None else [table.c.model == model]
        query = sa.select(table).where(*where).order_by(table.c.id)
        return [tables.alarm_of(row) for row in self._fetch_all(query)]

    def scores(
        self, model: str, since_id: str | None = None
    ) -> Iterator[tuple[str, float, bool | None, Judgement | None]]:
        """Yield what a model has scored, oldest first: identifier, score, anomalous, last verdict.

        `since_id`: only what came after this inspection.
        """
        where = [rows.model == model, rows.score.is_not(None)]
        if since_id is not None:
            where.append(rows.id > since_id)
        query = sa.select(rows.id, rows.score, rows.decision, rows.verdict).where(*where).order_by(rows.id)
        for row in self._stream(query):
            yield row.id, row.score, {"accepted": False, "rejected": True}.get(row.decision), row.verdict

    def summary(
        self, *, since: datetime, until: datetime, buckets: int, model: str | None = None
    ) -> list[Bucket]:
        """Sum up the time from `since` to `until` in spans of equal length, of one model or of all.

        Raises UsageError for no span, or an end that is not later.
        """
        starts = trends.span_starts(since, until, buckets)
        columns = (rows.time, rows.decision, rows.seconds, rows.score)
        where = tables.conditions(since, until, model)
        return trends.summarize(starts, self._stream(sa.select(*columns).where(*where).order_by(rows.id)))

    def export(
        self,
        path: Path,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        model: str | None = None,
        decision: Decision | None = None,
        part: str | None = None,
        verdict: Judgement | Literal["none"] | None = None,
    ) -> int:
        """Write inspections, oldest first, as CSV or Parquet, by the suffix; the filters are those of `find`.

        The last verdict is a column. Returns the number of rows. Raises UsageError for another suffix, and
        for Parquet without pyarrow; OSError when the file cannot be written.
        """
        where = tables.conditions(since, until, model, decision, part, verdict)
        each = self._stream(sa.select(tables.inspections).where(*where).order_by(rows.id))
        return table_export.write(path, ((tables.inspection_of(row), row.verdict) for row in each))

    # --- files ---

    def existing_ids(self, ids: Iterable[str]) -> set[str]:
        """Return those of the identifiers that are recorded."""
        queries = (sa.select(rows.id).where(rows.id.in_(batch)) for batch in _batches(ids))
        return {row.id for query in queries for row in self._fetch_all(query)}

    def files_in_use(self, hashes: Iterable[str], *, but: Sequence[str] = ()) -> set[str]:
        """Return those of the files that an inspection still has, other than the inspections `but`."""
        found: set[str] = set()
        for batch in _batches(hashes):
            for column in (rows.image, rows.map):
                kept = [column.in_(batch), rows.files_removed.is_(None)]
                if but:
                    kept.append(rows.id.not_in(but))
                found |= {row[0] for row in self._fetch_all(sa.select(column).where(*kept).distinct())}
        return found

    def oldest_with_files(
        self, *, wanted: bool, until: datetime | None = None, limit: int
    ) -> list[Inspection]:
        """Return the oldest inspections whose files are kept, of those before `until`.

        `wanted`: of rejected and failed parts and those that a person called a defect; else of the others.
        """
        defect = sa.func.coalesce(rows.verdict, "") == "defect"
        wants = sa.or_(rows.decision.in_(("rejected", "failed")), defect)
        where = [tables.has_files, wants if wanted else ~wants, *tables.conditions(None, until)]
        query = sa.select(tables.inspections).where(*where).order_by(rows.id).limit(limit)
        return [tables.inspection_of(row) for row in self._fetch_all(query)]

    # --- the database ---

    @contextmanager
    def _write_transaction(self) -> Iterator[sa.Connection]:
        with self._writer, self._database_errors(), database.begin_write(self._engine) as connection:
            yield connection

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            said = database.short_message(error)
            raise StoreError(f"{self._place}: {said}; check the database and its disk") from error

    def _fetch_all(self, query: sa.Select) -> Sequence[sa.Row]:
        with self._database_errors(), self._engine.begin() as connection:
            return connection.execute(query).all()

    def _stream(self, query: sa.Select) -> Iterator[sa.Row]:
        with self._database_errors(), self._engine.begin() as connection:
            yield from connection.execution_options(yield_per=1000).execute(query)

    def _insert_once(self, table: sa.Table) -> sa.Insert:
        dialect = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        return dialect.insert(table).on_conflict_do_nothing()


def _batches(values: Iterable[str]) -> Iterator[list[str]]:
    several = list(values)
    yield from (several[i : i + _BATCH_SIZE] for i in range(0, len(several), _BATCH_SIZE))
