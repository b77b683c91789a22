"""Opening a database: SQLite in one file, or PostgreSQL by URL, with its tables brought up to date.

A write is on disk when it returns: SQLite with a write-ahead log and synchronous=FULL, PostgreSQL with
synchronous_commit. SQLite's readers and its one writer do not wait for each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from blemish.core.errors import UsageError
from blemish.core.files import lock_others_out, make_private_folder

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

SQLITE_NAME = "station.db"
VERSION_TABLE = "blemish_version"
SQLITE_BUSY_TIMEOUT_S = 30.0
"""Seconds that SQLite waits for another process to finish writing."""
PG_TIMEOUT_S = 20
"""Seconds without an answer after which a connection to PostgreSQL counts as lost."""
_OPENING_LOCK = 0x626C656D  # "blem": a number that two processes which open one database agree on


def open_database(url: str | None, folder: Path, *, as_it_is: bool = False) -> Engine:
    """Open a database, None: SQLite in `folder`, and bring its tables up to date.

    Raises UsageError, one line, for a database that cannot be opened, is newer, or another program's; when
    it is to stay `as_it_is`, also for one that is not there, or older.
    """
    if as_it_is and url is None and not (folder / SQLITE_NAME).exists():
        raise UsageError(f"--folder {folder}: holds no record; name the folder of a station")
    make_private_folder(folder, ours=(folder / SQLITE_NAME).exists())
    place = sa.URL.create("sqlite", database=str(folder / SQLITE_NAME)) if url is None else _parse_url(url)
    if place.get_backend_name() == "sqlite" and not str(place.database).startswith("file:"):
        _make_private(Path(str(place.database)))
    try:
        engine = _engine(place)
    except ImportError as error:  # of the driver
        raise UsageError(
            f"{without_password(place)}: {error.name} is missing; pip install 'blemish[postgres]'"
        ) from error
    try:
        with begin_write(engine) as connection:
            if place.get_backend_name() == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OPENING_LOCK)))
            _refuse_foreign(connection, place)
            if as_it_is:
                _refuse_older(connection, place)
            else:
                _upgrade(connection)
    except SQLAlchemyError as error:
        engine.dispose()
        raise UsageError(
            f"{without_password(place)}: cannot be opened ({short_message(error)}); check the database's URL"
        ) from error
    except UsageError:
        engine.dispose()
        raise
    return engine


def _make_private(file: Path) -> None:
    """Make an empty SQLite file that its owner alone reads; its log gets the same rights from SQLite."""
    try:
        file.touch(0o600, exist_ok=False)
    except FileExistsError:
        lock_others_out(file)
    except OSError:  # SQLite says what is wrong with it
        pass


def refuse_password(url: str | None, *, option: str = "--database") -> None:
    """Refuse a URL with a password, which all users of the machine would see in the list of processes."""
    try:
        place = None if url is None else sa.make_url(url)
    except (ArgumentError, ValueError):  # told when it is opened
        return
    if place is not None and (place.password is not None or "password" in place.query):
        raise UsageError(
            f"{option}: a password on the command line is seen by all users of the machine; leave it out, "
            "and put it into the file ~/.pgpass or the variable PGPASSWORD"
        )


def _parse_url(url: str) -> URL:
    what = "must be sqlite:///FILE or postgresql://USER@HOST/NAME"
    try:
        place = sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        hidden = url.rsplit("@", 1)[-1]  # no password in an error
        raise UsageError(f"{hidden!r}: is not the URL of a database; {what}") from error
    backend = place.get_backend_name()
    if backend == "sqlite" and place.database not in (None, "", ":memory:"):
        return place
    if backend == "postgresql":
        return place.set(drivername="postgresql+psycopg")
    raise UsageError(f"{without_password(place)}: {what}")


def without_password(place: URL) -> str:
    """Spell a URL without its password."""
    return place.render_as_string(hide_password=True)


def short_message(error: SQLAlchemyError) -> str:
    """Return what a database said, on one line and without the statement."""
    said = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return " ".join(str(said).split())[:200]


def _engine(place: URL) -> Engine:
    if place.get_backend_name() == "sqlite":
        engine = sa.create_engine(place, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    settings = {
        "connect_timeout": PG_TIMEOUT_S,
        "tcp_user_timeout": 1000 * PG_TIMEOUT_S,
        "keepalives_idle": PG_TIMEOUT_S,
        "options": f"{place.query.get('options', '')} -c synchronous_commit=on",
    }
    return sa.create_engine(place, connect_args=settings, pool_pre_ping=True)


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins, also before what changes tables
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("one_statement"):  # which reads what there is at one moment by itself
        return
    # a transaction that reads first and then writes would fail when another process wrote in between
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")


def writing(engine: Engine) -> Engine:
    """Return the same engine for transactions that write."""
    return engine.execution_options(writes=True)


def begin_write(engine: Engine) -> Any:
    """Begin a transaction that writes."""
    return writing(engine).begin()


def _refuse_foreign(connection: Connection, place: URL) -> None:
    """Refuse what is newer or another's."""
    tables = sa.inspect(connection).get_table_names()
    if VERSION_TABLE in tables:
        found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        if found not in _revisions():
            raise UsageError(
                f"{without_password(place)}: was written by a newer blemish (version {found}); "
                "upgrade blemish"
            )
    elif tables:
        raise UsageError(
            f"{without_password(place)}: holds another program's tables ({', '.join(sorted(tables)[:3])}); "
            "give an empty database"
        )


def _refuse_older(connection: Connection, place: URL) -> None:
    """Refuse what opening would change."""
    from alembic.script import ScriptDirectory

    newest = ScriptDirectory.from_config(_config()).get_current_head()
    found = None
    if VERSION_TABLE in sa.inspect(connection).get_table_names():
        found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    if found is None:
        raise UsageError(f"{without_password(place)}: holds no record; name the database of a station")
    if found != newest:
        raise UsageError(
            f"{without_password(place)}: is of an older blemish (version {found}, here {newest}); "
            "use the blemish that its station runs"
        )


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "blemish.record:migrations")
    return config


def _revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _upgrade(connection: Connection, revision: str = "head") -> None:
    from alembic import command

    config = _config()
    config.attributes |= {"connection": connection, "version_table": VERSION_TABLE}
    command.upgrade(config, revision)
