"""The service: HTTP in, JSON and pictures out. Routes are thin; the work is the engine's and the store's."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from blemish.core.errors import BlemishError, DataError
from blemish.record.store import StoreError
from blemish.station.engine import WAITING_BYTES
from blemish.station.prometheus import Meters
from blemish.station.routes import inspections, models
from blemish.station.security import COOKIE, Guard, Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from blemish.station.station import Station

STATIC = resources.files("blemish.station") / "web"


def create(
    station: Station,
    *,
    tokens: Tokens,
    hosts: Sequence[str] = (),
    max_bytes: int = 64 * 2**20,
    time_limit: float = 30.0,
) -> FastAPI:
    """Make the application. `hosts` are the names it answers to (none: any), `time_limit` in seconds."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(station.close)

    app = FastAPI(title="blemish station", version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.station, app.state.tokens, app.state.time_limit = station, tokens, time_limit
    meters = Meters(station)
    app.include_router(inspections.router)
    app.include_router(models.router)

    @app.get("/healthz", include_in_schema=False)
    def healthy() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", include_in_schema=False)
    def ready() -> JSONResponse:
        problem = station.problem()
        return JSONResponse({"status": problem or "ready"}, 503 if problem else 200)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(meters.text(), media_type=meters.content_type)

    @app.post("/v1/session", status_code=204, include_in_schema=False)
    async def log_in(request: Request) -> Response:
        secret = (await request.body()).decode("utf-8", "replace")
        if tokens.of(secret) is None:
            raise HTTPException(401, "no such token")
        response = Response(status_code=204)
        response.set_cookie(COOKIE, secret, httponly=True, samesite="strict", max_age=12 * 3600)
        return response

    @app.delete("/v1/session", status_code=204, include_in_schema=False)
    def log_out() -> Response:
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    @app.get("/v1/session", include_in_schema=False)
    def session(request: Request) -> dict[str, str | None]:
        token = request.scope.get("token")
        if not tokens.known:
            return {"name": None, "role": "operator"}
        return {"name": token.name, "role": token.role} if token else {"name": None, "role": None}

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(str(STATIC / "index.html"), headers={"Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    def documentation() -> FileResponse:
        return FileResponse(str(STATIC / "docs.html"))

    app.mount("/static", StaticFiles(directory=str(STATIC)))
    app.add_exception_handler(BlemishError, _refused)
    app.add_exception_handler(OSError, _failed)
    public = ("/", "/healthz", "/readyz", "/v1/session")
    app.add_middleware(
        Guard, tokens=tokens, hosts=hosts, max_bytes=max_bytes, max_held=WAITING_BYTES, public=public
    )
    return app


async def _refused(_: Request, error: Exception) -> JSONResponse:
    status = 503 if isinstance(error, StoreError) else 409 if isinstance(error, DataError) else 422
    return JSONResponse({"detail": str(error)}, status)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)  # its text would name a file of this machine
    return JSONResponse({"detail": f"the disk refuses: {error.strerror}"}, 503)
