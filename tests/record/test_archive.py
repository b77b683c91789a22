"""The archive and its retention: what is put is there, and what any kept row names is never removed."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from databases import BEGIN, inspection

from blemish.core.errors import DataError, UsageError
from blemish.record import archive as archive_module
from blemish.record import retention
from blemish.record.archive import Archive
from blemish.record.identifiers import new_id
from blemish.record.retention import GRACE_PERIOD, MOST_DAYS, ORPHAN_AGE, Policy, RemovalCounts, retain
from blemish.record.rows import Inspection, Verdict
from blemish.record.store import Store


class Crash(BaseException):
    """The power goes."""


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(None, tmp_path)
    yield opened
    opened.close()


def path_of(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


def fails_at_the_file(error: BaseException) -> Callable[[int], None]:
    """An fsync that fails when what was written is forced to disk, and not at the folders made before."""

    def fsync(fd: int) -> None:
        if path_of(fd).suffix == ".tmp":
            raise error

    return fsync


def names(archive: Archive) -> list[str]:
    return sorted(str(p.relative_to(archive.folder)) for p in archive.folder.rglob("*") if p.is_file())


# --- the archive ---


def test_bytes_that_were_exchanged_are_not_given_out_and_are_mended(archive: Archive):
    hash = archive.put(b"a part", "image")
    archive.path(hash, "image").write_bytes(b"a trap")
    with pytest.raises(DataError, match=f"^image {hash}: the bytes on disk are no longer those"):
        archive.read(hash, "image")
    assert archive.put(b"a part", "image") == hash
    assert archive.read(hash, "image") == b"a part"


def test_a_picture_is_made_once_and_goes_with_its_image(archive: Archive):
    hash = archive.put(b"a part", "image")
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"a picture"

    with ThreadPoolExecutor(4) as pool:
        shown = list(pool.map(lambda _: archive.picture(hash, "96.png", make), range(8)))
    assert shown == [b"a picture"] * 8
    assert len(made) == 1
    assert sum(file.size for file in archive.files()) == len(b"a part" + b"a picture")
    assert {file.hash for file in archive.files()} == {hash}
    assert archive.delete(hash, "image") == len(b"a part" + b"a picture")
    assert names(archive) == []
    archive.picture(hash, "96.png", make)  # which came too late
    assert archive.delete(hash, "image") == len(b"a picture")
    assert names(archive) == []


def test_files_lie_under_the_hash_of_their_bytes_and_the_same_ones_once(archive: Archive):
    found = hashlib.sha256(b"one").hexdigest()
    assert [archive.put(b"one", "image"), archive.put(b"one", "image")] == [found, found]
    assert archive.put(b"one", "map") == found
    assert names(archive) == [f"images/{found[:2]}/{found}", f"maps/{found[:2]}/{found}"]
    assert archive.read(found, "image") == b"one"
    assert (
        archive.path(found, "image").stat().st_ino
        == archive.path(archive.put(b"one", "image"), "image").stat().st_ino
    )
    assert sorted((f.kind, f.hash, f.size) for f in archive.files()) == [
        ("image", found, 3),
        ("map", found, 3),
    ]


def test_what_is_not_there_and_what_is_no_hash(archive: Archive):
    assert list(archive.files()) == []
    assert archive.delete("0" * 64, "map") == 0
    with pytest.raises(FileNotFoundError):
        archive.read("0" * 64, "image")
    for bad in ("../" * 22, "0" * 63, "0" * 64 + "\n", "A" * 64, ""):
        with pytest.raises(DataError, match="is not a SHA-256; give 64 hex digits"):
            archive.path(bad, "image")


def test_a_file_and_its_folders_are_forced_to_disk_before_put_returns(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
):
    forced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: forced.append(str(path_of(fd))))
    found = archive.put(b"one", "image")
    where = archive.path(found, "image").parent
    # the folders in which folders were made, then the file, then the folder that it is renamed in
    *made_in, file, last = forced
    assert made_in == [str(p) for p in (where.parent, archive.folder, archive.folder.parent)]
    assert Path(file).parent == where
    assert file.endswith(".tmp")
    assert last == str(where)
    forced.clear()
    archive.put(b"one", "image")  # another thread may be between its rename and its fsync
    assert forced == [str(where)]


def test_a_disk_that_is_full_leaves_nothing_behind(archive: Archive, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails_at_the_file(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            archive.put(b"one", "image")
    assert names(archive) == []


def test_a_writer_that_is_killed_leaves_no_file_and_its_rest_is_tidied_up(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails_at_the_file(Crash()))
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Crash):
            archive.put(b"one", "image")
    assert list(archive.files()) == []
    (rest,) = names(archive)
    archive.remove_leftovers(datetime.now(UTC) - timedelta(hours=1))
    assert names(archive) == [rest]
    archive.remove_leftovers(datetime.now(UTC) + timedelta(hours=1))
    assert names(archive) == []


@pytest.mark.parametrize("first", ["put", "rename"])
def test_what_is_put_while_it_is_being_removed_stays(
    first: str, archive: Archive, monkeypatch: pytest.MonkeyPatch
):
    found = archive.put(b"one", "image")
    old = datetime.now(UTC) - timedelta(days=2)
    os.utime(archive.path(found, "image"), (old.timestamp(), old.timestamp()))
    rename = Path.rename

    def meanwhile(self: Path, target: Path) -> Path:
        if first == "put":
            archive.put(b"one", "image")
        done = rename(self, target)
        if first == "rename":
            archive.put(b"one", "image")
        return done

    monkeypatch.setattr(Path, "rename", meanwhile)
    archive.delete(found, "image", put_before=old + timedelta(days=1))
    monkeypatch.undo()
    assert archive.read(found, "image") == b"one"
    assert archive.delete(found, "image", put_before=old + timedelta(days=1)) == 0
    assert archive.delete(found, "image") == 3
    assert names(archive) == []


# --- retention ---

NOW = BEGIN + timedelta(days=100)
KINDS = ("accepted", "rejected", "failed")


class Place:
    """A store and an archive whose files have been there for long."""

    def __init__(self, store: Store, archive: Archive) -> None:
        self.store, self.archive = store, archive

    def put(self, data: bytes, kind: Any, put: datetime = BEGIN) -> str:
        found = self.archive.put(data, kind)
        os.utime(self.archive.path(found, kind), (put.timestamp(), put.timestamp()))
        return found

    def add(
        self,
        days: float,
        decision: str,
        image: bytes,
        map: bytes | None,
        verdict: str | None = None,
        station: str | None = None,
    ) -> Inspection:
        time = NOW - timedelta(days=days)
        made = inspection(
            0,
            id=new_id(time),
            time=time,
            error="no image" if decision == "failed" else None,
            anomalous={"accepted": False, "rejected": True}.get(decision),
            image=self.put(image, "image"),
            map=None if map is None else self.put(map, "map"),
            station=station,
        )
        self.store.record([made])
        if verdict is not None:
            said = Verdict(id=new_id(NOW), inspection=made.id, time=NOW, verdict=verdict)  # type: ignore[arg-type]
            self.store.add_verdict(said)
        return made

    def files(self) -> set[tuple[str, str]]:
        return {(f.kind, f.hash) for f in self.archive.files()}

    def check(self) -> None:
        """No row promises a file that is gone, and no file is there without a row."""
        rows = self.store.find(limit=10_000)
        wanted = {("image", r.image) for r in rows if r.image} | {("map", r.map) for r in rows if r.map}
        assert self.files() == wanted
        assert all(not r.files_removed or (r.image, r.map) == (None, None) for r in rows)


@pytest.fixture
def place(store: Store, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Whose files are not forced to disk: tests above look at that, and a hundred files take a second."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Place(store, archive)


def test_accepted_go_after_days_rejected_later_and_rows_stay(place: Place):
    given = {
        "old": place.add(11, "accepted", b"1", b"a"),
        "old unjudged": place.add(10.1, "unjudged", b"2", b"b"),
        "new": place.add(9.9, "accepted", b"3", b"c"),
        "missed": place.add(11, "accepted", b"4", b"d", verdict="defect"),
        "rejected": place.add(29.9, "rejected", b"5", b"e"),
        "rejected, in truth good": place.add(29, "rejected", b"6", b"f", verdict="good"),
        "failed": place.add(29, "failed", b"7", None),
        "old rejected": place.add(30.1, "rejected", b"8", b"g"),
        "old failed": place.add(31, "failed", b"9", None),
    }
    policy = Policy(accepted_days=10, rejected_days=30)
    assert retain(place.store, place.archive, policy, NOW) == RemovalCounts(inspections=4, files=7, bytes=7)
    place.check()
    gone = {name for name, i in given.items() if (place.store.get(i.id) or i).files_removed}
    assert gone == {"old", "old unjudged", "old rejected", "old failed"}
    found = place.store.get(given["old"].id)
    assert found is not None
    assert (found.image, found.map, found.files_removed, found.score) == (None, None, NOW, given["old"].score)
    assert retain(place.store, place.archive, policy, NOW) == RemovalCounts()
    later = retain(place.store, place.archive, policy, NOW + timedelta(days=1))
    assert later.inspections == 2  # "new" and "rejected"; exactly 30 days is not too old
    assert place.store.get(given["old"].id) == found  # says when they were removed, not when that was tried


def test_a_file_that_a_kept_row_names_stays(place: Place):
    for kind, days in (("accepted", 20), ("accepted", 5), ("rejected", 20)):
        place.add(days, kind, b"same image", b"same map")
    place.add(21, "accepted", b"same image", b"another map")
    removed = retain(place.store, place.archive, Policy(accepted_days=10, rejected_days=30), NOW)
    assert removed == RemovalCounts(inspections=2, files=1, bytes=len(b"another map"))
    place.check()
    retain(place.store, place.archive, Policy(accepted_days=10, rejected_days=30), NOW + timedelta(days=25))
    place.check()
    assert place.files() == set()


@pytest.mark.parametrize("policy", [Policy(accepted_days=10, rejected_days=10), Policy(gigabytes=0)])
def test_a_station_removes_its_own_files_alone(
    policy: Policy, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retention, "_BATCH_SIZE", 2)  # so that there are batches without a row of its own
    west = Place(place.store, Archive(tmp_path / "west"))
    others = [west.add(90 - k, kind, b"w%d" % k, None, station="west") for k, kind in enumerate(KINDS * 2)]
    own = [
        place.add(40, "accepted", b"1", b"a", station="east"),
        place.add(30, "rejected", b"2", None, station="east"),
        place.add(20, "accepted", b"3", b"c"),  # from before the station got its name
        place.add(15, "rejected", b"4", None, station="east's name of before"),
    ]
    removed = retain(place.store, place.archive, policy, NOW, station="east")
    assert removed == RemovalCounts(inspections=4, files=6, bytes=6)
    assert {row.id for row in place.store.find() if row.files_removed} == {row.id for row in own}
    assert place.files() == set()
    assert west.files() == {("image", row.image) for row in others}
    assert retain(place.store, place.archive, policy, NOW, station="east") == RemovalCounts()
    assert retain(west.store, west.archive, policy, NOW, station="west").files == len(others)


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(k, marks=pytest.mark.heavy) for k in range(2, 12))]
)
def test_room_is_made_as_plain_python_would(seed: int, place: Place):
    draw = random.Random(seed)
    data = [draw.randbytes(draw.randrange(1, 100)) for _ in range(25)]  # shared by several, of 60
    given = [
        place.add(
            draw.uniform(0, 40),
            draw.choice(["accepted", "rejected", "unjudged", "failed"]),
            draw.choice(data),
            draw.choice([None, *(b"map" + d for d in data)]),
            draw.choice([None, None, "good", "defect"]),
        )
        for _ in range(60)
    ]
    place.put(b"of nobody", "map")
    policy = Policy(
        accepted_days=draw.choice([None, 10, 30]), gigabytes=draw.choice([0, 200, 500, 1000, 99999]) / 1e9
    )
    last = {id: said[-1].verdict for id, said in place.store.verdicts([i.id for i in given]).items() if said}
    kept = sorted(given, key=lambda i: i.id)

    def wanted(i: Inspection) -> bool:
        return i.decision in ("rejected", "failed") or last.get(i.id) == "defect"

    def room() -> int:
        files = {(k, h) for i in kept for k, h in (("image", i.image), ("map", i.map)) if h}
        return sum(place.archive.path(h, k).stat().st_size for k, h in files)  # type: ignore[arg-type]

    if policy.accepted_days is not None:
        kept = [i for i in kept if wanted(i) or i.time >= NOW - timedelta(days=policy.accepted_days)]
    while room() > (policy.gigabytes or 0) * 1e9:
        kept.remove(next((i for i in kept if not wanted(i)), kept[0]))
    retain(place.store, place.archive, policy, NOW)
    assert [i.id for i in place.store.find(limit=100) if not i.files_removed] == [i.id for i in kept[::-1]]
    place.check()
    assert retain(place.store, place.archive, policy, NOW) == RemovalCounts()


def test_files_that_were_put_just_now_wait_for_their_rows(place: Place):
    place.add(20, "accepted", b"same", b"map")
    place.put(b"same", "image", put=NOW - GRACE_PERIOD / 2)  # again, by a part whose row is not recorded yet
    orphans = [
        place.put(b"late", "map", put=NOW - ORPHAN_AGE / 2),
        place.put(b"lost", "map", put=NOW - 2 * ORPHAN_AGE),
    ]
    assert retain(place.store, place.archive, Policy(accepted_days=10), NOW).files == 2
    same = hashlib.sha256(b"same").hexdigest()
    assert place.files() == {("image", same), ("map", orphans[0])}
    time = NOW - timedelta(minutes=1)
    place.store.record(
        [inspection(0, id=new_id(time), time=time, image=same, map=orphans[0], error=None, anomalous=False)]
    )
    retain(place.store, place.archive, Policy(accepted_days=10), NOW + timedelta(days=9))
    place.check()
    assert len(place.files()) == 2


def test_the_longest_time_is_a_time(place: Place):
    place.add(20, "accepted", b"1", None)
    policy = Policy(accepted_days=MOST_DAYS, rejected_days=MOST_DAYS)
    assert retain(place.store, place.archive, policy, NOW) == RemovalCounts()


def test_what_is_too_fresh_to_remove_does_not_make_others_go(place: Place):
    fresh = place.add(3, "accepted", bytes(500), None)
    place.put(bytes(500), "image", put=NOW)
    place.add(2, "accepted", b"a" * 400, None)
    assert retain(place.store, place.archive, Policy(gigabytes=600e-9), NOW) == RemovalCounts(inspections=1)
    assert [i.id for i in place.store.find() if i.files_removed] == [fresh.id]


def test_a_crash_in_between_leaves_no_row_that_promises_what_is_gone(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    for k in range(6):
        place.add(20, "accepted", bytes([k]), bytes([9 - k]) if k % 2 else None)
    delete, calls = Archive.delete, 0

    def crash(*given: Any, **more: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Crash
        return delete(*given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(archive_module.Archive, "delete", crash)
        with pytest.raises(Crash):
            retain(place.store, place.archive, Policy(accepted_days=10), NOW)
    rows = place.store.find()
    promised = {("image", r.image) for r in rows if r.image} | {("map", r.map) for r in rows if r.map}
    assert promised <= place.files()
    retain(place.store, place.archive, Policy(accepted_days=10), NOW)
    place.check()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"accepted_days": -1}, "--keep-accepted-days -1: must be 0 or larger"),
        ({"accepted_days": 400_000}, "--keep-accepted-days 400000: must be 365000 or less"),
        ({"trainings_days": float("inf")}, "--keep-trainings-days inf: must be 365000 or less"),
        ({"gigabytes": float("nan")}, "--keep-gigabytes nan: must be 0 or larger"),
        (
            {"accepted_days": 30, "rejected_days": 10},
            r"--keep-rejected-days 10: accepted parts are kept longer \(30\); give more",
        ),
        (
            {"rejected_days": 10},
            r"--keep-rejected-days 10: accepted parts are kept longer \(without end\); give more",
        ),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(given: dict[str, float], said: str):
    with pytest.raises(UsageError, match=f"^{said}$"):
        Policy(**given)
