"""A model calibrated anew, on parts that production has shown to be good: the same network, new thresholds.

The newest parts of a model are taken, all but those that a person called a defect. So that they stand for
good production, no part among them that was rejected or sent to review may be without a verdict: leaving
those out would leave out the tail that thresholds are made of, and taking only judged ones would take
nothing but rejects.

Of parts with several views, those count that have all of them. They calibrate the images of the views, and
the parts together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError, ImageError, UsageError
from blemish.images.sources import Stored
from blemish.inference import postprocess
from blemish.inference.calibration import calibrate, images_needed
from blemish.inference.detector_arguments import check_region
from blemish.inference.part_models import digests_of_one, part_calibration_text
from blemish.inference.parts import ApartRule, PartCalibration, TogetherRule
from blemish.record.rows import standing
from blemish.record.tables import Search
from blemish.station.render import read_map

if TYPE_CHECKING:
    from blemish.core.types import Decision
    from blemish.images.roi import Roi
    from blemish.inference.counting import Counting
    from blemish.inference.detector import Detector
    from blemish.inference.model_file import ModelFile
    from blemish.inference.parts import PartRule
    from blemish.record.archive import Archive
    from blemish.record.rows import Inspection
    from blemish.record.store import Store
    from blemish.station.engine_jobs import Model

PARTS = 500
"""The newest parts that are looked at, unless told."""
WAITS: dict[Decision, str] = {"rejected": "rejected", "review": "sent to review"}
"""Decisions after which a person judges, in words."""


@dataclass(frozen=True, kw_only=True)
class NewThresholds:
    """A model with new thresholds of its images; where it decides of parts, `parts` calibrates these too."""

    model_file: ModelFile
    parts: PartCalibration | None = None
    names: tuple[str, ...] = ()
    """Identifiers of the parts."""

    def part_calibration(self, model: bytes) -> str | None:
        """Return the `parts.json` of a model file with the content `model`; None: it decides of no parts."""
        if self.parts is None:
            return None
        digests = digests_of_one(self.parts, model)
        return part_calibration_text(self.parts, digests, parts=self.names, data="the station's record")


def recalibrated(
    model: Model,
    store: Store,
    archive: Archive,
    *,
    parts: int = PARTS,
    station: str | None = None,
    region: Roi | None = None,
    rule: PartRule | None = None,
) -> NewThresholds:
    """Calibrate a model on the newest good parts that it has scored.

    `station`: only parts of the station of that name, whose images are here; None: all. `region`: where
    images count from now on, for which they are scored anew; None: their scores on record are taken. `rule`
    decides of parts with several views; None: each image is a part.

    Raises DataError while parts among them that were rejected or sent to review wait for a verdict, and when
    fewer are left than the model was calibrated on; UsageError for fewer `parts` than 1, and for a region of
    a model that scores images as a whole, or of views that show different things.
    """
    if parts < 1:
        raise UsageError(f"{parts} parts: give 1 or more")
    if rule is not None and region is not None:
        raise UsageError(
            "a region that is drawn over one view would count for all views of a part; leave it out, or use "
            "`blemish recalibrate --roi`"
        )
    good = _good_parts(model, store, Search(model=model.digest, station=station), limit=parts, rule=rule)
    detector = _with_region(model.detector, region)
    rescored, model_file = None if region is None else detector, detector.model_file
    whole = {
        id: rows
        for id, rows in _before_removal(good).items()
        if rows and all(_has_file(row, rescored, archive) for row in rows)
    }
    _check_number(len(whole), model_file, rule, "maps" if rescored is None else "images")
    images = [row for rows in whole.values() for row in rows]
    scores, maxima = _scores(model_file.counting, images, archive, rescored)
    names, together = tuple(whole), None
    if rule is not None:
        together = PartCalibration(scores=scores.reshape(len(whole), -1), views=rule.names)
    about = {"from": model.digest, "parts": len(names), "first": names[-1], "last": names[0]}
    return NewThresholds(
        model_file=replace(
            model_file,
            calibration=calibrate(scores, maxima),
            provenance=model_file.provenance | {"recalibrated": about, "calibration_digests": {}},
        ),
        parts=together,
        names=names,
    )


def _good_parts(
    model: Model, store: Store, wanted: Search, *, limit: int, rule: PartRule | None
) -> dict[str, list[Inspection]]:
    """Return the newest parts that nobody called a defect, newest first, with the rows of their images.

    A part that the model has not scored in all its views has none. Raises DataError as `_not_defects`.
    """
    found = [row for row in store.search(wanted, limit=limit) if row.score is not None]
    if rule is None:  # the score of a part decided from views is no image's
        return {row.id: [row] for row in _not_defects([row for row in found if row.missing is None], store)}
    good = _not_defects([row for row in found if row.missing == ()], store)
    return _views(good, rule, model.digest, store)


def _with_region(detector: Detector, region: Roi | None) -> Detector:
    """Return a detector by which images count inside of a region alone. Raises UsageError."""
    if region is None:
        return detector
    check_region(detector)
    source = detector.model_file
    return replace(detector, model_file=replace(source, counting=replace(source.counting, inner=region)))


def _not_defects(newest: list[Inspection], store: Store) -> list[Inspection]:
    """Return the parts that nobody called a defect. Raises DataError where some wait for a verdict."""
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
    return [row for row in newest if verdicts.get(row.id) != "defect"]


def _views(parts: list[Inspection], rule: PartRule, digest: str, store: Store) -> dict[str, list[Inspection]]:
    """Return the views of each part in the order of the rule's; of a view that came twice the newest one."""
    found = {}
    for id, rows in store.views_of([part.id for part in parts]).items():
        scored = [row for row in rows if row.score is not None and row.model == digest]
        if rule.names:
            newest = {row.view: row for row in scored}
            scored = [newest[name] for name in rule.names if name in newest]
        found[id] = scored if len(scored) == rule.count else []
    return found


def _check_number(n: int, model_file: ModelFile, rule: PartRule | None, files: str) -> None:
    """Refuse fewer parts than there were. Raises DataError."""
    if rule is None:
        needed = model_file.calibration.n if model_file.calibration else 1
    elif isinstance(rule, TogetherRule):
        needed = rule.carried_by
    else:  # its models were calibrated apart, on images
        needed = images_needed(rule.rate) if rule.rate else 1
    if n < needed:
        of = "" if rule is None else " of all views"
        why = "its false-alarm rate needs" if isinstance(rule, ApartRule) else "this model was calibrated on"
        raise DataError(
            f"{n} good parts are on record with their {files}{of}, and {why} {needed}; inspect more, or take "
            "more parts"
        )


def _scores(
    counting: Counting, rows: list[Inspection], archive: Archive, rescored: Detector | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of images and the largest values of their maps, from the record or scored anew."""
    if rescored is not None:
        return _scored_anew(rescored, rows, archive)
    maxima = [_maximum(counting, row, archive) for row in rows]
    return np.array([row.score for row in rows], np.float64), np.array(maxima)


def _before_removal(good: dict[str, list[Inspection]]) -> dict[str, list[Inspection]]:
    """Return the newest parts, up to the first whose files were removed to make room.

    Those of accepted parts go first: beyond it there would be too many that were rejected by mistake.
    """
    kept = takewhile(lambda part: all(row.files_removed is None for row in part[1]), good.items())
    return dict(kept)


def _has_file(row: Inspection, rescored: Detector | None, archive: Archive) -> bool:
    """Whether an image's map is here, or the image where that is scored anew; a watch may come too late."""
    hash, kind = (row.map, "map") if rescored is None else (row.image, "image")
    return hash is not None and archive.path(hash, kind).exists()


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
