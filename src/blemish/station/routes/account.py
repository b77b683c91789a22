"""The routes by which an account of the plant logs in: to its provider, and back with a code."""

from __future__ import annotations

import hmac
from html import escape
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from blemish.core.errors import NotFoundError
from blemish.station.errors import error_response, reason_of, status_of
from blemish.station.routes.access import Public
from blemish.station.routes.dependencies import StationDep
from blemish.station.routes.session import cookie_place, end_session, keep_session, sessions_of
from blemish.station.security import Forbidden, Unauthorized

if TYPE_CHECKING:
    from blemish.station.oidc import Person, Provider

LOG_IN_COOKIE = "blemish_log_in"
"""Holds the state of a log-in at the provider, so that it ends in the browser in which it began."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Not logged in · blemish station</title>
<link rel="stylesheet" href="{home}static/base.css">
<link rel="stylesheet" href="{home}static/docs.css">
</head>
<body class="docs">
<main>
<h1>You are not logged in</h1>
<p>The log-in with your account did not work. The reason:</p>
<p><strong>{why}</strong></p>
<p>You can try again. If it fails again, tell the reason to whoever runs this station.</p>
<p><a href="{home}v1/session/account">Log in again</a></p>
<p><a href="{home}">Back to the station</a></p>
</main>
</body>
</html>
"""
"""What a browser shows when a log-in fails; it is left by links alone, as no script runs in it."""

router = APIRouter(prefix="/v1/session", include_in_schema=False)


@router.get("/ways")
def ways(caller: Public, request: Request) -> dict[str, bool]:
    """Say whether accounts of the plant log in here too."""
    return {"accounts": request.app.state.provider is not None}


@router.get("/account")
def begin(caller: Public, request: Request) -> Response:
    """Send the browser to the provider of the plant's accounts."""
    browser, back = request.client.host if request.client else "", str(request.url_for("finish_log_in"))
    try:
        address, state = _provider(request).begin(back, browser)
    except (Unauthorized, Forbidden) as error:
        return _refused(request, error)
    response = RedirectResponse(address, 303)
    place = cookie_place(request)  # lax: it has to come back from the provider's site
    response.set_cookie(LOG_IN_COOKIE, state, httponly=True, samesite="lax", **place)
    return response


@router.get("/account/answer")
def finish_log_in(
    caller: Public, request: Request, station: StationDep, state: str = "", code: str = ""
) -> Response:
    """Begin the session of who comes back from the provider; others see a page that says why not."""
    try:
        person = _person_of(request, state, code)
    except (Unauthorized, Forbidden) as error:
        return _refused(request, error)
    station.store.note(station.act(person.name, "log-in", detail={"by": _provider(request).issuer}))
    end_session(request)
    secret = sessions_of(request).begin_of_account(person.name, person.role)
    response = RedirectResponse(cookie_place(request)["path"], 303)
    keep_session(request, response, secret)
    response.delete_cookie(LOG_IN_COOKIE, httponly=True, samesite="lax", **cookie_place(request))
    return response


def _person_of(request: Request, state: str, code: str) -> Person:
    """Return who comes back from the provider. Raises Unauthorized or Forbidden."""
    begun = request.cookies.get(LOG_IN_COOKIE, "")
    if not state or not hmac.compare_digest(begun.encode(), state.encode()):
        raise Unauthorized("this log-in was not begun in this browser; log in again")
    if not code:
        raise Unauthorized("the provider of the log-in did not say who you are; log in again")
    return _provider(request).finish(state, code)


def _refused(request: Request, error: Unauthorized | Forbidden) -> Response:
    """Answer a refusal: browsers come here by a link and see a page, programs get the line as JSON."""
    request.scope["refusal"] = reason_of(status_of(error), error)
    if "text/html" not in request.headers.get("accept", ""):
        return error_response(error)
    words = {"why": escape(str(error)), "home": escape(cookie_place(request)["path"])}
    return HTMLResponse(PAGE.format_map(words), status_of(error), {"Cache-Control": "no-store"})


def _provider(request: Request) -> Provider:
    provider = request.app.state.provider
    if provider is None:
        raise NotFoundError("accounts of the plant do not log in here")
    return provider
