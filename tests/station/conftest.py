"""What the tests of stations share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

_taken: list[tuple[str, Any]] = []
"""The statements that make the tables, with their parameters, once a process knows them."""


@pytest.fixture(scope="module", autouse=True)
def tables_made_alike() -> Iterator[None]:
    """Make the tables of each new SQLite file by the statements that the first one took.

    To find them out, step by step, takes most of a station's start; `tests/record` looks at the steps.
    """
    try:
        import sqlalchemy as sa

        from blemish.record import database
    except ImportError:  # whose tests are skipped
        yield
        return
    upgrade = database._upgrade

    def upgrade_alike(connection: Any, revision: str = "head") -> None:
        statements: list[tuple[str, Any]] = []
        new = connection.dialect.name == "sqlite" and not sa.inspect(connection).get_table_names()
        if not new or revision != "head":
            upgrade(connection, revision)
        elif _taken:
            for statement, parameters in _taken:
                connection.exec_driver_sql(statement, parameters or None)
        else:

            def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
                if not statement.startswith(("SELECT", "PRAGMA")):
                    statements.append((statement, parameters))

            sa.event.listen(connection, "before_cursor_execute", note)
            try:
                upgrade(connection)
            finally:
                sa.event.remove(connection, "before_cursor_execute", note)
            _taken[:] = statements

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_upgrade", upgrade_alike)
        yield
