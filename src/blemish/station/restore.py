"""From a backup to a station's folder and record, which nothing is written over."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from blemish.core.errors import DataError, UsageError
from blemish.core.files import make_private_folder, temporary_for
from blemish.core.ownership import SERVE_LOCK_NAME, owned
from blemish.record import database, tables
from blemish.record.archive import Archive
from blemish.record.versions import FOLDER as VERSIONS
from blemish.station.backup import ARCHIVE, check, copy_rows, copy_small, read_file
from blemish.station.security import TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.station.backup import Backup


def restore(backup: Path, folder: Path, *, url: str | None = None) -> Backup:
    """Make a station's folder, and its record (None: a SQLite file in the folder), of a backup.

    The backup is checked first, and stays as it is. The record comes last. Nothing is written over: what was
    stopped is begun anew in an empty folder.
    Raises UsageError for a folder or a database that is used already, DataError for a damaged backup.
    """
    made = check(backup)
    _refuse_used(folder)
    record = folder / database.SQLITE_NAME
    make_private_folder(folder)
    with owned(folder, lock=SERVE_LOCK_NAME, option="--folder"):
        if url is not None:
            _open_empty(url, folder).dispose()
        here, there = Archive(backup / ARCHIVE), Archive(folder / ARCHIVE)
        for file in here.files():
            there.put(read_file(here, file.kind, file.hash), file.kind)
        with temporary_for(record, durable=True, mode=0o600) as part:
            shutil.copyfile(backup / database.SQLITE_NAME, part)
            copy = database.open_database(f"sqlite:///{part}", folder)  # as this version has it
            try:
                if url is not None:
                    _fill(copy, url, folder)
            finally:
                copy.dispose()
            copy_small(backup, folder)
        if url is not None:
            record.unlink()
    return made


def _refuse_used(folder: Path) -> None:
    """Refuse a folder with anything that a restore writes. Raises UsageError."""
    known = {database.SQLITE_NAME: "a record", TOKENS: "tokens", VERSIONS: "models", ARCHIVE: "an archive"}
    found = [what for name, what in known.items() if (folder / name).exists()]
    if found:
        raise UsageError(f"--folder {folder}: holds {' and '.join(found)}; restore into an empty folder")


def _open_empty(url: str, folder: Path) -> sa.Engine:
    """Open a database to be filled. Raises UsageError for one that holds a record, or cannot be opened."""
    target = database.open_database(url, folder)
    try:
        with target.begin() as connection:
            if connection.execute(sa.select(tables.rows.id).limit(1)).first() is not None:
                raise UsageError(
                    f"--database {database.without_password(target.url)}: holds a record; give an empty one"
                )
    except BaseException:
        target.dispose()
        raise
    return target


def _fill(copy: sa.Engine, url: str, folder: Path) -> None:
    """Fill an empty database with the rows of another one."""
    target = _open_empty(url, folder)  # looked at again: a station may have begun with it meanwhile
    try:
        copy_rows(copy, target)
    except SQLAlchemyError as error:
        raise DataError(
            f"--database: cannot be filled ({database.short_message(error)}); give another empty one"
        ) from error
    finally:
        target.dispose()
