"""`blemish verify`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from blemish.cli.options import StationOptions
from blemish.cli.parser import parse
from blemish.core.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(StationOptions):
    """Check that nobody has changed the station's audit log: who did what, and when."""

    database: str | None = None
    """The record's address, as given to `blemish serve`; default a SQLite file in the folder."""
    head: str | None = None
    """NUMBER:HASH, as an earlier check printed it: finds also an end that was removed."""


def verify(arguments: list[str]) -> int:
    """Run `blemish verify`; the exit code is 1 where the log was changed."""
    options = parse("verify", VerifyOptions, arguments)
    from blemish.record.database import SQLITE_NAME, refuse_password
    from blemish.record.store import Store

    refuse_password(options.database)
    head = None if options.head is None else _head_of(options.head)
    if options.database is None and not (options.folder / SQLITE_NAME).is_file():
        raise UsageError(f"--folder {options.folder}: holds no record; name the folder of a station")
    store = Store.open(options.database, options.folder)
    try:
        number, last = store.check_log(head)
    except DataError as error:
        print(error)
        return 1
    finally:
        store.close()
    print(f"audit log: {number} entries, none was changed; for the next check: --head {number}:{last}")
    return 0


def _head_of(text: str) -> tuple[int, str]:
    found = re.fullmatch("([0-9]{1,18}):([0-9a-f]{64})", text)
    if found is None:
        raise UsageError(f"--head {text}: must be NUMBER:HASH, as an earlier check printed it")
    return int(found[1]), found[2]
