"""A model calibrated anew, on parts that production has shown to be good: the same network, new thresholds.

The newest parts of a model are taken, all but those that a person called a defect. So that they stand for
good production, no part among them that was rejected or sent to review may be without a verdict: leaving
those out would leave out the tail that thresholds are made of, and taking only judged ones would take
nothing but rejects.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError, ImageError, UsageError
from blemish.images.sources import Stored
from blemish.inference import postprocess
from blemish.inference.calibration import calibrate
from blemish.record.rows import standing
from blemish.record.tables import Search
from blemish.station.render import read_map

if TYPE_CHECKING:
    from blemish.core.types import Decision
    from blemish.inference.counting import Counting
    from blemish.inference.detector import Detector
    from blemish.inference.model_file import ModelFile
    from blemish.record.archive import Archive
    from blemish.record.rows import Inspection
    from blemish.record.store import Store

PARTS = 500
"""The newest parts that are looked at, unless told."""
WAITS: dict[Decision, str] = {"rejected": "rejected", "review": "sent to review"}
"""Decisions after which a person judges, in words."""


def recalibrated(
    model_file: ModelFile,
    digest: str,
    store: Store,
    archive: Archive,
    *,
    parts: int = PARTS,
    station: str | None = None,
    rescored: Detector | None = None,
) -> ModelFile:
    """Return a model file with a calibration of the newest good parts that it has scored.

    `station`: only parts of the station of that name, whose images are here; None: all. `rescored` scores
    their images anew, as where other places are to count; None: their scores on record are taken.

    Raises DataError while parts among them that were rejected or sent to review wait for a verdict, and when
    fewer are left than the model was calibrated on; UsageError for fewer `parts` than 1.
    """
    if parts < 1:
        raise UsageError(f"{parts} parts: give 1 or more")
    found = store.search(Search(model=digest, station=station), limit=parts)
    # the score of a part decided from views is no image's
    newest = [row for row in found if row.score is not None and row.missing is None]
    given = {id: standing(each) for id, each in store.verdicts(row.id for row in newest).items()}
    verdicts = {id: each[-1].verdict for id, each in given.items() if each}
    waiting = [row for row in newest if row.decision in WAITS and row.id not in verdicts]
    if waiting:
        what = " or ".join(
            word for name, word in WAITS.items() if any(row.decision == name for row in waiting)
        )
        raise DataError(
            f"{len(waiting)} of the newest {len(newest)} parts were {what} and wait for a verdict; "
            "judge them first, or take fewer parts"
        )
    good = [row for row in newest if verdicts.get(row.id) != "defect" and _has_files(row, rescored)]
    needed = model_file.calibration.n if model_file.calibration else 1
    if len(good) < needed:
        raise DataError(
            f"{len(good)} good parts are on record with their {'maps' if rescored is None else 'images'}, "
            f"and this model was calibrated on {needed}; inspect more, or take more parts"
        )
    if rescored is None:
        scores = np.array([row.score for row in good], np.float64)
        maxima = np.array([_maximum(model_file.counting, row, archive) for row in good])
    else:
        scores, maxima = _scored_anew(rescored, good, archive)
    about = {"from": digest, "parts": len(good), "first": good[-1].id, "last": good[0].id}
    return replace(
        model_file,
        calibration=calibrate(scores, maxima),
        provenance=model_file.provenance | {"recalibrated": about},
    )


def _has_files(row: Inspection, rescored: Detector | None) -> bool:
    """Whether a part's map is kept, or its image where that is scored anew; a watch may come too late."""
    return row.files_removed is None and (row.map if rescored is None else row.image) is not None


def _scored_anew(
    detector: Detector, rows: list[Inspection], archive: Archive
) -> tuple[np.ndarray, np.ndarray]:
    """Score the images of parts on record: their scores and the largest values of their maps that count."""

    def stored(row: Inspection) -> Stored:
        assert row.image
        return Stored(path=row.path or row.id, fetch=partial(archive.read, row.image, "image"))

    counting, scores, maxima = detector.model_file.counting, [], []
    for found in detector.predict_many(map(stored, rows)):
        if isinstance(found, ImageError):
            raise found
        scores.append(found.score)
        maxima.append(found.score if counting.has_sizes else counting.peak(found.anomaly_map))
    return np.array(scores, np.float64), np.array(maxima, np.float64)


def _maximum(counting: Counting, row: Inspection, archive: Archive) -> float:
    """Return the largest value of a part's map at the size of its image that counts, as in calibration."""
    assert row.map
    assert row.height
    assert row.width
    coarse_map = read_map(archive.read(row.map, "map"))
    return counting.peak(postprocess.to_original_size(coarse_map, (row.height, row.width)), name=row.path)
