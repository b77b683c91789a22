"""Copying the ledger of a watch into a database, and its files into an archive.

The files of a part are in the archive before its row, which names them, is in the ledger. A thread reads the
ledger and records its rows in the store. The ledger is the truth: when the database or the watch fails, the
rows that the store lacks are recorded later, at the next start at the latest.

Images of parts with several views are recorded as views, as a station does it: each names the row of its
part, which follows from the row of `parts.jsonl` when the part is decided.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from blemish.core.errors import ImageError, one_line
from blemish.core.types import Region, Result, field_types
from blemish.data.hashing import file_digest
from blemish.images.draw import encode_map
from blemish.inference.part_rows import ROWS_NAME, PartRow
from blemish.record.archive import Archive
from blemish.record.labels import Labelling
from blemish.record.parts import part_inspection
from blemish.record.rows import WATCH, Inspection, ModelRecord, model_record
from blemish.record.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from blemish.inference.model_file import ModelFile

T = TypeVar("T")
SQLITE = "sqlite"
"""The value of --database that stands for a SQLite file beside the ledger."""
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
"""Seconds between two tries to reach the database: doubled from the first to the longest."""
CLOSE_TIMEOUT_S = 5.0
"""Seconds that the store has to catch up when the watch ends."""
_BATCH_SIZE = 200  # rows recorded together


class LedgerSync:
    """Puts files into an archive, and records a ledger's rows in a store, in a thread of its own."""

    def __init__(
        self,
        ledger: Path,
        store: Store,
        archive: Archive,
        say: Callable[[str], None],
        *,
        labelling: Labelling | None = None,
    ) -> None:
        self.labelling = labelling or Labelling()
        self.store, self.archive, self.say = store, archive, say
        self._images, self._parts = _Rows(ledger), _Rows(ledger.with_name(ROWS_NAME))
        self._sequence = 0  # the ledger's rows up to this one are in the store
        self._known_models: set[str] = set()
        self._models: deque[ModelRecord] = deque()  # that are not in the store yet
        self._failing = False
        self._ledger_grew, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)
        self._thread.start()

    def use_model(self, digest: str, name: str, model_file: ModelFile) -> None:
        """Say which model makes the rows that follow."""
        if digest in self._known_models:
            return
        self._known_models.add(digest)
        self._models.append(model_record(digest, name, model_file))
        self.wake()

    def archive_files(self, file: Path, about: tuple[int, int], map_tiff: Path | None) -> dict[str, Any]:
        """Put an image file and its map into the archive; returns what a row of the ledger says of them.

        A file that is no image, and has no map, is not kept, but its row says which bytes it were. One that
        is not of this size and time (ns) any more is another one. Raises OSError when the disk refuses.
        """
        if map_tiff is None:
            return {
                "image": _read_unchanged(file, about, file_digest),
                "map": None,
                "width": None,
                "height": None,
            }
        import tifffile

        anomaly_map = tifffile.imread(map_tiff)
        height, width = anomaly_map.shape
        data = _read_unchanged(file, about, Path.read_bytes)
        hashes = {
            "image": None if data is None else self.archive.put(data, "image"),
            "map": self.archive.put(encode_map(anomaly_map), "map"),
        }
        return hashes | {"width": width, "height": height}

    def wake(self) -> None:
        """Wake the thread, as the ledger has grown; never waits."""
        self._ledger_grew.set()

    def close(self, seconds: float) -> int:
        """Give the store some seconds to catch up, then stop. Returns how many rows it lacks."""
        self._ending.set()
        self._ledger_grew.set()
        self._thread.join(seconds)
        return sum(len(list(rows.coming())) for rows in (self._images, self._parts))

    def _run(self) -> None:
        self._ledger_grew.set()  # what a life before this one left
        wait = FIRST_RETRY_S
        while True:
            self._ledger_grew.wait()
            last = self._ending.is_set()  # before it is read: then all rows are in the ledger
            self._ledger_grew.clear()
            if self._catch_up():
                wait = FIRST_RETRY_S
            elif not last:
                self._ledger_grew.set()
                self._ending.wait(wait)
                wait = min(2 * wait, LONGEST_RETRY_S)
            if last:
                return

    def _catch_up(self) -> bool:
        try:
            while self._models:
                self.store.add_model(self._models[0])
                self._models.popleft()
            while self._record_images() or self._record_parts():
                pass
        except Exception as error:  # whatever becomes of the database, the inspection goes on
            if not self._failing:
                line = one_line(error, 300) or type(error).__name__
                self.say(f"--database: {line}; the inspection goes on, and rows are recorded when it works")
            self._failing = True
            return False
        if self._failing:
            self.say("--database: works again, and has all rows")
        self._failing = False
        return True

    def _record_images(self) -> bool:
        """Record the next rows of the ledger; returns whether there were any."""
        found = list(islice(self._images.coming(), _BATCH_SIZE))
        if not found:
            return False
        new = map(inspection_of, self._not_recorded([row for row, _ in found]))
        self.store.record([replace(each, **asdict(self.labelling.of(each.time))) for each in new])
        last, self._images.taken = found[-1]
        self._sequence = last["sequence"]
        return True

    def _record_parts(self) -> bool:
        """Record the next parts whose images are all recorded; returns whether there were any."""
        coming = islice(self._parts.coming(), _BATCH_SIZE)
        found = list(takewhile(lambda each: max(each[0]["sequences"]) <= self._sequence, coming))
        if not found:
            return False
        new = self._not_recorded([row for row, _ in found])
        views = self.store.views_of(row["id"] for row in new)
        self.store.record([_part_of(row, views[row["id"]]) for row in new])
        self._parts.taken = found[-1][1]
        return True

    def _not_recorded(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows that are not in the store; those of an earlier blemish have no identifier."""
        named = [row for row in rows if "id" in row]
        known = self.store.existing_ids([row["id"] for row in named])
        return [row for row in named if row["id"] not in known]


class _Rows:
    """A file of JSON lines that grows."""

    def __init__(self, file: Path) -> None:
        self.file, self.taken = file, 0  # the rows before this byte are taken

    def coming(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the whole rows that are not taken, each with the byte where it ends."""
        if not self.file.exists():
            return
        end = self.taken
        with self.file.open("rb") as file:
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield json.loads(line), end


def inspection_of(row: dict[str, Any]) -> Inspection:
    """Return the inspection that a row of the ledger is about; without `archived` its files are not kept."""
    same = ("id", *field_types(Result), "part", "view", "part_id", "model", "error", "seconds")
    # a row of an earlier blemish lacks what was added since
    values: dict[str, Any] = {name: row[name] for name in same if name in row} | row.get("archived", {})
    values["regions"] = [Region(**region) for region in row["regions"]]
    return Inspection(**values, time=datetime.fromisoformat(row["time"]), source=WATCH)


def _part_of(row: dict[str, Any], views: Sequence[Inspection]) -> Inspection:
    """Return the part that a row of `parts.jsonl` is about, from its recorded views."""
    said = {each.name: row[each.name] for each in fields(PartRow) if each.name != "views"}
    counted = sorted((view for view in views if view.id in row["view_ids"]), key=lambda view: view.id)
    return part_inspection(row["id"], PartRow(**said), counted, model=row["model"], seconds=row["seconds"])


def _read_unchanged(file: Path, about: tuple[int, int], read: Callable[[Path], T]) -> T | None:
    """Read a file; None when it is gone, or was written anew."""
    try:
        found, now = read(file), file.stat()
    except (OSError, ImageError):
        return None
    return found if (now.st_size, now.st_mtime_ns) == about else None


@contextmanager
def sync_to_database(
    url: str, ledger: Path, say: Callable[[str], None], *, labelling: Labelling | None = None
) -> Iterator[LedgerSync]:
    """Open the store and the archive of a watch beside its ledger; at the end, say what the store lacks.

    `url`: as `Store.open` takes it, or `SQLITE`. Raises UsageError for a database that cannot be opened.
    """
    out = ledger.parent
    store = Store.open(None if url == SQLITE else url, out)
    sync = LedgerSync(ledger, store, Archive(out / "archive"), say, labelling=labelling)
    try:
        yield sync
    finally:
        lacking = sync.close(CLOSE_TIMEOUT_S)
        if lacking:
            say(f"--database: lacks the last {lacking} rows; the next start records them")
        store.close()
