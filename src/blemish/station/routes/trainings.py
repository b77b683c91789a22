"""The routes of trainings: what can be trained, images in, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, StringConstraints
from starlette.concurrency import run_in_threadpool

from blemish.core.errors import ConflictError, UsageError
from blemish.station import method_choices
from blemish.station.routes.access import Engineer, Viewer
from blemish.station.routes.dependencies import REFUSALS, StationDep
from blemish.station.schemas import Digest, Id

if TYPE_CHECKING:
    from blemish.station.station import Station
    from blemish.station.training_jobs import Training

router = APIRouter(prefix="/v1", responses=REFUSALS)

Name = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=r"^[\w .()+-]+$")]
"""What a person calls a model."""


class TrainingRequest(BaseModel):
    """A model to train."""

    name: Name
    method: Annotated[str, StringConstraints(max_length=80)] = "auto"
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


@router.get("/trainings/choices", response_model=TrainingChoices)
def choices(caller: Viewer, station: StationDep) -> TrainingChoices:
    """Return what can be trained: methods with their presets, and folders of images."""
    methods = method_choices.presets()
    return TrainingChoices(methods=methods, sources=station.trainings.sources() if methods else [])


@router.get("/trainings", response_model=list[TrainingAnswer])
def trainings(caller: Viewer, station: StationDep) -> list[TrainingAnswer]:
    """List the trainings, oldest first."""
    return [_training(station, job) for job in station.trainings.all()]


@router.post("/trainings", status_code=201, response_model=TrainingAnswer)
def create(caller: Engineer, station: StationDep, wanted: TrainingRequest) -> TrainingAnswer:
    """Begin a training; then upload good images, and start it."""
    presets = method_choices.presets()
    if not presets:
        raise ConflictError("training needs torch; pip install 'blemish[train]'")
    if "+" in wanted.method:
        method_choices.check_combination(wanted.method, wanted.preset)  # which says which member there is not
    elif wanted.preset not in presets.get(wanted.method, ()):
        raise UsageError(f"{wanted.method} {wanted.preset}: there is no such method or preset")
    created = station.trainings.create(**wanted.model_dump())
    station.store.note(station.act(caller.name, "training", created.id, wanted.model_dump()))
    return _training(station, created)


@router.get("/trainings/{id}", response_model=TrainingAnswer)
def training(caller: Viewer, station: StationDep, id: Id) -> TrainingAnswer:
    """Return a training and how far it is."""
    return _training(station, station.trainings.get(id))


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
async def add_image(caller: Engineer, request: Request, station: StationDep, id: Id) -> Response:
    """Add a good image: the file itself is the body."""
    data = await request.body()
    await run_in_threadpool(station.trainings.add_image, id, data)
    return Response(status_code=204)


@router.post("/trainings/{id}/start", status_code=201, response_model=TrainingAnswer)
def start(caller: Engineer, station: StationDep, id: Id) -> TrainingAnswer:
    """Queue a training; one runs at a time."""
    started = station.trainings.start(id)
    images = station.trainings.images(id)
    station.store.note(station.act(caller.name, "training started", id, {"images": images}))
    return _training(station, started)


@router.post("/trainings/{id}/cancel", status_code=201, response_model=TrainingAnswer)
def cancel(caller: Engineer, station: StationDep, id: Id) -> TrainingAnswer:
    """Stop a training for good."""
    cancelled = station.trainings.cancel(id)
    station.store.note(station.act(caller.name, "training cancelled", id))
    return _training(station, cancelled)


def _training(station: Station, job: Training) -> TrainingAnswer:
    progress = station.trainings.progress(job.id)
    return TrainingAnswer(
        **vars(job),
        images=station.trainings.images(job.id),
        what=progress.get("what"),
        share=1.0 if job.state == "done" else progress.get("share"),
        seconds_left=progress.get("seconds_left") if job.state == "running" else None,
    )
