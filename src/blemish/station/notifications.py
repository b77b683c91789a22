"""Notifications of what happens at a station: rejects, parts that wait for a person, alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from blemish.record.rows import StoreError
from blemish.station.answers import answer_of
from blemish.station.model_schemas import AlarmAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blemish.record.rows import Alarm, Recorded
    from blemish.station.station import Station

Event = Literal["reject", "review", "alarm"]


class Notifications:
    """Hands events to `tell`, which must never wait: {"event": …} and what `/v1` answers of it.

    Of a record that several stations share, each tells of its own parts.
    """

    def __init__(self, station: Station, tell: Callable[[dict[str, Any]], None]) -> None:
        self.station, self.tell = station, tell
        station.following.listeners.append(self.take)
        station.following.alarm_listeners.append(self.take_alarm)

    def take(self, rows: Sequence[Recorded]) -> None:
        """Tell of rows that were recorded here."""
        for row in rows:
            event = _event_of(row)
            if event is not None and row.station == self.station.labelling.usual.station:
                self.tell({"event": event} | self._said_of(row))

    def take_alarm(self, alarm: Alarm) -> None:
        """Tell of an alarm that is on record now."""
        self.tell({"event": "alarm"} | AlarmAnswer(**vars(alarm)).model_dump(mode="json"))

    def _said_of(self, row: Recorded) -> dict[str, Any]:
        try:
            inspection = self.station.store.get(row.id)
            if inspection is not None:
                views = (
                    self.station.store.views_of([row.id])[row.id] if inspection.missing is not None else ()
                )
                return answer_of(inspection, views=views).model_dump(mode="json")
        except StoreError:  # what is known already is told all the same
            pass
        known = {name: getattr(row, name) for name in ("id", "model", "decision", "score", "part")}
        return known | {"time": row.time.isoformat()}


def _event_of(row: Recorded) -> Event | None:
    if row.decision == "rejected":
        return "reject"
    return "review" if row.decision == "review" or row.sample is not None else None
