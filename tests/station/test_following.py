"""Drift, meters and versions follow the record, whichever process writes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from cameras import wait_for
from conftest import save, tiny_image
from fastapi.testclient import TestClient
from requests_to_station import png, send

from blemish.core.errors import UsageError
from blemish.inference.model_file import find_model
from blemish.record.identifiers import new_id
from blemish.record.store import Inspection, Store, Verdict
from blemish.station.app import create
from blemish.station.engine_jobs import Upload
from blemish.station.security import Tokens
from blemish.station.station import Station
from blemish.watch.folder import watch
from blemish.watch.settings import WatchSettings


def rows_of_another(like: Inspection, number: int, *, higher: float) -> list[Inspection]:
    """Rows as a watch records them: of parts that score `higher` than one that was scored."""
    assert like.score is not None
    draw, found = np.random.default_rng(0), []
    for _ in range(number):
        now = datetime.now(UTC)
        score = like.score + higher + 1e-3 * float(draw.random())
        found.append(
            replace(like, id=new_id(now), time=now.replace(microsecond=0), score=score, source="watch")
        )
    return found


@pytest.mark.heavy
def test_what_another_process_records_counts_without_a_restart(tiny_model: Path, tmp_path: Path):
    station = Station([tiny_model], tmp_path / "station", device="cpu")
    with TestClient(create(station, tokens=Tokens(tmp_path))) as client:
        send(client, png(tiny_image(0)))
        (first,) = station.store.find()
        (digest,) = station.engines
        other = Store.open(None, tmp_path / "station")
        for _ in range(4):
            other.record(rows_of_another(first, 30, higher=1e3))
        wait_for(lambda: station.following.drifts[digest].seen == 121)
        assert station.following.drifts[digest].alarm
        wait_for(lambda: len(client.get("/v1/alarms").json()) == 1)
        (model,) = client.get("/v1/models").json()
        assert model["drift"]["alarm"]
        assert model["drift"]["since"] is not None

        def counted() -> float:
            lines = client.get("/metrics").text.splitlines()
            return sum(float(x.split()[-1]) for x in lines if x.startswith("blemish_inspections_total"))

        wait_for(lambda: counted() == 121)  # the meters hear of rows after the drift has taken them
        evidence = station.following.drifts[digest].evidence
        other.close()
    again = Station([tiny_model], tmp_path / "station", device="cpu")
    assert again.following.drifts[digest].evidence == evidence  # to the bit
    again.close()


def test_an_error_of_whatever_kind_does_not_end_the_following(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("blemish.station.station.FOLLOWING_INTERVAL", 0.01)
    station, told = Station([tiny_model], tmp_path / "station", device="cpu"), []

    def fail() -> None:
        told.append("asked")
        raise RuntimeError("of a notice")

    station.noticing.insert(0, fail)
    wait_for(lambda: len(told) > 2)
    assert "inspection" in station.troubles.open
    station.close()


def test_a_model_that_cannot_be_used_is_not_kept(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It would be loaded at each start, which would fail."""
    station = Station([tiny_model], tmp_path / "station", device="cpu")

    def refuse(_: Path) -> None:
        raise UsageError("--false-alarm-rate 0.01: 2 calibration images promise no less than 0.33")

    with monkeypatch.context() as patch:
        patch.setattr(station, "_load", refuse)
        with pytest.raises(UsageError, match="promise no less"):
            station._adopt(tiny_model, "new")
    assert station.versions.adopted == {}
    station._adopt(tiny_model, "new")
    assert list(station.versions.adopted.values()) == ["new"]
    station.close()
    monkeypatch.setattr(Station, "_start", refuse_second(Station._start))
    with pytest.raises(UsageError, match="model new, which was trained here: too strict"):
        Station([tiny_model], tmp_path / "station", device="cpu")


def refuse_second(start: Callable[..., None]) -> Callable[..., None]:
    """Start the first model and refuse the next one."""
    calls = itertools.count()

    def started(*given: Any, **named: Any) -> None:
        if next(calls):
            raise UsageError("too strict")
        start(*given, **named)

    return started


def test_what_is_watched_for_drift_may_be_read_while_another_model_comes(tiny_model: Path, tmp_path: Path):
    station = Station([tiny_model], tmp_path / "station", device="cpu")
    before = station.following.drifts
    station.following.watch("0" * 64, np.arange(20.0))
    assert len(before) == 1
    assert len(station.following.drifts) == 2
    station.close()


def test_a_row_whose_identifier_is_older_than_the_last_one_counts_too(tiny_model: Path, tmp_path: Path):
    station = Station([tiny_model], tmp_path / "station", device="cpu")
    engine = station.engine()
    first = engine.submit(Upload(data=png(tiny_image(0)), source="api")).result(60)
    wait_for(lambda: station.following.drifts[first.model].seen == 1)
    old = datetime(2020, 1, 1, tzinfo=UTC)
    station.store.record([replace(first, id=new_id(old), time=old)])
    station.following.follow()
    assert station.following.drifts[first.model].seen == 2
    station.close()


@pytest.mark.heavy
def test_a_watch_uses_the_version_that_the_station_uses(tiny_model: Path, tmp_path: Path):
    folder, camera = tmp_path / "station", tmp_path / "camera"
    station = Station([tiny_model], folder, device="cpu")
    (old,) = station.engines
    for i in range(8):
        row = station.engine().submit(Upload(data=png(tiny_image(i)), source="api")).result(60)
        station.store.add_verdict(
            Verdict(id=new_id(row.time), inspection=row.id, time=row.time, verdict="good")
        )
    said: list[str] = []
    settings = WatchSettings(model=find_model(tiny_model), folder=camera, out=folder, device="cpu")

    def models_of(number: int) -> list[str]:
        rows: list[dict] = []
        save(camera / f"{number}.png", tiny_image(number))
        watch(settings, should_stop=lambda: bool(rows), on_row=rows.append, say=said.append)
        return [row["model"] for row in rows]

    assert models_of(0) == [old]
    new = station.recalibrate(old, parts=8)
    assert models_of(1) == [new]

    rows: list[dict] = []  # and takes another one while it runs

    def on_row(row: dict) -> None:
        rows.append(row)
        if len(rows) == 1:
            station.use(old)

    def should_stop() -> bool:
        if any("loaded again" in line for line in said) and not (camera / "3.png").exists():
            save(camera / "3.png", tiny_image(3))
        return len(rows) == 2

    save(camera / "2.png", tiny_image(2))
    watch(settings, should_stop=should_stop, on_row=on_row, say=said.append)
    assert [row["model"] for row in rows] == [new, old]
    station.close()


def test_an_alarm_is_acknowledged_by_name(tiny_model: Path, tmp_path: Path):
    secret = Tokens(tmp_path).add("ann", "engineer")
    station = Station([tiny_model], tmp_path / "station", device="cpu")
    row = station.engine().submit(Upload(data=png(tiny_image(0)), source="api")).result(60)
    station.store.record(rows_of_another(row, 120, higher=1e3))
    station.store.record(rows_of_another(row, 60, higher=0.0))
    station.following.follow()
    with TestClient(create(station, tokens=Tokens(tmp_path))) as client:
        client.headers["Authorization"] = f"Bearer {secret}"
        (alarm,) = client.get("/v1/alarms").json()
        drift = station.following.drifts[row.model]
        assert alarm["peak"] == drift.peak > drift.evidence
        assert alarm["peak_time"] is not None
        assert (alarm["acknowledged"], alarm["acknowledged_by"], alarm["note"]) == (None, None, None)
        here = f"/v1/alarms/{alarm['id']}/acknowledgement"
        assert client.post(here, json={"by": "bob"}).status_code == 409
        said = client.post(here, json={"note": "new lamp"}).json()
        assert (said["acknowledged_by"], said["note"]) == ("ann", "new lamp")
        assert client.post(here, json={"note": "again"}).json() == said
        assert client.get("/v1/alarms").json() == [said]
        assert client.post(f"/v1/alarms/{'0' * 26}/acknowledgement", json={}).status_code == 404
    Tokens(tmp_path).remove("ann")
    again = Station([tiny_model], tmp_path / "station", device="cpu")
    with TestClient(create(again, tokens=Tokens(tmp_path / "x"))) as client:
        assert client.get("/v1/alarms").json() == [said]  # with its peak
        assert client.post(here, json={}).status_code == 422  # nobody's name
        again.following.tell(row.model, kind="clock", value=1.0, message="back")
        again.following.follow()
        here = f"/v1/alarms/{again.following.alarms()[-1].id}/acknowledgement"
        assert client.post(here, json={"by": "ann", "note": "seen"}).json()["acknowledged_by"] == "ann"
        typed, named = again.store.acts(what="acknowledgement")
    assert (named.who, named.detail) == ("ann", {"note": "new lamp"})
    assert (typed.who, typed.detail) == ("", {"note": "seen", "by": "ann"})  # anybody may type a name
