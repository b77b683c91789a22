"""Roll-ups of the record: what trends are made of, 4,096 rows in one, so that a million are read at once.

What they hold of a row never changes after it was recorded, and rows are numbered in the order in which they
are committed. So a roll-up is made once, and whoever makes it makes the same one.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from blemish.record import tables, trends
from blemish.record.identifiers import milliseconds_up
from blemish.record.tables import rows
from blemish.record.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from blemish.record.rows import Bucket

ROWS = 4096
"""Rows in a roll-up."""
_COLUMNS = (rows.time, rows.decision, rows.seconds, rows.score, rows.model)


class RollUps(Transactions):
    """The part of a store that makes roll-ups, and trends of them."""

    def roll_up(self) -> bool:
        """Make the next roll-up, where so many rows have been recorded since the last; returns whether."""
        after = self._rolled_up_to()
        newest = self._fetch_all(sa.select(sa.func.max(rows.number)))[0][0] or 0
        if newest - after < ROWS:
            return False
        query = sa.select(rows.number, *_COLUMNS).where(rows.number > after).order_by(rows.number).limit(ROWS)
        found = self._fetch_all(query)
        if len(found) < ROWS:
            return False
        models = sorted({row.model for row in found})
        table = _table(found, models)
        values = {
            "after": after,
            "last": found[-1].number,
            "begins": int(table["time"].min()),
            "ends": int(table["time"].max()),
            "models": json.dumps(models),
            "content": table.tobytes(),
        }
        with self._write_transaction() as connection:
            connection.execute(self._insert_once(tables.rollups), values)
        return True

    def _rolled_up_to(self) -> int:
        """Return the number of the last row that is in a roll-up; 0: there is none."""
        return self._fetch_all(sa.select(sa.func.max(tables.rollups.c.last)))[0][0] or 0

    def summary(
        self, *, since: datetime, until: datetime, buckets: int, model: str | None = None
    ) -> list[Bucket]:
        """Sum up the time from `since` to `until` in spans of equal length, of one model or of all.

        Raises UsageError for no span, or an end that is not later.
        """
        starts = trends.span_starts(since, until, buckets)
        begins, ends = milliseconds_up(since), milliseconds_up(until)
        last = self._rolled_up_to()  # before the rest is read: what is rolled up meanwhile is in the rest
        parts = [*self._rolled_up(begins, ends, last, model), *self._rest(begins, ends, last, model)]
        found = np.concatenate([np.empty(0, trends.ROW), *parts])
        return trends.summarize(starts, found)

    def _rolled_up(self, begins: int, ends: int, last: int, model: str | None) -> Iterator[np.ndarray]:
        """Yield the rows of roll-ups that lie in a time, in milliseconds, of one model or of all."""
        table = tables.rollups.c
        where = [table.last <= last, table.ends >= begins, table.begins < ends]
        for row in self._stream(sa.select(tables.rollups).where(*where).order_by(table.after)):
            found = np.frombuffer(row.content, trends.ROW)
            if row.begins < begins or row.ends >= ends:
                found = found[(found["time"] >= begins) & (found["time"] < ends)]
            models = json.loads(row.models)
            if model in models:
                found = found[found["model"] == models.index(model)] if len(models) > 1 else found
            elif model is not None:
                continue
            yield found

    def _rest(self, begins: int, ends: int, last: int, model: str | None) -> Iterator[np.ndarray]:
        """Yield the rows after the last roll-up that lie in a time."""
        where = [rows.number > last, rows.time >= begins, rows.time < ends]
        where += [] if model is None else [rows.model == model]
        read = self._stream(sa.select(*_COLUMNS).where(*where))
        while part := list(islice(read, ROWS)):
            yield _table(part)


def _table(found: Sequence[Any], models: Iterable[str] = ()) -> np.ndarray:
    """Return rows as numbers; a model as its place in `models`, 0 for one that is not there."""
    places = {model: place for place, model in enumerate(models)}
    values = [
        (
            row.time,
            row.seconds,
            np.nan if row.score is None else row.score,
            trends.DECISIONS.index(row.decision),
            places.get(row.model, 0),
        )
        for row in found
    ]
    return np.array(values, trends.ROW)
