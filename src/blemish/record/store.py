"""The record of a station: inspections, people's verdicts, models, alarms, and which files are kept.

Every method returns when what it writes is on disk, and may be called from any thread. Identifiers sort by
time, so that a row's place in the order and a page's cursor are the same thing, and an index finds both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from blemish.core.errors import DataError
from blemish.record import conversion, database, table_export, tables
from blemish.record.alarms import Alarms
from blemish.record.audit_log import Act
from blemish.record.drift_states import DriftStates
from blemish.record.identifiers import from_milliseconds, new_id
from blemish.record.kept_files import KeptFiles
from blemish.record.quality import plan_of
from blemish.record.rollups import RollUps
from blemish.record.rows import (
    ANOMALOUS,
    WATCH,
    Alarm,
    Bucket,
    Decision,
    Inspection,
    Judgement,
    ModelRecord,
    Recorded,
    StoreError,
    Verdict,
)
from blemish.record.tables import Search, rows
from blemish.record.transactions import BATCH_SIZE, batches
from blemish.record.verdicts import Verdicts

__all__ = [
    "Act",
    "Alarm",
    "Bucket",
    "Decision",
    "Inspection",
    "Judgement",
    "ModelRecord",
    "Recorded",
    "Store",
    "StoreError",
    "Verdict",
    "new_id",
]

_LAST_NUMBER = sa.select(sa.func.max(rows.number))
_PLAN = tables.sampling.columns
_BEFORE = sa.select(
    _LAST_NUMBER.scalar_subquery().label("last"),
    # a record that two stations began at once may have two plans: then both columns are of the same one
    *(sa.select(each).order_by(*_PLAN).limit(1).scalar_subquery().label(each.name) for each in _PLAN),
)
_LAG = sa.select(sa.func.max(tables.lag.c.milliseconds))
_RECORDED = sa.select(
    *(rows[each.name] for each in fields(Recorded)), _LAG.scalar_subquery().label("lag")
).order_by(rows.number)
# made once: to make a query takes longer than to run it


class Store(Verdicts, Alarms, DriftStates, RollUps, KeptFiles):
    """A database with the tables of a station; make one with `Store.open`.

    Every method raises StoreError, one line, when the database cannot be reached or refuses.
    """

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        once = self._insert_once(tables.inspections, rows.id)
        self._insert_inspection = once.execution_options(preserve_rowcount=True)
        self._newest: list[Recorded] = []  # what was recorded here last, so that it need not be read again
        self._read_lag()  # and whenever rows may have come: so that a search need not ask for it

    @classmethod
    def open(cls, url: str | None, folder: Path) -> Store:
        """Open a database, or make it; None: SQLite in `folder`, which is made.

        Raises UsageError, one line, for a URL that cannot be opened, and for a database that a newer blemish
        or another program has written.
        """
        return cls(database.open_database(url, folder))

    # --- writing ---

    def record(self, inspections: Sequence[Inspection]) -> None:
        """Add inspections, all or none; those that are there already are left as they are.

        A view of a part gets no number and is never drawn: its part is.

        Raises DataError for one whose identifier was made of an earlier time, StoreError for a key in use.
        """
        lags = [conversion.lag_of(inspection) for inspection in inspections]
        for inspection, lag in zip(inspections, lags, strict=True):
            if lag < 0:
                raise DataError(
                    f"inspection {inspection.id}: its identifier is not of {inspection.time}; "
                    "make it by new_id(time)"
                )
        if not inspections:
            return
        with self._write_transaction() as connection:
            self._wait_for_turn(connection)
            before = connection.execute(_BEFORE).one()
            plan, numbers = plan_of(before), count((before.last or 0) + 1)
            added = [
                conversion.row_of(each)
                | ({"number": None} if each.part_id else {"number": next(numbers), "sample": plan.draw(each)})
                for each in inspections
            ]
            new = connection.execute(self._insert_inspection, added).rowcount == len(added)
            self._note_lag(connection, max(lags))
        self._lag = max(self._lag, timedelta(milliseconds=max(lags)))  # now that it is on disk
        self._newest = [conversion.recorded_of(row) for row in added if row["number"]] if new else []

    def _note_lag(self, connection: sa.Connection, lag: int) -> None:
        """Note how far times lag behind identifiers, where they never lagged so far before."""
        if timedelta(milliseconds=lag) <= self._lag:
            return
        column = tables.lag.c.milliseconds
        if lag > (connection.execute(sa.select(sa.func.max(column))).scalar() or 0):
            connection.execute(sa.delete(tables.lag))
            connection.execute(sa.insert(tables.lag).values(milliseconds=lag))

    def try_to_write(self) -> None:
        """Write a row to the disk, and take it back at once."""
        with self._write_transaction() as connection:
            connection.execute(sa.insert(tables.lag).values(milliseconds=-1))
            connection.execute(sa.delete(tables.lag).where(tables.lag.c.milliseconds == -1))

    def add_model(self, model: ModelRecord) -> None:
        """Add a model; one that is there already keeps the time of its first use."""
        with self._write_transaction() as connection:
            connection.execute(self._insert_once(tables.models), conversion.model_row(model))

    # --- reading ---

    def get(self, id: str) -> Inspection | None:
        """Return an inspection, or None."""
        found = self._fetch_all(sa.select(tables.inspections).where(rows.id == id))
        return conversion.inspection_of(found[0]) if found else None

    def with_key(self, key: str) -> Inspection | None:
        """Return the inspection that was sent with a key, or None."""
        found = self._fetch_all(sa.select(tables.inspections).where(rows.key == tables.escape_text(key)))
        return conversion.inspection_of(found[0]) if found else None

    def views_of(self, ids: Iterable[str]) -> dict[str, list[Inspection]]:
        """Return the views of parts, in the order of their names and then of their arrival."""
        found: dict[str, list[Inspection]] = {id: [] for id in ids}
        order = (rows.view, rows.id)
        for batch in batches(found):
            query = sa.select(tables.inspections).where(tables.is_view, rows.part_id.in_(batch))
            for row in self._fetch_all(query.order_by(*order)):
                found[row.part_id].append(conversion.inspection_of(row))
        return found

    def undecided_views(self) -> dict[str, list[Inspection]]:
        """Return views whose parts are not recorded, oldest first, by their part_id; not those of a watch."""
        part = tables.inspections.alias("part")
        decided = sa.select(part.c.id).where(part.c.id == rows.part_id).exists()
        taken = sa.and_(tables.is_view, rows.source != WATCH)
        query = sa.select(tables.inspections).where(taken, ~decided).order_by(rows.id)
        found: dict[str, list[Inspection]] = {}
        for row in self._fetch_all(query):
            found.setdefault(row.part_id, []).append(conversion.inspection_of(row))
        return found

    def newest_id(self, station: str | None = None) -> str | None:
        """Return the largest identifier of a station's rows, where it has some, else of all; or None."""
        newest = sa.select(sa.func.max(rows.id))
        own = None if station is None else self._fetch_all(newest.where(rows.station == station))[0][0]
        return own or self._fetch_all(newest)[0][0]

    def last_number(self) -> int:
        """Return the number of the inspection that was recorded last; 0: there is none."""
        return self._fetch_all(_LAST_NUMBER)[0][0] or 0

    def recorded(
        self, *, after: int, until: int | None = None, model: str | None = None, limit: int | None = None
    ) -> Iterator[Recorded]:
        """Yield what was recorded, by whichever process, in the order in which it was.

        `after` and `until` are numbers of rows: those after `after`, up to and with `until`. With a `limit`
        the newest may be left out; they come the next time.
        """
        newest = self._newest
        if newest and limit and newest[0].number == after + 1 and until is model is None:
            yield from newest[:limit]
            return
        where = [rows.number > after]
        if until is not None:
            where.append(rows.number <= until)
        if model is not None:
            where.append(rows.model == model)
        read = self._stream if limit is None else self._fetch_all
        for row in read(_RECORDED.where(*where).limit(limit)):
            values: dict[str, Any] = dict(row._mapping)
            self._lag = max(self._lag, timedelta(milliseconds=values.pop("lag") or 0))
            values["time"] = from_milliseconds(row.time)
            yield Recorded(**values)

    def _read_lag(self) -> None:
        """Read how far times lag behind identifiers at most."""
        found = self._fetch_all(_LAG)[0][0]
        self._lag = timedelta(milliseconds=found or 0)

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

        The filters are those of `Search`; the rest is as in `search`.
        """
        wanted = Search(since=since, until=until, model=model, decision=decision, part=part, verdict=verdict)
        return self.search(wanted, before=before, limit=limit)

    def search(self, wanted: Search, *, before: str | None = None, limit: int = 50) -> list[Inspection]:
        """Return inspections, newest first.

        Args:
            wanted: what they are restricted to.
            before: the identifier of the last inspection of the page before.
            limit: as many at most.
        """
        where = tables.conditions(wanted, lag=self._lag)
        if before is not None:
            where.append(rows.id < before)
        query = sa.select(tables.inspections).where(*where).order_by(rows.id.desc()).limit(limit)
        return [conversion.inspection_of(row) for row in self._fetch_all(query)]

    def models(self) -> list[ModelRecord]:
        """Return the models in the order of their first use."""
        table = tables.models
        query = sa.select(table).order_by(table.c.first_used, table.c.digest)
        return [conversion.model_of(row) for row in self._fetch_all(query)]

    def scores(
        self, model: str, since_id: str | None = None
    ) -> Iterator[tuple[str, float, bool | None, Judgement | None]]:
        """Yield what a model has scored, oldest first: identifier, score, anomalous, last verdict.

        `since_id`: only what came after this inspection.
        """
        where = [rows.model == model, rows.score.is_not(None), ~tables.is_view]
        if since_id is not None:
            where.append(rows.id > since_id)
        query = sa.select(rows.id, rows.score, rows.decision, rows.verdict).where(*where).order_by(rows.id)
        for row in self._stream(query):
            yield row.id, row.score, ANOMALOUS.get(row.decision), row.verdict

    def export(
        self,
        path: Path,
        wanted: Search | None = None,
    ) -> int:
        """Write inspections, oldest first, as CSV or Parquet, by the suffix.

        The verdict that counts stands in columns of its own. Returns the number of rows. Raises UsageError
        for another suffix, and for Parquet without pyarrow; OSError when the file cannot be written.
        """
        return table_export.write(path, self.judged(wanted or Search()))

    def judged(self, wanted: Search) -> Iterator[conversion.Judged]:
        """Yield inspections, oldest first, each with its model's name and the verdict that counts.

        Read a batch at a time, so that a slow reader holds no transaction open.
        """
        self._read_lag()
        verdicts, models = tables.verdicts, tables.models
        given = (verdicts.c[name].label(f"said_{name}") for name in conversion.SAID)
        joined = tables.inspections.outerjoin(verdicts, verdicts.c.number == rows.counts)
        joined = joined.outerjoin(models, models.c.digest == rows.model)
        columns = (tables.inspections, models.c.name.label("model_name"), *given)
        query = sa.select(*columns).select_from(joined).order_by(rows.id).limit(BATCH_SIZE)
        where, last = tables.conditions(wanted, lag=self._lag), ""
        while found := self._fetch_all(query.where(*where, rows.id > last)):
            yield from map(conversion.judged_of, found)
            last = found[-1].id
