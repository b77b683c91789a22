"""Where a part belongs: product, line, shift and station, as its sender says or as the station is told."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import time
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Texts of a row; None: nobody said."""

    product: str | None = None
    line: str | None = None
    shift: str | None = None
    station: str | None = None

    def or_else(self, usual: Labels) -> Labels:
        """Return these, and the usual one where there is none."""
        names = (each.name for each in fields(self))
        return Labels(**{name: getattr(self, name) or getattr(usual, name) for name in names})


class Labelling:
    """What a station puts into each row where its sender says nothing."""

    def __init__(self, usual: Labels | None = None, shifts: Sequence[str] = ()) -> None:
        """Take the usual labels, and shifts as `Shifts` does. Raises UsageError."""
        self.usual, self.shifts = usual or Labels(), Shifts(shifts)

    def of(self, moment: datetime, said: Labels | None = None) -> Labels:
        """Return the labels of a part that came at a time; only this station says its own name."""
        said = said or Labels()
        shift = said.shift or self.usual.shift or self.shifts.of(moment)
        return replace(said, shift=shift, station=None).or_else(self.usual)


class Shifts:
    """The shifts of a day, each of which lasts until the next one begins."""

    def __init__(self, plan: Sequence[str] = ()) -> None:
        """Read `NAME=HH:MM` of each. Raises UsageError for another form, and two that begin at once."""
        self._begins: dict[time, str] = {}
        for each in plan:
            name, _, begin = each.rpartition("=")
            try:
                start = time.fromisoformat(begin)
            except ValueError:
                start = None
            if not name or start is None or start.tzinfo or start in self._begins:
                raise UsageError(f"--shifts {each}: must be NAME=HH:MM, each with a beginning of its own")
            self._begins[start] = name

    def of(self, moment: datetime) -> str | None:
        """Return the shift of a time, by the clock of this computer's place; None without shifts."""
        if not self._begins:
            return None
        now = moment.astimezone().time()
        begun = [start for start in self._begins if start <= now]
        return self._begins[max(begun or self._begins)]
