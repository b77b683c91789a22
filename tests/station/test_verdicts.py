"""Verdicts through the service: once, with the time of their giving, and taken back when in error."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from conftest import tiny_image
from fastapi.testclient import TestClient
from requests_to_station import png, send, served


@pytest.fixture
def client(tiny_model: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_model, tmp_path / "station") as client:
        yield client


def test_a_verdict_has_the_time_at_which_it_was_given_and_is_one_however_often_sent(client: TestClient):
    said = send(client, png(tiny_image(0))).json()
    here = f"/v1/inspections/{said['id']}/verdict"
    for _ in range(2):
        given = {"verdict": "good", "key": "a-key", "age_seconds": 0.0}
        answer = client.post(here, json=given).json()
    assert [v["verdict"] for v in answer["verdicts"]] == ["good"]
    late = client.post(here, json={"verdict": "defect", "age_seconds": 7 * 86400}).json()["verdicts"][-1]
    assert late["time"] == said["time"]  # never before its inspection
    assert client.post(here, json={"verdict": "good", "age_seconds": -1}).status_code == 422


def test_an_age_moves_the_time_back(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    from blemish.station.routes import inspections

    said = send(client, png(tiny_image(0))).json()
    now = datetime.now(UTC) + timedelta(hours=3)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return now

    monkeypatch.setattr(inspections, "datetime", Clock)
    given = {"verdict": "good", "age_seconds": 3600}
    answer = client.post(f"/v1/inspections/{said['id']}/verdict", json=given).json()
    time = datetime.fromisoformat(answer["verdicts"][0]["time"])
    assert abs(time - (now - timedelta(hours=1))) < timedelta(seconds=1)


def test_a_verdict_is_taken_back_and_kept(client: TestClient):
    said = send(client, png(tiny_image(0))).json()
    here = f"/v1/inspections/{said['id']}"
    client.post(f"{here}/verdict", json={"verdict": "defect"})
    second = client.post(f"{here}/verdict", json={"verdict": "good", "key": "k"}).json()["verdicts"][1]
    answer = client.post(f"{here}/withdrawal", json={"verdict": "k"})
    assert answer.status_code == 201
    assert [v["verdict"] for v in answer.json()["verdicts"]] == ["defect"]
    (gone,) = answer.json()["withdrawn"]
    assert {name: gone[name] for name in second} == second
    assert (gone["withdrawn_by"], gone["withdrawn"] > second["time"]) == ("", True)
    found = client.get("/v1/inspections", params={"verdict": "defect"}).json()["items"]
    assert [item["id"] for item in found] == [said["id"]]
    assert client.post(f"{here}/withdrawal", json={"verdict": "other"}).status_code == 404
