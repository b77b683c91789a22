"""Models for many stations from one place: which version each model has is written in one file.

    PLACE/rollout.json    {"flange": "<SHA-256 of a model file>"}
    PLACE/<SHA-256>.onnx  the files, named by their own bytes

A station looks into the place, a folder on a shared disk or a bucket, again and again. When the file names
another version of one of its models it copies the file, checks its bytes, and goes on with it. It does so
once: what an engineer changes on a station afterwards stays until the file names another version again. The
way back is to name the version before.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import BlemishError, DataError
from blemish.core.files import write_whole
from blemish.station.rollout_places import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blemish.station.station import Station

FILE = "rollout.json"
INTERVAL = 30.0
"""Seconds between two looks into the place."""
NAMED = 10
"""So many names without a model are told."""
_DIGEST = re.compile("[0-9a-f]{64}")


class Rollout:
    """Takes the versions that a place names into use, from a thread of its own; `close` ends it."""

    def __init__(self, station: Station, place: str | Path, say: Callable[[str], None]) -> None:
        """Look at once, and then every INTERVAL; `say` is told what was taken, and what went wrong, once.

        A place that is slow holds nobody up: until it has answered, the station works with what it has.
        `place`: the path of a folder, or the https address of a bucket. Raises UsageError for another one.
        """
        self._closing = threading.Event()
        self._station, self._place, self._say = station, place_of(place, self._closing), say
        self._file = station.folder / FILE  # what was taken last, of each model
        self._told: dict[str, str] = {}  # what went wrong last, by the beginning of its line
        self._unknown: set[str] = set()  # names that are told to be no models here
        self._looking, self.looked = threading.Lock(), threading.Event()  # `looked`: at least once
        self._thread = threading.Thread(target=self._run, name="rollout", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; a model that is being taken is taken first, a file that comes from a bucket is given up."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            self.look()
            self._closing.wait(INTERVAL)

    def look(self) -> None:
        """Take what is new. A model that fails stays as it is, and is tried again at the next look."""
        with self._looking:
            self._look()
        self.looked.set()

    def _look(self) -> None:
        wanted: dict[str, str] = {}
        with self._told_once("no model was rolled out"):
            self._taken()
            wanted = _digests_of(self._place.read(FILE), self._place.path_of(FILE))
        self._tell_unknown(wanted.keys() - self._station.names())
        for name in sorted(wanted.keys() & self._station.names()):
            with self._told_once(f"model {name}: was not rolled out"):
                taken = self._taken()
                if taken.get(name) != wanted[name]:
                    self._take(name, wanted[name])
                    taken = taken | {name: wanted[name]}
                    write_whole(self._file, json.dumps(taken, indent=2) + "\n", durable=True)

    def _tell_unknown(self, names: set[str]) -> None:
        """Tell once of names without a model here: another station has it, or the name is misspelt."""
        new = sorted(names - self._unknown)
        self._unknown |= names
        if new:
            more = f" and {len(new) - NAMED} more" if len(new) > NAMED else ""
            where, own = self._place.path_of(FILE), ", ".join(sorted(self._station.names()))
            self._say(
                f"{where}: names {', '.join(new[:NAMED])}{more}, and this station has no such model; if it "
                f"should be one of its own, write {own}"
            )

    @contextmanager
    def _told_once(self, what: str) -> Iterator[None]:
        """Tell what goes wrong in the block, unless it did so the last time too."""
        try:
            yield
        except Exception as error:  # whatever a place answers, the thread looks again
            line = (
                str(error)
                if isinstance(error, BlemishError | OSError)
                else f"{type(error).__name__}: {error}"
            )
            if self._told.get(what) != line:
                self._say(f"{what}: {line}")
            self._told[what] = line
        else:
            self._told.pop(what, None)

    def _taken(self) -> dict[str, str]:
        return _digests_of(self._file.read_bytes(), str(self._file)) if self._file.exists() else {}

    def _take(self, name: str, digest: str) -> None:
        """Go on with a version of a model. Raises DataError for a file that is missing or another one."""
        file, content = self._place.read_version(digest)
        if hashlib.sha256(content).hexdigest() != digest:
            where = self._place.path_of(file)
            raise DataError(f"{where}: its bytes are not those of its name; copy it again")
        if self._station.take_version(name, content, suffix=Path(file).suffix):
            where = self._place.path_of(FILE)
            self._say(f"model {name}: version {digest[:8]} is in use, as {where} says")


def _digests_of(content: bytes, where: str) -> dict[str, str]:
    """Read the digests by the models' names. Raises DataError for what is none."""
    try:
        known = json.loads(content)
    except ValueError as error:
        raise DataError(f"{where}: is no JSON ({error})") from error
    if not isinstance(known, dict) or not all(_is_digest(value) for value in known.values()):
        raise DataError(f'{where}: must be {{"MODEL": "SHA-256 in 64 hex digits", ...}}')
    return known


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
