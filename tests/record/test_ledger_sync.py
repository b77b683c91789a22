"""`blemish watch --database`: the store follows the ledger, whatever becomes of either."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from commands import refused, run
from conftest import save
from fakes import grey
from hooked import SOON
from waiting import wait_for
from watched import Crash, Place, command, rows_of

from blemish.record import ledger_sync
from blemish.record.archive import Archive
from blemish.record.ledger_sync import LedgerSync
from blemish.record.store import Inspection, Store, StoreError
from blemish.watch.ledger import LEDGER_NAME, Ledger


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_sync, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(ledger_sync, "LONGEST_RETRY_S", 0.02)
    monkeypatch.setattr(ledger_sync, "CLOSE_TIMEOUT_S", SOON)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    opened = Store.open(None, place.out)
    yield opened
    opened.close()


class Failing:
    """A database that is away until it is back."""

    def __init__(self, store: Store, *, away: bool = True) -> None:
        self.store, self.away, self.asked = store, away, 0

    def _ask(self) -> None:
        if self.away:
            self.asked += 1
            raise StoreError("db: connection\nrefused")

    def add_model(self, model: Any) -> None:
        self._ask()
        self.store.add_model(model)

    def existing_ids(self, ids: Sequence[str]) -> set[str]:
        self._ask()
        return self.store.existing_ids(ids)

    def record(self, inspections: Sequence[Inspection]) -> None:
        self._ask()
        self.store.record(inspections)


def start_sync(place: Place, store: Any) -> LedgerSync:
    return LedgerSync(place.out / LEDGER_NAME, store, Archive(place.out / "archive"), place.said.append)


def check(place: Place, store: Store) -> None:
    """Every row of the ledger is in the store, once, and says the same."""
    rows, found = rows_of(place.out), store.find(limit=1000)
    assert sorted(i.id for i in found) == sorted(row["id"] for row in rows)
    for row in rows:
        inspection = store.get(row["id"])
        assert inspection is not None
        same = ("path", "model", "score", "p_value", "threshold", "anomalous", "regions", "error", "seconds")
        said = asdict(inspection)
        assert {name: said[name] for name in same} == {name: row[name] for name in same}
        assert (inspection.time.isoformat(timespec="milliseconds"), inspection.source) == (
            row["time"],
            "watch",
        )


def test_rows_images_and_maps_are_kept(place: Place, store: Store):
    image = save(place.folder / "sub" / "a.png", np.full((40, 64, 3), 255, np.uint8)).read_bytes()
    (place.folder / "no.png").write_text("I am no picture")
    with_database = start_sync(place, store)
    assert place.watch(sync=with_database, move_to=place.out.parent / "moved") == 2
    assert with_database.close(SOON) == 0
    check(place, store)
    archive = Archive(place.out / "archive")
    (scored,), (failed,) = store.find(decision="rejected"), store.find(decision="failed")
    assert (scored.width, scored.height, scored.image) == (64, 40, hashlib.sha256(image).hexdigest())
    assert scored.map is not None
    assert archive.read(scored.image, "image") == image
    kept = tifffile.imread(archive.path(scored.map, "map"))
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, tifffile.imread(place.out / "maps" / "sub" / "a.png.tiff"))
    # what is no image is not kept, but the row says which bytes it were
    assert failed.image == hashlib.sha256(b"I am no picture").hexdigest()
    assert (failed.map, failed.width, failed.height) == (None, None, None)
    assert {file.hash for file in archive.files()} == {scored.image, scored.map}
    (model,) = store.models()
    assert (model.digest, model.name, model.method) == (hashlib.sha256(b"one").hexdigest(), "model", "mean")
    assert model.description["size"] == [32, 32]
    assert place.said == []


def test_the_identifier_is_the_ledgers_last_key_with_a_database_and_without(place: Place, store: Store):
    grey(place.folder / "a.png", 10)
    assert place.watch() == 1
    assert not (place.out / "archive").exists()
    with_database = start_sync(place, store)
    grey(place.folder / "b.png", 20)
    assert place.watch(sync=with_database) == 1
    assert with_database.close(SOON) == 0
    first, second = rows_of(place.out)
    assert [list(row)[-1] for row in (first, second)] == ["id", "id"]
    assert first["id"] < second["id"]
    assert "archived" not in first
    assert sorted(second["archived"]) == ["height", "image", "map", "width"]
    check(place, store)  # also the row of the time without a database; its files are not kept
    found = store.get(first["id"])
    assert found is not None
    assert (found.image, found.map) == (None, None)


def test_rows_from_before_there_were_identifiers_are_left_out(place: Place, store: Store):
    grey(place.folder / "a.png", 10)
    assert place.watch() == 1
    (row,) = rows_of(place.out)
    del row["id"]
    (place.out / LEDGER_NAME).write_text(json.dumps(row) + "\n")
    grey(place.folder / "b.png", 10)
    with_database = start_sync(place, store)
    assert place.watch(sync=with_database) == 1
    assert with_database.close(SOON) == 0
    assert [i.path for i in store.find()] == ["b.png"]


def test_a_file_that_is_written_anew_while_it_is_scored_is_not_kept_for_the_other(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
):
    grey(place.folder / "a.png", 10)
    put = LedgerSync.archive_files

    def overtaken(self: LedgerSync, file: Path, *given: Any) -> dict[str, Any]:
        if not store.find() and file.stat().st_size and place.told == []:
            grey(file, 50, side=48)
        return put(self, file, *given)

    monkeypatch.setattr(LedgerSync, "archive_files", overtaken)
    with_database = start_sync(place, store)
    assert place.watch(sync=with_database) == 2
    assert with_database.close(SOON) == 0
    check(place, store)
    newest, first = store.find()
    assert (first.image, first.width) == (None, 32)
    assert newest.image == hashlib.sha256((place.folder / "a.png").read_bytes()).hexdigest()


def test_a_database_that_goes_away_is_said_once_and_catches_up(place: Place, store: Store):
    failing = Failing(store, away=False)
    with_database = start_sync(place, failing)

    def script() -> Iterator[float]:
        grey(place.folder / "0.png", 10)
        yield 1.0
        wait_for(lambda: len(store.find()) == 1)
        failing.away = True
        for k in range(1, 5):
            grey(place.folder / f"{k}.png", 10 * k)
            yield 1.0
            before = failing.asked
            wait_for(lambda before=before: failing.asked > before + 2)
        assert len(place.rows()) == 5  # the inspection goes on
        assert len(store.find()) == 1
        failing.away = False
        wait_for(lambda: len(store.find()) == 5)
        wait_for(lambda: len(place.said) == 2)  # or it would go away before it was said to work
        failing.away = True
        grey(place.folder / "5.png", 10)
        yield 1.0
        wait_for(lambda: len(place.said) == 3)
        failing.away = False

    assert place.watch(script(), sync=with_database) == 6
    assert with_database.close(SOON) == 0
    check(place, store)
    away = "--database: db: connection refused; the inspection goes on, and rows are recorded when it works"
    assert place.said == [away, "--database: works again, and has all rows"] * 2


@pytest.mark.parametrize("step", ["ledger", "put"])
def test_a_crash_at_any_step_leaves_each_row_recorded_once(
    step: str, place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
):
    names = [f"{i}.png" for i in range(7)]
    for i, name in enumerate(names):
        grey(place.folder / name, 30 * i)
    append, put = Ledger.append, LedgerSync.archive_files
    done = lives = 0

    def crash() -> None:
        nonlocal done
        done += 1
        if done % 3 == 0:
            raise Crash

    def appended(self: Ledger, *given: Any) -> None:
        append(self, *given)
        if step == "ledger":
            crash()

    def kept(self: LedgerSync, *given: Any) -> dict[str, Any]:
        found = put(self, *given)
        if step == "put":
            crash()
        return found

    monkeypatch.setattr(Ledger, "append", appended)
    monkeypatch.setattr(LedgerSync, "archive_files", kept)
    while True:
        dead = start_sync(place, Failing(store))  # nothing gets from the ledger into the store in this life
        try:
            place.watch(sync=dead, move_to=place.out.parent / "moved")
            break
        except Crash:
            lives += 1
        finally:
            dead.close(SOON)
    assert lives >= 2
    assert store.find() == []
    last = start_sync(place, store)
    assert last.close(SOON) == 0
    check(place, store)
    assert sorted(i.path or "" for i in store.find()) == names
    archive = Archive(place.out / "archive")
    for inspection in store.find():
        assert inspection.image
        assert inspection.map
        (moved,) = (place.out.parent / "moved").rglob(str(inspection.path))
        assert archive.read(inspection.image, "image") == moved.read_bytes()
        assert archive.read(inspection.map, "map")


KILLED = """
import sys, time
from pathlib import Path
import pytest
from watched import Place
from blemish.record import ledger_sync
from blemish.record.store import Store
from blemish.watch.ledger import LEDGER_NAME

with pytest.MonkeyPatch.context() as patch:
    with pytest.MonkeyPatch.context() as there:
        there.setattr(Path, "mkdir", lambda *_: None)
        place = Place(Path(sys.argv[1]), patch)
    Store.record = lambda *_: time.sleep(1000)  # between the ledger and the store
    with ledger_sync.sync_to_database("sqlite", place.out / LEDGER_NAME, print) as sync:
        place.watch(iter([5.0, 1e9]), sync=sync)
"""


@pytest.mark.heavy
def test_killed_between_ledger_and_store(place: Place, store: Store):
    for k in range(3):
        grey(place.folder / f"{k}.png", 30 * k)
    ledger = place.out / LEDGER_NAME
    life = subprocess.Popen(
        [sys.executable, "-c", KILLED, place.folder.parent],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: life.poll() is not None or (ledger.exists() and ledger.read_bytes().count(b"\n") == 3))
    life.kill()
    assert life.wait() == -signal.SIGKILL
    assert store.find() == []
    again = start_sync(place, store)
    grey(place.folder / "3.png", 90)
    assert place.watch(sync=again) == 1
    assert again.close(SOON) == 0
    check(place, store)
    archive = Archive(place.out / "archive")
    for inspection in store.find():
        assert inspection.image
        assert archive.read(inspection.image, "image") == (place.folder / str(inspection.path)).read_bytes()


def test_a_long_ledger_goes_into_a_new_database(place: Place, store: Store):
    grey(place.folder / "a.png", 10)
    assert place.watch() == 1
    (row,) = place.rows()
    lines = []
    for k in range(650):
        lines.append(
            json.dumps(row | {"sequence": k + 1, "id": row["id"][:-4] + f"{k:04d}", "path": f"{k}.png"})
        )
    (place.out / LEDGER_NAME).write_text("\n".join(lines) + '\n{"cut o')
    for _ in range(2):
        assert start_sync(place, store).close(SOON) == 0
    assert [i.path for i in store.find(limit=1000)] == [f"{k}.png" for k in reversed(range(650))]


# --- the command ---


def test_the_command_keeps_a_database_of_its_own(place: Place, capsys: pytest.CaptureFixture[str]):
    place.stop_by_signal = True
    for k in range(3):
        grey(place.folder / f"{k}.png", 10 * k)
    assert run(*command(place, "--database", "sqlite")) == 0
    assert capsys.readouterr().err == ""
    store = Store.open(None, place.out)
    check(place, store)
    assert len(list(Archive(place.out / "archive").files())) == 6
    store.close()
    elsewhere = f"sqlite:///{place.out.parent / 'other.db'}"
    assert run(*command(place, "--database", elsewhere)) == 0
    store = Store.open(elsewhere, place.out)
    check(place, store)
    store.close()


@pytest.mark.heavy
def test_a_database_that_is_away_at_the_end_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def away(*_: object) -> None:
        raise StoreError("db: is away")

    monkeypatch.setattr(Store, "record", away)
    place.stop_by_signal = True
    for k in range(2):
        grey(place.folder / f"{k}.png", 10 * k)
    assert run(*command(place, "--database", "sqlite")) == 0
    assert capsys.readouterr().err.splitlines() == [
        "blemish watch: --database: db: is away; the inspection goes on, and rows are recorded when it works",
        "blemish watch: --database: lacks the last 2 rows; the next start records them",
    ]


def test_a_database_that_cannot_be_opened_is_refused_in_one_line(
    place: Place, capsys: pytest.CaptureFixture[str]
):
    line = refused(capsys, *command(place, "--database", "here"))
    assert (
        line
        == "blemish watch: 'here': is not the URL of a database; must be sqlite:///FILE or postgresql://USER@HOST/NAME"
    )
    assert not (place.out / LEDGER_NAME).exists()


def test_without_a_database_nothing_of_it_is_needed(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    place.stop_by_signal = True
    grey(place.folder / "a.png", 10)
    assert run(*command(place)) == 0
    assert sorted(p.name for p in place.out.iterdir()) == [LEDGER_NAME, "maps", "overlays", "summary.json"]
