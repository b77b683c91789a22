"""Views at a station: whose part they are, what they wait for, and how they are found."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

import parts_at_station
from parts_at_station import Place, at

from blemish.core.errors import ModelError, UsageError
from blemish.inference.model_file import load_model_file, save_model_file
from blemish.record.identifiers import new_id, utc_now
from blemish.record.labels import Labelling, Labels
from blemish.record.rows import Inspection, StoreError
from blemish.record.store import Store
from blemish.record.versions import FOLDER, Versions
from blemish.station.answers import view_answer_of
from blemish.station.part_lines import ABANDONED_DAYS
from blemish.station.parts import PartSettings
from blemish.station.station import Station

goods, run, place = parts_at_station.goods, parts_at_station.run, parts_at_station.place
good, bad = parts_at_station.good, parts_at_station.bad


def test_a_view_waits_for_nothing_only_when_its_part_is_decided(
    place: Place, good: bytes, monkeypatch: pytest.MonkeyPatch
):
    side, (line,), get = place.send(good, part="1", view="side").json(), place.station.parts.lines, Store.get
    (part,) = line._open.values()
    part.coming["once more"] = "side"
    top = place.send(good, part="1", view="top").json()
    assert (top["decision"], top["waits_for"]) == ("unjudged", ["side"])

    def get_late(store: Store, id: str):
        found = get(store, id)
        if id == part.id and part.coming:  # the other answer comes between
            del part.coming["once more"]
            place.wait(0)
        return found

    monkeypatch.setattr(Store, "get", get_late)
    (view,) = place.station.store.views_of([part.id])[part.id][:1]
    assert view.id == side["id"]
    early = view_answer_of(place.station, view)
    assert (early.decision, early.waits_for) == ("unjudged", ["side"])
    late = view_answer_of(place.station, view)
    assert (late.decision, late.waits_for) == ("accepted", [])


def test_a_part_is_found_by_the_file_name_of_each_of_its_views(place: Place, good: bytes):
    for name in ("1", "2"):
        for view in ("side", "top"):
            place.send(good, part=name, view=view, name=f"{view}-{name}.png")
    for text in ("side-1", "top-1"):
        assert [row["part"] for row in place.parts(text=text)] == ["1"]
    assert len(place.parts(text=".png")) == 2


def test_a_part_that_is_due_ends_no_trouble_of_the_disk(
    place: Place, good: bytes, monkeypatch: pytest.MonkeyPatch
):
    told = threading.Event()
    (engine,) = place.station.engines.values()
    recorded = engine.on_recorded

    def record(rows: Sequence[Inspection]) -> None:
        recorded(rows)  # which ends troubles, just after the answer
        told.set()

    engine.on_recorded = record
    place.send(good, part="1", view="side")
    assert told.wait(60)
    monkeypatch.setattr(place.station.readiness, "problem", lambda: "full")  # it is asked every other second
    for error in (OSError(28, "No space left on device"), StoreError("away")):
        place.station.troubles.note(error)
    place.wait(11)
    assert place.station.troubles.open == {"disk"}


def test_a_version_that_the_station_made_is_named_where_parts_were_calibrated_by_its_file(
    run: Path, tmp_path: Path
):
    made = tmp_path / "made.safetensors"
    save_model_file(made, replace(load_model_file(run), provenance={"made": "later"}))
    versions = Versions(tmp_path / "station" / FOLDER)
    new = versions.add(made.read_bytes(), suffix=made.suffix, of=versions.start(run))
    versions.use(new)
    with pytest.raises(ModelError, match=f"this station uses version {new[:8]} of {re.escape(str(run))}"):
        Station([run], tmp_path / "station", device="cpu")


def test_views_from_two_lines_are_of_two_parts(run: Path, good: bytes, tmp_path: Path):
    folder = tmp_path / "station"
    with at(run, folder) as place:
        first = place.send(good, part="17", view="side", line="L1").json()
        other = place.send(good, part="17", view="top", line="L2").json()
        assert other["part_id"] != first["part_id"]
        assert place.parts() == []
    with at(run, folder) as place:
        assert place.send(good, part="17", view="side", line="L2").json()["part_id"] == other["part_id"]
        (part,) = place.parts()
        assert (part["line"], part["decision"]) == ("L2", "accepted")


def named(name: str | None) -> Labelling:
    return Labelling(Labels(station=name))


@pytest.mark.parametrize(("before", "after"), [("east", "west"), (None, "west"), ("east", None)])
@pytest.mark.heavy
def test_a_station_goes_on_with_its_open_parts_under_another_name(
    before: str | None, after: str | None, run: Path, good: bytes, tmp_path: Path
):
    folder = tmp_path / "station"
    with at(run, folder, labelling=named(before)) as place:
        first, other = (place.send(good, part=name, view="side").json() for name in ("1", "2"))
    with at(run, folder, labelling=named(after)) as place:
        done = place.send(good, part="1", view="top").json()
        assert (done["part_id"], done["decision"]) == (first["part_id"], "accepted")
        place.wait(11)
        found = {row["part"]: (row["id"], row["decision"], row["station"]) for row in place.parts()}
    assert found == {
        "1": (first["part_id"], "accepted", after),
        "2": (other["part_id"], "review", after),
    }


def test_a_part_of_another_station_is_left_to_it_until_nobody_has_gone_on_with_it_for_long(
    run: Path, good: bytes, bad: bytes, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch
):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    east, west = ({"database": url, "labelling": named(name)} for name in ("east", "west"))
    with at(run, tmp_path / "east", **east) as place:
        place.send(good, part="1", view="side")
        (view,) = next(iter(place.station.store.undecided_views().values()))
    with at(run, tmp_path / "west", **west) as place:
        place.send(bad, part="3", view="side")
        old = utc_now() - timedelta(days=ABANDONED_DAYS, seconds=1)
        long_ago = replace(view, id=new_id(old), time=old, part_id=new_id(old), part="2")
        place.station.store.record([long_ago])
        place.station.parts.close_abandoned()
        (closed,) = place.parts()
        assert (closed["id"], closed["decision"], closed["station"]) == (long_ago.part_id, "review", "east")
        why = "part 2: not all of its views had come, and station east has not gone on with it"
        assert closed["error"] == why
        assert f"{why}; it is for review" in capfd.readouterr().err
    with at(run, tmp_path / "east", **east) as place:
        assert place.send(good, part="1", view="top").json()["part_id"] == view.part_id
        place.send(good, part="4", view="side")
        monkeypatch.setattr("blemish.station.part_lines.ABANDONED_DAYS", -1)  # all of them are old enough
        place.station.parts.close_abandoned()
        assert {row["part"] for row in place.parts()} == {"1", "2", "3"}, "its own one waits on"


def test_equal_images_do_not_lead_a_station_to_the_part_of_another(run: Path, good: bytes, tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    east, west = ({"database": url, "labelling": named(name)} for name in ("east", "west"))
    with at(run, tmp_path / "east", **east) as place:
        of_east = place.send(good, part="1", view="side").json()
    with at(run, tmp_path / "west", **west) as place:
        of_west = place.send(good, part="2", view="side").json()
    with at(run, tmp_path / "west", **west) as place:
        assert place.station.parts.has_open(of_west["part_id"])
        assert not place.station.parts.has_open(of_east["part_id"])
        place.wait(11)
        assert [row["part"] for row in place.parts()] == ["2"]
    with at(run, tmp_path / "east", **east) as place:
        done = place.send(good, part="1", view="top").json()
        assert (done["part_id"], done["decision"]) == (of_east["part_id"], "accepted")


def test_a_station_waits_for_a_view_no_longer_than_others_leave_its_parts_alone():
    assert PartSettings(wait_s=86400).wait_s < ABANDONED_DAYS * 86400
    with pytest.raises(UsageError, match="--part-wait 86401: a station waits for a day at most"):
        PartSettings(wait_s=86401)
