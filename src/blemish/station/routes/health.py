"""The routes for what supervises the service: is it alive, can it inspect, what does it measure."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from blemish.station.routes.access import Public, Viewer
from blemish.station.routes.dependencies import StationDep

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
def alive(caller: Public) -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@router.get("/readyz")
def ready(caller: Public, station: StationDep) -> JSONResponse:
    """Say whether an image could be inspected now; and why not, to who has a token."""
    problem = station.problem()
    if problem and caller.role is None:  # it may name a database, or a model
        problem = "not ready"
    return JSONResponse({"status": problem or "ready"}, 503 if problem else 200)


@router.get("/metrics")
def metrics(caller: Viewer, request: Request) -> Response:
    """Return the meters in Prometheus' format."""
    meters = request.app.state.meters
    return Response(meters.text(), media_type=meters.content_type)
