"""What the service takes and answers: the JSON of inspections and verdicts, and of figures of a time."""

from __future__ import annotations

from dataclasses import fields as fields_of
from datetime import datetime
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, Field, StringConstraints, create_model

from blemish.core.types import Region, Result
from blemish.record.rows import Decision, Judgement

Id = Annotated[str, StringConstraints(pattern="^[0-9A-HJKMNP-TV-Z]{26}$")]
"""The identifier of an inspection; later ones are larger."""
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
"""SHA-256 of a file, in hexadecimal."""
Part = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""What a sender calls a part."""
Key = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[!-~]*$")]
"""What a sender gives with a request that may be sent again: visible ASCII, never the same for another."""
Note = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
"""What a person adds."""
Reason = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A kind of defects."""
Login = Annotated[str, StringConstraints(max_length=200)]
"""The name of a token; empty: none was needed."""


def _answered(kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass as `create_model` takes them, all of them required."""
    hints = get_type_hints(kind)
    return {each.name: (hints[each.name], ...) for each in fields_of(kind)}


class RegionAnswer(create_model("RegionFields", **_answered(Region))):
    """A connected region above the pixel threshold, in pixels of the image; the box is half open."""


class VerdictAnswer(BaseModel):
    """What a person said of a part."""

    id: Id
    time: datetime
    verdict: Judgement
    note: str
    by: str
    key: str | None = Field(None, description="what it was sent with")
    reason: str | None = Field(None, description="which kind of defect")


class WithdrawnAnswer(VerdictAnswer):
    """A verdict that was taken back: it is kept, and no longer counts."""

    withdrawn: datetime
    withdrawn_by: str


class _Origin(BaseModel):
    id: Id
    time: datetime
    source: str
    part: str | None
    product: str | None
    line: str | None
    shift: str | None
    station: str | None
    path: str | None
    model: Digest
    image_sha256: Digest | None
    width: int | None
    height: int | None


_NAMED = {*_Origin.model_fields, "regions"}  # said where they stand in the answer
_FIGURES = {name: field for name, field in _answered(Result).items() if name not in _NAMED}


class InspectionAnswer(create_model("OriginAndFigures", __base__=_Origin, **_FIGURES)):
    """An inspection: the fields of predictions.jsonl, and where, when and by which model it was made."""

    decision: Decision
    sample: float | None = Field(description="drawn for a person to judge, with this chance")
    regions: list[RegionAnswer]
    image: str | None = Field(description="path of the image as it was sent, while it is kept")
    map: str | None = Field(description="path of the anomaly map, while it is kept")
    overlay: str | None = Field(description="path of the picture with the map over it, while both are kept")
    error: str | None
    seconds: float
    verdicts: list[VerdictAnswer] = Field(description="those that stand; the last one counts")
    withdrawn: list[WithdrawnAnswer] = Field(description="verdicts that were taken back")


class ViewAnswer(InspectionAnswer):
    """One image of a part with several views.

    `decision` and `anomalous` are those of the part, "unjudged" and null until it is decided; the figures and
    regions are the image's own.
    """

    view: str | None
    part_id: Id = Field(description="the inspection of the part; asked for before it is decided: 202")
    waits_for: list[str] = Field(description="views that the part waits for, or their number")


class PartAnswer(InspectionAnswer):
    """A part that was decided from its views: its decision and figures, and the picture of its worst view."""

    missing: list[str] = Field(description="views that it lacks, or their number: it was not accepted")
    views: list[ViewAnswer]


AnyInspection = PartAnswer | ViewAnswer | InspectionAnswer


class WaitingAnswer(BaseModel):
    """An image that was taken and is not recorded yet: ask for the inspection of this identifier later."""

    id: Id
    state: Literal["waiting"] = "waiting"


class Inspections(BaseModel):
    """A page of inspections, newest first."""

    items: list[AnyInspection]
    next: Id | None = Field(description="`before` of the next page; null at the end")


class VerdictRequest(BaseModel):
    """A person's verdict of a part."""

    verdict: Judgement
    note: Note = ""
    reason: Reason | None = Field(None, description="which kind of defect: one of the list")
    key: Key | None = Field(None, description="of your choice: sent again with it, the verdict is one")
    age_seconds: float = Field(0, ge=0, le=10**9, description="how long ago it was given")
    by: Login | None = Field(None, description="who gave it: refused when another one is logged in")


class WithdrawalRequest(BaseModel):
    """Which verdict is taken back."""

    verdict: Key = Field(description="its `id`, or the `key` that it was sent with")
    by: Login | None = Field(None, description="as of a verdict")


class BucketAnswer(BaseModel):
    """What happened in a span of time that begins at `time`; null where nothing was scored."""

    time: datetime
    n: int
    rejected: int
    review: int
    failed: int
    median_seconds: float | None
    p99_seconds: float | None
    score_quantiles: tuple[float, ...] | None = Field(description="at 5, 25, 50, 75 and 95 %")


class EstimateAnswer(BaseModel):
    """A share as `found` among `n` say it, null without any, with its 95 % interval."""

    found: int
    n: int
    share: float | None
    low: float
    high: float


class ReasonAnswer(BaseModel):
    """How often a reason was given."""

    reason: str = Field(description="empty: none was given")
    n: int


class QualityAnswer(BaseModel):
    """What the machine and people decided in a time."""

    n: int
    accepted: int
    rejected: int
    review: int
    unjudged: int
    failed: int
    sampled: int = Field(description="accepted parts that were drawn for a person")
    escapes: EstimateAnswer = Field(
        description="defects among the drawn parts that were judged; weighted by the shares of the plan"
    )
    false_rejects: EstimateAnswer = Field(description="good parts among the rejected parts that were judged")
    waiting: int = Field(description="rejected and drawn parts, and those in review, without a verdict")
    reasons: list[ReasonAnswer]


class SamplingPlanAnswer(BaseModel):
    """Which share of the accepted parts is drawn for a person, at random by this seed."""

    share: Annotated[float, Field(ge=0, le=1)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class EntryAnswer(BaseModel):
    """What somebody did: an entry of the audit log, which is only added to."""

    number: int
    time: datetime
    station: str
    who: str = Field(description="the name of a token or an account; empty: none was needed")
    what: str
    subject: str = Field(description="the identifier or digest of what it was done to")
    detail: dict[str, Any]
    hash: Digest = Field(description="over this entry and the one before")


class Problem(BaseModel):
    """Why a request was refused, in one line."""

    detail: str
