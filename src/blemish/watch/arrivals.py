"""What arrives in a watched folder: which files are there, since when, and which are ready to be read.

No decision depends on the clock, which may be set back: a file is ready when it has not changed for a while,
as measured by a clock that only goes forward.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.images import folders
from blemish.watch.ledger import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SETTLE_TIME_S = 0.3
"""Seconds that a file must keep its size and time before it counts as written to its end."""
UNREADABLE_TIMEOUT_S = 10.0
"""Seconds that a file which cannot be read yet is given before it is recorded as failed."""


class Arrivals:
    """The files of a folder, and since when each has not changed."""

    def __init__(
        self,
        folder: Path,
        excluded: Sequence[Path],
        now: Callable[[], float],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.now, self.say = folder, now, say
        self.excluded = [path.resolve() for path in excluded]
        self.found: dict[str, tuple[Arrival, float]] = {}  # by path, with when it was first seen like this
        # files that could not be read, and until when they may still be being written
        self.unreadable_until: dict[Arrival, float] = {}
        self.others: dict[str, tuple[Arrival, float]] = {}  # files that are no image, as `found`
        self.said_suffixes: set[str] = set()
        self.closed: set[str] = set()  # folders that cannot be entered

    def scan(self) -> None:
        """Look at the folder: new files, changed ones, and those that are gone; a missing folder is empty."""
        now, before, others = self.now(), self.found, self.others
        self.found, self.others = {}, {}
        for path, found in self._stats():
            known = before.get(path) or others.get(path)
            if known and known[0] == found:
                (self.others if path in others else self.found)[path] = known
            else:
                (self.found if self._is_image(path) else self.others)[path] = found, now
        gone = before.keys() - self.found.keys()
        for path in gone:
            self.unreadable_until.pop(before[path][0], None)
        self._say_what_is_not_looked_at(now)

    def _stats(self) -> Iterator[tuple[str, Arrival]]:
        entries, closed = [], dict[str, str]()

        def cannot_enter(error: OSError, folder: str) -> None:
            if not isinstance(error, FileNotFoundError):  # a folder that went away just now
                closed[folder] = error.strerror or str(error)

        root = os.fspath(self.folder)
        for full in folders.walk_files(root, skip=self._is_excluded, on_error=cannot_enter):
            try:
                about = os.stat(full)  # noqa: PTH116  ten times a second
            except OSError:  # moved away between the two calls
                continue
            path = Path(os.path.relpath(full, root)).as_posix()
            entries.append((about.st_mtime_ns, path, Arrival(path, about.st_size, about.st_mtime_ns)))
        for folder in closed.keys() - self.closed:
            self.say(f"{folder}: cannot be entered ({closed[folder]}), so its files wait; check its rights")
        self.closed = set(closed)
        # those seen for the first time now came in the order of their times, as far as these can be trusted
        yield from ((path, arrival) for _, path, arrival in sorted(entries, key=lambda f: f[:2]))

    def _is_excluded(self, folder: str) -> bool:
        return any(Path(folder).resolve().is_relative_to(path) for path in self.excluded)

    def _is_image(self, path: str) -> bool:
        if folders.is_named_image(path):
            return True
        head = folders.first_bytes(os.path.join(self.folder, path))  # noqa: PTH118
        return head is not None and folders.is_image_by_content(path, head)

    def _say_what_is_not_looked_at(self, now: float) -> None:
        """Say of a file that is no image, and whole, that it is left; once for each suffix."""
        for path, (_, since) in self.others.items():
            suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
            if suffix not in self.said_suffixes and now - since >= UNREADABLE_TIMEOUT_S:
                self.said_suffixes.add(suffix)
                others = f"named *{suffix}" if suffix else "without a suffix"
                self.say(
                    f"{self.folder / path}: is no PNG, JPEG, TIFF, BMP or WebP, so it is not looked at; "
                    f"of other files {others} that are none this is not said again"
                )

    def ready(self) -> list[Arrival]:
        """Return the files that have settled, those first that were seen first."""
        now = self.now()
        settled = [(since, arrival) for arrival, since in self.found.values() if now - since >= SETTLE_TIME_S]
        return [arrival for _, arrival in sorted(settled, key=lambda pair: pair[0])]

    def may_be_incomplete(self, arrival: Arrival) -> bool:
        """Whether a file that cannot be read may still be being written."""
        return self.now() < self.unreadable_until.setdefault(arrival, self.now() + UNREADABLE_TIMEOUT_S)
