"""Parts of several views in a watched folder: their images wait for one another, for a stated time.

A part is decided when all its views are recorded, or when the time is over: then it is incomplete, and for
review if the others do not suffice to reject it. Images of it that lie in the folder are scored before that,
however long it takes. `parts.jsonl` says what was decided; a part whose images are
in the ledger and not there yet waits on after a start, with its time from the beginning.
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from blemish.core.errors import BlemishError, DataError, UsageError
from blemish.inference.part_models import make_views
from blemish.inference.part_rows import ROWS_NAME, PartRow, part_row
from blemish.inference.parts import TogetherRule
from blemish.watch.ledger import LEDGER_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from blemish.data.part_names import PartNames
    from blemish.inference.detector import Detector
    from blemish.inference.part_models import ViewModels
    from blemish.inference.parts import PartRule


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """How names tell parts, which models score which view, and how long a part is waited for."""

    names: PartNames
    models: ViewModels
    wait_s: float
    calibration: Path | None = None
    """This and `views` are as in `make_views`."""
    views: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a time that is none. Raises UsageError."""
        check_wait(self.wait_s)


def check_wait(wait_s: float) -> None:
    """Refuse a time that is none. Raises UsageError."""
    if not 0 < wait_s < float("inf"):
        raise UsageError(f"--part-wait {wait_s:g}: must be a number of seconds above 0")


def check_count(rule: PartRule) -> None:
    """Refuse a rule that does not say when a part is complete. Raises UsageError."""
    if rule.count is None:
        raise UsageError(
            "--part-pattern: how many views has a part? Give --views, or calibrate by `blemish parts`"
        )


class OpenParts:
    """The parts that wait for views, and the file of those that are decided."""

    def __init__(
        self, settings: PartSettings, out: Path, now: Callable[[], float], say: Callable[[str], None]
    ) -> None:
        """Open parts.jsonl below `out`; parts that were not decided before wait again. Raises DataError."""
        self.settings, self.now, self.say = settings, now, say
        self.rule: PartRule | None = None
        self.digests: Mapping[Path, str] = {}
        self.waiting: dict[str, list[dict[str, Any]]] = {}
        self.since: dict[str, float] = {}
        self.decided = 0
        self._file = (out / ROWS_NAME).open("a+b")
        done = self._load(out / ROWS_NAME)
        if (out / LEDGER_NAME).exists():
            with (out / LEDGER_NAME).open("rb") as rows:
                for line in rows:
                    row = json.loads(line)
                    if "part" in row and row["sequence"] not in done:
                        self._wait(row)

    def _load(self, file: Path) -> set[int]:
        """Return the sequence numbers of images of decided parts; a line without its end is cut off."""
        self._file.seek(0)
        done, whole = set[int](), 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                done.update(json.loads(line)["sequences"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{file}: line {number} is no row of a part; give another --out") from error
            self.decided, whole = number, whole + len(line)
        self._file.truncate(whole)
        return done

    def use(
        self,
        detectors: Mapping[Path, Detector],
        digests: Mapping[Path, str],
        *,
        first: bool,
        version: Path | None = None,
    ) -> str | None:
        """Decide from now on by these models, with these digests; returns what is promised of parts.

        `version` is as in `make_views`. `first`: at the start. Raises UsageError or ModelError then; later it
        is said, and all parts are for review until the next change.
        """
        settings, self.digests = self.settings, digests
        try:
            views = make_views(
                settings.models,
                detectors,
                calibration=settings.calibration,
                views=settings.views,
                digests=digests,
                version=version,
            )
            check_count(views.rule)
        except BlemishError as error:
            if first:
                raise
            self.rule = None
            self.say(f"all parts are for review: {error}")
            return None
        self.rule = views.rule
        return views.describe()

    def shown_by(self, path: str) -> tuple[str, str | None]:
        """Return the part and the view of a file; one whose name tells none is a part alone, and fails."""
        try:
            return self.settings.names.of(path)
        except DataError:
            return path, None

    def id_of(self, part: str) -> str | None:
        """Return the identifier that the row of a part will have; None: no image of it waits."""
        return next((row["part_id"] for row in self.waiting.get(part, ()) if "part_id" in row), None)

    def add(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Take the row of an image that is recorded; returns the row of its part if that is complete."""
        self._wait(row)
        rows, rule = self.waiting[row["part"]], self.rule
        if rule is not None:
            there = {each["view"] for each in rows}
            complete = there >= set(rule.names) if rule.names else len(rows) >= (rule.count or 1)
            if not complete:
                return None
        return self._decide(row["part"])

    def due(self, in_folder: Iterable[str]) -> list[dict[str, Any]]:
        """Return the rows of parts that have waited too long; `in_folder` are the files not recorded yet."""
        late = [part for part, since in self.since.items() if self.now() - since >= self.settings.wait_s]
        coming = {self.shown_by(path)[0] for path in in_folder} if late else set()
        return [self._decide(part) for part in late if part not in coming]

    def is_waiting(self, path: str) -> bool:
        """Whether a recorded file belongs to a part that is not decided."""
        return any(row["path"] == path for rows in self.waiting.values() for row in rows)

    def close(self) -> None:
        """Close the file; parts that wait go on at the next start."""
        self._file.close()

    def _wait(self, row: dict[str, Any]) -> None:
        self.waiting.setdefault(row["part"], []).append(row)
        self.since.setdefault(row["part"], self.now())

    def _decide(self, part: str) -> dict[str, Any]:
        id, waited = self.id_of(part), self.now() - self.since.pop(part)
        rows = self.waiting.pop(part)
        counted = _newest(rows, self.rule is not None and bool(self.rule.names))
        found = self._decision(part, counted)
        if found.missing:
            reason = f"{waited:.0f} s are over" if waited >= self.settings.wait_s else "not all can be used"
            self.say(f"part {part}: {reason}, missing: {', '.join(found.missing)}; {found.decision}")
        self.decided += 1
        content = {
            "sequence": self.decided,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            **asdict(found),
            "sequences": [row["sequence"] for row in rows],
            "seconds": waited,
            "model": self.digests[self.settings.models.usual],
        }
        if id is not None:  # else all its images are of an earlier blemish, which recorded them as parts
            content |= {"view_ids": [row["id"] for row in counted], "id": id}
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        return content | {"files": [(row["path"], row["size"], row["mtime_ns"]) for row in rows]}

    def _decision(self, part: str, rows: list[dict[str, Any]]) -> PartRow:
        if self.rule is None:
            return PartRow(part=part, decision="review", error=f"part {part}: no calibration fits the model")
        try:
            self.settings.names.of(rows[0]["path"])
        except DataError as error:
            return PartRow(part=part, decision="failed", error=str(error))
        if isinstance(self.rule, TogetherRule) and any(map(self._is_of_other_model, rows)):
            error = f"part {part}: a view was scored by a model that has been replaced since"
            return PartRow(part=part, decision="review", error=error)
        return part_row(part, [(row["view"], row) for row in rows], self.rule)

    def _is_of_other_model(self, row: dict[str, Any]) -> bool:
        """Whether a row's score cannot be compared with those of the parts that calibrate now."""
        return row["model"] != self.digests[self.settings.models.path(row["view"])]


def _newest(rows: Iterable[dict[str, Any]], named: bool) -> list[dict[str, Any]]:
    """Of a view that came twice keep the newest image."""
    return list({row["view"]: row for row in rows}.values()) if named else list(rows)
