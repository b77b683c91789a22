"""What the routes share: the station a request is for, and how refusals look."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Request

from blemish.core.errors import ConflictError, NotFoundError
from blemish.record.store import Inspection
from blemish.station.schemas import Problem
from blemish.station.security import Caller
from blemish.station.station import Station

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 409, 422, 503)
}


def station_of(request: Request) -> Station:
    """Return the station that a request is for."""
    return request.app.state.station


async def _station(request: Request) -> Station:
    """Return the station, without a thread: a plain function would be handed to one."""
    return station_of(request)


StationDep = Annotated[Station, Depends(_station)]


def with_zone(time: datetime) -> datetime:
    """Take a time without a zone as UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def check_login(caller: Caller, given: str | None) -> None:
    """Refuse what was said under one login and is sent under another. Raises ConflictError."""
    if given is not None and given != (caller.name or ""):
        who = f"{caller.name} is" if caller.name else "nobody is"
        raise ConflictError(f"this was said under another login; {who} logged in")


def find_inspection(station: Station, id: str) -> Inspection:
    """Return an inspection. Raises NotFoundError where there is none of that identifier."""
    inspection = station.store.get(id)
    if inspection is None:
        raise NotFoundError(f"inspection {id}: there is none")
    return inspection
