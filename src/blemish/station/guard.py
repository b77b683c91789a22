"""What every request passes first: host, origin, role and size are checked; every answer gets its headers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from blemish.station.errors import error_response, reason_of
from blemish.station.security import COOKIE, Forbidden, Unauthorized, check_role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from blemish.station.security import Role
    from blemish.station.sessions import Sessions

BODY_TIMEOUT_S = 30.0
"""Seconds without a byte of a body after which its sender counts as gone."""
LEAST_RATE = 2**14
"""Bytes a second that a body must bring after that time, all in all."""
STRANGER_TIMEOUT_S = 5.0
STRANGER_BYTES, STRANGERS_BYTES = 2**12, 2**18
"""What anyone may send who needs no token, such as a token to log in with; and all of them together."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Middleware: whose request it is, whether it may be made, and how large it is; headers of answers."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: Sessions,
        hosts: Sequence[str],
        names: Sequence[str] = (),
        max_bytes: int,
        max_held: int = 2**29,
        role_for: Callable[[Scope], Role | None],
        on_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Guard `app`.

        `hosts` are the names it may be called by, `names` what browsers call it, where a proxy tells it
        another name; `role_for` says which role a request needs. A body is refused above `max_bytes`, and
        when the bodies of all open requests together are above `max_held`. `on_refusal` hears the reason
        of each answer that is a refusal.
        """
        self.app, self.sessions = app, sessions
        self.hosts, self.names = frozenset(hosts), frozenset(names)
        self.role_for, self.on_refusal = role_for, on_refusal
        self.uploads = _Purse(max_bytes, max_held)
        self.strangers = _Purse(min(STRANGER_BYTES, max_bytes), STRANGERS_BYTES, STRANGER_TIMEOUT_S)

    @property
    def held(self) -> int:
        """Bytes of the bodies of all open requests."""
        return self.uploads.held + self.strangers.held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, 401, 403, 408, 413 or 503, or hand the request on with `scope["caller"]`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1").strip() for k, v in scope["headers"]}
        head_only = scope["method"] == "HEAD"
        if head_only:  # what GET says of itself, and no body; whoever called keeps its own scope
            scope = dict(scope, method="GET")
        role = self.role_for(scope)
        purse = self.strangers if role is None else self.uploads
        refusal = self._refusal(scope, headers, role, purse)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.body" and head_only:
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    self.on_refusal(scope.get("refusal") or reason_of(message["status"]))
                _add_headers(message, get_route_path(scope))
            await send(message)

        if refusal is not None:
            await refusal(scope, receive, answer)
            return
        body = _Body(purse, receive)
        try:
            await self.app(scope, body, answer)
        finally:
            purse.held -= body.size

    def _refusal(
        self, scope: Scope, headers: dict[str, str], role: Role | None, purse: _Purse
    ) -> JSONResponse | None:
        host = headers.get("host", "").lower()
        name = (host.rsplit(":", 1)[0] if not host.endswith("]") else host).removesuffix(".")
        if self.hosts and name not in self.hosts:  # a foreign page that made its own name point here
            scope["refusal"] = "name"
            return _refused(400, f"this station is not called {name!r}")
        origin = headers.get("origin")
        writes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if writes and origin is not None and not any(_is_origin_of(origin, n) for n in (host, *self.names)):
            scope["refusal"] = "origin"
            return _refused(403, "requests from other sites are refused")
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > purse.max_bytes:
            return _refused(413, f"{length} bytes are more than the {purse.max_bytes} that are taken")
        try:
            scope["caller"] = self.sessions.caller(bearer=_bearer(headers), cookie=cookie_of(headers))
            check_role(scope["caller"], role)
        except (Unauthorized, Forbidden, OSError) as error:  # the file of tokens may lie on a share
            return error_response(error)
        return None


@dataclass
class _Purse:
    """What bodies of one kind may take: bytes of one, bytes of all at once, and time."""

    max_bytes: int
    max_held: int
    timeout_s: float | None = None
    """Seconds without a byte; None: BODY_TIMEOUT_S."""
    held: int = 0


class _Body:
    """Receives a body until it, or all bodies together, are too large, or it takes too long."""

    def __init__(self, purse: _Purse, receive: Receive) -> None:
        self.purse, self.receive = purse, receive
        self.size, self.complete = 0, False
        self.begun = time.monotonic()

    async def __call__(self) -> Message:
        purse = self.purse
        silence = BODY_TIMEOUT_S if purse.timeout_s is None else purse.timeout_s
        left = self.begun + silence + self.size / LEAST_RATE - time.monotonic()
        try:
            async with asyncio.timeout(None if self.complete else min(silence, left)):
                message = await self.receive()
        except TimeoutError as error:
            raise HTTPException(
                408,
                "the data came too slowly, or not at all; send the request again",
                {"Connection": "close"},
            ) from error
        size = len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        self.size, purse.held = self.size + size, purse.held + size
        if self.size > purse.max_bytes:
            raise HTTPException(413, f"more than the {purse.max_bytes} bytes that are taken")
        if purse.held > max(purse.max_held, self.size):  # one is taken, however large
            raise HTTPException(
                503, "too many uploads arrive at once; send it again in a second", {"Retry-After": "1"}
            )
        return message


def _bearer(headers: dict[str, str]) -> str | None:
    kind, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else None


def cookie_of(headers: Mapping[str, str]) -> str | None:
    """Return the secret of a session that a browser sends in its cookie, or None."""
    for pair in headers.get("cookie", "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value.strip('"')  # RFC 6265: a value may stand in quotes
    return None


def _is_origin_of(origin: str, host: str) -> bool:
    """Whether an Origin names the Host that is asked, in any case, and with or without the usual port."""
    scheme, _, authority = origin.lower().partition("://")
    usual = {"http": ":80", "https": ":443"}.get(scheme, "")
    return bool(authority) and authority.removesuffix(usual) == host.removesuffix(usual)


def _add_headers(message: Message, path: str) -> None:
    """Give the start of an answer the headers that all have, and what its path may be kept for."""
    _allow_head(message)
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if path.startswith("/v1"):
        headers.setdefault("Cache-Control", "no-store")
    elif path.startswith("/static/"):  # a newer page is seen at once
        headers.setdefault("Cache-Control", "no-cache")


def _allow_head(message: Message) -> None:
    """Say in a refusal of a method that HEAD is allowed wherever GET is."""
    headers = MutableHeaders(scope=message)
    allowed = [method.strip() for method in headers.get("allow", "").split(",")]
    if "GET" in allowed and "HEAD" not in allowed:
        headers["allow"] = ", ".join([*allowed, "HEAD"])


def _refused(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)
