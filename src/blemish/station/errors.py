"""The one mapping from errors to HTTP statuses, which all routes and the guard use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse, Response

from blemish.core.errors import (
    BlemishError,
    ConflictError,
    DataError,
    ImageError,
    ModelError,
    NotFoundError,
)
from blemish.record.store import StoreError
from blemish.station.security import Forbidden, Unauthorized
from blemish.station.waiting_room import Busy

if TYPE_CHECKING:
    from starlette.requests import Request

STATUS: dict[type[Exception], int] = {
    BlemishError: 422,  # a value that is refused: an option, an image, a name
    Unauthorized: 401,
    Forbidden: 403,
    NotFoundError: 404,
    ConflictError: 409,
    DataError: 409,  # what is on record does not suffice, yet
    Busy: 503,
    ModelError: 503,  # a model's file is gone or damaged
    StoreError: 503,
    OSError: 503,
}
"""The most precise class of an error decides."""
MOST_VALUES, LONGEST_DETAIL = 5, 500
"""Values that are named in one refusal, and its letters."""
HEADERS: dict[type[Exception], dict[str, str]] = {
    Unauthorized: {"WWW-Authenticate": "Bearer"},
    Busy: {"Retry-After": "1"},
}


_REASONS: dict[type[Exception], str] = {
    Busy: "busy",
    ImageError: "image",
    Unauthorized: "token",
    Forbidden: "role",
    ModelError: "model",
    StoreError: "record",
    OSError: "disk",
}
_REASONS_BY_STATUS = {
    401: "token",
    403: "role",
    404: "not_found",
    408: "slow",
    409: "conflict",
    413: "too_large",
    422: "value",
    503: "uploads",
}
REASONS = (
    *dict.fromkeys((*_REASONS.values(), *_REASONS_BY_STATUS.values())),
    *("name", "origin", "connections", "other"),
)
"""Why requests are refused, as they are counted."""


def reason_of(status: int, error: Exception | None = None) -> str:
    """Return the reason under which a refusal is counted."""
    known = (_REASONS[kind] for kind in type(error).__mro__ if kind in _REASONS)
    return next(known, _REASONS_BY_STATUS.get(status, "other"))


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error; 500 for one that is not in STATUS."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def error_response(error: Exception) -> JSONResponse:
    """Answer an error of STATUS: `{"detail": …}` in one line."""
    detail = str(error)
    if isinstance(error, OSError):  # its text would name a file of this machine
        detail = f"the disk refuses: {error.strerror}"
    return JSONResponse({"detail": detail}, status_of(error), HEADERS.get(type(error)))


async def handle_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error that a route has raised; its reason is left in the scope, where it is counted."""
    request.scope["refusal"] = reason_of(status_of(error), error)
    return error_response(error)


async def handle_value(request: Request, error: Exception) -> JSONResponse:
    """Answer a value that is not what the description of a route says: names and why, in one line.

    The values themselves are left out: JSON cannot say an infinite number.
    """
    assert isinstance(error, RequestValidationError)
    said = [f"{'.'.join(map(str, found['loc'][1:]))}: {found['msg']}" for found in error.errors()]
    line = "; ".join(said[:MOST_VALUES])
    spelled = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    request.scope["refusal"] = reason_of(422)
    return JSONResponse({"detail": spelled[:LONGEST_DETAIL]}, 422)


async def answer_nobody(_: Request, __: Exception) -> Response:
    """Answer a client that has hung up before its request was whole: nobody reads it."""
    return Response(status_code=400)
