"""Backups of a station: its record as of one moment, and every file that the record names.

    backup/station.db    backup/archive/...    backup/models/...    backup/tokens.json    backup/backup.json

The station goes on meanwhile. The rows are those of one transaction, whatever the database is; in a backup
they always lie in a SQLite file. Every image and map is checked by its SHA-256 when it is read. `backup.json`
is written last: a folder without it is no finished backup.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, get_args

import sqlalchemy as sa

from blemish.core.errors import DataError, UsageError
from blemish.core.files import make_folder, make_private_folder, temporary_for, write_whole
from blemish.record import database, tables
from blemish.record.archive import Archive, Kind
from blemish.record.identifiers import milliseconds
from blemish.record.versions import FILE as INDEX
from blemish.record.versions import FOLDER as VERSIONS
from blemish.station.security import TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DONE = "backup.json"
ARCHIVE = "archive"
KINDS: tuple[Kind, ...] = get_args(Kind)
_BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What is in a backup."""

    time: str
    """When its rows were read (ISO 8601, UTC)."""
    blemish: str
    """The version that made it."""
    inspections: int
    files: int
    """Images and maps."""
    bytes: int
    """Of the images and maps."""
    station: str | None = None
    """The station whose files these are, where many share the record; None: of all parts."""
    damaged: tuple[str, ...] = ()
    """What the record names and the station had no more, or no more as it was recorded; it is not here."""
    kept: tuple[str, ...] = ()
    """What the station had no more either, and an earlier backup has left here; it is among the files."""


def back_up(folder: Path, to: Path, *, url: str | None = None, station: str | None = None) -> Backup:
    """Copy the record (None: the SQLite file in `folder`) and the files of a station, which may be running.

    `station`: the name of the one whose files are in the folder, where many share the record. A backup that
    is there already is brought up to date: what it has is checked and not written again.
    Raises UsageError for a record that is not there, or that this version would change by opening it.
    """
    source = database.open_database(url, folder, as_it_is=True)
    make_private_folder(to)
    (to / DONE).unlink(missing_ok=True)
    here, there = Archive(folder / ARCHIVE), Archive(to / ARCHIVE)
    time = datetime.now(UTC)
    try:
        with temporary_for(to / database.SQLITE_NAME, durable=True, mode=0o600) as part:
            copy = database.open_database(f"sqlite:///{part}", to)
            try:
                copy_rows(source, copy)
                made = _copy_files(copy, source, here, there, time, station)
            finally:
                copy.dispose()  # which leaves one file, without a log beside it
    finally:
        source.dispose()
    copy_small(folder, to)
    write_whole(to / DONE, json.dumps(asdict(made), indent=2) + "\n", durable=True)
    return made


def check(backup: Path) -> Backup:
    """Read a whole backup: its database, and each file by its hash. Raises DataError for what is wrong."""
    made = _described(backup)
    file = backup / database.SQLITE_NAME
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as opened:
            faults = [line for (line,) in opened.execute("PRAGMA integrity_check")]
            if faults != ["ok"] or opened.execute("PRAGMA foreign_key_check").fetchone():
                raise DataError(f"{file}: is damaged ({faults[0]}); take another backup")
            (rows,) = opened.execute("SELECT count(*) FROM inspections").fetchone()
            named: list[tuple[Kind, str]] = [
                (kind, hash)
                for kind in KINDS
                for (hash,) in opened.execute(_NAMED.format(kind), [made.station])
            ]
    except sqlite3.Error as error:
        raise DataError(f"{file}: is damaged ({error}); take another backup") from error
    if rows != made.inspections or len(named) != made.files + len(made.damaged):
        raise DataError(f"{file}: is not the one that {DONE} tells of; take another backup")
    archive = Archive(backup / ARCHIVE)
    for kind, hash in named:
        if f"{kind} {hash}" not in made.damaged:
            read_file(archive, kind, hash)
    return made


_NAMED = (
    "SELECT DISTINCT {0} FROM inspections WHERE files_removed IS NULL AND {0} IS NOT NULL "
    "AND coalesce(?1, station, '') = coalesce(station, '')"
)
"""With the name of the station, or NULL for all."""


def _described(backup: Path) -> Backup:
    file = backup / DONE
    try:
        known = json.loads(file.read_text())
        return Backup(**known | {"damaged": tuple(known["damaged"]), "kept": tuple(known.get("kept", ()))})
    except FileNotFoundError as error:
        raise UsageError(f"{backup}: is no finished backup; it has no {DONE}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: is damaged ({error}); take another backup") from error


def copy_rows(source: sa.Engine, target: sa.Engine) -> None:
    """Copy all rows of all tables, as of one moment."""
    if source.dialect.name == "postgresql":
        source = source.execution_options(isolation_level="REPEATABLE READ")
    with source.begin() as reads, database.begin_write(target) as writes:
        for table in reversed(tables.metadata.sorted_tables):  # what a new database begins with
            if writes.execute(sa.select(table).limit(1)).first() is not None:
                writes.execute(sa.delete(table))
        for table in tables.metadata.sorted_tables:
            found = reads.execute(sa.select(table), execution_options={"yield_per": _BATCH})
            for rows in found.mappings().partitions():
                writes.execute(sa.insert(table), [dict(row) for row in rows])
            if writes.dialect.name == "postgresql":
                _go_on_counting(writes, table)


def _go_on_counting(connection: sa.Connection, table: sa.Table) -> None:
    """Let PostgreSQL number the next row behind those that came with their numbers."""
    column = table.autoincrement_column
    if column is None:
        return
    last = connection.execute(sa.select(sa.func.max(column))).scalar()
    if last is not None:
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(sa.select(sa.func.setval(sequence, last)))


def _copy_files(
    copy: sa.Engine, source: sa.Engine, here: Archive, there: Archive, time: datetime, station: str | None
) -> Backup:
    """Copy what the rows of the copy name, and remove what they do not; returns what is there then."""
    whole: set[tuple[Kind, str]] = set()
    damaged, kept, size = [], [], 0
    for kind, hash in list(_named(copy, station)):
        data = _whole(here, kind, hash)
        if data is not None:
            there.put(data, kind)
        elif not _is_named(source, kind, hash):  # it was removed to make room since the rows were read
            _forget(copy, kind, hash, time)
            continue
        else:  # the station has lost it: the copy of an earlier backup is the last one
            data = _whole(there, kind, hash)
            (damaged if data is None else kept).append(f"{kind} {hash}")
        if data is not None:
            whole.add((kind, hash))
            size += len(data)
    for file in list(there.files()):
        if (file.kind, file.hash) not in whole:
            there.delete(file.hash, file.kind)
    with copy.begin() as connection:
        number = connection.execute(sa.select(sa.func.count()).select_from(tables.inspections)).scalar_one()
    return Backup(
        time=time.isoformat(timespec="seconds"),
        blemish=version("blemish"),
        inspections=number,
        files=len(whole),
        bytes=size,
        station=station,
        damaged=tuple(damaged),
        kept=tuple(kept),
    )


def _named(engine: sa.Engine, station: str | None) -> Iterator[tuple[Kind, str]]:
    with engine.begin() as connection:
        for kind in KINDS:
            column = tables.rows[kind]
            query = sa.select(column).where(column.is_not(None), tables.rows.files_removed.is_(None))
            if station is not None:
                query = query.where(tables.rows.station == station)
            for (hash,) in connection.execute(query.distinct(), execution_options={"yield_per": _BATCH}):
                yield kind, hash


def _is_named(engine: sa.Engine, kind: Kind, hash: str) -> bool:
    named = sa.select(tables.rows.id).where(tables.rows[kind] == hash, tables.rows.files_removed.is_(None))
    with engine.begin() as connection:
        return connection.execute(named.limit(1)).first() is not None


def _forget(engine: sa.Engine, kind: Kind, hash: str, time: datetime) -> None:
    of = sa.update(tables.inspections).where(tables.rows[kind] == hash, tables.rows.files_removed.is_(None))
    with database.begin_write(engine) as connection:
        connection.execute(of.values(files_removed=milliseconds(time)))


def read_file(archive: Archive, kind: Kind, hash: str) -> bytes:
    """Return a file's bytes. Raises DataError for one that is missing or damaged."""
    try:
        return archive.read(hash, kind)
    except FileNotFoundError as error:
        raise DataError(f"{archive.folder}: {kind} {hash} is missing") from error


def _whole(archive: Archive, kind: Kind, hash: str) -> bytes | None:
    """Return a file's bytes; None: it is missing or damaged."""
    try:
        return read_file(archive, kind, hash)
    except DataError:
        return None


def copy_small(source: Path, target: Path) -> None:
    """Copy what a station keeps beside record and archive: versions of models, and tokens."""
    if (source / VERSIONS).is_dir():
        make_folder(target / VERSIONS)
        while not _copy_versions(source / VERSIONS, target / VERSIONS):
            pass
    if (source / TOKENS).exists():
        _copy(source / TOKENS, target / TOKENS)


def _copy_versions(source: Path, target: Path) -> bool:
    """Copy versions of models, and last the index that was read first: what it names is in the copy.

    Returns False, without an index, where a version that it names was removed meanwhile.
    """
    index = _index_of(source)
    for file in sorted(source.iterdir()):
        if file.name == INDEX or file.name.endswith(".tmp"):
            continue
        try:
            _copy(file, target / file.name)
        except FileNotFoundError:
            version = file.name.partition(".")[0]  # its digest, also in the name of its parts' calibration
            if version in _versions_of(_index_of(source)):
                raise
            if version in _versions_of(index):
                return False
    if index is not None:
        write_whole(target / INDEX, index, durable=True, mode=0o600)
    return True


def _index_of(versions: Path) -> bytes | None:
    try:
        return (versions / INDEX).read_bytes()
    except FileNotFoundError:  # nothing was made there yet
        return None


def _versions_of(index: bytes | None) -> set[str]:
    return set() if index is None else set(json.loads(index)["files"])


def _copy(source: Path, target: Path) -> None:
    with temporary_for(target, durable=True, mode=0o600) as part:
        shutil.copyfile(source, part)
