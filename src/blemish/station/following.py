"""What follows from the record, whoever writes it: drift, its alarms, and meters, in the order of recording.

Another process may write into the same record, such as a watch. So nothing is taken from what this process
has just written: the rows after the last one seen are read from the record, all of them, each once. After a
restart the same rows in the same order give the same state, to the bit; it goes on from one that was kept.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from blemish.core.errors import DataError, NotFoundError
from blemish.record.identifiers import from_milliseconds, milliseconds, utc_now
from blemish.record.rows import StoreError
from blemish.record.store import Alarm
from blemish.station.drift import Drift

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    import numpy as np

    from blemish.record.store import Act, Recorded, Store

BATCH_SIZE = 1000
"""Rows that are read together."""
STATE_ROWS = 4096
"""Rows after which the state of each drift is kept; a start reads no more than that again."""
WHOLE = "[]"
"""`Recorded.missing` of a part that was decided from all its views."""
DRIFTED = "production no longer scores as the calibration images did"


class Following:
    """The drift of each version of a model that is, or was, in use here, and who else hears of each row."""

    def __init__(self, store: Store, make_id: Callable[[datetime], str]) -> None:
        self.store, self.make_id = store, make_id
        self.drifts: dict[str, Drift] = {}
        self.peak_times: dict[str, datetime] = {}
        self.listeners: list[Callable[[Sequence[Recorded]], None]] = []
        self.alarm_listeners: list[Callable[[Alarm], None]] = []
        self._lock = threading.Lock()
        self._number = self._noted = store.last_number()
        self._since: dict[str, str] = {}
        self._missing: dict[str, str | None] = {}  # what `Recorded.missing` of the rows is that count
        self._alarms: list[Alarm] = []  # that are not on record yet

    def watch(self, digest: str, calibration_scores: np.ndarray, *, of_views: bool = False) -> None:
        """Watch a version of a model for drift, from the first part that it has scored.

        `of_views`: the scores are those of parts in all their views; others are not compared with them.
        """
        self._missing[digest] = WHOLE if of_views else None
        drift = Drift(calibration_scores)
        after, seen = self._resume(digest, drift), self._number
        self._drift_of(digest, drift, self.store.recorded(after=after, until=seen, model=digest))
        with self._lock:  # the few that came meanwhile
            rest = self.store.recorded(after=max(after, seen), until=self._number, model=digest)
            self._drift_of(digest, drift, rest)
            self.drifts = self.drifts | {digest: drift}  # readers need no lock
            if seen - after >= STATE_ROWS:
                self._keep_states([digest])
        if drift.alarm and not any(
            a.kind == "drift" for a in self.store.alarms(digest)
        ):  # a crash came before it was on record
            self._raise(digest, drift)
            self.follow()

    def _resume(self, digest: str, drift: Drift) -> int:
        """Let drift go on from the state that is kept; returns the number of the last row in it, or 0."""
        number, state = self.store.drift_state(digest) or (0, None)
        if number > self._number:  # another station on the same record has seen more
            self.follow()
        if state is None or number > self._number or not drift.resume(state):
            return 0
        if state["peak_time"] is not None:
            self.peak_times[digest] = from_milliseconds(state["peak_time"])
        if state["since_id"] is not None:
            self._since[digest] = state["since_id"]
        return number

    def _state(self, digest: str) -> dict[str, Any]:
        """Return the state of a model's drift as it is kept."""
        peak_time = self.peak_times.get(digest)
        known = {
            "peak_time": None if peak_time is None else milliseconds(peak_time),
            "since_id": self._since.get(digest),
        }
        return self.drifts[digest].state() | known

    def note_states(self) -> None:
        """Keep the state of each drift, so that the next start goes on from it."""
        with self._lock:
            self._note_states()

    def _note_states(self) -> None:
        self._keep_states(self.drifts)
        self._noted = self._number

    def _keep_states(self, digests: Iterable[str]) -> None:
        with suppress(StoreError):  # it only saves a start some reading
            self.store.note_drift_states(self._number, {digest: self._state(digest) for digest in digests})

    def follow(self) -> None:
        """Take what was recorded since the last time. Raises StoreError; then it is taken the next time."""
        with self._lock:
            while self._take_batch() == BATCH_SIZE:
                pass
            while self._alarms:
                alarm = self._alarms[0]
                self.store.add_alarm(alarm)
                del self._alarms[0]
                for listener in self.alarm_listeners:
                    listener(alarm)
            if self._number - self._noted >= STATE_ROWS:
                self._note_states()

    def _take_batch(self) -> int:
        """Take what was recorded next, and tell who listens; returns how many rows it was."""
        rows = list(self.store.recorded(after=self._number, limit=BATCH_SIZE))
        for row in rows:
            self._number = row.number
            self._take(row)
        for listener in self.listeners if rows else ():
            listener(rows)
        return len(rows)

    def note_peaks(self) -> None:
        """Put the largest evidence of each alarm on record."""
        for digest, drift in self.drifts.items():
            if drift.alarm and digest in self.peak_times:
                self.store.note_peak(digest, peak=drift.peak, time=self.peak_times[digest])

    def alarms(self, model: str | None = None) -> list[Alarm]:
        """Return the alarms, oldest first, with their peaks as they are now; of one model, or of all."""
        live = {d: drift.peak for d, drift in self.drifts.items() if d in self.peak_times}
        return [
            replace(alarm, peak=live[alarm.model], peak_time=self.peak_times[alarm.model])
            if alarm.kind == "drift" and alarm.model in live
            else alarm
            for alarm in self.store.alarms(model)
        ]

    def acknowledge(self, id: str, *, by: str, note: str, act: Act | None = None) -> Alarm:
        """Note that a person has seen to an alarm. Raises NotFoundError for one that is not there."""
        try:
            self.store.acknowledge_alarm(id, time=utc_now(), by=by, note=note, act=act)
        except DataError as error:
            raise NotFoundError(str(error)) from error
        self.note_peaks()
        return next(alarm for alarm in self.alarms() if alarm.id == id)

    def since(self, digest: str) -> str | None:
        """Return the first inspection of a change that was alarmed, or None."""
        drift = self.drifts.get(digest)
        if drift is not None and drift.since is not None and digest not in self._since:
            found = self.store.scored_id(digest, drift.since, missing=self._missing.get(digest))
            if found is not None:
                self._since[digest] = found
        return self._since.get(digest)

    def _take(self, row: Recorded) -> None:
        drift = self.drifts.get(row.model)
        if drift is None:
            return
        before = drift.alarm
        self._drift_of(row.model, drift, [row])
        if drift.alarm and not before:
            self._raise(row.model, drift)

    def _drift_of(self, digest: str, drift: Drift, rows: Iterable[Recorded]) -> None:
        for row in rows:
            if row.score is not None and row.missing == self._missing.get(digest):
                peak = drift.peak
                drift.update(row.score)
                if drift.peak > peak:
                    self.peak_times[digest] = row.time

    def _raise(self, digest: str, drift: Drift) -> None:
        self.tell(digest, kind="drift", value=drift.evidence, message=DRIFTED)

    def tell(self, digest: str, *, kind: Literal["drift", "clock"], value: float, message: str) -> None:
        """Put an alarm on record at the next look; never waits."""
        now = utc_now()
        self._alarms.append(
            Alarm(id=self.make_id(now), model=digest, time=now, kind=kind, value=value, message=message)
        )
