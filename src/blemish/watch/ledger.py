"""The ledger of a watch: a row for each file that was inspected, in `inspections.jsonl`.

It says what has been done: a row is on disk before its file is moved or anybody is told of it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blemish.core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

LEDGER_NAME = "inspections.jsonl"


@dataclass(frozen=True)
class Arrival:
    """A file as it was found; written anew under the same name it is another one."""

    path: str
    size: int
    mtime_ns: int


class Ledger:
    """The rows on disk, and the files they belong to."""

    def __init__(self, file: Path) -> None:
        """Open the ledger, making it if need be. Raises DataError when it holds something else."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.seen: set[Arrival] = set()
        self.sequence = 0
        self.last_id: str | None = None
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
                self.last_id = row.get("id", self.last_id)
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
