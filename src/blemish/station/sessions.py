"""Who makes a request: by a token, or by a session that a token has begun.

A browser logs in with a token, and keeps a secret of its own session in a cookie that no script reads and no
other site sends. The station knows the session, and ends it: at the log-out, after SESSION_HOURS, or when its
token is removed or expires. Only the SHA-256 of a secret lies on disk.
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

    from blemish.station.security import Token, Tokens

FILE = "sessions.json"
SESSION_HOURS = 12
MOST_OF_A_TOKEN = 100
"""Sessions of one token at a time; one more ends the oldest of them."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is kept of a session: its digest, that of its token, and when it ends (ISO 8601, UTC)."""

    sha256: str
    token: str
    expires: str


class Sessions:
    """The sessions of a station, in a file that only its owner may read, so that they outlive a restart."""

    def __init__(self, tokens: Tokens, folder: Path | None = None, *, station: str | None = None) -> None:
        """Read the file in the station's folder (None: that of the tokens); `station` is its name.

        Raises DataError for one that is damaged.
        """
        self.station = station
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
        secret = secrets.token_urlsafe(32)
        end = datetime.now(UTC) + timedelta(hours=SESSION_HOURS)
        made = Session(sha256=digest_of(secret), token=token.sha256, expires=end.isoformat())
        with self._lock:
            left = {digest: session for digest, session in self._known.items() if _lasts(session)}
            same = [digest for digest, session in left.items() if session.token == token.sha256]
            for digest in same[: max(0, len(same) - MOST_OF_A_TOKEN + 1)]:
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
        """Return who shows a token or a session's secret, None: did not. Without tokens it is anybody."""
        if not self.tokens.required:
            return Caller(None, "engineer")
        token = self.tokens.of(bearer) if bearer is not None else self._token_of(cookie)
        return Caller(token.name, token.role) if token else Caller(None, None)

    def _token_of(self, secret: str | None) -> Token | None:
        session = None if secret is None else self._known.get(digest_of(secret))
        return self.tokens.with_digest(session.token) if session and _lasts(session) else None

    def _write(self, sessions: dict[str, Session]) -> None:
        self._known = sessions  # first: what ends has ended, also when the disk is full
        make_private_folder(self.file.parent)
        content = json.dumps([asdict(session) for session in sessions.values()], indent=2) + "\n"
        write_whole(self.file, content, durable=True, mode=0o600)


def _lasts(session: Session) -> bool:
    return datetime.now(UTC) < datetime.fromisoformat(session.expires)
