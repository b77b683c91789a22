"""The routes of a browser's session: a token in a cookie that no script reads."""

from __future__ import annotations

from typing import Literal, TypedDict

from fastapi import APIRouter, Request, Response

from blemish.station.routes.access import Public
from blemish.station.security import COOKIE, Unauthorized

router = APIRouter(prefix="/v1", include_in_schema=False)


class _Cookie(TypedDict):
    path: str
    secure: bool
    httponly: bool
    samesite: Literal["strict"]


@router.get("/session")
def session(caller: Public) -> dict[str, str | None]:
    """Return who asks, and with which role."""
    return {"name": caller.name, "role": caller.role}


@router.post("/session", status_code=204)
async def log_in(caller: Public, request: Request) -> Response:
    """Keep the token of the body in a cookie. Raises Unauthorized for one that is not known."""
    secret = (await request.body()).decode("utf-8", "replace")
    if request.app.state.tokens.of(secret) is None:
        raise Unauthorized("no such token")
    response = Response(status_code=204)
    response.set_cookie(COOKIE, secret, max_age=12 * 3600, **_cookie(request))
    return response


@router.delete("/session", status_code=204)
def log_out(caller: Public, request: Request) -> Response:
    """Forget the cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, **_cookie(request))
    return response


def _cookie(request: Request) -> _Cookie:
    """Say where the cookie holds: below the station's path, and by https alone where that is how it came."""
    return {
        "path": f"{request.scope.get('root_path', '')}/",
        "secure": request.url.scheme == "https",
        "httponly": True,
        "samesite": "strict",
    }
