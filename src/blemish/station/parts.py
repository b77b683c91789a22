"""Parts of several views at a station: their images wait for one another, and each part is decided once.

A view is a row of the record as soon as it is scored, and names the row of its part, which does not exist
yet. That row is written with the last view, in one transaction, or when the time is over: then the part is
incomplete, and for review if the others do not suffice to reject it. So a crash loses nothing: views without
the row of their part are taken up at the next start.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from blemish.core.errors import DataError, UsageError
from blemish.inference.part_rows import PartRow, part_row
from blemish.inference.parts import TogetherRule, ViewScore, missing_views
from blemish.record.identifiers import utc_now
from blemish.record.parts import part_inspection
from blemish.watch.parts import check_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future
    from datetime import datetime
    from pathlib import Path

    from blemish.data.part_names import PartNames
    from blemish.inference.part_models import Views
    from blemish.record.rows import Inspection
    from blemish.record.store import Store
    from blemish.station.engine import Engine
    from blemish.station.engine_jobs import Job, Upload


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """How a station tells parts, and how long a part is waited for."""

    names: PartNames | None = None
    """How names tell them, where a sender does not."""
    wait_s: float = 10.0
    view_models: tuple[str, ...] = ()
    """Models of views that have one of their own, as VIEW=MODEL. This and the next two are for one model."""
    calibration: Path | None = None
    """This and `views` are as in `make_views`."""
    views: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a time that is none. Raises UsageError."""
        check_wait(self.wait_s)
        if self.wait_s > LONGEST_WAIT_S:
            raise UsageError(
                f"--part-wait {self.wait_s:g}: a station waits for a day at most; "
                f"give {LONGEST_WAIT_S:g} or less"
            )

    @property
    def of_one_model(self) -> bool:
        """Whether something was said that can be meant of one model only."""
        return bool(self.view_models or self.calibration or self.views)


LONGEST_WAIT_S = 24 * 3600.0
"""Seconds that a station waits for a view at most, so that others see what is abandoned."""
Made = tuple[str | None, str | None]
"""Product and line of a part: two lines may number their parts alike, and their views are of two parts."""


@dataclass(eq=False)
class OpenPart:
    """A part that is not decided: its views on record, and the images on their way, with their views."""

    id: str
    name: str
    made: Made
    since: float  # seconds of the monotonic clock
    rows: list[Inspection] = field(default_factory=list)
    coming: dict[str, str | None] = field(default_factory=dict)


class PartLine:
    """The parts of a model: which wait for views, and the rule that decides. Its methods are thread-safe.

    It stands between the engines of the views and the record: they hand their rows to `record`.
    """

    def __init__(
        self,
        views: Views,
        digests: Mapping[Path, str],
        store: Store,
        settings: PartSettings,
        *,
        make_id: Callable[[datetime], str],
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.views, self.digests, self.store, self.settings = views, digests, store, settings
        self.make_id, self.say, self.now = make_id, say, now
        self.engines: dict[Path, Engine] = {}
        self._open: dict[str, OpenPart] = {}
        self._lock = threading.RLock()

    @property
    def model(self) -> str:
        """The digest by which parts are recorded: that of the model of all views without their own."""
        return self.digests[self.views.models.usual]

    # --- images in ------------------------------------------------------------------------------------------

    def begin(self, upload: Upload) -> Job:
        """Queue an image for the model of its view, as `Engine.begin`.

        Raises UsageError for an image whose part or view is not told, or is unknown.
        """
        name, view = self._shown(upload)
        with self._lock:
            part = self._place_of(name, (upload.labels.product, upload.labels.line))
            engine = self.engines[self.views.models.path(view)]
            job = engine.begin(replace(upload, part=name, view=view, part_id=part.id))
            self._open[part.id] = part
            part.coming[job.id] = view
            job.answer.add_done_callback(partial(self._ended, part, job.id))  # not the job: it has the image
        return job

    def _shown(self, upload: Upload) -> tuple[str, str | None]:
        """Return the part and the view that an image shows, as its sender says or else its name."""
        part, view, names = upload.part, upload.view, self.settings.names
        if names is not None and (part is None or view is None):
            try:
                found = names.of(upload.name or "")
            except DataError:
                found = None, None
            part, view = part or found[0], view or found[1]
        if part is None:
            raise UsageError("no part is told: send it as the field part, or in the file's name")
        known = self.views.rule.names
        if known and view not in known:
            what = "no view is told" if view is None else f"view {view!r} is unknown"
            raise UsageError(f"{what}: parts have {', '.join(known)}; send one of them as the field view")
        return part, view

    def _place_of(self, name: str, made: Made) -> OpenPart:
        """Return the part of that name, product and line that is open and not full, or a new one."""
        rule = self.views.rule
        for part in self._open.values():
            full = not rule.names and len(part.rows) + len(part.coming) >= (rule.count or 1)
            if (part.name, part.made) == (name, made) and not full:
                return part
        return OpenPart(self.make_id(utc_now()), name, made, self.now())

    def _ended(self, part: OpenPart, id: str, answer: Future[Any]) -> None:
        """Forget an image that came to nothing; a part of which nothing is left is none."""
        lost = answer.cancelled() or answer.exception() is not None
        with self._lock:
            part.coming.pop(id, None)
            if lost and not part.rows and not part.coming:
                self._open.pop(part.id, None)

    # --- decisions ------------------------------------------------------------------------------------------

    def record(self, inspections: Sequence[Inspection]) -> None:
        """Record views, and with them the parts that they complete. Raises what `Store.record` does."""
        with self._lock:
            of_part: dict[str, list[Inspection]] = {}
            for each in inspections:
                of_part.setdefault(each.part_id or "", []).append(each)
            decided = []
            for id, rows in of_part.items():
                part = self._open[id]
                others = part.coming.keys() - {row.id for row in rows}
                if not others and self._is_complete(part.rows + rows):
                    decided.append(self._decide(part, part.rows + rows))
            self.store.record([*inspections, *decided])
            for id, rows in of_part.items():
                self._open[id].rows += rows
                for row in rows:
                    self._open[id].coming.pop(row.id, None)
            self._close(decided)

    def decide_due(self) -> bool:
        """Decide of parts that have waited too long; those on their way are waited for. Returns whether any.

        Raises what `Store.record` does: they are decided the next time.
        """
        with self._lock:
            due = [
                part for part in self._open.values() if part.rows and not part.coming and self._is_due(part)
            ]
            decided = [self._decide(part, part.rows) for part in due]
            self.store.record(decided)
            self._close(decided)
        return bool(decided)

    def _is_due(self, part: OpenPart) -> bool:
        return self.now() - part.since >= self.settings.wait_s or self._is_complete(part.rows)

    def _is_complete(self, rows: Sequence[Inspection]) -> bool:
        rule = self.views.rule
        if rule.names:
            return {row.view for row in rows} >= set(rule.names)
        return len(rows) >= (rule.count or 1)

    def _decide(self, part: OpenPart, rows: Sequence[Inspection]) -> Inspection:
        rule = self.views.rule
        rows = sorted(rows, key=lambda row: row.id)
        if rule.names:  # of a view that came twice the newest image counts
            rows = list({row.view: row for row in rows}.values())
        if isinstance(rule, TogetherRule) and any(map(self._is_of_other_model, rows)):
            error = f"part {part.name}: a view was scored by a model that has been replaced since"
            found = PartRow(part=part.name, decision="review", error=error)
        else:
            given = [(row.view, vars(row) | {"decision": row.decision}) for row in rows]
            found = part_row(part.name, given, rule)
        if found.missing:
            self.say(f"part {part.name}: missing: {', '.join(found.missing)}; {found.decision}")
        return part_inspection(part.id, found, rows, model=self.model, seconds=self.now() - part.since)

    def _is_of_other_model(self, row: Inspection) -> bool:
        return row.model != self.digests[self.views.models.path(row.view)]

    def _close(self, decided: Iterable[Inspection]) -> None:
        for row in decided:
            del self._open[row.id]

    def go_on(self, views: Views, digest: str) -> None:
        """Decide by another version of the one model from now on.

        Where parts were calibrated together, an open part of which it has not scored a view is for review.
        """
        with self._lock:
            self.views, self.digests = views, {views.models.usual: digest}

    # --- what waits -----------------------------------------------------------------------------------------

    def resume(self, left: Mapping[str, list[Inspection]]) -> None:
        """Take up parts that a stop left open: views by the identifiers of the parts. They wait anew."""
        with self._lock:
            for id, rows in left.items():
                made = rows[0].product, rows[0].line
                self._open[id] = OpenPart(id, rows[0].part or "", made, self.now(), rows=rows)

    def has_open(self, id: str) -> bool:
        """Whether a part of that identifier is not decided."""
        return id in self._open

    def waits_for(self, id: str) -> list[str]:
        """Return the views that a part waits for, or says their number; empty: it is decided."""
        with self._lock:
            part = self._open.get(id)
            if part is None:
                return []
            # of a view that comes once more the newest image counts: it is waited for
            return self.lacks(part.rows) or sorted(map(str, part.coming.values()))

    def lacks(self, rows: Sequence[Inspection]) -> list[str]:
        """Return the views that a part with these lacks, or says their number."""
        rule = self.views.rule
        there = {row.view: row for row in rows}.values() if rule.names else rows
        given = [ViewScore(view=row.view, score=0.0) for row in there]
        return missing_views(given, rule.count, rule.names)


def abandoned(id: str, rows: Sequence[Inspection], why: str) -> Inspection:
    """Make the row of a part that a stop left open, and that nobody goes on with."""
    name = rows[0].part or ""
    found = PartRow(part=name, decision="review", error=f"part {name}: {why}")
    return part_inspection(id, found, rows, model=rows[0].model, seconds=sum(row.seconds for row in rows))
