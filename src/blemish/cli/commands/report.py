"""`blemish report`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blemish.cli.options import StationOptions
from blemish.cli.parser import parse
from blemish.core.errors import UsageError
from blemish.core.files import write_whole


@dataclass(frozen=True, kw_only=True)
class ReportOptions(StationOptions):
    """Write the shift report of a station, which may be running, as PDF."""

    since: str
    """When the time begins, as 2026-03-01T06:00; UTC, or with a zone as 2026-03-01T06:00+01:00."""
    until: str | None = None
    """When it ends; default now."""
    product: str | None = None
    """This product alone."""
    line: str | None = None
    """This line alone."""
    shift: str | None = None
    """This shift alone."""
    station: str | None = None
    """This station's parts alone, where many share a record."""
    database: str | None = None
    """The record's address, as for `blemish serve`."""
    out: Path = Path("shift-report.pdf")
    """The file to write; one that is there is replaced."""


def report(arguments: list[str]) -> int:
    """Run `blemish report`."""
    options = parse("report", ReportOptions, arguments)
    from blemish.record.database import open_database, refuse_password
    from blemish.record.store import Store
    from blemish.record.tables import Search
    from blemish.station.report_pdf import report_pdf
    from blemish.station.shift_report import shift_report

    wanted = Search(
        since=_time_of("--since", options.since),
        until=None if options.until is None else _time_of("--until", options.until),
        product=options.product,
        line=options.line,
        shift=options.shift,
        station=options.station,
    )
    refuse_password(options.database)
    now = datetime.now(UTC)
    store = Store(open_database(options.database, options.folder, as_it_is=True))
    try:
        said = shift_report(store, wanted, now=now, by=None)
    finally:
        store.close()
    write_whole(options.out, report_pdf(said, now=now), mode=0o600)
    print(f"{options.out}: {said.time}, {said.sections[0].title}")
    return 0


def _time_of(option: str, text: str) -> datetime:
    """Read a time; one without a zone is UTC. Raises UsageError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: must be a time such as 2026-03-01T06:00") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
