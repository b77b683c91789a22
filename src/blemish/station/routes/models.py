"""The routes of models: what they are, how they do, and new versions of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from blemish.core.errors import NotFoundError, UsageError
from blemish.images.roi import Roi, roi_of_polygons
from blemish.station.answers import model_answer_of
from blemish.station.model_schemas import (
    AcknowledgementRequest,
    AlarmAnswer,
    AnyModel,
    CalibrationAnswer,
    ModelAnswer,
)
from blemish.station.recalibration import PARTS
from blemish.station.routes.access import Engineer, Judge, Viewer
from blemish.station.routes.dependencies import REFUSALS, StationDep, check_login, with_zone
from blemish.station.schemas import BucketAnswer, Digest, Id

router = APIRouter(prefix="/v1", responses=REFUSALS)
Side = Annotated[int, Field(ge=16, le=4096)]
Corner = tuple[Annotated[float, Field(ge=-4096, le=8192)], Annotated[float, Field(ge=-4096, le=8192)]]
Polygon = Annotated[list[Corner], Field(min_length=3, max_length=1000)]


class RegionRequest(BaseModel):
    """Where images count: inside of any of the polygons, in pixels of an image of this width and height."""

    size: tuple[Side, Side]
    polygons: Annotated[list[Polygon], Field(min_length=1, max_length=100)]


class RecalibrationRequest(BaseModel):
    """How many of the newest parts a recalibration looks at, and where images count from then on."""

    parts: Annotated[int, Field(ge=1, le=100_000)] = PARTS
    region: RegionRequest | None = None
    """None: where they did before."""


# --- what they are, and how they do ---------------------------------------------------------------------


@router.get("/models", response_model=list[AnyModel])
def models(caller: Viewer, station: StationDep) -> list[ModelAnswer]:
    """List the models that are in use, then those that were."""
    answers = [model_answer_of(record, station) for record in station.store.models()]
    return sorted(answers, key=lambda model: not model.active)


@router.get("/models/{digest}/calibration", response_model=CalibrationAnswer)
def calibration(caller: Viewer, station: StationDep, digest: Digest) -> CalibrationAnswer:
    """Return what the calibration images scored: thresholds of all rates follow from it."""
    engine = station.engines.get(digest)
    known = engine and engine.model.detector.model_file.calibration
    if not engine or not known:
        raise NotFoundError(f"model {digest}: is not in use here, or has no calibration")
    counting = engine.model.detector.model_file.counting
    return CalibrationAnswer(
        scores=known.scores.tolist(),
        map_maxima=known.map_maxima.tolist(),
        min_area_px=counting.min_area_px,
        min_length_px=counting.min_length_px,
    )


@router.get("/alarms", response_model=list[AlarmAnswer])
def alarms(caller: Viewer, station: StationDep, model: Digest | None = None) -> list[AlarmAnswer]:
    """List the alarms, oldest first."""
    return [AlarmAnswer(**vars(alarm)) for alarm in station.following.alarms(model)]


@router.post("/alarms/{id}/acknowledgement", status_code=201, response_model=AlarmAnswer)
def acknowledge(caller: Judge, station: StationDep, id: Id, wanted: AcknowledgementRequest) -> AlarmAnswer:
    """Say that an alarm was seen to, by whom, with a note; the first one who does is kept."""
    check_login(caller, wanted.by if caller.name else None)
    by = caller.name or wanted.by
    if not by:
        raise UsageError("say who acknowledges the alarm: give `by`")
    typed = {} if caller.name else {"by": by}  # anybody may type any name: it is not who did it
    act = station.act(caller.name, "acknowledgement", id, {"note": wanted.note} | typed)
    return AlarmAnswer(**vars(station.following.acknowledge(id, by=by, note=wanted.note, act=act)))


@router.get("/summary", response_model=list[BucketAnswer])
def summary(
    caller: Viewer,
    station: StationDep,
    since: datetime,
    until: datetime,
    buckets: Annotated[int, Query(ge=1, le=500)] = 60,
    model: Digest | None = None,
) -> list[BucketAnswer]:
    """Sum up a time in spans of equal length: how many parts, how many rejected, how long, what scores."""
    spans = station.store.summary(
        since=with_zone(since), until=with_zone(until), buckets=buckets, model=model
    )
    return [BucketAnswer(**vars(span)) for span in spans]


# --- versions ----------------------------------------------------------------------------------------------


@router.post("/models/{digest}/recalibration", status_code=201, response_model=AnyModel)
def recalibrate(
    caller: Engineer, station: StationDep, digest: Digest, wanted: RecalibrationRequest
) -> ModelAnswer:
    """Calibrate a model anew on the newest parts that were not called defects; the old version is kept.

    With a region the new version counts inside of it alone, and the parts are scored anew for that.
    """
    region = wanted.region and _region_of(wanted.region)
    new = station.recalibrate(digest, parts=wanted.parts, region=region)
    counts = {"counts": station.engine(new).model.detector.model_file.counting.describe()} if region else {}
    detail = {"made": new, "parts": wanted.parts} | counts
    station.store.note(station.act(caller.name, "recalibration", digest, detail))
    return _model(station, new)


@router.post("/models/{digest}/use", status_code=201, response_model=AnyModel)
def use(caller: Engineer, station: StationDep, digest: Digest) -> ModelAnswer:
    """Go on with another version of a model."""
    station.use(digest)
    station.store.note(station.act(caller.name, "use", digest))
    return _model(station, digest)


def _region_of(given: RegionRequest) -> Roi:
    """Draw what a request says. Raises UsageError for a region that leaves next to nothing."""
    try:
        return roi_of_polygons(given.size, given.polygons, name="region")
    except UsageError as error:
        raise UsageError(str(error).removeprefix("--roi ")) from error


def _model(station: StationDep, digest: str) -> ModelAnswer:
    return next(model_answer_of(r, station) for r in station.store.models() if r.digest == digest)
