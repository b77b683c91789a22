"""The service: HTTP in, JSON and pictures out. Routes are thin; the work is the engine's and the store's."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from blemish.core.errors import BlemishError
from blemish.station.errors import answer_nobody, handle_error, handle_value
from blemish.station.guard import Guard
from blemish.station.prometheus import Meters
from blemish.station.proxy import Place, RootPath
from blemish.station.routes import (
    account,
    audit_log,
    health,
    inspections,
    models,
    pages,
    pictures,
    quality,
    session,
    trainings,
)
from blemish.station.routes.access import RouteRoles
from blemish.station.sessions import Sessions
from blemish.station.token_changes import TokenChanges
from blemish.station.waiting_room import MAX_WAITING_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from blemish.station.oidc import Provider
    from blemish.station.security import Tokens
    from blemish.station.station import Station

ROUTERS = (
    inspections.router,
    pictures.router,
    models.router,
    quality.router,
    trainings.router,
    audit_log.router,
    session.router,
    account.router,
    health.router,
    pages.router,
)


def create(
    station: Station,
    *,
    tokens: Tokens,
    place: Place | None = None,
    provider: Provider | None = None,
    max_bytes: int = 64 * 2**20,
    time_limit: float = 30.0,
) -> FastAPI:
    """Make the application.

    `place`: where it is found, None: by any name; `provider`: of the plant's accounts, None: tokens alone;
    `time_limit` in seconds.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(station.close)

    app = FastAPI(
        title="blemish station",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        routes=[route for router in ROUTERS for route in router.routes],  # to include them makes each anew
    )
    app.state.station, app.state.tokens, app.state.time_limit = station, tokens, time_limit
    app.state.provider = provider
    app.state.sessions = Sessions(
        tokens, station.folder, station=station.labelling.usual.station, accounts=provider is not None
    )
    app.state.meters = Meters(station)
    station.noticing.append(TokenChanges(station, tokens))
    app.add_exception_handler(BlemishError, handle_error)
    app.add_exception_handler(OSError, handle_error)
    app.add_exception_handler(RequestValidationError, handle_value)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    _add_guards(app, place or Place(), max_bytes)
    return app


def _add_guards(app: FastAPI, place: Place, max_bytes: int) -> None:
    """Add what each request passes before its route; what is added last sees it first."""
    app.add_middleware(
        Guard,
        sessions=app.state.sessions,
        hosts=place.hosts,
        names=place.names,
        max_bytes=max_bytes,
        max_held=MAX_WAITING_BYTES,
        role_for=RouteRoles(ROUTERS),
        on_refusal=app.state.meters.refuse,
    )
    if place.root_path:
        app.add_middleware(RootPath, root_path=place.root_path)
    if place.trusted:  # the outermost: what follows sees the client, not the proxy
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(place.trusted))
