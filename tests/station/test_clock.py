"""A clock that goes back: parts keep the order in which they came, their times stay true, and it is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from conftest import save, tiny_image
from databases import inspection
from fastapi.testclient import TestClient
from requests_to_station import png, send

from blemish.record.identifiers import IdSequence, new_id, time_of
from blemish.record.labels import Labelling, Labels
from blemish.record.store import Store
from blemish.station.app import create
from blemish.station.security import Tokens
from blemish.station.station import Station
from blemish.watch.folder import watch
from blemish.watch.settings import WatchSettings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


def test_identifiers_never_go_back_and_a_jump_is_told_once():
    jumps: list[timedelta] = []
    make = IdSequence(None, jumps.append)
    times = [NOON, NOON + SECOND, NOON - HOUR, NOON - HOUR + SECOND, NOON - 2 * HOUR, NOON + 2 * SECOND]
    made = [make(time) for time in times for _ in range(3)]
    assert made == sorted(set(made))
    assert [time_of(id) for id in made[::3]] == [NOON, *[NOON + SECOND] * 4, NOON + 2 * SECOND]
    assert jumps == [HOUR + SECOND, HOUR + SECOND]
    make(NOON + 2 * SECOND - timedelta(milliseconds=5))  # threads that overtake each other
    assert len(jumps) == 2
    later = IdSequence(made[-1], jumps.append)
    assert later(NOON) > made[-1]
    assert jumps[2:] == [2 * SECOND]


def test_the_newest_part_is_the_one_that_came_last(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = [NOON]
    for asked in ("engine", "following"):
        monkeypatch.setattr(f"blemish.station.{asked}.utc_now", lambda: clock[0])

    def life(times: list[datetime], first: int) -> list[dict]:
        station = Station([tiny_model], tmp_path / "station", device="cpu")
        with TestClient(create(station, tokens=Tokens(tmp_path))) as client:
            for part, clock[0] in enumerate(times, first):
                assert send(client, png(tiny_image(part)), part=f"P-{part}").status_code == 201
            station.following.follow()
            assert [alarm["kind"] for alarm in client.get("/v1/alarms").json()] == ["clock"] * (first > 0)
            back = {"since": (NOON - HOUR).isoformat(), "until": (NOON - HOUR / 2).isoformat()}
            found = client.get("/v1/inspections", params=back).json()["items"]
            assert [row["part"] for row in found] == ["P-3", "P-2"][: 2 * (first > 0)]
            return client.get("/v1/inspections").json()["items"]

    life([NOON, NOON + SECOND], 0)
    rows = life([NOON - HOUR + 5 * SECOND, NOON - HOUR + 6 * SECOND], 2)
    assert [row["part"] for row in rows] == ["P-3", "P-2", "P-1", "P-0"]
    times = [datetime.fromisoformat(row["time"]) for row in rows]
    assert times == [NOON - HOUR + 6 * SECOND, NOON - HOUR + 5 * SECOND, NOON + SECOND, NOON]
    assert "the computer's clock went back by 3596 s" in capsys.readouterr().err


def test_the_clock_of_another_station_is_not_its_own(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store, now = Store.open(None, tmp_path), datetime.now(UTC)
    own, ahead = now + HOUR, now + 2 * HOUR
    store.record([inspection(1, id=new_id(ahead), time=ahead, station="west")])
    assert store.newest_id("east") == store.newest_id()  # it has none yet
    store.record([inspection(0, id=new_id(own), time=own, station="east")])
    labelling = Labelling(Labels(station="east"))
    station = Station([tiny_model], tmp_path, device="cpu", labelling=labelling)
    try:
        assert station.make_id(own + SECOND) < store.newest_id("west")
        assert capsys.readouterr().err == ""
        assert station.make_id(now) > store.newest_id("east")
        assert "the computer's clock went back" in capsys.readouterr().err
    finally:
        station.close()
        store.close()


@pytest.mark.heavy
def test_a_watch_goes_on_after_its_last_row(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock, said, rows = [NOON], list[str](), list[dict]()
    told = SimpleNamespace(UTC=UTC, datetime=SimpleNamespace(now=lambda _: clock[0]))
    monkeypatch.setattr("blemish.watch.folder.datetime", told)
    settings = WatchSettings(model=tiny_model, folder=tmp_path / "in", out=tmp_path / "out", device="cpu")
    for number, clock[0] in enumerate((NOON, NOON - HOUR)):
        save(tmp_path / "in" / f"{number}.png", tiny_image(number))
        watch(settings, should_stop=lambda n=number: len(rows) > n, on_row=rows.append, say=said.append)
    assert rows[0]["id"] < rows[1]["id"]
    assert datetime.fromisoformat(rows[1]["time"]) == NOON - HOUR
    assert [line for line in said if "clock went back by 3600 s" in line]
