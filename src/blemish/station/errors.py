"""The one mapping from errors to HTTP statuses, which all routes and the guard use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from blemish.core.errors import BlemishError, ConflictError, DataError, ModelError, NotFoundError
from blemish.record.store import StoreError
from blemish.station.engine import Busy
from blemish.station.security import Forbidden, Unauthorized

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
HEADERS: dict[type[Exception], dict[str, str]] = {
    Unauthorized: {"WWW-Authenticate": "Bearer"},
    Busy: {"Retry-After": "1"},
}


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error; 500 for one that is not in STATUS."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def error_response(error: Exception) -> JSONResponse:
    """Answer an error of STATUS: `{"detail": …}` in one line."""
    detail = str(error)
    if isinstance(error, OSError):  # its text would name a file of this machine
        detail = f"the disk refuses: {error.strerror}"
    return JSONResponse({"detail": detail}, status_of(error), HEADERS.get(type(error)))


async def handle_error(_: Request, error: Exception) -> JSONResponse:
    """Answer an error that a route has raised."""
    return error_response(error)


async def answer_nobody(_: Request, __: Exception) -> Response:
    """Answer a client that has hung up before its request was whole: nobody reads it."""
    return Response(status_code=400)
