"""The routes of models: what they are, new versions of them, and training."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from blemish.core.errors import ImageError, UsageError
from blemish.station.recalibration import PARTS
from blemish.station.routes.dependencies import REFUSALS, Here, zoned
from blemish.station.schemas import (
    AlarmAnswer,
    BucketAnswer,
    CalibrationAnswer,
    Digest,
    Id,
    ModelAnswer,
    model_answer_of,
)

if TYPE_CHECKING:
    from blemish.station.training_jobs import Training

router = APIRouter(prefix="/v1", responses=REFUSALS)

Name = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=r"^[\w .()+-]+$")]
"""What a person calls a model."""


class RecalibrationRequest(BaseModel):
    """How many of the newest parts a recalibration looks at."""

    parts: Annotated[int, Field(ge=1, le=100_000)] = PARTS


class TrainingRequest(BaseModel):
    """A model to train."""

    name: Name
    method: Annotated[str, StringConstraints(max_length=80)] = "metal"
    preset: Annotated[str, StringConstraints(max_length=80)] = "default"
    source: str | None = Field(None, description="a folder of `sources`; null: images are uploaded")


class TrainingAnswer(BaseModel):
    """A training: what was wanted, how far it is, and what became of it."""

    id: Id
    name: str
    method: str
    preset: str
    created: str
    state: str
    source: str | None
    images: int
    error: str | None
    model: Digest | None
    what: str | None
    share: float | None
    seconds_left: float | None


class TrainingChoices(BaseModel):
    """What can be trained here; no methods: torch is missing."""

    methods: dict[str, list[str]]
    sources: list[str]


# --- what they are, and how they do ---------------------------------------------------------------------


@router.get("/models", response_model=list[ModelAnswer])
def models(station: Here) -> list[ModelAnswer]:
    """List the models that are in use, then those that were."""
    answers = [model_answer_of(record, station) for record in station.store.models()]
    return sorted(answers, key=lambda model: not model.active)


@router.get("/models/{digest}/calibration", response_model=CalibrationAnswer)
def calibration(station: Here, digest: Digest) -> CalibrationAnswer:
    """Return what the calibration images scored: thresholds of all rates follow from it."""
    engine = station.engines.get(digest)
    known = engine and engine.model.detector.model_file.calibration
    if not known:
        raise HTTPException(404, f"model {digest}: is not in use here, or has no calibration")
    return CalibrationAnswer(scores=known.scores.tolist(), map_maxima=known.map_maxima.tolist())


@router.get("/alarms", response_model=list[AlarmAnswer])
def alarms(station: Here, model: Digest | None = None) -> list[AlarmAnswer]:
    """List the alarms, oldest first."""
    return [AlarmAnswer(**vars(alarm)) for alarm in station.store.alarms(model)]


@router.get("/summary", response_model=list[BucketAnswer])
def summary(
    station: Here,
    since: datetime,
    until: datetime,
    buckets: Annotated[int, Query(ge=1, le=500)] = 60,
    model: Digest | None = None,
) -> list[BucketAnswer]:
    """Sum up a time in spans of equal length: how many parts, how many rejected, how long, what scores."""
    spans = station.store.summary(since=zoned(since), until=zoned(until), buckets=buckets, model=model)
    return [BucketAnswer(**vars(span)) for span in spans]


# --- versions ----------------------------------------------------------------------------------------------


@router.post("/models/{digest}/recalibration", status_code=201, response_model=ModelAnswer)
def recalibrate(station: Here, digest: Digest, wanted: RecalibrationRequest) -> ModelAnswer:
    """Calibrate a model anew on the newest parts that were not called defects; the old version is kept."""
    return _model(station, station.recalibrate(digest, parts=wanted.parts))


@router.post("/models/{digest}/use", status_code=201, response_model=ModelAnswer)
def use(station: Here, digest: Digest) -> ModelAnswer:
    """Go on with another version of a model."""
    station.use(digest)
    return _model(station, digest)


# --- training ----------------------------------------------------------------------------------------------


@router.get("/trainings/choices", response_model=TrainingChoices)
def choices(station: Here) -> TrainingChoices:
    """Return what can be trained: methods with their presets, and folders of images."""
    try:
        from blemish.methods.registry import METHODS
    except ModuleNotFoundError:
        return TrainingChoices(methods={}, sources=[])
    methods = {name: list(method.presets) for name, method in METHODS.items()}
    return TrainingChoices(methods=methods, sources=station.trainings.sources())


@router.get("/trainings", response_model=list[TrainingAnswer])
def trainings(station: Here) -> list[TrainingAnswer]:
    """List the trainings, oldest first."""
    return [_training(station, job) for job in station.trainings.all()]


@router.post("/trainings", status_code=201, response_model=TrainingAnswer)
def create(station: Here, wanted: TrainingRequest) -> TrainingAnswer:
    """Begin a training; then upload good images, and start it."""
    known = choices(station).methods
    if not known:
        raise UsageError("training needs torch; pip install 'blemish[train]'")
    if wanted.preset not in known.get(wanted.method, ()):
        raise UsageError(f"{wanted.method} {wanted.preset}: there is no such method or preset")
    return _training(station, station.trainings.create(**wanted.model_dump()))


@router.get("/trainings/{id}", response_model=TrainingAnswer)
def training(station: Here, id: Id) -> TrainingAnswer:
    """Return a training and how far it is."""
    job = station.trainings.get(id)
    if job is None:
        raise HTTPException(404, f"training {id}: there is none")
    return _training(station, job)


@router.post(
    "/trainings/{id}/images",
    status_code=204,
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def add_image(request: Request, station: Here, id: Id) -> Response:
    """Add a good image: the file itself is the body."""
    from starlette.concurrency import run_in_threadpool

    data = await request.body()
    try:
        await run_in_threadpool(station.trainings.add_image, id, data)
    except ImageError as error:
        raise HTTPException(422, str(error)) from error
    return Response(status_code=204)


@router.post("/trainings/{id}/start", status_code=201, response_model=TrainingAnswer)
def start(station: Here, id: Id) -> TrainingAnswer:
    """Queue a training; one runs at a time."""
    return _training(station, station.trainings.start(id))


@router.post("/trainings/{id}/cancel", status_code=201, response_model=TrainingAnswer)
def cancel(station: Here, id: Id) -> TrainingAnswer:
    """Stop a training for good."""
    return _training(station, station.trainings.cancel(id))


def _model(station: Here, digest: str) -> ModelAnswer:
    return next(model_answer_of(r, station) for r in station.store.models() if r.digest == digest)


def _training(station: Here, job: Training) -> TrainingAnswer:
    said = station.trainings.progress(job.id)
    return TrainingAnswer(
        **vars(job),
        images=station.trainings.images(job.id),
        what=said.get("what"),
        share=1.0 if job.state == "done" else said.get("share"),
        seconds_left=said.get("seconds_left") if job.state == "running" else None,
    )
