"""The log of who did what, and when: rows that are only added, chained so that a change is found.

The hash of a row is the SHA-256 of the hash of the row before (64 zeros before the first) and the row itself
as JSON: `[number, time, station, who, what, subject, detail]`, see `chained`. Who changes a row has to make
all later hashes anew. So a number and a hash that were written down elsewhere hold all rows up to them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from blemish.core.errors import DataError
from blemish.record import tables
from blemish.record.identifiers import from_milliseconds, milliseconds, utc_now
from blemish.record.tables import escape_text
from blemish.record.transactions import Transactions

FIRST_HASH = "0" * 64
"""What stands for the hash before the first row."""
_LOG_LOCK = 0x61756469  # "audi": a number that all processes which write into one log agree on
_HASHED = ("number", "time", "station", "who", "what", "subject", "detail")


@dataclass(frozen=True, kw_only=True)
class Act:
    """What somebody did."""

    who: str
    """The name of a token or an account; empty: none was needed."""
    what: str
    """A verdict, a training, …"""
    subject: str = ""
    """The identifier or digest of what it was done to."""
    detail: dict[str, Any] = field(default_factory=dict)
    """What else is to be known, as JSON has it."""
    station: str = ""
    """The station's name."""


@dataclass(frozen=True, kw_only=True)
class Entry(Act):
    """A row of the log."""

    number: int
    """1, 2, …, without a gap."""
    time: datetime
    hash: str


def chained(before: str, values: dict[str, Any]) -> str:
    """Return the hash of a row, 64 hex digits, from the hash of the row before and the row's columns."""
    text = json.dumps([values[name] for name in _HASHED], separators=(",", ":"))
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


class AuditLog(Transactions):
    """The part of a store that keeps the log."""

    def note(self, act: Act) -> None:
        """Put an act into the log."""
        with self._write_transaction() as connection:
            self._log(connection, act)

    def _log(self, connection: sa.Connection, act: Act | None) -> None:
        """Put an act into the log in the transaction that does it; None: nobody asked for it."""
        if act is None:
            return
        table = tables.audit_log
        if self._engine.dialect.name == "postgresql":  # SQLite has one writer at a time anyhow
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOG_LOCK)))
        last = connection.execute(sa.select(table).order_by(table.c.number.desc()).limit(1)).first()
        texts = {name: escape_text(getattr(act, name)) for name in ("station", "who", "what", "subject")}
        values: dict[str, Any] = {
            "number": last.number + 1 if last else 1,
            "time": milliseconds(utc_now()),
            **texts,
            "detail": json.dumps(act.detail, sort_keys=True),
        }
        values["hash"] = chained(last.hash if last else FIRST_HASH, values)
        connection.execute(sa.insert(table).values(values))

    def acts(self, *, before: int | None = None, what: str | None = None, limit: int = 50) -> list[Entry]:
        """Return entries, newest first: those with a number below `before`, and of one kind."""
        table = tables.audit_log
        where = [] if before is None else [table.c.number < before]
        where += [] if what is None else [table.c.what == what]
        query = sa.select(table).where(*where).order_by(table.c.number.desc()).limit(limit)
        return [_entry_of(row) for row in self._fetch_all(query)]

    def check_log(self, head: tuple[int, str] | None = None) -> tuple[int, str]:
        """Recompute every hash; returns the number of entries, and the last hash.

        `head`: a number and a hash that were written down. Raises DataError for the first entry that is not
        what was written, or is missing.
        """
        before, number = FIRST_HASH, 0
        for row in self._stream(sa.select(tables.audit_log).order_by(tables.audit_log.c.number)):
            number += 1
            if row.number != number:
                raise DataError(f"audit log: entry {number} is missing; it was removed")
            if chained(before, dict(row._mapping)) != row.hash:
                raise DataError(
                    f"audit log: entry {number} does not fit its hash; it or one before was changed"
                )
            before = row.hash
            if head is not None and number == head[0] and before != head[1]:
                raise DataError(
                    f"audit log: entry {number} has another hash than was written down; "
                    "it or one before was changed"
                )
        if head is not None and number < head[0]:
            raise DataError(
                f"audit log: ends at entry {number}, and {head[0]} were there; the end was removed"
            )
        return number, before


def _entry_of(row: sa.Row[Any]) -> Entry:
    values = dict(row._mapping)
    return Entry(**values | {"time": from_milliseconds(row.time), "detail": json.loads(row.detail)})
