"""The row of a part that was decided from its views, in the record: made alike by a station and a watch."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from blemish.inference.part_rows import worst_of
from blemish.record.identifiers import time_of
from blemish.record.labels import Labels
from blemish.record.rows import Inspection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.core.types import Decision
    from blemish.inference.part_rows import PartRow


def part_inspection(
    id: str, found: PartRow, rows: Sequence[Inspection], *, model: str, seconds: float
) -> Inspection:
    """Make the row of a part that was decided from the rows of its views, with the picture of the worst."""
    shown = worst_of(rows) or max(rows, key=lambda row: row.score is not None)
    labels = Labels(**{name: getattr(rows[0], name) for name in asdict(Labels())})
    return Inspection(
        id=id,
        time=time_of(id),
        source=rows[0].source,
        part=rows[0].part,
        path=shown.path,
        model=model,
        image=shown.image,
        map=shown.map,
        width=shown.width,
        height=shown.height,
        score=found.score,
        p_value=found.p_value,
        threshold=found.threshold,
        review_threshold=found.review_threshold,
        anomalous=found.anomalous,
        regions=shown.regions,
        error=found.error,
        seconds=seconds,
        **asdict(labels),
        decided=cast("Decision", found.decision),
        missing=tuple(found.missing),
    )
