"""The routes of inspections: images in (`uploads`), answers out, verdicts, lists and tables."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from blemish.core.errors import ConflictError, DataError, ImageError, NotFoundError, UsageError
from blemish.record import table_export
from blemish.record.identifiers import time_of
from blemish.record.labels import Labels
from blemish.record.store import Verdict
from blemish.record.tables import Search
from blemish.station.answers import answer_of, answers_of, view_answer_of
from blemish.station.engine_jobs import Upload
from blemish.station.routes.access import Inspector, Judge, Viewer
from blemish.station.routes.dependencies import (
    REFUSALS,
    StationDep,
    check_login,
    find_inspection,
    with_zone,
)
from blemish.station.routes.uploads import NOTHING_SAID, UPLOADS, labels, read_upload
from blemish.station.schemas import (
    AnyInspection,
    Decision,
    Digest,
    Id,
    Inspections,
    Judgement,
    Key,
    Part,
    Problem,
    VerdictRequest,
    WaitingAnswer,
    WithdrawalRequest,
)

if TYPE_CHECKING:
    from blemish.record.store import Inspection
    from blemish.station.station import Station

WAITING = {"model": WaitingAnswer, "description": "Taken; it is recorded under this identifier later"}

router = APIRouter(prefix="/v1", responses=REFUSALS)


def filters(
    since: datetime | None = None,
    until: datetime | None = None,
    model: Digest | None = None,
    decision: Decision | None = None,
    part: Part | None = None,
    verdict: Judgement | None = None,
    unjudged: Annotated[bool, Query(description="only parts without a verdict")] = False,
    to_judge: Annotated[
        bool, Query(description="only parts rejected, in review or drawn, without a verdict")
    ] = False,
    text: Annotated[Part | None, Query(description="a fragment of part, file name or note")] = None,
    product: Part | None = None,
    line: Part | None = None,
    shift: Part | None = None,
    station: Annotated[Part | None, Query(description="the station's name")] = None,
) -> Search:
    """Take what a list or a table is restricted to."""
    return Search(
        since=since and with_zone(since),
        until=until and with_zone(until),
        model=model,
        decision=decision,
        part=part,
        verdict="none" if unjudged else verdict,
        to_judge=to_judge,
        text=text,
        product=product,
        line=line,
        shift=shift,
        station=station,
    )


Filters = Annotated[Search, Depends(filters)]


@router.post(
    "/inspections",
    status_code=201,
    response_model=AnyInspection,
    responses={202: WAITING, 413: {"model": Problem}},
    openapi_extra=UPLOADS,
)
async def inspect(
    caller: Inspector,
    request: Request,
    station: StationDep,
    part: Annotated[Part | None, Query(description="what you call the part")] = None,
    view: Annotated[
        Part | None, Query(description="which view of the part, of a model that has some")
    ] = None,
    model: Annotated[str | None, Query(description="a model's name or digest; the first one's")] = None,
    name: Annotated[Part | None, Query(description="what you call the file")] = None,
    said: Annotated[Labels, Depends(labels)] = NOTHING_SAID,
    idempotency_key: Annotated[Key | None, Header(description="sent again with it, it is one row")] = None,
) -> Any:
    """Score an image. The answer is given when the image, its map and its row are on disk.

    After the time limit the answer is 202 with the identifier under which it will be recorded. Of a part with
    several views the answer is that of the view; with the last one the part is decided.
    """
    asked = Upload(data=b"", source="api", name=name, part=part, view=view, key=idempotency_key)
    upload, chosen = await read_upload(request, asked)
    upload = replace(upload, labels=station.labelling.of(datetime.now(UTC), upload.labels.or_else(said)))
    engine = station.engine(chosen or model, upload.labels.product)
    taker = station.taker(engine)
    if upload.view is not None and taker is engine:
        raise UsageError(f"view {upload.view!r}: this model has no parts with several views; leave it out")
    if upload.key is None and taker is engine:
        taken = station.deliveries.submit(taker, upload)
    else:  # which is looked up in the record, or waits for a part that is being recorded
        taken = await run_in_threadpool(station.deliveries.submit, taker, upload)
    answer = asyncio.wrap_future(taken.answer)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it
    done, _ = await asyncio.wait([answer], timeout=request.app.state.time_limit)
    if not done:
        return _waiting(request, taken.id)
    inspection = answer.result()
    if inspection.error is not None:
        raise ImageError(inspection.error)
    if inspection.part_id is not None:
        return await run_in_threadpool(view_answer_of, station, inspection)
    return answer_of(inspection)


@router.get("/inspections", response_model=Inspections)
def find(
    caller: Viewer,
    station: StationDep,
    chosen: Filters,
    before: Annotated[Id | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Inspections:
    """List inspections, newest first."""
    found = station.store.search(chosen, before=before, limit=limit + 1)
    shown = found[:limit]
    return Inspections(
        items=answers_of(station, shown),
        next=shown[-1].id if len(found) > limit else None,
    )


@router.get("/inspections/{id}", response_model=AnyInspection, responses={202: WAITING})
def get(caller: Viewer, request: Request, station: StationDep, id: Id) -> Any:
    """Return one inspection with all of its verdicts; 202: it is not recorded yet."""
    if station.has_open(id) or station.parts.is_waiting(id):
        return _waiting(request, id)
    return _answer(station, find_inspection(station, id))


@router.post("/inspections/{id}/verdict", status_code=201, response_model=AnyInspection)
def judge(caller: Judge, station: StationDep, id: Id, verdict: VerdictRequest) -> AnyInspection:
    """Add a person's verdict; earlier ones are kept. None is older than its inspection.

    That of a view is one of its part.
    """
    check_login(caller, verdict.by)
    inspection = _judged(station, id)
    id = station.make_id(datetime.now(UTC))
    given = time_of(id) - timedelta(seconds=verdict.age_seconds)
    said = Verdict(
        id=id,
        inspection=inspection.id,
        time=max(inspection.time, given),
        verdict=verdict.verdict,
        note=verdict.note,
        reason=verdict.reason,
        by=caller.name or "",
        key=verdict.key,
    )
    detail = {"verdict": said.verdict, "reason": said.reason, "note": said.note}
    station.store.add_verdict(said, act=station.act(caller.name, "verdict", inspection.id, detail))
    return _answer(station, inspection)


@router.post("/inspections/{id}/withdrawal", status_code=201, response_model=AnyInspection)
def withdraw(caller: Judge, station: StationDep, id: Id, wanted: WithdrawalRequest) -> AnyInspection:
    """Take a verdict back: the one before it counts again. Both are kept."""
    check_login(caller, wanted.by)
    inspection = _judged(station, id)
    try:
        station.store.withdraw_verdict(
            inspection.id,
            wanted.verdict,
            time=datetime.now(UTC),
            by=caller.name or "",
            act=station.act(caller.name, "withdrawal", inspection.id, {"verdict": wanted.verdict}),
        )
    except DataError as error:
        raise NotFoundError(str(error)) from error
    return _answer(station, inspection)


@router.get("/export.csv", response_class=StreamingResponse, responses={200: {"content": {"text/csv": {}}}})
def export(caller: Viewer, station: StationDep, chosen: Filters) -> StreamingResponse:
    """Write inspections as a table, oldest first, each with the verdict that counts; sent as it is read."""
    pieces = table_export.csv_pieces(station.store.judged(chosen))
    first = next(pieces)  # what the record refuses is an answer, not a table that ends
    headers = {"Content-Disposition": 'attachment; filename="inspections.csv"'}
    return StreamingResponse(chain([first], pieces), media_type="text/csv; charset=utf-8", headers=headers)


# --- shared ---------------------------------------------------------------------------------------


def _waiting(request: Request, id: str) -> JSONResponse:
    root_path = request.scope.get("root_path", "")
    headers = {"Location": f"{root_path}/v1/inspections/{id}", "Retry-After": "1"}
    return JSONResponse(WaitingAnswer(id=id).model_dump(), 202, headers)


def _judged(station: Station, id: str) -> Inspection:
    """Return the inspection that a person judges: of a view that of its part, once it is decided."""
    inspection = find_inspection(station, id)
    if inspection.part_id is None:
        return inspection
    part = station.store.get(inspection.part_id)
    if part is None:
        raise ConflictError(f"inspection {id}: its part waits for other views; judge it when it is decided")
    return part


def _answer(station: Station, inspection: Inspection) -> AnyInspection:
    return answers_of(station, [inspection])[0]
