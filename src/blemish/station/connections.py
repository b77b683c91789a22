"""The connections of a server: how many there may be, and how long one may take to say what it wants.

A connection waits (for a request, or for the rest of its headers) or it is answered. One that waits too long
is closed. When there is no room for a new one, the one that has waited longest makes room; where all are
answered, the new one is told to come again. So whoever opens many and says nothing is in nobody's way.

Whoever is turned away is told why. What it still sends is read for a while and dropped: a connection that is
closed while data arrive is reset, and a reset can overtake the answer. One that was answered before, and has
said nothing since, is closed without a word, as HTTP has it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from h11 import LocalProtocolError
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

if sys.platform != "win32":
    import resource

HEADER_TIMEOUT_S = 10.0
"""Seconds from the opening of a connection, or the end of an answer, to the end of the next headers."""
MAX_CONNECTIONS = 1000
RESERVED_FILES = 96
"""Open files that the record, the archive and the models need beside the connections."""
WANTED_FILES = MAX_CONNECTIONS + RESERVED_FILES
LINGER_S, MAX_LEAVING = 2.0, 32
"""Seconds for which one that was turned away may read its answer, and how many such there are at most."""
REPEAT_S = 60.0
"""Seconds in which the same line is logged once."""
_MAX_LINES = 1000


def _refusal(status: bytes, detail: bytes) -> bytes:
    body = b'{"detail":"%b"}' % detail
    head = b"HTTP/1.1 %b\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head % status + b"Content-Length: %d\r\n\r\n" % len(body) + body


_FULL = _refusal(b"503 Service Unavailable", b"too many connections are open; come again in a second")
_LATE = _refusal(b"408 Request Timeout", b"the request did not come in time; send it again")


class Room:
    """Room for connections; `on_full` hears of each one that is turned away."""

    def __init__(
        self,
        limit: int,
        *,
        header_timeout_s: float = HEADER_TIMEOUT_S,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self.limit, self.header_timeout_s, self.on_full = limit, header_timeout_s, on_full
        self.open: set[Connection] = set()
        self.waiting: dict[Connection, None] = {}  # the one that has waited longest comes first
        self.leaving: dict[Connection, None] = {}  # turned away; the one that has left first comes first

    def make(self, **given: Any) -> Connection:
        """Make the protocol of a new connection, as uvicorn asks for it."""
        return Connection(self, **given)

    def enter(self, connection: Connection) -> bool:
        """Take a connection in if there is room, or someone who waits can make it."""
        if len(self.open) >= self.limit:
            longest = next(iter(self.waiting), None)
            if longest is None:
                self.on_full()
                return False
            longest.turn_away(_FULL)
        self.open.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        self.open.discard(connection)
        self.waiting.pop(connection, None)
        self.leaving.pop(connection, None)

    def show_out(self, connection: Connection) -> None:
        """Let one that was turned away read its answer; it takes no room any more."""
        self.leave(connection)
        if len(self.leaving) >= MAX_LEAVING:
            next(iter(self.leaving)).hang_up()
        self.leaving[connection] = None


class Connection(H11Protocol):
    """One connection, which has to say in time what it wants."""

    def __init__(self, room: Room, **given: Any) -> None:
        super().__init__(**given)
        self.room = room
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take it in, or turn it away."""
        super().connection_made(transport)
        if self.room.enter(self):
            self._settle()
        else:
            self.turn_away(_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        self.room.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless it was turned away."""
        if self in self.room.open:
            super().data_received(data)
            self._settle()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._settle()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; where an answer is begun already, or had no body, hang up."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the answer to what came before it is nobody's now
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except LocalProtocolError:
            self.transport.close()

    def turn_away(self, answer: bytes) -> None:
        """Answer that nothing comes of it, and close it once the answer can have been read."""
        self._stop_waiting()
        if self.cycle is not None and not self.conn.trailing_data[0]:  # kept since an answer, and silent
            self.hang_up()
            return
        self.room.show_out(self)
        self.transport.write(answer)
        self.transport.write_eof()
        self._due = self.loop.call_later(LINGER_S, self.hang_up)

    def hang_up(self) -> None:
        """Close it at once."""
        self._stop_waiting()
        self.room.leave(self)
        self.transport.abort()

    def _settle(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
            self.room.waiting.pop(self, None)
        elif self._due is None and not self.transport.is_closing():
            self.room.waiting[self] = None
            self._due = self.loop.call_later(self.room.header_timeout_s, self.turn_away, _LATE)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


def connection_limit() -> int:
    """Return how many connections this process has room for, after asking for as many as are wanted."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    free = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else soft - RESERVED_FILES
    return max(8, min(MAX_CONNECTIONS, free))


class Sparing(logging.Filter):
    """Lets a line through once in a while; the next one says how many were held back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.clock = clock
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is logged."""
        key, now = (record.name, record.levelno, str(record.msg)), self.clock()
        since, held = self._seen.get(key, (-REPEAT_S, 0))
        if now - since < REPEAT_S:
            self._seen[key] = since, held + 1
            return False
        if len(self._seen) >= _MAX_LINES:
            self._seen.clear()
        self._seen[key] = now, 0
        if held:
            record.msg = f"{record.msg} ({held} more such lines were left out)"
        return True


def spare_log_lines() -> None:
    """Let the server's own loggers repeat no line within a minute."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, Sparing) for each in logger.filters):
            logger.addFilter(Sparing())
