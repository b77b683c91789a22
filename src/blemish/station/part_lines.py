"""Which models of a station decide of parts with several views, and what a stop left undecided."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from blemish.core.errors import ConflictError, UsageError
from blemish.inference.part_models import OtherModelsError, ViewModels, make_views
from blemish.inference.parts import TogetherRule
from blemish.record.identifiers import first_id, utc_now
from blemish.record.rows import WATCH
from blemish.record.tables import escape_text
from blemish.station.parts import PartLine, PartSettings, abandoned
from blemish.watch.parts import check_count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import numpy as np

    from blemish.inference.detector import Detector
    from blemish.inference.part_models import Views
    from blemish.record.archive import Archive
    from blemish.record.rows import Inspection
    from blemish.record.store import Store
    from blemish.station.engine_jobs import Model

ABANDONED_DAYS = 2
"""Days after which a part that has got no view since is open at no station that runs: none waits for half as
long."""
OF_WATCH = "what its watch waits for"
"""What a part waits for where the station cannot know it, as it has not the watch's model."""


class PartLines:
    """The lines of parts of a station, one for each model that has parts."""

    def __init__(
        self,
        settings: PartSettings | None,
        store: Store,
        archive: Archive,
        *,
        station: str | None,
        shared: bool,
        make_id: Callable[[datetime], str],
        say: Callable[[str], None],
    ) -> None:
        """Take what is told of parts; None: nothing is, and models with a `parts.json` alone have parts.

        `station` is this one's name, and `shared` says that others may have the same record.
        """
        self.settings, self.store, self.archive = settings or PartSettings(), store, archive
        self.station, self.shared = station, shared
        self.make_id, self.say = make_id, say
        self.lines: list[PartLine] = []

    def models_of(self, path: Path, models: Sequence[Path]) -> ViewModels | None:
        """Return the models of the views of a model, one of those that a station starts with; None: it has no
        parts.

        Raises UsageError for what is told of one model where there are several.
        """
        settings = self.settings
        if settings.of_one_model and len(models) > 1:
            raise UsageError(
                "--view-model, --parts and --views: are for one --model; give one, or leave them out"
            )
        found = ViewModels.of(path, settings.view_models)
        given = settings.of_one_model or (settings.names is not None and len(models) == 1)
        return found if given or found.calibration_file.exists() else None

    def open(
        self,
        models: ViewModels,
        detectors: Mapping[Path, Detector],
        digests: Mapping[Path, str],
        version: Path | None,
    ) -> PartLine:
        """Begin to decide of parts by loaded models. Raises BlemishError where they do not allow it.

        `version` is as in `make_views`.
        """
        views = self._views(models, detectors, digests, version)
        line = PartLine(views, digests, self.store, self.settings, make_id=self.make_id, say=self.say)
        self.lines.append(line)
        return line

    def views_of(self, line: PartLine, digest: str, detector: Detector, version: Path | None) -> Views:
        """Return what decides of parts by another version of a line's one model.

        Raises ConflictError for one without a calibration of the parts that are decided together, and what
        `make_views` does.
        """
        models = line.views.models
        try:
            return self._views(models, {models.usual: detector}, {models.usual: digest}, version)
        except OtherModelsError as error:
            cure = "recalibrate the version in use"
            if version is not None:  # a calibration beside its file counts
                file = f"{version.parent.name}/{version.name}"
                cure += f", or calibrate this one by `blemish parts --model {file}` in the station's folder"
            raise ConflictError(
                f"model {digest}: has no calibration of parts with several views, as they are decided here; "
                f"{cure}"
            ) from error

    def _views(
        self,
        models: ViewModels,
        detectors: Mapping[Path, Detector],
        digests: Mapping[Path, str],
        version: Path | None,
    ) -> Views:
        settings = self.settings
        views = make_views(
            models,
            detectors,
            calibration=settings.calibration,
            views=settings.views,
            digests=digests,
            version=version,
        )
        check_count(views.rule)
        return views

    def resume(self) -> None:
        """Take up the parts that a stop left open here; of models that are not in use they are for review.

        Then do as `close_abandoned`.
        """
        open_, lost = self.store.undecided_views(), []
        left = self._own(open_)
        others = {id: rows for id, rows in open_.items() if id not in left}
        for line in self.lines:
            own = {
                id: rows for id, rows in left.items() if any(r.model in line.digests.values() for r in rows)
            }
            line.resume(own)
            left = {id: rows for id, rows in left.items() if id not in own}
        for id, rows in left.items():
            why = "not all of its views had come when the station stopped, and its model is not in use"
            lost.append(abandoned(id, rows, why))
        self._close(lost)
        self._close_abandoned(others)

    def _own(self, open_: Mapping[str, list[Inspection]]) -> dict[str, list[Inspection]]:
        """Return the parts that were begun here; they are decided by this station's name.

        Those are the ones of its name. Stations without a name cannot be told apart: each takes up all parts
        without one. A part of another name was begun here before this name if its images are here, and the
        record is this station's alone: on a shared one another station may have taken the same bytes.
        """
        name = escape_text(self.station)
        return {
            id: [replace(row, station=self.station) for row in rows]
            for id, rows in open_.items()
            if any(row.station == name or (not self.shared and self._has_image(row)) for row in rows)
        }

    def _has_image(self, row: Inspection) -> bool:
        return row.image is not None and self.archive.path(row.image, "image").exists()

    def close_abandoned(self) -> None:
        """Close parts that other stations on the record have left open for ABANDONED_DAYS: for review."""
        self._close_abandoned(self.store.undecided_views())

    def _close_abandoned(self, open_: Mapping[str, list[Inspection]]) -> None:
        limit = first_id(utc_now() - timedelta(days=ABANDONED_DAYS))
        lost = []
        for id, rows in open_.items():
            if rows[-1].id < limit and not self.has_open(id):
                taken = f"station {rows[0].station}" if rows[0].station else "a station without a name"
                why = f"not all of its views had come, and {taken} has not gone on with it"
                lost.append(abandoned(id, rows, why))
        self._close(lost)

    def _close(self, lost: Sequence[Inspection]) -> None:
        for each in lost:
            self.say(f"{each.error}; it is for review")
        self.store.record(lost)

    def of(self, digest: str) -> PartLine | None:
        """Return the line of a model, or None."""
        return next((line for line in self.lines if digest in line.digests.values()), None)

    def has_open(self, id: str) -> bool:
        """Whether a part of that identifier waits for views."""
        return any(line.has_open(id) for line in self.lines)

    def waits_for(self, view: Inspection) -> list[str]:
        """Return the views that the part of a view waits for; empty: it is decided.

        Of a part that waits at a watch, once it is recorded, this says what it lacked.
        """
        line = self.of(view.model)
        if view.part_id is None:
            return []
        if view.source == WATCH:
            rows = self.store.views_of([view.part_id])[view.part_id]
            return (line.lacks(rows) if line is not None else []) or [OF_WATCH]
        own = next((each for each in self.lines if each.has_open(view.part_id)), None)  # of any version
        return [] if own is None else own.waits_for(view.part_id)

    def is_waiting(self, id: str) -> bool:
        """Whether there are views of a part of that identifier, which has no row yet."""
        return self.store.get(id) is None and bool(self.store.views_of([id])[id])

    def decide_due(self) -> bool:
        """Decide of parts that have waited too long; returns whether there were any."""
        decided = [line.decide_due() for line in self.lines]
        return any(decided)

    def refuse_change(self, digest: str, name: str) -> None:
        """Refuse to change one of several models by which parts are decided. Raises ConflictError."""
        line = self.of(digest)
        if line is not None and line.views.models.own:
            raise ConflictError(
                f"model {name}: decides of parts together with models of other views; recalibrate each by "
                "`blemish recalibrate`, calibrate them together by `blemish parts`, and start the station "
                "with them"
            )

    def refuse_rollout(self, digest: str, name: str) -> None:
        """Refuse a version from elsewhere for a model that decides of parts. Raises ConflictError."""
        if self.of(digest) is not None:
            raise ConflictError(
                f"model {name}: decides of parts with several views, and a rollout brings no calibration of "
                "parts; start the station with the new model"
            )


def calibration_parts(views: Views | None) -> int | None:
    """Return how many good parts were calibrated together; None: none were."""
    return views.rule.carried_by if views is not None and isinstance(views.rule, TogetherRule) else None


def good_scores(model: Model, views: Views | None) -> np.ndarray | None:
    """Return the scores of good parts that those of production are compared with; None: there are none.

    `views` decides of parts with several views; None: each image is a part.
    """
    if views is not None:
        return views.rule.calibration.statistics if isinstance(views.rule, TogetherRule) else None
    calibration = model.detector.model_file.calibration
    return None if calibration is None else calibration.scores
