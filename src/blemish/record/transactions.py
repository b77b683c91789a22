"""Transactions of a store: one writer at a time in this process, and errors in one line."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from blemish.record import database
from blemish.record.rows import StoreError

_ORDER_LOCK = 0x6F726465  # "orde": a number that all processes which record into one database agree on
BATCH_SIZE = 500
"""Identifiers in a query, and rows that are read together."""


class Transactions:
    """What reads and writes a database. Every method raises StoreError when it is away or refuses."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(one_statement=True)
        self._writing = database.writing(engine)
        self._writer = threading.Lock()
        self._place = database.without_password(engine.url)
        self._lag = timedelta()  # how far times lag behind identifiers, at most

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def _write_transaction(self) -> Iterator[sa.Connection]:
        with self._writer, self._database_errors(), self._writing.begin() as connection:
            yield connection

    def _wait_for_turn(self, connection: sa.Connection) -> None:
        """Let whoever else records end first, so that numbers are seen in their order. SQLite always does."""
        if self._engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ORDER_LOCK)))

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            said = database.short_message(error)
            raise StoreError(f"{self._place}: {said}; check the database and its disk") from error

    def _fetch_all(self, query: sa.Select) -> Sequence[sa.Row]:
        with self._database_errors(), self._reading.begin() as connection:
            return connection.execute(query).all()

    def _stream(self, query: sa.Select) -> Iterator[sa.Row]:
        with self._database_errors(), self._engine.begin() as connection:
            yield from connection.execution_options(yield_per=1000).execute(query)

    def _insert_once(self, table: sa.Table, *unless: sa.Column) -> sa.Insert:
        """Insert a row unless one with the same value of the columns is there; of none: of any unique one."""
        dialect = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        return dialect.insert(table).on_conflict_do_nothing(index_elements=unless or None)

    def _insert_or_update(self, table: sa.Table) -> sa.Insert:
        """Insert a row, or give the one of the same primary key the values of this one."""
        dialect = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        insert = dialect.insert(table)
        new = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key}
        return insert.on_conflict_do_update(index_elements=table.primary_key.columns, set_=new)


def batches(values: Iterable[str]) -> Iterator[list[str]]:
    """Cut values into lists that a query takes."""
    several = list(values)
    yield from (several[i : i + BATCH_SIZE] for i in range(0, len(several), BATCH_SIZE))
