"""Watching a folder that cameras write into: each file is scored once, in order of arrival, whatever happens.

The folder is the queue: what comes faster than it can be scored waits there, on disk. The ledger,
`inspections.jsonl`, is what has been done: a row is appended and forced to disk when its pictures are, before
a file is moved or anybody is told. So after a crash a file is either in the ledger or scored again from the
start, and never in it twice.
"""

from __future__ import annotations

import datetime
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.core.files import fit_name, name_limit
from blemish.core.ownership import owned
from blemish.inference.predict_folder import inspect, write_summary
from blemish.inference.promise import Promise
from blemish.record.identifiers import IdSequence, clock_advice
from blemish.record.versions import FOLDER as VERSIONS
from blemish.watch.arrivals import Arrivals
from blemish.watch.ledger import LEDGER_NAME, Arrival, Ledger
from blemish.watch.parts import OpenParts
from blemish.watch.reload import ReloadingModel
from blemish.watch.settings import BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from blemish.inference.detector import Detector
    from blemish.record.ledger_sync import LedgerSync
    from blemish.watch.settings import WatchSettings

POLL_INTERVAL_S = 0.1
"""Seconds between two looks at the folder."""


def watch(
    options: WatchSettings,
    *,
    should_stop: Callable[[], bool],
    on_row: Callable[[dict[str, Any]], None],
    on_scan: Callable[[int], None] = lambda _: None,
    on_model: Callable[[Detector], None] = lambda _: None,
    on_part: Callable[[dict[str, Any]], None] = lambda _: None,
    on_promise: Callable[[str], None] = lambda _: None,
    sync: LedgerSync | None = None,
    say: Callable[[str], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Score what appears in the folder until `should_stop` says so; returns how many files were recorded.

    Args:
        options: what to watch, and how.
        should_stop: asked between two files.
        on_row: told of each row once it is on disk; must not block.
        on_scan: told at each look at the folder how many files wait to be scored; must not block.
        on_model: told of the model at the start, and of each that takes its place.
        on_part: told of each part that is decided from its views, once that is on disk; must not block.
        on_promise: told what is promised of such parts, at the start and when a model has changed.
        sync: keeps files and rows in an archive and a database as well; None: there is no database.
        say: told of what a person should know: a model that was loaded again, a folder that went away.
        now: seconds that never go back.

    Raises UsageError for a folder that is not there at the start, and for an `out` that another process
    writes, BlemishError for the model, and OSError when `out` cannot be written: the file that was being
    recorded stays in the folder.
    """
    options.check_folders()
    own = () if options.parts is None else options.parts.models.own.values()
    models = {
        path: ReloadingModel(
            path,
            options.load,
            say,
            versions=options.out / VERSIONS,
            of_product=options.of_product,
            recorded=sync is not None,
        )
        for path in dict.fromkeys((options.model, *own))
    }
    excluded = [path for path in (options.out, options.move_to) if path is not None]
    arrivals = Arrivals(options.folder, excluded, now, say)
    with owned(options.out), closing(Ledger(options.out / LEDGER_NAME)) as ledger:
        inspector = _Inspector(
            options, models, ledger, arrivals, on_scan=on_scan, on_model=on_model, sync=sync, say=say
        )
        if options.parts is None:
            return inspector.run(should_stop, on_row)
        with closing(OpenParts(options.parts, options.out, now, say)) as parts:
            inspector.decide_parts(parts, on_part, on_promise)
            return inspector.run(should_stop, on_row)


class _Inspector:
    """Takes files from a folder to the ledger, a few at a time."""

    def __init__(
        self,
        options: WatchSettings,
        models: dict[Path, ReloadingModel],
        ledger: Ledger,
        arrivals: Arrivals,
        *,
        on_scan: Callable[[int], None],
        on_model: Callable[[Detector], None],
        sync: LedgerSync | None,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.out, self.move_to = options.folder, options.out, options.move_to
        self.models, self.model = models, models[options.model]
        self.ledger, self.arrivals = ledger, arrivals
        self.on_scan, self.on_model, self.sync, self.say = on_scan, on_model, sync, say
        self.make_id = IdSequence(ledger.last_id, lambda back: say(clock_advice(back)))
        self.folder_was_there = True
        self.model_in_use: str | None = None
        self.parts: OpenParts | None = None
        self.models_of_parts: dict[Path, str] = {}
        self.on_part: Callable[[dict[str, Any]], None] = lambda _: None
        self.on_promise: Callable[[str], None] = lambda _: None

    def decide_parts(
        self, parts: OpenParts, on_part: Callable[[dict[str, Any]], None], on_promise: Callable[[str], None]
    ) -> None:
        """Decide of parts from now on. Raises BlemishError where their models or rates do not allow it."""
        self.parts, self.on_part, self.on_promise = parts, on_part, on_promise

    def run(self, should_stop: Callable[[], bool], on_row: Callable[[dict[str, Any]], None]) -> int:
        """Record files until it is to stop; returns their number."""
        recorded = 0
        self._detector()
        while not should_stop():
            self._say_whether_folder_is_there()
            before, began = recorded, time.monotonic()
            files = self._next_files()
            if self.parts is not None:
                self._close_parts(self.parts.due(found.path for found in self._not_recorded()))
            for row in self._inspect(files):
                if self.parts is None:
                    self._move_all([(row["path"], row["size"], row["mtime_ns"])], row["decision"])
                recorded += 1
                on_row(row)
                if self.parts is not None:
                    self._close_parts([self.parts.add(row)])
                if should_stop():
                    break
            if recorded == before:  # a folder of very many files is looked at less often
                time.sleep(max(POLL_INTERVAL_S, 3 * (time.monotonic() - began)))
        return recorded

    def _close_parts(self, decided: Sequence[dict[str, Any] | None]) -> None:
        """Move the files of parts that were decided just now, and tell of them."""
        for row in filter(None, decided):
            if self.sync is not None:
                self.sync.wake()
            self._move_all(row.pop("files"), row["decision"])
            self.on_part(row)

    def _move_all(self, files: Sequence[tuple[str, int, int]], decision: str) -> None:
        if self.move_to is not None:
            for file in files:
                _move(self.folder, Arrival(*file), self.move_to / decision)

    def _say_whether_folder_is_there(self) -> None:
        if self.folder.is_dir() != self.folder_was_there:
            self.folder_was_there = not self.folder_was_there
            change = "is there again" if self.folder_was_there else "went away; waiting for it"
            self.say(f"{self.folder}: {change}")

    def _not_recorded(self) -> list[Arrival]:
        """Return the files that the last look found and that are not in the ledger."""
        return [found for found, _ in self.arrivals.found.values() if found not in self.ledger.seen]

    def _next_files(self) -> list[Arrival]:
        """Look at the folder; returns the files to inspect now, those first that wait longest."""
        self.arrivals.scan()
        self.on_scan(len(self._not_recorded()))
        ready = self.arrivals.ready()
        if self.move_to is not None:  # recorded, but a crash came before they were moved
            for arrival in set(ready) & self.ledger.seen:
                if self.parts is not None and self.parts.is_waiting(arrival.path):
                    continue
                _move(self.folder, arrival, self.move_to / "recorded")
        new = [arrival for arrival in ready if arrival not in self.ledger.seen]
        # those that could not be read before come last, so that they hold up none
        return sorted(new, key=self.arrivals.unreadable_until.__contains__)[:BATCH_SIZE]

    def _detector(self) -> Detector:
        """Return the model in use; of another one than before, say and write what it promises."""
        detector = self.model.current()
        if self.model.digest != self.model_in_use:
            self.model_in_use = self.model.digest
            promise = Promise.of(detector).as_fields()
            write_summary(self.out, {"model": self.model.digest, **promise})
            self.on_model(detector)
        if self.parts is not None:
            own = {path: m.current() for path, m in self.models.items() if m is not self.model}
            loaded = {self.model.path: detector, **own}
            digests = {path: model.digest for path, model in self.models.items()}
            if digests != self.models_of_parts:
                version = None if self.model.file == self.model.path else self.model.file
                promise = self.parts.use(loaded, digests, first=not self.models_of_parts, version=version)
                self.models_of_parts = digests
                self.on_promise(promise or "nothing is promised of parts")
        return detector

    def _inspect(self, new: Sequence[Arrival]) -> Iterator[dict[str, Any]]:
        """Score files and record them; yields each row once it is on disk."""
        self._detector()
        for path, model in self.models.items():
            if self.sync is not None:
                self.sync.use_model(model.digest, model.name, model.detector.model_file)
            yield from self._inspect_by(
                model, [arrival for arrival in new if self._model_of(arrival) == path]
            )

    def _model_of(self, arrival: Arrival) -> Path:
        if self.parts is None:
            return self.model.path
        return self.parts.settings.models.path(self.parts.shown_by(arrival.path)[1])

    def _inspect_by(self, model: ReloadingModel, new: Sequence[Arrival]) -> Iterator[dict[str, Any]]:
        detector = model.detector
        began = time.monotonic()
        files = [(self.folder / arrival.path, Path(arrival.path)) for arrival in new]
        for arrival, row in zip(new, inspect(detector, files, self.out), strict=True):
            if row["error"] is not None and self.arrivals.may_be_incomplete(arrival):
                continue
            seconds, began = time.monotonic() - began, time.monotonic()
            yield self._record(arrival, row, seconds, model.digest)

    def _record(
        self, arrival: Arrival, scored: dict[str, Any], seconds: float, digest: str
    ) -> dict[str, Any]:
        """Put a file's row into the ledger, after its files are in the archive, if there is one."""
        archived = {}
        if self.sync is not None:
            map_tiff = scored["map"] and self.out / scored["map"]
            size_and_time = arrival.size, arrival.mtime_ns
            files = self.sync.archive_files(self.folder / arrival.path, size_and_time, map_tiff)
            archived = {"archived": files}
        now = datetime.datetime.now(datetime.UTC)
        shown = {}
        if self.parts is not None:
            shown["part"], shown["view"] = self.parts.shown_by(arrival.path)
            shown["part_id"] = self.parts.id_of(shown["part"]) or self.make_id(now)
        row = {
            "sequence": self.ledger.sequence + 1,
            "time": now.isoformat(timespec="milliseconds"),
            **scored,
            "path": arrival.path,
            "size": arrival.size,
            "mtime_ns": arrival.mtime_ns,
            "model": digest,
            "seconds": seconds,
            **archived,
            **shown,
            "id": self.make_id(now),
        }
        self.ledger.append(arrival, row)
        if self.sync is not None:
            self.sync.wake()
        return row


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
    stem, suffix, limit, number = target.stem, target.suffix, name_limit(target.parent), 1
    target = target.with_name(fit_name(stem, suffix, limit))
    while target.exists():
        number += 1
        target = target.with_name(fit_name(stem, f"~{number}{suffix}", limit))
    try:
        source.rename(target)
    except FileNotFoundError:
        return
    except OSError:  # another file system
        import shutil

        shutil.move(source, target)
