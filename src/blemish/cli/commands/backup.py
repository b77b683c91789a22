"""`blemish backup`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.cli.options import StationOptions
from blemish.cli.parser import parse
from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from blemish.station.backup import Backup


@dataclass(frozen=True, kw_only=True)
class BackupOptions(StationOptions):
    """Copy the record and the files of a station, which may be running, into a folder; or check a backup."""

    to: Path
    """The folder of the backup, new or that of an earlier backup, which is brought up to date."""
    database: str | None = None
    """The record's address, as for `blemish serve`."""
    station: str | None = None
    """The name of the station whose files are in the folder, where many share a record."""
    check: bool = False
    """Copy nothing: read the backup that is there, and check every file by its hash."""


def backup(arguments: list[str]) -> int:
    """Run `blemish backup`."""
    options = parse("backup", BackupOptions, arguments)
    from blemish.record.database import refuse_password
    from blemish.station.backup import back_up, check

    refuse_password(options.database)
    if options.to.resolve() == options.folder.resolve():
        raise UsageError(f"--to {options.to}: is the station's own folder; choose another")
    if options.check:
        return tell(options.to, check(options.to), "is whole")
    made = back_up(options.folder, options.to, url=options.database, station=options.station)
    return tell(options.to, made, "is made")


def tell(place: Path, made: Backup, what: str) -> int:
    """Say what a backup holds; returns the exit code."""
    size = f"{made.files} files of {made.bytes / 1e6:.1f} MB"
    print(f"{place}: {what}: {made.inspections} inspections, {size}")
    for name in made.damaged:
        print(f"{name}: the station does not have it any more as it was recorded; the backup lacks it")
    for name in made.kept:
        print(
            f"{name}: the station does not have it any more as it was recorded; "
            "the backup keeps the copy of an earlier one"
        )
    return 1 if made.damaged or made.kept else 0
