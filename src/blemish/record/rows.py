"""The rows of the record: inspections, verdicts, models, alarms; and identifiers that sort by time."""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from ulid import ULID, ULIDGenerator

from blemish.core.errors import BlemishError, DataError
from blemish.core.types import Decision, Result, decision_of
from blemish.inference.model_file import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from blemish.inference.model_file import ModelFile

Judgement = Literal["good", "defect"]
ANOMALOUS: dict[str, bool] = {"accepted": False, "review": False, "rejected": True}
"""What a recorded decision says of `Result.anomalous`; it is None for all others."""

WATCH = "watch"
"""`Inspection.source` of what a watch has recorded."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_BITS = 80


class StoreError(BlemishError):
    """The database went away, or does not take what it is given: worth another try."""


@dataclass(frozen=True, kw_only=True)
class Inspection(Result):
    """What was found in one image, by which model. Times are UTC, to the millisecond.

    `path` is a name that the sender gave; it is never opened.
    """

    id: str
    """26 characters, made by `new_id(time)`."""
    time: datetime
    source: str
    """Who asked: api, page or watch."""
    part: str | None = None
    """What the sender calls the part."""
    model: str
    """SHA-256 of the model file, 64 hex digits."""
    image: str | None = None
    """SHA-256 of the image file, 64 hex digits; None: not kept, or not any more."""
    map: str | None = None
    """SHA-256 of the map's file, as `image`."""
    width: int | None = None
    height: int | None = None
    error: str | None = None
    seconds: float
    files_removed: datetime | None = None
    """When its image and map were removed to make room."""
    key: str | None = None
    """What its sender gave with it, so that it is recorded once however often it is sent."""
    product: str | None = None
    line: str | None = None
    shift: str | None = None
    station: str | None = None
    """The name of the station that recorded it."""
    sample: float | None = None
    """Drawn at random for a person to judge, with this chance; None: not drawn. The record draws."""
    view: str | None = None
    """Which view of the part the image shows; None: they are not told apart."""
    part_id: str | None = None
    """The identifier of the row of the part that this is a view of, which comes when the part is decided;
    None: this is a part."""
    decided: Decision | None = None
    """What was decided of a part from its views; None: this is one image, which says it."""
    missing: tuple[str, ...] | None = None
    """The views that such a part lacks."""

    @property
    def decision(self) -> Decision:
        """What the machine decided about the part."""
        if self.decided is not None:
            return self.decided
        return "failed" if self.error is not None else decision_of(self)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a person says of an inspected part. All are kept; the last one that was not withdrawn counts."""

    id: str
    """Made of the time at which it arrived."""
    inspection: str
    time: datetime
    """When it was given."""
    verdict: Judgement
    note: str = ""
    by: str = ""
    key: str | None = None
    """What its sender gave with it, so that it is added once however often it is sent."""
    reason: str | None = None
    """Which kind of defect: one of the record's list."""
    withdrawn: datetime | None = None
    """When it was taken back."""
    withdrawn_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A model that was used, by the SHA-256 of its file; `description` is that of `model_file.describe`."""

    digest: str
    name: str
    method: str
    preset: str
    dataset: str
    first_used: datetime
    description: dict[str, Any]


def model_record(digest: str, name: str, model_file: ModelFile) -> ModelRecord:
    """Describe a model that is used from now on."""
    return ModelRecord(
        digest=digest,
        name=name,
        method=model_file.method,
        preset=model_file.preset,
        dataset=str(model_file.provenance.get("dataset", "")),
        first_used=datetime.now(UTC),
        description=json.loads(describe(model_file)),
    )


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What a person has to look at: production that does not look like calibration, or a clock set back.

    Of `drift`, `value` is log10 of the martingale when it alarmed and `peak` the highest since; of `clock`,
    `value` is the seconds that the clock went back.
    """

    id: str
    model: str
    time: datetime
    kind: Literal["drift", "clock"]
    value: float
    message: str
    peak: float | None = None
    peak_time: datetime | None = None
    acknowledged: datetime | None = None
    """When a person said that it was seen to."""
    acknowledged_by: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a watcher of the record has to know of an inspection; `number` is the order of recording."""

    number: int
    id: str
    time: datetime
    model: str
    decision: Decision
    score: float | None
    seconds: float
    sample: float | None
    part: str | None
    station: str | None
    missing: str | None = None
    """A JSON list of the views that a part lacks; None: it was not decided from views."""


LATE = timedelta(minutes=1)
"""A verdict that arrives so long after it was given has waited, for a station that was away."""


def in_order(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Sort verdicts, which come as they arrived: a late one stands before what others have said since.

    Those of one person stay as they arrived, which is as they were given.
    """
    found: list[Verdict] = []
    for verdict in verdicts:
        place = len(found)
        if time_of(verdict.id) - verdict.time >= LATE:
            while place and found[place - 1].by != verdict.by and found[place - 1].time > verdict.time:
                place -= 1
        found.insert(place, verdict)
    return found


def standing(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts that were not withdrawn; the last of them counts."""
    return [verdict for verdict in verdicts if verdict.withdrawn is None]


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What happened in a span of time that begins at `time`; figures are None where nothing was scored."""

    time: datetime
    n: int
    rejected: int
    review: int
    failed: int
    median_seconds: float | None
    p99_seconds: float | None
    score_quantiles: tuple[float, ...] | None
    """Scores at `QUANTILES`."""


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


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


def first_id(time: datetime) -> str:
    """Return the smallest identifier of `time` or later; times before 1970 count as 1970."""
    return str(ULID.from_int(max(0, milliseconds_up(time)) << _RANDOM_BITS))


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
