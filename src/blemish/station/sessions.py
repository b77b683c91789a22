"""Who makes a request: by a token, or by a session that a token has begun.

A browser logs in with a token, or an account of the plant, and keeps a secret of its own session in a cookie
that no script reads and no other site sends. The station knows the session, and ends it: at the log-out,
after SESSION_HOURS, or when its token is removed or expires. Only the SHA-256 of a secret lies on disk.
"""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from blemish.core.errors import DataError
from blemish.core.files import make_private_folder, write_whole
from blemish.station.security import Caller, digest_of

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.station.security import Role, Token, Tokens

FILE = "sessions.json"
SESSION_HOURS = 12
MOST_OF_ONE = 100
"""Sessions of one token, or account, at a time; one more ends the oldest of them."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is kept of a session: its digest, that of its token, and when it ends (ISO 8601, UTC).

    One of an account has no token, but a name and a role.
    """

    sha256: str
    token: str | None
    expires: str
    name: str | None = None
    role: Role | None = None

    @property
    def owner(self) -> tuple[str | None, str | None]:
        """Whose it is."""
        return self.token, self.name


class Sessions:
    """The sessions of a station, in a file that only its owner may read, so that they outlive a restart."""

    def __init__(
        self,
        tokens: Tokens,
        folder: Path | None = None,
        *,
        station: str | None = None,
        accounts: bool = False,
    ) -> None:
        """Read the file in the station's folder (None: that of the tokens); `station` is its name.

        `accounts`: those of the plant log in here too. Raises DataError for a file that is damaged.
        """
        self.station, self.accounts = station, accounts
        self.tokens, self.file = tokens, (folder or tokens.file.parent) / FILE
        self._lock = threading.Lock()
        self._known: dict[str, Session] = {}  # by digest, oldest first; replaced as a whole
        try:
            found = [Session(**entry) for entry in json.loads(self.file.read_text())]
            self._known = {session.sha256: session for session in found if _lasts(session)}
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{self.file}: is damaged ({error}); remove it, and log in again") from error

    def begin(self, token: Token) -> str:
        """Begin a session of a token; returns its secret. Raises OSError when the disk refuses."""
        return self._begin(token=token.sha256)

    def begin_of_account(self, name: str, role: Role) -> str:
        """Begin a session of an account of the plant, as `begin`."""
        return self._begin(name=name, role=role)

    def _begin(self, *, token: str | None = None, name: str | None = None, role: Role | None = None) -> str:
        secret = secrets.token_urlsafe(32)
        end = (datetime.now(UTC) + timedelta(hours=SESSION_HOURS)).isoformat()
        made = Session(sha256=digest_of(secret), token=token, expires=end, name=name, role=role)
        with self._lock:
            left = {digest: session for digest, session in self._known.items() if _lasts(session)}
            same = [digest for digest, session in left.items() if session.owner == made.owner]
            for digest in same[: max(0, len(same) - MOST_OF_ONE + 1)]:
                del left[digest]
            self._write(left | {made.sha256: made})
        return secret

    def end(self, secret: str) -> None:
        """End a session, if there is one of that secret. Raises OSError when the disk refuses."""
        digest = digest_of(secret)
        with self._lock:
            if digest in self._known:
                self._write({d: session for d, session in self._known.items() if d != digest})

    def caller(self, *, bearer: str | None, cookie: str | None) -> Caller:
        """Return who shows a token or a session's secret, None: did not. Without log-ins it is anybody."""
        if not (self.tokens.required or self.accounts):
            return Caller(None, "engineer")
        if bearer is not None:
            return _caller_of(self.tokens.of(bearer))
        session = None if cookie is None else self._known.get(digest_of(cookie))
        if session is None or not _lasts(session):
            return Caller(None, None)
        if session.token is not None:
            return _caller_of(self.tokens.with_digest(session.token))
        return Caller(session.name, session.role) if self.accounts else Caller(None, None)

    def _write(self, sessions: dict[str, Session]) -> None:
        self._known = sessions  # first: what ends has ended, also when the disk is full
        make_private_folder(self.file.parent)
        content = json.dumps([asdict(session) for session in sessions.values()], indent=2) + "\n"
        write_whole(self.file, content, durable=True, mode=0o600)


def _caller_of(token: Token | None) -> Caller:
    return Caller(token.name, token.role) if token else Caller(None, None)


def _lasts(session: Session) -> bool:
    return datetime.now(UTC) < datetime.fromisoformat(session.expires)
