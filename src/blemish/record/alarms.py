"""Alarms of a station: kept, acknowledged by a person, and with the highest evidence since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from blemish.core.errors import DataError
from blemish.record import conversion, tables
from blemish.record.audit_log import AuditLog
from blemish.record.identifiers import milliseconds

if TYPE_CHECKING:
    from datetime import datetime

    from blemish.record.audit_log import Act
    from blemish.record.rows import Alarm


class Alarms(AuditLog):
    """The part of a store that is about alarms."""

    def add_alarm(self, alarm: Alarm) -> None:
        """Add an alarm, once."""
        with self._write_transaction() as connection:
            connection.execute(self._insert_once(tables.alarms), conversion.alarm_row(alarm))

    def acknowledge_alarm(
        self, id: str, *, time: datetime, by: str, note: str, act: Act | None = None
    ) -> None:
        """Note that a person has seen to an alarm, once. Raises DataError for one that is not there."""
        table = tables.alarms.c
        with self._write_transaction() as connection:
            if connection.execute(sa.select(table.id).where(table.id == id)).first() is None:
                raise DataError(f"alarm {id}: there is none")
            texts = {"acknowledged_by": tables.escape_text(by), "note": tables.escape_text(note)}
            values = {"acknowledged": milliseconds(time), **texts}
            change = sa.update(tables.alarms).where(table.id == id, table.acknowledged.is_(None))
            if connection.execute(change.values(values)).rowcount:
                self._log(connection, act)

    def note_peak(self, model: str, *, peak: float, time: datetime) -> None:
        """Note the highest evidence of a model's drift alarms, and when it was reached."""
        table = tables.alarms.c
        lower = sa.or_(table.peak.is_(None), table.peak < peak)
        with self._write_transaction() as connection:
            change = sa.update(tables.alarms).where(table.model == model, table.kind == "drift", lower)
            connection.execute(change.values(peak=peak, peak_time=milliseconds(time)))

    def alarms(self, model: str | None = None) -> list[Alarm]:
        """Return the alarms, oldest first; of one model, or of all."""
        table = tables.alarms
        where = [] if model is None else [table.c.model == model]
        query = sa.select(table).where(*where).order_by(table.c.id)
        return [conversion.alarm_of(row) for row in self._fetch_all(query)]
