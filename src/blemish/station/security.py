"""Who may do what: tokens, their roles, and the addresses that need one.

On a loopback address without any token everybody on the machine is an engineer. On any other address a token
is required. Tokens are 256 random bits, so that their SHA-256 may lie on disk. A browser keeps no token: it
logs in with one, and has a session (`sessions`).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

from blemish.core.errors import BlemishError, DataError, UsageError
from blemish.core.files import make_private_folder, write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Role = Literal["view", "inspect", "judge", "engineer"]
"""Each may do what those before it may: look; send images; give verdicts; change models and the station."""
ROLES: tuple[Role, ...] = get_args(Role)
_EARLIER: dict[str, Role] = {"viewer": "view", "operator": "engineer"}
"""What roles were called when there were two; files of tokens from then are read."""
COOKIE = "blemish_session"
TOKENS = "tokens.json"


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is kept of a token: whose it is, its role and its digest. Times are ISO 8601, UTC."""

    name: str
    role: Role
    sha256: str
    created: str
    expires: str | None = None
    """None: never."""

    def has_expired(self, now: datetime) -> bool:
        """Whether it works no more."""
        return self.expires is not None and datetime.fromisoformat(self.expires) <= now


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    name: str | None
    """None: nobody knows."""
    role: Role | None
    """None: a stranger."""


class Unauthorized(BlemishError):
    """A request needs a token, and came without one that is known."""


class Forbidden(BlemishError):
    """A token's role does not allow what a request asks for."""


def check_role(caller: Caller, needed: Role | None) -> None:
    """Let a caller pass who has a role, None: everybody. Raises Unauthorized or Forbidden for others."""
    if needed is None:
        return
    if caller.role is None:
        raise Unauthorized("a token is required")
    if ROLES.index(caller.role) < ROLES.index(needed):
        raise Forbidden(f"{caller.name} has the role {caller.role}; this needs the role {needed}")


class Tokens:
    """The tokens of a station, in a file that only its owner may read.

    The file is looked at for each request: what `blemish token` adds or removes counts at once. Once there
    was a token, one is required, also when the last is removed, as long as this process lives.
    """

    def __init__(self, folder: Path) -> None:
        """Read the file, if there is one. Raises DataError for one that is damaged."""
        self.file = folder / TOKENS
        self._read_at: tuple[int, int, int] | None = None
        self._known: list[Token] = []
        self._required = False
        self._read()

    @property
    def known(self) -> list[Token]:
        """The tokens on file now, expired ones too; none where the file is damaged, which is said once."""
        try:
            self._read()
        except DataError as error:
            print(f"blemish serve: {error}", file=sys.stderr, flush=True)
        return self._known

    def _read(self) -> None:
        """Read the file if it has changed. Raises DataError for one that is damaged: then there is none."""
        try:
            about = self.file.stat()
            signature = about.st_ino, about.st_size, about.st_mtime_ns
        except FileNotFoundError:
            signature = None
        if signature == self._read_at:
            return
        self._read_at, self._known = signature, []
        self._required = self._required or signature is not None
        if signature is not None:
            try:
                self._known = [_token_of(entry) for entry in json.loads(self.file.read_text())]
            except (ValueError, TypeError, LookupError, OSError) as error:
                self._known = []
                raise DataError(
                    f"{self.file}: is damaged ({error}); remove it and make new tokens"
                ) from error

    def add(self, name: str, role: Role, *, days: float | None = None) -> str:
        """Make a token and return it; only its digest is kept. `days` until it expires, None: never.

        Raises UsageError for a name in use, and for days that are not above 0.
        """
        if days is not None and not 0 < days <= 36500:
            raise UsageError(f"--days {days:g}: must lie between 0 and 36500")
        if any(token.name == name for token in self.known):
            raise UsageError(f"token {name}: there is one of that name; choose another, or remove it first")
        secret = secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        end = None if days is None else (now + timedelta(days=days)).isoformat(timespec="seconds")
        made = Token(
            name=name,
            role=role,
            sha256=digest_of(secret),
            created=now.isoformat(timespec="seconds"),
            expires=end,
        )
        self._write([*self.known, made])
        return secret

    def remove(self, name: str) -> None:
        """Forget a token. Raises UsageError when there is none of that name."""
        left = [token for token in self.known if token.name != name]
        if len(left) == len(self.known):
            raise UsageError(f"token {name}: there is none of that name")
        self._write(left)

    @property
    def required(self) -> bool:
        """Whether a token is required: there is one, or was one."""
        return bool(self.known) or self._required

    def of(self, secret: str) -> Token | None:
        """Return the token of a secret; None: unknown, or expired."""
        return self.with_digest(digest_of(secret))

    def with_digest(self, digest: str) -> Token | None:
        """Return the token of a digest, comparing with all in constant time; None: unknown, or expired."""
        found = None
        for token in self.known:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return None if found is None or found.has_expired(datetime.now(UTC)) else found

    def _write(self, tokens: list[Token]) -> None:
        make_private_folder(self.file.parent)
        content = json.dumps([asdict(token) for token in tokens], indent=2) + "\n"
        write_whole(self.file, content, durable=True, mode=0o600)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_binding(host: str, tokens: Tokens, *, proxies: Sequence[str] = (), accounts: bool = False) -> None:
    """Refuse to listen to other machines, also through a proxy, without a log-in. Raises UsageError."""
    reached = proxies[0] if proxies else None if is_loopback(host) else f"--host {host}"
    if reached is not None and not (tokens.known or accounts):
        raise UsageError(
            f"{reached}: other machines reach it, so a token is required; make one with `blemish token NAME`"
        )


def _token_of(entry: dict[str, Any]) -> Token:
    """Return a token as it lies in the file. Raises ValueError or TypeError for what is none."""
    values: dict[str, Any] = entry | {"role": _EARLIER.get(entry["role"], entry["role"])}
    token = Token(**values)
    token.has_expired(datetime.now(UTC))  # a time that is none is found now, not when it is asked for
    if token.role not in ROLES:
        raise ValueError(f"{token.role}: no role")
    return token


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a secret, which is what is kept of it."""
    return hashlib.sha256(secret.encode()).hexdigest()
