"""The rows of the record: inspections, verdicts, models, alarms."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from blemish.core.errors import BlemishError
from blemish.core.types import Decision, Result, decision_of
from blemish.inference.model_file import describe
from blemish.record.identifiers import time_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blemish.inference.model_file import ModelFile

Judgement = Literal["good", "defect"]
ANOMALOUS: dict[str, bool] = {"accepted": False, "review": False, "rejected": True}
"""What a recorded decision says of `Result.anomalous`; it is None for all others."""

WATCH = "watch"
"""`Inspection.source` of what a watch has recorded."""


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
