"""The routes of a browser's session: it begins with a token, and ends at the log-out."""

from __future__ import annotations

from typing import TypedDict

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from blemish.station.guard import cookie_of
from blemish.station.routes.access import Public
from blemish.station.routes.dependencies import station_of
from blemish.station.security import COOKIE, Token, Unauthorized
from blemish.station.sessions import SESSION_HOURS, Sessions

router = APIRouter(prefix="/v1", include_in_schema=False)


class CookiePlace(TypedDict):
    """Where a cookie holds."""

    path: str
    secure: bool


@router.get("/session")
def session(caller: Public, request: Request) -> dict[str, str | None]:
    """Return who asks, with which role, and the name of the station for those who have one."""
    known: dict[str, str | None] = {"name": caller.name, "role": caller.role}
    station = sessions_of(request).station
    return known | {"station": station} if caller.role and station else known


@router.post("/session", status_code=204)
async def log_in(caller: Public, request: Request) -> Response:
    """Begin a session with the token of the body. Raises Unauthorized for one that is not known."""
    secret = (await request.body()).decode("utf-8", "replace")
    token = request.app.state.tokens.of(secret)
    if token is None:
        raise Unauthorized("no such token")
    begun = await run_in_threadpool(_begin, request, token)
    response = Response(status_code=204)
    keep_session(request, response, begun)
    return response


@router.delete("/session", status_code=204)
def log_out(caller: Public, request: Request) -> Response:
    """End the session, and forget the cookie."""
    secret = cookie_of(request.headers)
    if secret is not None and caller.name is not None:
        sessions_of(request).end(secret)
        station = station_of(request)
        station.store.note(station.act(caller.name, "log-out"))
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", **cookie_place(request))
    return response


def sessions_of(request: Request) -> Sessions:
    """Return the sessions of the station that a request is for."""
    return request.app.state.sessions


def keep_session(request: Request, response: Response, secret: str) -> None:
    """Let the browser keep the secret of a session in a cookie."""
    place = cookie_place(request)
    response.set_cookie(
        COOKIE, secret, max_age=SESSION_HOURS * 3600, httponly=True, samesite="strict", **place
    )


def end_session(request: Request) -> None:
    """End the session of the browser that asks, if there is one."""
    secret = cookie_of(request.headers)
    if secret is not None:
        sessions_of(request).end(secret)


def _begin(request: Request, token: Token) -> str:
    """Begin a session in the place of the one before in the same browser; returns its secret."""
    station = station_of(request)
    station.store.note(station.act(token.name, "log-in"))
    end_session(request)
    return sessions_of(request).begin(token)


def cookie_place(request: Request) -> CookiePlace:
    """Say where a cookie holds: below the station's path, and by https alone where that is how it came."""
    return {"path": f"{request.scope.get('root_path', '')}/", "secure": request.url.scheme == "https"}
