"""Views at a station: whose part they are, what they wait for, and how they are found."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

import parts_at_station
from parts_at_station import Place, at

from blemish.core.errors import ModelError
from blemish.inference.model_file import load_model_file, save_model_file
from blemish.record.rows import StoreError
from blemish.record.store import Store
from blemish.record.versions import FOLDER, Versions
from blemish.station.answers import view_answer_of
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
    place.send(good, part="1", view="side")
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
