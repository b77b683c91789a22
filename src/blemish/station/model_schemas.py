"""What the service says of models: what they decide by, and whether production looks like calibration."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from blemish.station.schemas import Digest, Id, Note


class DriftAnswer(BaseModel):
    """The evidence against "production looks like calibration"."""

    evidence: float = Field(description="log10 of the test martingale")
    alarm: bool
    since: Id | None
    peak: float = Field(description="the largest evidence so far")
    peak_time: datetime | None = Field(description="when it was reached")


class ModelAnswer(BaseModel):
    """A model that this station uses, or has used."""

    digest: Digest
    name: str
    method: str
    preset: str
    dataset: str
    first_used: datetime
    active: bool
    origin: Digest | None = Field(description="of which model it is a version; null: its file is not here")
    takes: str
    calibration_images: int
    calibration_parts: int | None = Field(
        description="good parts with several views that were calibrated together; null: none were"
    )
    lowest_false_alarm_rate: float | None
    false_alarm_rate: float | None
    review_rate: float | None = Field(description="share that may be rejected or reviewed; null: none is")
    usual_rate: float = Field(description="the rate that is in force where enough images carry it")
    usual_rate_needs: int = Field(description="calibration images that the usual rate needs")
    threshold: float | None
    review_threshold: float | None
    counts: str | None = Field(description="which regions count, in words; null: all, or not in use here")
    display_range: tuple[float, float]
    drift: DriftAnswer | None


class PartRuleAnswer(BaseModel):
    """How a model decides of parts from their views."""

    views: list[str] = Field(description="what they are called; empty: they are not told apart")
    count: int = Field(description="how many there are")
    rule: Literal["together", "apart"]
    carried_by: int = Field(description="good parts, or good images of a view, that carry the promise")
    false_alarm_rate: float | None
    review_rate: float | None
    wait_seconds: float
    one_model: bool = Field(
        description="whether one model scores all views; else no thresholds are made here"
    )


class PartsModelAnswer(ModelAnswer):
    """A model that decides of parts with several views; other figures are those of its images."""

    parts: PartRuleAnswer


AnyModel = PartsModelAnswer | ModelAnswer


class CalibrationAnswer(BaseModel):
    """Scores of held-out good images, ascending: the threshold of rate r is the k-th largest,
    k = floor(r (n + 1)).
    """

    scores: list[float]
    map_maxima: list[float]
    min_area_px: float = Field(description="the smallest region that counts")
    min_length_px: float = Field(description="the same for the diagonal of its box")


class AlarmAnswer(BaseModel):
    """What a person sees to: `drift`, parts no longer score as in calibration; `clock`, it went back."""

    id: Id
    model: Digest
    time: datetime
    kind: str
    value: float = Field(description="drift: log10 of the test martingale; clock: seconds")
    message: str
    peak: float | None = Field(description="drift: the largest evidence so far")
    peak_time: datetime | None
    acknowledged: datetime | None
    acknowledged_by: str | None
    note: str | None


class AcknowledgementRequest(BaseModel):
    """A person has seen to an alarm."""

    note: Note = ""
    by: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] | None = Field(
        None, description="who, where the station asks for no token; else the token's name"
    )
