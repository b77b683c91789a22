"""Who may do what: tokens, roles, hosts, sizes and headers.

On a loopback address without any token everybody on the machine is an operator. On any other address a token
is required. Tokens are 256 random bits, so that their SHA-256 may lie on disk; what a browser keeps is the
token itself, in a cookie that no script reads and no other site sends.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from blemish.core.errors import DataError, UsageError
from blemish.core.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Role = Literal["operator", "viewer"]
"""An operator inspects, judges and trains; a viewer looks."""
COOKIE = "blemish_token"
TOKENS = "tokens.json"
SILENCE = 30.0
"""Seconds without a byte of a body after which its sender counts as gone."""
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


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is kept of a token: whose it is, its role and its digest."""

    name: str
    role: Role
    sha256: str
    created: str


class Tokens:
    """The tokens of a station, in a file that only its owner may read."""

    def __init__(self, folder: Path) -> None:
        """Read the file, if there is one. Raises DataError for one that is damaged."""
        self.file = folder / TOKENS
        self.known: list[Token] = []
        if self.file.exists():
            try:
                self.known = [Token(**entry) for entry in json.loads(self.file.read_text())]
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{self.file}: is damaged ({error}); remove it and make new tokens"
                ) from error

    def add(self, name: str, role: Role) -> str:
        """Make a token and return it; only its digest is kept. Raises UsageError for a name in use."""
        if any(token.name == name for token in self.known):
            raise UsageError(f"token {name}: there is one of that name; choose another, or remove it first")
        secret = secrets.token_urlsafe(32)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write([*self.known, Token(name=name, role=role, sha256=_digest(secret), created=now)])
        return secret

    def remove(self, name: str) -> None:
        """Forget a token. Raises UsageError when there is none of that name."""
        left = [token for token in self.known if token.name != name]
        if len(left) == len(self.known):
            raise UsageError(f"token {name}: there is none of that name")
        self._write(left)

    def of(self, secret: str) -> Token | None:
        """Return the token that a secret belongs to, comparing with all in constant time."""
        digest, found = _digest(secret), None
        for token in self.known:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def _write(self, tokens: list[Token]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps([asdict(token) for token in tokens], indent=2) + "\n"
        write_whole(self.file, content, durable=True, mode=0o600)
        self.known = tokens


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_binding(host: str, tokens: Tokens) -> None:
    """Refuse to listen to other machines without a token. Raises UsageError."""
    if not is_loopback(host) and not tokens.known:
        raise UsageError(
            f"--host {host}: other machines reach it, so a token is required; make one with "
            "`blemish token NAME --role operator`"
        )


class Guard:
    """Middleware: whose request it is, whether it may be made, and how large it is; headers of answers."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens,
        hosts: Sequence[str],
        max_bytes: int,
        max_held: int = 2**29,
        public: Sequence[str],
    ) -> None:
        """Guard `app`.

        `hosts` are the names it may be called by, `public` the paths that need no token. A body is refused
        above `max_bytes`, and when the bodies of all open requests together are above `max_held`.
        """
        self.app, self.tokens, self.hosts = app, tokens, frozenset(hosts)
        self.max_bytes, self.max_held, self.public = max_bytes, max_held, tuple(public)
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, 401, 403, 408, 413 or 503, or hand the request on with `scope["token"]`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        refusal = self._refusal(scope, headers)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in HEADERS.items():
                    MutableHeaders(scope=message).setdefault(name, value)
                if scope["path"].startswith("/v1"):
                    MutableHeaders(scope=message).setdefault("Cache-Control", "no-store")
                elif scope["path"].startswith("/static/"):  # a newer page is seen at once
                    MutableHeaders(scope=message).setdefault("Cache-Control", "no-cache")
            await send(message)

        if refusal is not None:
            await refusal(scope, receive, answer)
            return
        body = _Body(self, receive)
        try:
            await self.app(scope, body, answer)
        finally:
            self.held -= body.seen

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> JSONResponse | None:
        host = headers.get("host", "").lower()
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.hosts and name not in self.hosts:  # a foreign page that made its own name point here
            return _refused(400, f"this station is not called {name!r}")
        origin = headers.get("origin")
        writes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if writes and origin is not None and origin.split("://", 1)[-1].lower() != host:
            return _refused(403, "requests from other sites are refused")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.max_bytes:
            return _refused(413, f"{length} bytes are more than the {self.max_bytes} that are taken")
        token = self.tokens.of(_secret(headers))
        scope["token"] = token
        if not self.tokens.known or scope["path"] in self.public or scope["path"].startswith("/static/"):
            return None
        if token is None:
            return _refused(401, "a token is required", {"WWW-Authenticate": "Bearer"})
        if writes and token.role != "operator":
            return _refused(403, f"{token.name} may look, not change")
        return None


class _Body:
    """Receives a body until it, or all bodies together, are too large."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self.guard, self.receive = guard, receive
        self.seen, self.whole = 0, False

    async def __call__(self) -> Message:
        try:
            async with asyncio.timeout(None if self.whole else SILENCE):
                message = await self.receive()
        except TimeoutError as error:
            raise HTTPException(408, "the body does not come", {"Connection": "close"}) from error
        size, guard = len(message.get("body", b"")), self.guard
        self.whole = not message.get("more_body", False)
        self.seen, guard.held = self.seen + size, guard.held + size
        if self.seen > guard.max_bytes:
            raise HTTPException(413, f"more than the {guard.max_bytes} bytes that are taken")
        if guard.held > max(guard.max_held, self.seen):  # one is taken, however large
            raise HTTPException(503, "too much comes at a time; send it again", {"Retry-After": "1"})
        return message


def _secret(headers: dict[str, str]) -> str:
    kind, _, secret = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    for pair in headers.get("cookie", "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _refused(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)
