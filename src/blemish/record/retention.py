"""Removing old files to make room: which ones, when, and in what order. Rows stay for ever.

The files of parts rejected, in review or failed, and of those that a person called a defect, are wanted for
longer. First the files that are too old are removed. Then, while the rest takes too much room, the oldest
accepted parts' files, and last the oldest wanted ones. A file of several inspections goes with the last of
them. Where many stations share a record, each removes its own files.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from blemish.record.archive import Archive, Kind, StoredFile
    from blemish.record.rows import Inspection
    from blemish.record.store import Store

GRACE_PERIOD = timedelta(hours=1)
"""A file that was put less than this ago is left alone: its row may not be recorded yet."""
ORPHAN_AGE = timedelta(days=7)
"""A file without a row is removed after this; a watch records rows late when its database was away."""
MOST_DAYS = 365_000
"""A thousand years; a calendar does not reach back much further."""
_BATCH_SIZE = 200  # inspections, or files, that are looked at together


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How long files are kept, and how much room they may take."""

    accepted_days: float | None = None
    """Files of accepted and unjudged parts; None: as long as there is room."""
    rejected_days: float | None = None
    """Files of parts rejected, in review or failed, and of those called a defect; not less than
    `accepted_days`."""
    gigabytes: float | None = None
    """Room for all files, in 10⁹ bytes; None: as much as there is."""

    trainings_days: float = 30.0
    """Trainings that ended, and versions of models, to which nothing refers."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself. Raises UsageError."""
        for name in ("accepted_days", "rejected_days", "gigabytes", "trainings_days"):
            value = getattr(self, name)
            option = f"--keep-{name.replace('_', '-')}"
            if value is not None and not value >= 0:
                raise UsageError(f"{option} {value}: must be 0 or larger")
            if value is not None and name != "gigabytes" and value > MOST_DAYS:
                raise UsageError(f"{option} {value:g}: must be {MOST_DAYS} or less")
        if self.rejected_days is not None and not (
            self.accepted_days is not None and self.accepted_days <= self.rejected_days
        ):
            shown = "without end" if self.accepted_days is None else f"{self.accepted_days:g}"
            raise UsageError(
                f"--keep-rejected-days {self.rejected_days:g}: accepted parts are kept longer ({shown}); "
                "give more"
            )


@dataclass
class RemovalCounts:
    """What a run of `retain` removed: inspections without files now, files, and their bytes."""

    inspections: int = 0
    files: int = 0
    bytes: int = 0


def retain(
    store: Store, archive: Archive, policy: Policy, now: datetime, *, station: str | None = None
) -> RemovalCounts:
    """Remove the files that `policy` does not keep at the time `now`; rows say when theirs were removed.

    `station`: the name of the one that the archive belongs to, where many share the record. Only inspections
    of that name, and those with a file in the archive, lose their files; None: all.

    Every row is changed before its files go, so that after a crash no row promises a file that is gone: what
    is left over then goes with a later run.
    """
    removed = RemovalCounts()
    for wanted, days in ((False, policy.accepted_days), (True, policy.rejected_days)):
        if days is not None:
            until = now - timedelta(days=days)
            for old in _oldest_of(station, store, archive, wanted=wanted, until=until):
                _remove_files_of(store, archive, old, now, removed)
    archive.remove_leftovers(now - ORPHAN_AGE)
    room = _remove_orphans(store, archive, now, removed)
    if policy.gigabytes is not None:
        excess = room - policy.gigabytes * 1e9
        for wanted in (False, True):
            oldest = _oldest_of(station, store, archive, wanted=wanted)
            excess = _free_space(store, archive, oldest, excess, now, removed)
    return removed


def _oldest_of(
    station: str | None, store: Store, archive: Archive, *, wanted: bool, until: datetime | None = None
) -> Iterator[list[Inspection]]:
    """Yield the oldest inspections with files that are a station's own, of None: all; a batch at a time."""
    after = None
    while found := store.oldest_with_files(wanted=wanted, until=until, after=after, limit=_BATCH_SIZE):
        after = found[-1].id
        own = [each for each in found if station in (None, each.station) or _has_file_of(each, archive)]
        if own:
            yield own


def _has_file_of(inspection: Inspection, archive: Archive) -> bool:
    """Tell whether a file lies here, as of a part that was recorded before the station got its name."""
    return any(archive.path(hash, kind).exists() for hash, kind in _files([inspection]))


def _free_space(
    store: Store,
    archive: Archive,
    batches: Iterator[list[Inspection]],
    excess: float,
    now: datetime,
    removed: RemovalCounts,
) -> float:
    """Remove the oldest files until `excess` bytes are freed; returns what remains to be freed.

    `batches` are the inspections that may lose their files, oldest first.
    """
    while excess > 0 and (oldest := next(batches, None)):
        number, expected = 0, 0
        while number < len(oldest) and expected < excess:
            number += 1
            expected = _bytes_freed(store, archive, oldest[:number], expected)
        before = removed.bytes
        _remove_files_of(store, archive, oldest[:number], now, removed)
        excess -= max(removed.bytes - before, expected)
    return excess


def _bytes_freed(store: Store, archive: Archive, chosen: Sequence[Inspection], before: int) -> int:
    """Bytes that go with the inspections `chosen`, when `before` go with all but the last of them."""
    files = _files(chosen[-1:])
    others = store.files_in_use([hash for hash, _ in files], but=[i.id for i in chosen])
    sizes = (_size(archive, *file) for file in files if file[0] not in others)
    return before + sum(sizes)


def _size(archive: Archive, hash: str, kind: Kind) -> int:
    try:
        return archive.path(hash, kind).stat().st_size
    except FileNotFoundError:
        return 0


def _files(inspections: Sequence[Inspection]) -> list[tuple[str, Kind]]:
    """Return the files of inspections, each once."""
    files: dict[tuple[str, Kind], None] = {}  # a set that keeps its order
    for inspection in inspections:
        if inspection.image is not None:
            files[inspection.image, "image"] = None
        if inspection.map is not None:
            files[inspection.map, "map"] = None
    return list(files)


def _remove_files_of(
    store: Store, archive: Archive, inspections: Sequence[Inspection], now: datetime, removed: RemovalCounts
) -> None:
    """Note that the files of inspections are gone, then remove those that no other one has."""
    files = _files(inspections)
    store.forget_files([inspection.id for inspection in inspections], time=now)
    removed.inspections += len(inspections)
    others = store.files_in_use([hash for hash, _ in files])
    for hash, kind in files:
        if hash not in others:
            _delete(archive, hash, kind, now - GRACE_PERIOD, removed)


def _delete(archive: Archive, hash: str, kind: Kind, put_before: datetime, removed: RemovalCounts) -> None:
    freed = archive.delete(hash, kind, put_before=put_before)
    removed.files += freed > 0
    removed.bytes += freed


def _remove_orphans(store: Store, archive: Archive, now: datetime, removed: RemovalCounts) -> int:
    """Remove files that no row has and nobody will record any more; returns the bytes of those that stay."""
    total, before, old = 0, removed.bytes, []
    begin = (now - ORPHAN_AGE).timestamp()

    def look(files: list[StoredFile]) -> None:
        kept = store.files_in_use([file.hash for file in files])
        for file in files:
            if file.hash not in kept:
                _delete(archive, file.hash, file.kind, now - ORPHAN_AGE, removed)

    for file in archive.files():
        total += file.size
        if file.put < begin:
            old.append(file)
        if len(old) == _BATCH_SIZE:
            look(old)
            old = []
    look(old)
    return total - (removed.bytes - before)
