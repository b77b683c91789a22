"""A running station: its models (`models_in_use`), the record, the archive and the watch for drift."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import BlemishError, UsageError
from blemish.images.limits import MAX_PIXELS
from blemish.inference import load
from blemish.record.archive import Archive
from blemish.record.identifiers import IdSequence, clock_advice
from blemish.record.labels import Labelling
from blemish.record.retention import Policy, retain
from blemish.record.sampling import SamplingPlan
from blemish.record.store import Store
from blemish.record.versions import FOLDER as VERSIONS
from blemish.record.versions import Versions
from blemish.station.deliveries import Deliveries
from blemish.station.following import Following
from blemish.station.models_in_use import ModelsInUse
from blemish.station.part_lines import PartLines
from blemish.station.readiness import RECORD, Readiness, Troubles
from blemish.station.training_jobs import Trainings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blemish.station.parts import PartSettings

RETENTION_INTERVAL = 3600.0
"""Seconds between two removals of what the policy does not keep."""
FOLLOWING_INTERVAL = 1.0
"""Seconds between two looks at what others have recorded."""


class Station(ModelsInUse):
    """Everything that a service needs; `close` ends it. Raises BlemishError for what cannot be opened."""

    def __init__(
        self,
        models: Sequence[Path],
        folder: Path,
        *,
        database: str | None = None,
        false_alarm_rate: float | None = None,
        review_rate: float | None = None,
        allow: frozenset[str] = frozenset(),
        device: str = "auto",
        capacity: int = 64,
        max_pixels: int = MAX_PIXELS,
        training_data: Path | None = None,
        policy: Policy | None = None,
        labelling: Labelling | None = None,
        sample: float | None = None,
        parts: PartSettings | None = None,
    ) -> None:
        self.policy, self._closing = policy or Policy(), threading.Event()
        self.folder = folder
        self.labelling = labelling or Labelling()
        self.store = Store.open(database, folder)
        if sample is not None:
            self._begin_sampling(SamplingPlan(sample).share)
        self.archive = Archive(folder / "archive")
        self.troubles = Troubles()
        self.readiness = Readiness(self.store, self.archive, self.troubles)
        own = self.labelling.usual.station
        self.make_id = IdSequence(self.store.newest_id(own), self._tell_jump)
        self.following = Following(self.store, self.make_id)
        self.deliveries = Deliveries(self.store)
        rates = {"false_alarm_rate": false_alarm_rate, "review_rate": review_rate}
        super().__init__(
            Versions(folder / VERSIONS),
            load=partial(load.load, device=device, allow=allow, **rates),
            limits={"capacity": capacity, "max_pixels": max_pixels},
        )
        self.parts = PartLines(
            parts,
            self.store,
            self.archive,
            station=own,
            shared=database is not None,
            make_id=self.make_id,
            say=_say,
        )
        self._start_models(models)
        self.trainings = Trainings(
            folder / "trainings",
            data=training_data,
            max_pixels=max_pixels,
            on_model=self._adopt,
            device=device,
            make_id=self.make_id,
        )
        threading.Thread(target=self._run_retention, name="retention", daemon=True).start()
        # called once in a while, by the thread that follows
        self.noticing: list[Callable[[], None]] = [self._decide_due]
        self._follower = threading.Thread(target=self._run_following, name="following", daemon=True)
        self._follower.start()

    def _start_models(self, models: Sequence[Path]) -> None:
        """Start the models that the command names, then those that were trained here."""
        for path in models:
            name = path.stem if path.is_file() else path.resolve().name
            of_parts = self.parts.models_of(path, models)
            if of_parts is None:
                self._start_model(path, name)
            else:
                self._start_line(of_parts, name)
        self.parts.resume()
        for origin, name in self.versions.adopted.items():
            try:
                self._start(self.versions.active(origin), name)
            except UsageError as error:  # such as a rate that its few images cannot promise
                raise UsageError(f"model {name}, which was trained here: {error}") from error

    def _begin_sampling(self, share: float) -> None:
        """Draw the share that the command names, unless another one was set since, on the page: it stays."""
        plan, last = self.store.sampling(), self.store.acts(what="sampling", limit=1)
        if share == plan.share:
            return
        if last and last[0].detail.get("by") != "start":
            _say(f"--sample {share:g}: {plan.share:g} was set since, and stays; change it on the page Models")
            return
        plan = replace(plan, share=share)
        self.store.set_sampling(plan, act=self.act(None, "sampling", detail=asdict(plan) | {"by": "start"}))

    def problem(self) -> str | None:
        """Return why no inspection could be made now, or None."""
        problem = self.readiness.problem()
        if problem is not None:
            return problem
        full = [self.name_of(d) for d, e in self.engines.items() if e.waiting >= e.room.capacity]
        return f"as many images wait as can, for {', '.join(full)}" if full else None

    def retain(self) -> None:
        """Remove the files that the policy does not keep."""
        now = datetime.now(UTC)
        retain(self.store, self.archive, self.policy, now, station=self.labelling.usual.station)
        before = (now - timedelta(days=self.policy.trainings_days)).timestamp()
        with self._models_lock:
            self.versions.remove_unused(self.store.models_in_use, before=before)
        self.trainings.remove_unused(self._needed_models, before=before)

    def _needed_models(self, digests: list[str]) -> set[str]:
        """Return those of the models that are in use, or have scored a part."""
        used = {digest for digest in digests if digest in self.engines or digest in self.versions.adopted}
        return used | self.store.models_in_use(digests)

    def _run_retention(self) -> None:
        while not self._closing.wait(RETENTION_INTERVAL):
            for act, failed in (
                (self.retain, "files could not be removed"),
                (self.parts.close_abandoned, "parts of other stations could not be closed"),
            ):
                try:
                    act()
                except Exception as error:  # whatever it was, it is tried again the next time
                    _say(f"{failed}: {error}")

    def close(self) -> None:
        """Stop the training that runs, answer the uploads that wait, and close the record."""
        self._closing.set()
        self._follower.join()
        self.trainings.close()
        for engine in self.engines.values():
            engine.close()
        with suppress(BlemishError):  # they are made anew from the record
            self.following.follow()
            self.following.note_peaks()
            self.following.note_states()
        self.store.close()

    def _decide_due(self) -> None:
        """Decide of parts that have waited for their views long enough."""
        if self.parts.decide_due():
            self.troubles.end(RECORD)  # no file was written: what the disk has is as it was
            self.following.follow()

    def _run_following(self) -> None:
        """Take what others record, such as a watch into the same record."""
        while not self._closing.wait(FOLLOWING_INTERVAL):
            if self.troubles.open:
                self.readiness.problem()  # which says when they are over
            try:
                self.following.follow()
                for notice in self.noticing:
                    notice()
                while not self._closing.is_set() and self.store.roll_up():
                    pass  # a record of before is rolled up at once
            except (
                Exception
            ) as error:  # such as a record that is away: the next look goes on, whatever it was
                self.troubles.note(error)

    def _tell_jump(self, back: timedelta) -> None:
        """Tell that the clock went back: on the console, and as an alarm of the model in use."""
        text = clock_advice(back)
        _say(text)
        self.following.tell(
            next(iter(self.engines), ""), kind="clock", value=back.total_seconds(), message=text
        )


def _say(text: str) -> None:
    print(f"blemish serve: {text}", file=sys.stderr, flush=True)
