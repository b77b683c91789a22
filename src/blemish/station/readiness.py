"""Whether the station can record, and what goes wrong for a while.

That the record and the disk take something is not asked but tried: a row is written and taken back, and so is
a file. Of each trouble the first line and the last one are said, whatever number of requests fail between.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blemish.record.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from blemish.record.archive import Archive
    from blemish.record.store import Store

REUSED_S = 1.0
"""Seconds for which an answer is given again, so that whoever asks often does not write often."""
RECORD, DISK, OTHER = "record", "disk", "inspection"
KINDS = (RECORD, DISK, OTHER)


@dataclass
class _Trouble:
    since: float
    number: int = 1


def _say(line: str) -> None:
    print(f"blemish serve: {line}", file=sys.stderr, flush=True)


class Troubles:
    """What goes wrong now, by kind."""

    def __init__(
        self, say: Callable[[str], None] = _say, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.say, self.clock = say, clock
        self._open: dict[str, _Trouble] = {}
        self._lock = threading.Lock()

    @property
    def open(self) -> set[str]:
        """The kinds that have begun and not ended."""
        return {*self._open}

    def begin(self, kind: str, text: str) -> None:
        """Count a failure; the first one of a trouble is said."""
        with self._lock:
            known = self._open.get(kind)
            if known is not None:
                known.number += 1
                return
            self._open[kind] = _Trouble(self.clock())
            self.say(f"{kind}: {' '.join(text.split())[:300]}; said once until it is over")

    def end(self, kind: str) -> None:
        """Say that a trouble is over, if there was one."""
        if kind not in self._open:
            return
        with self._lock:  # also while it is said, so that lines come in the order of what they tell
            known = self._open.get(kind)
            if known is None:
                return
            lasted = self.clock() - known.since
            try:
                self.say(f"{kind}: works again, after {lasted:.0f} s and {known.number} failures")
            finally:
                del self._open[kind]

    def note(self, error: BaseException) -> None:
        """Count what an inspection ended with, where the station is to blame."""
        if isinstance(error, StoreError):
            self.begin(RECORD, str(error))
        elif isinstance(error, OSError):
            self.begin(DISK, str(error))
        else:
            self.begin(OTHER, f"{type(error).__name__}: {error}")


class Readiness:
    """Tries whether the record and the disk take something."""

    def __init__(
        self,
        store: Store,
        archive: Archive,
        troubles: Troubles,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.archive, self.troubles, self.clock = store, archive, troubles, clock
        self._lock = threading.Lock()
        self._found: tuple[float, str | None] | None = None

    def problem(self) -> str | None:
        """Return why nothing could be recorded now, or a second ago; None: it could be."""
        with self._lock:
            if self._found is None or self.clock() - self._found[0] >= REUSED_S:
                problem = self._try(RECORD, "the record cannot be written", self.store.try_to_write)
                problem = problem or self._try(DISK, "the disk refuses", self.archive.try_to_write)
                self._found = self.clock(), problem
            return self._found[1]

    def _try(self, kind: str, what: str, write: Callable[[], None]) -> str | None:
        try:
            write()
        except Exception as error:  # whatever a database raises
            self.troubles.begin(kind, f"{what}: {error}")
            said = (error.strerror if isinstance(error, OSError) else None) or str(error)
            return f"{what}: {' '.join(said.split())[:200]}"
        self.troubles.end(kind)
        return None
