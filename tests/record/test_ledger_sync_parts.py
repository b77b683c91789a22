"""`blemish watch --database` of parts with several views: they are in the store as a station's own are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import grey
from hooked import SOON
from waiting import wait_for
from watched import Crash, Place, Script

from blemish.data.hashing import file_digest
from blemish.data.part_names import PartNames
from blemish.inference.part_models import ViewModels
from blemish.record import ledger_sync
from blemish.record.archive import Archive
from blemish.record.labels import Labelling, Labels
from blemish.record.ledger_sync import LedgerSync
from blemish.record.store import Inspection, Store, StoreError
from blemish.record.tables import Search
from blemish.watch import parts as watched_parts
from blemish.watch.ledger import LEDGER_NAME
from blemish.watch.parts import PartSettings

NAMES = PartNames(part=r"(\d+)_", view=r"_(\w+)\.")
GOOD, BAD = 100, 250
"""Grey levels below and above the threshold of a view."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_sync, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(ledger_sync, "LONGEST_RETRY_S", 0.02)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    opened = Store.open(None, place.out)
    yield opened
    opened.close()


def settings(place: Place, views: tuple[str, ...] = ("side", "top"), **own: Path) -> PartSettings:
    models = ViewModels(usual=place.model, own=own)
    return PartSettings(names=NAMES, models=models, wait_s=5.0, views=views)


def start_sync(place: Place, store: Any, **more: Any) -> LedgerSync:
    ledger, archive = place.out / LEDGER_NAME, Archive(place.out / "archive")
    return LedgerSync(ledger, store, archive, place.said.append, **more)


def parts_of(place: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place.out / "parts.jsonl").read_text().splitlines()]


def check(place: Place, store: Store) -> None:
    """Each decided part is in the store once, with its views, and says what parts.jsonl says."""
    rows, found = parts_of(place), store.search(Search(), limit=1000)
    assert sorted(part.id for part in found) == sorted(row["id"] for row in rows)
    ledger = {row["sequence"]: row for row in place.rows()}
    views = store.views_of([row["id"] for row in rows])
    for row in rows:
        part = store.get(row["id"])
        assert part is not None
        for name in ("part", "score", "p_value", "threshold", "anomalous", "error", "seconds", "model"):
            assert getattr(part, name) == row[name], name
        assert (part.decision, list(part.missing or ())) == (row["decision"], row["missing"])
        images = {each["id"]: each for each in (ledger[number] for number in row["sequences"])}
        assert {view.id for view in views[row["id"]]} == images.keys()
        for view in views[row["id"]]:
            image = images[view.id]
            assert (view.view, view.path, view.score) == (image["view"], image["path"], image["score"])
            assert (view.part, view.part_id, view.source) == (row["part"], row["id"], "watch")


def test_a_part_is_one_row_with_its_views(place: Place, store: Store):
    usual = Labels(station="east", line="L1")
    with_database = start_sync(place, store, labelling=Labelling(usual))
    levels = {"1_side": GOOD, "1_top": GOOD, "2_top": BAD, "2_side": GOOD}

    def script() -> Script:
        for name, level in levels.items():
            grey(place.folder / f"{name}.png", level)
            yield 1.0

    assert place.watch(script(), sync=with_database, parts=settings(place)) == 4
    assert with_database.close(SOON) == 0
    check(place, store)
    second, first = store.search(Search())
    assert [(part.part, part.decision, part.missing) for part in (first, second)] == [
        ("1", "accepted", ()),
        ("2", "rejected", ()),
    ]
    assert second.path == "2_top.png", "the picture is that of the worst view"
    worst = next(view for view in store.views_of([second.id])[second.id] if view.view == "top")
    assert (second.image, second.map, second.width) == (worst.image, worst.map, 32)
    assert (second.station, second.line, worst.station) == ("east", "L1", "east")
    assert [row.id for row in store.recorded(after=0)] == [first.id, second.id], "views are not counted"


@pytest.mark.heavy
def test_a_missing_view_is_told(place: Place, store: Store):
    def script() -> Script:
        grey(place.folder / "1_side.png", GOOD)
        (place.folder / "2_top.png").write_text("I am no picture")
        grey(place.folder / "2_side.png", BAD)
        yield 30.0

    with_database = start_sync(place, store)
    place.watch(script(), sync=with_database, parts=settings(place))
    assert with_database.close(SOON) == 0
    check(place, store)
    found = {part.part: part for part in store.search(Search())}
    assert {name: (part.decision, part.missing) for name, part in found.items()} == {
        "1": ("review", ("top",)),
        "2": ("rejected", ("top",)),
    }


def test_a_part_that_waits_is_no_row_yet_and_no_station_takes_it_up(place: Place, store: Store):
    def script() -> Script:
        grey(place.folder / "1_side.png", GOOD)
        yield 1.0

    with_database = start_sync(place, store)
    place.watch(script(), sync=with_database, parts=settings(place))
    assert with_database.close(SOON) == 0
    assert store.search(Search()) == []
    (row,) = place.rows()
    assert [view.id for view in store.views_of([row["part_id"]])[row["part_id"]]] == [row["id"]]
    assert store.undecided_views() == {}, "it waits on in the watch, whose start takes it up"

    def later() -> Script:
        grey(place.folder / "1_top.png", GOOD)
        yield 1.0

    again = start_sync(place, store)
    place.watch(later(), sync=again, parts=settings(place))
    assert again.close(SOON) == 0
    check(place, store)
    (part,) = store.search(Search())
    assert (part.id, part.decision) == (row["part_id"], "accepted")


def test_what_comes_after_a_decision_is_a_new_part(place: Place, store: Store):
    def script() -> Script:
        for turn in ("a", "b"):
            for view in ("side", "top"):
                grey(place.folder / turn / f"1_{view}.png", GOOD)
            yield 1.0

    with_database = start_sync(place, store)
    place.watch(script(), sync=with_database, parts=settings(place))
    assert with_database.close(SOON) == 0
    check(place, store)
    assert len(store.search(Search(part="1"))) == 2


def test_of_a_view_that_came_twice_the_newest_counts(place: Place, store: Store):
    def script() -> Script:
        grey(place.folder / "1_side.png", BAD)
        yield 1.0
        grey(place.folder / "1_side.png", GOOD)  # written anew
        yield 1.0
        grey(place.folder / "1_top.png", GOOD)
        yield 1.0

    with_database = start_sync(place, store)
    place.watch(script(), sync=with_database, parts=settings(place))
    assert with_database.close(SOON) == 0
    check(place, store)
    (part,), (first, *_) = store.search(Search()), place.rows()
    assert part.decision == "accepted"
    assert part.image != first["archived"]["image"], "the picture is of a view that counted"


def test_a_view_with_a_model_of_its_own(place: Place, store: Store):
    other = place.model.with_name("two.safetensors")
    other.write_text("two")

    def script() -> Script:
        for view in ("side", "top"):
            grey(place.folder / f"1_{view}.png", GOOD)
        yield 1.0

    with_database = start_sync(place, store)
    place.watch(script(), sync=with_database, parts=settings(place, side=other, top=other))
    assert with_database.close(SOON) == 0
    check(place, store)
    (part,) = store.search(Search())
    assert part.model == file_digest(place.model)
    assert {model.digest for model in store.models()} == {part.model, file_digest(other)}


class Failing(Store):
    """A database that is away until it is back."""

    away = True

    def record(self, inspections: Sequence[Inspection]) -> None:
        if self.away:
            raise StoreError("away")
        super().record(inspections)


def test_a_database_that_was_away_gets_views_and_parts(place: Place):
    failing = Failing.open(None, place.out)
    assert isinstance(failing, Failing)
    with_database = start_sync(place, failing)

    def script() -> Script:
        for part in ("1", "2"):
            for view in ("side", "top"):
                grey(place.folder / f"{part}_{view}.png", GOOD)
        yield 1.0
        assert len(parts_of(place)) == 2  # the inspection goes on
        wait_for(lambda: any("away" in line for line in place.said))
        failing.away = False

    place.watch(script(), sync=with_database, parts=settings(place))
    assert with_database.close(SOON) == 0
    check(place, failing)
    failing.close()


def test_a_database_that_stays_away_lacks_parts_too(place: Place):
    failing = Failing.open(None, place.out)
    with_database = start_sync(place, failing)

    def script() -> Script:
        for view in ("side", "top"):
            grey(place.folder / f"1_{view}.png", GOOD)
        yield 1.0

    place.watch(script(), sync=with_database, parts=settings(place))
    assert with_database.close(SOON) == 3
    failing.close()


@pytest.mark.parametrize("last", [False, True], ids=["before parts.jsonl", "after parts.jsonl"])
def test_a_crash_leaves_each_part_recorded_once(
    last: bool, place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
):
    decide, lives = watched_parts.OpenParts._decide, 0

    def crash(self: Any, part: str) -> dict[str, Any]:
        nonlocal lives
        lives += 1
        if lives == 1 and not last:
            raise Crash
        found = decide(self, part)
        if lives == 1:
            raise Crash
        return found

    monkeypatch.setattr(watched_parts.OpenParts, "_decide", crash)

    def script() -> Script:
        for part in ("1", "2"):
            for view in ("side", "top"):
                grey(place.folder / f"{part}_{view}.png", GOOD)
        yield 10.0

    dead = start_sync(place, store)
    with pytest.raises(Crash):
        place.watch(script(), sync=dead, parts=settings(place))
    dead.close(SOON)
    again = start_sync(place, store)
    place.watch(iter([10.0]), sync=again, parts=settings(place))
    assert again.close(SOON) == 0
    check(place, store)
    assert {part.part: part.decision for part in store.search(Search())} == {"1": "accepted", "2": "accepted"}
    assert len(store.search(Search())) == 2


def test_parts_of_a_time_without_a_database_are_recorded(place: Place, store: Store):
    def script() -> Script:
        for view in ("side", "top"):
            grey(place.folder / f"1_{view}.png", GOOD)
        yield 1.0

    place.watch(script(), parts=settings(place))
    assert start_sync(place, store).close(SOON) == 0
    check(place, store)
    (part,) = store.search(Search())
    assert (part.decision, part.image) == ("accepted", None)


def test_views_that_an_earlier_version_recorded_as_parts_stay_so(place: Place, store: Store):
    """Its rows name no row of a part: what is decided of them is in parts.jsonl alone."""

    def script() -> Script:
        grey(place.folder / "1_side.png", GOOD)
        yield 1.0

    place.watch(script(), parts=settings(place))
    (row,) = place.rows()
    del row["part_id"]
    (place.out / LEDGER_NAME).write_text(json.dumps(row) + "\n")

    def later() -> Script:
        yield 10.0
        for view in ("side", "top"):
            grey(place.folder / f"2_{view}.png", GOOD)
        yield 1.0

    with_database = start_sync(place, store)
    place.watch(later(), sync=with_database, parts=settings(place))
    assert with_database.close(SOON) == 0
    assert [(part.part, part.missing) for part in store.search(Search())] == [("2", ()), ("1", None)]
    assert [row["part"] for row in parts_of(place)] == ["1", "2"]


def test_views_that_are_not_told_apart_are_counted(place: Place, store: Store):
    def script() -> Script:
        for view in ("a", "b"):
            grey(place.folder / f"1_{view}.png", GOOD)
        yield 1.0

    with_database = start_sync(place, store)
    place.watch(script(), sync=with_database, parts=settings(place, views=("2",)))
    assert with_database.close(SOON) == 0
    check(place, store)
    (part,) = store.search(Search())
    assert part.decision == "accepted" and len(store.views_of([part.id])[part.id]) == 2
