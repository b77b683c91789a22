"""Scoring images of parts to disk, each by the model of its view, and a decision for each part."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from blemish.core.ownership import owned
from blemish.inference import stopped_run
from blemish.inference.part_rows import PartCounts, write_parts
from blemish.inference.predict_folder import (
    inspect,
    write_predictions,
    write_summary,
)
from blemish.inference.prediction_counts import PredictionCounts
from blemish.inference.promise import Promise

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

    from blemish.inference.part_models import Views
    from blemish.inference.predict_folder import OverlayFormat


def predict_parts_to_folder(
    views: Views,
    part_views: Sequence[tuple[str, str | None]],
    inputs: Sequence[tuple[Path, Path]],
    out: Path,
    *,
    overlays: OverlayFormat | None = "png",
    on_row: Callable[[dict[str, Any]], None] = lambda _row: None,
    identity: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> tuple[PredictionCounts, PartCounts]:
    """Score files as `predict_to_folder` does, each by the model of its view, and decide of their parts.

    `part_views` is the part and the view of each input. Writes parts.jsonl, parts.csv and parts/ as well.
    """
    found = list(zip(part_views, inputs, strict=True))
    by_path = {str(path): shown for shown, (path, _) in found}
    parts: dict[str, list[tuple[str | None, dict[str, Any]]]] = {}
    detectors = {id(d): d for (_, view), _ in found if (d := views.detector(view))}

    def inspected() -> Generator[dict[str, Any], None, None]:
        for key, detector in detectors.items():
            own = (place for (_, view), place in found if id(views.detector(view)) == key)
            for row in inspect(detector, own, out, overlays=overlays, kept=kept):
                part, view = by_path[row["path"]]
                parts.setdefault(part, []).append((view, row))
                yield row

    with owned(out):
        kept = stopped_run.begin(out, identity, resume=resume)
        usual = views.detector(None)
        counts = write_predictions(inspected(), usual, out, on_row)
        of_parts = write_parts(parts, views.rule, out, pictures=overlays is not None)
        about = asdict(of_parts) | {"false_alarm_rate": views.rule.rate, "promise": views.describe()}
        write_summary(out, asdict(counts) | Promise.of(usual).as_fields() | {"parts": about})
        stopped_run.end(out)
    return counts, of_parts
