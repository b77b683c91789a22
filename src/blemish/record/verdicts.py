"""People's verdicts: given, taken back, and which of them counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from blemish.core.errors import DataError
from blemish.record import conversion, tables
from blemish.record.identifiers import milliseconds
from blemish.record.quality import Quality
from blemish.record.rows import Verdict, in_order, standing
from blemish.record.tables import rows
from blemish.record.transactions import batches

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from blemish.record.audit_log import Act


class Verdicts(Quality):
    """The part of a store that is about verdicts, and what follows from them."""

    def add_verdict(self, verdict: Verdict, *, act: Act | None = None) -> None:
        """Add a verdict, once, also by its key.

        Raises DataError for an inspection that is not there, and a reason that was never in the list.
        """
        with self._write_transaction() as connection:
            self._lock_inspection(connection, verdict.inspection)
            self._check_reason(connection, verdict.reason)
            insert = self._insert_once(tables.verdicts).values(conversion.verdict_row(verdict))
            if connection.execute(insert.returning(tables.verdicts.c.id)).first() is not None:  # not again
                self._settle_verdict(connection, verdict.inspection)
                self._log(connection, act)

    def withdraw_verdict(
        self, inspection: str, verdict: str, *, time: datetime, by: str, act: Act | None = None
    ) -> None:
        """Take a verdict back, by its identifier or key: the one before counts again. It is kept.

        Raises DataError for an inspection or a verdict that is not there.
        """
        table = tables.verdicts.c
        named = sa.and_(table.inspection == inspection, sa.or_(table.id == verdict, table.key == verdict))
        with self._write_transaction() as connection:
            self._lock_inspection(connection, inspection)
            if connection.execute(sa.select(table.id).where(named)).first() is None:
                raise DataError(f"verdict {verdict}: inspection {inspection} has none of that name")
            change = sa.update(tables.verdicts).where(named, table.withdrawn.is_(None))
            change = change.values(withdrawn=milliseconds(time), withdrawn_by=tables.escape_text(by))
            if connection.execute(change).rowcount:
                self._settle_verdict(connection, inspection)
                self._log(connection, act)

    def _lock_inspection(self, connection: sa.Connection, id: str) -> None:
        """Lock a row, so that the last verdict in the table is the one in the inspection's row."""
        if connection.execute(sa.select(rows.id).where(rows.id == id).with_for_update()).first() is None:
            raise DataError(f"inspection {id}: there is none; name one that was recorded")

    def _settle_verdict(self, connection: sa.Connection, id: str) -> None:
        """Put the verdict that counts into the row of its inspection."""
        table = tables.verdicts
        given = sa.select(table).where(table.c.inspection == id).order_by(table.c.number)
        all_given = connection.execute(given).all()
        left = standing(in_order(map(conversion.verdict_of, all_given)))
        found = left[-1].verdict if left else None
        counts = next((row.number for row in all_given if left and row.id == left[-1].id), None)
        change = sa.update(tables.inspections).where(rows.id == id)
        connection.execute(change.values(verdict=found, counts=counts))

    def verdicts(self, ids: Iterable[str]) -> dict[str, list[Verdict]]:
        """Return the verdicts of inspections, in the order in which they were given."""
        found: dict[str, list[Verdict]] = {id: [] for id in ids}
        table = tables.verdicts
        for batch in batches(found):
            query = sa.select(table).where(table.c.inspection.in_(batch)).order_by(table.c.number)
            for row in self._fetch_all(query):
                found[row.inspection].append(conversion.verdict_of(row))
        return {id: in_order(given) for id, given in found.items()}
