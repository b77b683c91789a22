"""What an evaluation keeps of each test image: a row of scores.csv, and a tile of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blemish.core.files import temporary_for
from blemish.core.spreadsheet import TableWriter
from blemish.evaluation.pictures import name_of_sample, overlay_name, thumbnail_name
from blemish.report.content import ReportImage

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.core.types import Prediction, Sample
    from blemish.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A test image with what the detector said of it; the map is no longer held."""

    sample: Sample
    name: str
    score: float
    p_value: float | None
    anomalous: bool | None
    decision: str


def score_of(sample: Sample, prediction: Prediction, dataset: Dataset) -> Scored:
    """Keep of a prediction all but its map."""
    return Scored(
        sample=sample,
        name=name_of_sample(sample, dataset),
        score=prediction.score,
        p_value=prediction.p_value,
        anomalous=prediction.anomalous,
        decision=prediction.decision,
    )


def write_scores(path: Path, scored: list[Scored]) -> None:
    """Write scores.csv, a row for each image: without a calibration, p-value and decision are empty.

    It appears when it is whole.
    """
    # surrogateescape: a file name that is not UTF-8 is written as the bytes it is
    with (
        temporary_for(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = TableWriter(file, ["path", "label", "score", "p_value", "anomalous", "decision"])
        for s in scored:
            unknown = "" if s.anomalous is None else str(s.anomalous).lower()
            row = {"path": s.name, "label": s.sample.label, "score": s.score}
            row |= {"p_value": s.p_value, "anomalous": unknown, "decision": s.decision}
            writer.write(row)


def report_image(s: Scored) -> ReportImage:
    """Say of an image what the report shows, with the names of its pictures."""
    return ReportImage(
        name=s.name,
        label=s.sample.label,
        score=s.score,
        p_value=s.p_value,
        anomalous=s.anomalous,
        overlay=overlay_name(s.name),
        thumbnail=thumbnail_name(s.name),
        review=s.decision == "review",
    )
