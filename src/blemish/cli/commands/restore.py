"""`blemish restore`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blemish.cli.commands.backup import tell
from blemish.cli.options import StationOptions
from blemish.cli.parser import parse


@dataclass(frozen=True, kw_only=True)
class RestoreOptions(StationOptions):
    """Make the folder and the record of a station from a backup, which is checked first."""

    backup: Path
    """The folder of the backup."""
    database: str | None = None
    """An empty database to fill, as for `blemish serve`; default a SQLite file in the folder."""


def restore(arguments: list[str]) -> int:
    """Run `blemish restore`."""
    options = parse("restore", RestoreOptions, arguments)
    from blemish.record.database import refuse_password
    from blemish.station.restore import restore

    refuse_password(options.database)
    made = restore(options.backup, options.folder, url=options.database)
    return tell(options.folder, made, f"is restored as of {made.time}")
