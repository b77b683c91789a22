"""The routes of a browser's session: a token in a cookie that no script reads."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from blemish.station.routes.access import Public
from blemish.station.security import COOKIE, Unauthorized

router = APIRouter(prefix="/v1", include_in_schema=False)


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
    response.set_cookie(COOKIE, secret, httponly=True, samesite="strict", max_age=12 * 3600)
    return response


@router.delete("/session", status_code=204)
def log_out(caller: Public) -> Response:
    """Forget the cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response
