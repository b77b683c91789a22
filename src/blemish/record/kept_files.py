"""Which images and maps are kept: what may go, and what is still needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from blemish.record import conversion, tables
from blemish.record.identifiers import milliseconds
from blemish.record.rows import Inspection
from blemish.record.tables import Search, rows
from blemish.record.transactions import Transactions, batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime


class KeptFiles(Transactions):
    """The part of a store that is about the files of inspections."""

    def forget_files(self, ids: Iterable[str], *, time: datetime) -> None:
        """Note that the files of inspections were removed, at `time`; what was noted before stays."""
        with self._write_transaction() as connection:
            for batch in batches(ids):
                change = sa.update(tables.inspections).where(rows.id.in_(batch), rows.files_removed.is_(None))
                connection.execute(change.values(files_removed=milliseconds(time)))

    def existing_ids(self, ids: Iterable[str]) -> set[str]:
        """Return those of the identifiers that are recorded."""
        queries = (sa.select(rows.id).where(rows.id.in_(batch)) for batch in batches(ids))
        return {row.id for query in queries for row in self._fetch_all(query)}

    def image_with_key(self, key: str) -> str | None:
        """Return the hash of the image that was sent with a key, also of one that was removed; or None."""
        found = self._fetch_all(sa.select(rows.image).where(rows.key == tables.escape_text(key)))
        return found[0].image if found else None

    def models_in_use(self, digests: Iterable[str]) -> set[str]:
        """Return those of the models that have scored a part which is on record."""
        first = sa.select(rows.id).limit(1)
        return {digest for digest in digests if self._fetch_all(first.where(rows.model == digest))}

    def files_in_use(self, hashes: Iterable[str], *, but: Sequence[str] = ()) -> set[str]:
        """Return those of the files that an inspection still has, other than the inspections `but`."""
        found: set[str] = set()
        for batch in batches(hashes):
            for column in (rows.image, rows.map):
                kept = [column.in_(batch), rows.files_removed.is_(None)]
                if but:
                    kept.append(rows.id.not_in(but))
                found |= {row[0] for row in self._fetch_all(sa.select(column).where(*kept).distinct())}
        return found

    def oldest_with_files(
        self, *, wanted: bool, until: datetime | None = None, after: str | None = None, limit: int
    ) -> list[Inspection]:
        """Return the oldest inspections whose files are kept, of those before `until`.

        `after`: the identifier of the last inspection of the page before.
        `wanted`: of parts rejected, in review or failed, and those that a person called a defect; else of the
        others. A view goes with its part.
        """
        part = tables.inspections.alias("part")
        decision = sa.func.coalesce(part.c.decision, rows.decision)
        defect = sa.func.coalesce(part.c.verdict, rows.verdict, "") == "defect"
        wants = sa.or_(decision.in_((*tables.FOR_A_PERSON, "failed")), defect)
        old = tables.time_conditions(Search(until=until), lag=self._lag)
        where = [tables.has_files, wants if wanted else ~wants, *old]
        where += [] if after is None else [rows.id > after]
        with_part = tables.inspections.outerjoin(part, part.c.id == rows.part_id)
        query = sa.select(tables.inspections).select_from(with_part)
        query = query.where(*where).order_by(rows.id).limit(limit)
        return [conversion.inspection_of(row) for row in self._fetch_all(query)]
