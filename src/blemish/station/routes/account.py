"""The routes by which an account of the plant logs in: to its provider, and back with a code."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from blemish.core.errors import NotFoundError
from blemish.station.routes.access import Public
from blemish.station.routes.dependencies import StationDep
from blemish.station.routes.session import cookie_place, end_session, keep_session, sessions_of
from blemish.station.security import Unauthorized

if TYPE_CHECKING:
    from blemish.station.oidc import Provider

LOG_IN_COOKIE = "blemish_log_in"
"""Holds the state of a log-in at the provider, so that it ends in the browser in which it began."""

router = APIRouter(prefix="/v1/session", include_in_schema=False)


@router.get("/ways")
def ways(caller: Public, request: Request) -> dict[str, bool]:
    """Say whether accounts of the plant log in here too."""
    return {"accounts": request.app.state.provider is not None}


@router.get("/account")
def begin(caller: Public, request: Request) -> Response:
    """Send the browser to the provider of the plant's accounts."""
    address, state = _provider(request).begin(str(request.url_for("finish_log_in")))
    response = RedirectResponse(address, 303)
    place = cookie_place(request)  # lax: it has to come back from the provider's site
    response.set_cookie(LOG_IN_COOKIE, state, httponly=True, samesite="lax", **place)
    return response


@router.get("/account/answer")
def finish_log_in(
    caller: Public, request: Request, station: StationDep, state: str = "", code: str = ""
) -> Response:
    """Begin the session of who comes back from the provider. Raises Unauthorized or Forbidden for others."""
    provider = _provider(request)
    begun = request.cookies.get(LOG_IN_COOKIE, "")
    if not state or not hmac.compare_digest(begun.encode(), state.encode()):
        raise Unauthorized("this log-in was not begun in this browser; log in again")
    person = provider.finish(state, code)
    station.store.note(station.act(person.name, "log-in", detail={"by": provider.issuer}))
    end_session(request)
    secret = sessions_of(request).begin_of_account(person.name, person.role)
    response = RedirectResponse(cookie_place(request)["path"], 303)
    keep_session(request, response, secret)
    response.delete_cookie(LOG_IN_COOKIE, httponly=True, samesite="lax", **cookie_place(request))
    return response


def _provider(request: Request) -> Provider:
    provider = request.app.state.provider
    if provider is None:
        raise NotFoundError("accounts of the plant do not log in here")
    return provider
