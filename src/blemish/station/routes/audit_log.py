"""The route of the log of who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from blemish.station.routes.access import Engineer
from blemish.station.routes.dependencies import REFUSALS, StationDep
from blemish.station.schemas import EntryAnswer

router = APIRouter(prefix="/v1", responses=REFUSALS)


@router.get("/audit-log", response_model=list[EntryAnswer])
def audit_log(
    caller: Engineer,
    station: StationDep,
    before: Annotated[int | None, Query(ge=1, le=2**62, description="`number` of the last one seen")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> list[EntryAnswer]:
    """List who did what, newest first."""
    return [EntryAnswer(**vars(entry)) for entry in station.store.acts(before=before, limit=limit)]
