"""What arrives in a watched folder: which files are there, since when, and which are ready to be read.

No decision depends on the clock, which may be set back: a file is ready when it has not changed for a while,
as measured by a clock that only goes forward.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.images import preprocess
from blemish.watch.ledger import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SETTLE_TIME_S = 0.3
"""Seconds that a file must keep its size and time before it counts as written to its end."""
UNREADABLE_TIMEOUT_S = 10.0
"""Seconds that a file which cannot be read yet is given before it is recorded as failed."""


class Arrivals:
    """The files of a folder, and since when each has not changed."""

    def __init__(self, folder: Path, excluded: Sequence[Path], now: Callable[[], float]) -> None:
        self.folder, self.now = folder, now
        self.excluded = [path.resolve() for path in excluded]
        self.found: dict[str, tuple[Arrival, float]] = {}  # by path, with when it was first seen like this
        # files that could not be read, and until when they may still be being written
        self.unreadable_until: dict[Arrival, float] = {}

    def scan(self) -> None:
        """Look at the folder: new files, changed ones, and those that are gone; a missing folder is empty."""
        now, before = self.now(), self.found
        self.found = {}
        for path, found in self._stats():
            known = before.get(path)
            self.found[path] = known if known and known[0] == found else (found, now)
        gone = before.keys() - self.found.keys()
        for path in gone:
            self.unreadable_until.pop(before[path][0], None)

    def _stats(self) -> Iterator[tuple[str, Arrival]]:
        entries = []
        for folder, names in preprocess.walk_images(self.folder):  # nothing, where it went away just now
            if any(Path(folder).resolve().is_relative_to(path) for path in self.excluded):
                continue
            below = Path(folder).relative_to(self.folder)
            for name in names:
                try:
                    about = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118  ten times a second
                except OSError:  # moved away between the two calls
                    continue
                path = (below / name).as_posix() if below.parts else name
                entries.append((about.st_mtime_ns, path, Arrival(path, about.st_size, about.st_mtime_ns)))
        # those seen for the first time now came in the order of their times, as far as these can be trusted
        yield from ((path, arrival) for _, path, arrival in sorted(entries, key=lambda f: f[:2]))

    def ready(self) -> list[Arrival]:
        """Return the files that have settled, those first that were seen first."""
        now = self.now()
        settled = [
            (since, arrival)
            for arrival, since in self.found.values()
            if now - since >= SETTLE_TIME_S and arrival.size
        ]
        return [arrival for _, arrival in sorted(settled, key=lambda pair: pair[0])]

    def may_be_incomplete(self, arrival: Arrival) -> bool:
        """Whether a file that cannot be read may still be being written."""
        return self.now() < self.unreadable_until.setdefault(arrival, self.now() + UNREADABLE_TIMEOUT_S)
