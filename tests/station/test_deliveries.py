"""An image with a key is recorded once, and one that takes long is answered with its identifier."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from cameras import wait_for
from conftest import tiny_image
from fastapi.testclient import TestClient
from requests_to_station import png, served

from blemish.station.engine_jobs import Upload
from blemish.station.station import Station

PART, OTHER = png(tiny_image(0)), png(tiny_image(1))


@pytest.fixture
def slow(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A service whose requests wait for nothing; rows are recorded when `client.go` is set."""
    with served(tiny_model, tmp_path / "station", time_limit=0.0) as client:
        store, go = client.app.state.station.store, threading.Event()
        record = store.record

        def later(rows):
            assert go.wait(60)
            record(rows)

        monkeypatch.setattr(store, "record", later)
        client.go = go
        yield client
        go.set()


def post(client: TestClient, data: bytes, key: str | None = None):
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/v1/inspections", content=data, headers=headers)


def rows_of(client: TestClient) -> list[dict]:
    return client.get("/v1/inspections").json()["items"]


def test_what_takes_long_is_found_by_its_identifier(slow: TestClient):
    answer = post(slow, PART)
    here = answer.headers["location"]
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
    assert slow.get(here).status_code == 202
    slow.go.set()
    wait_for(lambda: slow.get(here).status_code == 200)
    assert [row["id"] for row in rows_of(slow)] == [slow.get(here).json()["id"]] == [answer.json()["id"]]


def test_what_waits_is_joined_by_its_key(slow: TestClient):
    ids = {post(slow, PART, "k-1").json()["id"] for _ in range(3)}
    assert post(slow, OTHER, "k-1").status_code == 409
    ids.add(post(slow, PART, "k-2").json()["id"])
    assert len(ids) == 2
    slow.go.set()
    wait_for(lambda: len(rows_of(slow)) == 2)
    assert {row["id"] for row in rows_of(slow)} == ids


def test_the_same_key_is_the_same_row_also_after_a_restart(tiny_model: Path, tmp_path: Path):
    with served(tiny_model, tmp_path) as client:
        first = post(client, PART, "k-1")
        again = post(client, PART, "k-1")
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json()
        broken = [post(client, b"no image", "k-2") for _ in range(2)]
        assert [answer.status_code for answer in broken] == [422, 422]
        assert broken[0].json() == broken[1].json()
        other = post(client, OTHER, "k-1")
        assert (other.status_code, "came with another image" in other.json()["detail"]) == (409, True)
        for bad in ("", "a b", "x" * 201):
            assert post(client, PART, bad).status_code == 422
    with served(tiny_model, tmp_path) as client:
        assert post(client, PART, "k-1").json() == first.json()
        assert len(rows_of(client)) == 2


def test_a_key_knows_its_image_also_when_that_was_removed(tiny_model: Path, tmp_path: Path):
    with served(tiny_model, tmp_path) as client:
        first = post(client, PART, "k-1").json()
        client.app.state.station.store.forget_files([first["id"]], time=datetime.now(UTC))
        assert post(client, OTHER, "k-1").status_code == 409
        again = post(client, PART, "k-1")
        assert (again.status_code, again.json()["id"]) == (201, first["id"])


def test_a_row_whose_answer_a_crash_has_lost_is_not_made_twice(tiny_model: Path, tmp_path: Path):
    crashed = Station([tiny_model], tmp_path / "station", device="cpu")
    upload = Upload(data=PART, source="api", key="k-1")
    taken = crashed.deliveries.submit(crashed.engine(), upload)
    taken.answer.result(60)  # on disk; nobody was told, and nothing is closed
    after = Station([tiny_model], tmp_path / "station", device="cpu")
    again = after.deliveries.submit(after.engine(), upload)
    assert (again.id, again.answer.result(0)) == (taken.id, taken.answer.result(0))
    assert len(after.store.find()) == 1
    for station in (crashed, after):
        station.close()


def test_what_came_to_nothing_may_be_sent_again_with_its_key(tiny_model: Path, tmp_path: Path, monkeypatch):
    with served(tiny_model, tmp_path) as client:
        archive = client.app.state.station.archive

        def full(*_: object) -> str:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(archive, "put", full)
            assert post(client, PART, "k-1").status_code == 503
        assert post(client, PART, "k-1").status_code == 201
        assert len(rows_of(client)) == 1
