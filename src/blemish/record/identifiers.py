"""Identifiers that sort by time, and the times that they and the rows keep: milliseconds since 1970, UTC."""

from __future__ import annotations

import secrets
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ulid import ULID, ULIDGenerator

from blemish.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_BITS = 80
_LAST_MILLISECOND = 2**48 - 1  # which is in the year 10889
SMALLEST_JUMP = timedelta(seconds=1)
"""The clock is told to have gone back by this or more; less is what keeps it right, and threads in a row."""

_ids = ULIDGenerator(
    # the first bit is left free for counting up within a millisecond
    randomness=lambda _ms: secrets.randbits(_RANDOM_BITS - 1).to_bytes(_RANDOM_BITS // 8, "big")
)


def new_id(time: datetime) -> str:
    """Make an identifier: a ULID, 26 characters (48 bits of milliseconds, 80 random) that sort by time.

    Those of one millisecond count up, so that in one process they sort as they were made.
    """
    return str(_ids.generate(milliseconds(time)))


def clock_advice(back: timedelta) -> str:
    """Say that the clock went back, what that means for the record, and what to do."""
    return (
        f"the computer's clock went back by {back.total_seconds():.0f} s; parts keep the order in which they "
        "came, but times of before and after overlap; check the clock"
    )


class IdSequence:
    """Identifiers that never go back, whatever the clock does: the order in which they were made."""

    def __init__(self, after: str | None, on_jump: Callable[[timedelta], None] = lambda _: None) -> None:
        """Go on after an identifier, None: there is none yet. `on_jump` hears how far the clock went back."""
        self._last, self._behind, self._lock = after, timedelta(), threading.Lock()
        self.on_jump = on_jump

    def __call__(self, time: datetime) -> str:
        """Make an identifier of a time; where the clock went back, one just above the last."""
        with self._lock:
            made, jump = new_id(time), timedelta()
            if self._last is not None and made <= self._last:
                made = str(ULID.from_int(int(ULID.from_str(self._last)) + 1))
                behind = time_of(made) - time
                jump, self._behind = behind - self._behind, behind
            else:
                self._behind = timedelta()
            self._last = made
        if jump >= SMALLEST_JUMP:
            self.on_jump(jump)
        return made


def first_id(time: datetime, *, later: timedelta = timedelta()) -> str:
    """Return the smallest identifier of `time`, `later` by that much, or after it.

    Times before 1970 count as 1970, and those that no identifier has as the last one.
    """
    wanted = milliseconds_up(time) + later // timedelta(milliseconds=1)
    return str(ULID.from_int(min(max(0, wanted), _LAST_MILLISECOND) << _RANDOM_BITS))


def time_of(id: str) -> datetime:
    """Return the time of an identifier, to the millisecond. Raises DataError for what is none."""
    try:
        found = ULID.from_str(id)
        if str(found) == id:  # not lower case
            return from_milliseconds(found.milliseconds)
    except (ValueError, OverflowError):  # a digit that there is not, a time after the year 9999
        pass
    raise DataError(
        f"{id!r}: is not an identifier; those are 26 digits and capital letters that begin with a time"
    )


def utc_now() -> datetime:
    """Return the time, to the millisecond that a row keeps."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def milliseconds(time: datetime) -> int:
    """Milliseconds since 1970, rounded down. Raises DataError for a time without a zone."""
    if time.tzinfo is None:
        raise DataError(f"{time}: has no time zone; give UTC")
    return (time - _EPOCH) // timedelta(milliseconds=1)


def milliseconds_up(time: datetime) -> int:
    """Milliseconds since 1970, rounded up: those before are earlier."""
    return -((_EPOCH - time) // timedelta(milliseconds=1))


def from_milliseconds(ms: int) -> datetime:
    """UTC time of the milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=ms)
