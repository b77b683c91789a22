"""The rows of the record: inspections, verdicts, models, alarms; and identifiers that sort by time."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from ulid import ULID, ULIDGenerator

from blemish.core.errors import BlemishError, DataError
from blemish.core.types import Result
from blemish.inference.model_file import describe

if TYPE_CHECKING:
    from blemish.inference.model_file import ModelFile

Judgement = Literal["good", "defect"]
Decision = Literal["accepted", "rejected", "unjudged", "failed"]

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

    @property
    def decision(self) -> Decision:
        """What the machine decided about the part."""
        if self.error is not None:
            return "failed"
        return "unjudged" if self.anomalous is None else "rejected" if self.anomalous else "accepted"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a person says of an inspected part. All are kept, the last one counts."""

    id: str
    inspection: str
    time: datetime
    verdict: Judgement
    note: str = ""
    by: str = ""


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
    """Production does not look like calibration any more: `value` is the martingale."""

    id: str
    model: str
    time: datetime
    kind: Literal["drift"]
    value: float
    message: str


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What happened in a span of time that begins at `time`; figures are None where nothing was scored."""

    time: datetime
    n: int
    rejected: int
    failed: int
    median_seconds: float | None
    p99_seconds: float | None
    score_quantiles: tuple[float, ...] | None
    """Scores at `QUANTILES`."""


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


_ids = ULIDGenerator(
    # the first bit is left free for counting up within a millisecond
    randomness=lambda _ms: secrets.randbits(_RANDOM_BITS - 1).to_bytes(_RANDOM_BITS // 8, "big")
)


def new_id(time: datetime) -> str:
    """Make an identifier: a ULID, 26 characters (48 bits of milliseconds, 80 random) that sort by time.

    Those of one millisecond count up, so that in one process they sort as they were made.
    """
    return str(_ids.generate(milliseconds(time)))


def first_id(time: datetime) -> str:
    """Return the smallest identifier of `time` or later; times before 1970 count as 1970."""
    ms = -(-max(time - _EPOCH, timedelta()) // timedelta(milliseconds=1))  # up: those before it are earlier
    return str(ULID.from_int(ms << _RANDOM_BITS))


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


def milliseconds(time: datetime) -> int:
    """Milliseconds since 1970, rounded down. Raises DataError for a time without a zone."""
    if time.tzinfo is None:
        raise DataError(f"{time}: has no time zone; give UTC")
    return (time - _EPOCH) // timedelta(milliseconds=1)


def from_milliseconds(ms: int) -> datetime:
    """UTC time of the milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=ms)
