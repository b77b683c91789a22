"""Watching a folder that cameras write into: each file is scored once, in order of arrival, come what may.

The folder is the queue: what comes faster than it can be scored waits there, on disk. The ledger,
`inspections.jsonl`, is what has been done: a row is appended and forced to disk when its pictures are, before
a file is moved or anybody is told. So after a crash a file is either in the ledger or scored again from the
start, and never in it twice. No decision depends on the clock, which may be set back.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.core.errors import BlemishError, DataError, UsageError
from blemish.data.hashing import file_digest
from blemish.images import preprocess
from blemish.inference.load import load
from blemish.inference.model_file import find_model
from blemish.inference.predict_folder import inspect
from blemish.record.rows import new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from blemish.inference.detector import Detector
    from blemish.record.ledger_sync import LedgerSync

LEDGER_NAME = "inspections.jsonl"
POLL_INTERVAL_S = 0.1
"""Seconds between two looks at the folder."""
SETTLE_TIME_S = 0.3
"""Seconds that a file must keep its size and time before it counts as written to its end."""
UNREADABLE_TIMEOUT_S = 10.0
"""Seconds that a file which cannot be read yet is given before it is recorded as failed."""
BATCH_SIZE = 16
"""Files scored between two looks at the folder and the model, at most."""


@dataclass(frozen=True)
class Arrival:
    """A file as it was found; written anew under the same name it is another one."""

    path: str
    size: int
    mtime_ns: int


class Ledger:
    """The rows on disk, and which files they are of."""

    def __init__(self, file: Path) -> None:
        """Open the ledger, making it if need be. Raises DataError when it holds something else."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.seen: set[Arrival] = set()
        self.sequence = 0
        self._file = file.open("a+b")
        self._load(file)

    def _load(self, file: Path) -> None:
        """Read what is there, and cut off a last line that a crash left unfinished."""
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                self.seen.add(Arrival(row["path"], row["size"], row["mtime_ns"]))
                self.sequence = row["sequence"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{file}: line {number} is not a row of a ledger; give another --out"
                ) from error
            whole += len(line)
        self._file.truncate(whole)

    def append(self, arrival: Arrival, row: dict[str, Any]) -> None:
        """Add a row and force it to disk; when this returns it is there, and whole."""
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.seen.add(arrival)
        self.sequence = row["sequence"]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Arrivals:
    """The files of a folder, and since when each has been as it is."""

    def __init__(self, folder: Path, excluded: Sequence[Path], now: Callable[[], float]) -> None:
        self.folder, self.now = folder, now
        self.excluded = [path.resolve() for path in excluded]
        self.found: dict[str, tuple[Arrival, float]] = {}  # by path, with when it was first seen like this
        # what could not be read, and until when that may be its writer's doing
        self.waiting: dict[Arrival, float] = {}

    def scan(self) -> None:
        """Look at the folder: new files, changed ones, and those that are gone; a missing folder is empty."""
        now, before = self.now(), self.found
        self.found = {}
        for path, found in self._stats():
            known = before.get(path)
            self.found[path] = known if known and known[0] == found else (found, now)
        gone = before.keys() - self.found.keys()
        for path in gone:
            self.waiting.pop(before[path][0], None)

    def _stats(self) -> Iterator[tuple[str, Arrival]]:
        fresh = []
        for place, names in preprocess.walk_images(self.folder):  # nothing, where it went away just now
            if any(Path(place).resolve().is_relative_to(path) for path in self.excluded):
                continue
            below = Path(place).relative_to(self.folder)
            for name in names:
                try:
                    about = os.stat(os.path.join(place, name))  # noqa: PTH116, PTH118  ten times a second
                except OSError:  # moved away between the two calls
                    continue
                path = (below / name).as_posix() if below.parts else name
                fresh.append((about.st_mtime_ns, path, Arrival(path, about.st_size, about.st_mtime_ns)))
        # those seen for the first time now came in the order of their times, as far as these can be trusted
        yield from ((path, arrival) for _, path, arrival in sorted(fresh, key=lambda f: f[:2]))

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
        return self.now() < self.waiting.setdefault(arrival, self.now() + UNREADABLE_TIMEOUT_S)


class Model:
    """A model that is loaded again when its file changes."""

    def __init__(
        self, path: Path, open_model: Callable[[Path], Detector], say: Callable[[str], None]
    ) -> None:
        self.path, self.open_model, self.say = path, open_model, say
        self.signature = self._signature()
        self.changed: tuple[int, int, int] | None = None
        self.detector = open_model(path)
        self.digest = file_digest(self._file())

    def current(self) -> Detector:
        """Return the detector; a changed file is loaded once it has kept still for two calls."""
        try:
            signature = self._signature()
        except (OSError, BlemishError):  # being replaced
            return self.detector
        if signature == self.signature:
            return self.detector
        if signature != self.changed:
            self.changed = signature
            return self.detector
        self.signature = signature  # one try for each change
        try:
            self.detector, self.digest = self.open_model(self.path), file_digest(self._file())
            self.say(f"{self.path}: changed, and was loaded again")
        except BlemishError as error:
            self.say(f"changed, but the model before goes on: {error}")
        return self.detector

    def _file(self) -> Path:
        return find_model(self.path)

    def _signature(self) -> tuple[int, int, int]:
        about = self._file().stat()
        return about.st_ino, about.st_size, about.st_mtime_ns


def watch(
    model: Path,
    folder: Path,
    out: Path,
    *,
    move_to: Path | None = None,
    allow: frozenset[str] = frozenset(),
    false_alarm_rate: float | None = None,
    device: str = "auto",
    should_stop: Callable[[], bool],
    on_row: Callable[[dict[str, Any]], None],
    on_scan: Callable[[int], None] = lambda _: None,
    sync: LedgerSync | None = None,
    say: Callable[[str], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Score what appears in `folder` until `should_stop` says so; returns how many files were recorded.

    Args:
        model: run folder, model file or exported model; loaded again when it changes.
        folder: where images appear, sub-folders included. If it goes away it is waited for.
        out: where inspections.jsonl, maps/ and overlays/ are written.
        move_to: a recorded file goes to accepted/, rejected/, failed/ or, without a calibration, unjudged/
            below it; None: it stays.
        allow, false_alarm_rate, device: as in `blemish.inference.load.load`.
        should_stop: asked between two files.
        on_row: told of each row once it is on disk; must not block.
        on_scan: told at each look at the folder how many files wait to be scored; must not block.
        sync: keeps files and rows in an archive and a database as well; None: there is no database.
        say: told of what a person should know: a model that was loaded again, a folder that went away.
        now: seconds that never go back.

    Raises UsageError for a folder that is not there at the start, BlemishError for the model, and OSError
    when `out` cannot be written: the file that was being recorded stays in the folder.
    """
    if not folder.is_dir():
        raise UsageError(
            f"--folder {folder}: no such folder; make it, or name the one the cameras write into"
        )

    def open_model(path: Path) -> Detector:
        return load(
            path, device=device, allow=allow, false_alarm_rate=false_alarm_rate, batch_size=BATCH_SIZE
        )

    for option, path in (("--out", out), ("--move-to", move_to)):
        if path is not None and folder.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"{option} {path}: holds the watched folder {folder}; choose another {option}")

    kept, ledger = Model(model, open_model, say), Ledger(out / LEDGER_NAME)
    arrivals = Arrivals(folder, [out] if move_to is None else [out, move_to], now)
    recorded, was_there = 0, True
    try:
        while not should_stop():
            if folder.is_dir() != was_there:
                was_there = not was_there
                say(f"{folder}: {'is there again' if was_there else 'went away; waiting for it'}")
            began = time.monotonic()
            arrivals.scan()
            on_scan(sum(found not in ledger.seen for found, _ in arrivals.found.values()))
            complete = arrivals.ready()
            new = [arrival for arrival in complete if arrival not in ledger.seen]
            new = sorted(new, key=arrivals.waiting.__contains__)[:BATCH_SIZE]  # the unreadable hold up none
            if move_to is not None:  # recorded, but a crash came before they were moved
                for arrival in set(complete) & ledger.seen:
                    _move(folder, arrival, move_to / "recorded")
            before = recorded
            for row in _inspected(new, folder, out, kept, ledger, arrivals, sync):
                if move_to is not None:
                    arrival = Arrival(row["path"], row["size"], row["mtime_ns"])
                    _move(folder, arrival, move_to / _outcome(row))
                recorded += 1
                on_row(row)
                if should_stop():
                    break
            if recorded == before:  # a folder of very many files is looked at less often
                time.sleep(max(POLL_INTERVAL_S, 3 * (time.monotonic() - began)))
    finally:
        ledger.close()
    return recorded


def _inspected(
    new: Sequence[Arrival],
    folder: Path,
    out: Path,
    model: Model,
    ledger: Ledger,
    arrivals: Arrivals,
    sync: LedgerSync | None,
) -> Iterator[dict[str, Any]]:
    """Score files and record them; yields each row once it is on disk."""
    detector = model.current()
    if sync is not None:
        sync.use_model(model.digest, model.path.stem, detector.model_file)
    began = time.monotonic()
    files = [(folder / arrival.path, Path(arrival.path)) for arrival in new]
    for arrival, row in zip(new, inspect(detector, files, out), strict=True):
        if row["error"] is not None and arrivals.may_be_incomplete(arrival):
            continue
        took, began = time.monotonic() - began, time.monotonic()
        archived = {}
        if sync is not None:
            map_tiff = row["map"] and out / row["map"]
            about = arrival.size, arrival.mtime_ns
            archived = {"archived": sync.archive_files(folder / arrival.path, about, map_tiff)}
        now = datetime.datetime.now(datetime.UTC)
        row = {
            "sequence": ledger.sequence + 1,
            "time": now.isoformat(timespec="milliseconds"),
            **row,
            "path": arrival.path,
            "size": arrival.size,
            "mtime_ns": arrival.mtime_ns,
            "model": model.digest,
            "seconds": took,
            **archived,
            "id": new_id(now),
        }
        ledger.append(arrival, row)
        if sync is not None:
            sync.wake()
        yield row


def _outcome(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return "failed"
    return {True: "rejected", False: "accepted", None: "unjudged"}[row["anomalous"]]


def _move(folder: Path, arrival: Arrival, into: Path) -> None:
    """Move a file unless it is gone or was written anew; one that is there already keeps its name."""
    source, target = folder / arrival.path, into / arrival.path
    try:
        about = source.stat()
    except FileNotFoundError:
        return
    if (about.st_size, about.st_mtime_ns) != (arrival.size, arrival.mtime_ns):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while target.exists():
        number += 1
        target = target.with_stem(f"{target.stem.rsplit('~', 1)[0]}~{number}")
    try:
        source.rename(target)
    except FileNotFoundError:
        return
    except OSError:  # another file system
        import shutil

        shutil.move(source, target)
