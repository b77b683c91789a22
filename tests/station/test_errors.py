"""One status for each kind of refusal, whatever the route and the method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from conftest import tiny_image
from fastapi.testclient import TestClient
from requests_to_station import png, send, served

from blemish.core.errors import (
    BlemishError,
    ConflictError,
    DataError,
    ImageError,
    ModelError,
    NotFoundError,
    UsageError,
)
from blemish.record.store import StoreError
from blemish.station.errors import error_response, status_of
from blemish.station.security import Forbidden, Unauthorized
from blemish.station.waiting_room import Busy

NOWHERE, UNKNOWN = "0" * 26, "a" * 64


@pytest.fixture
def client(tiny_model: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_model, tmp_path / "station") as client:
        yield client


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFoundError("x"), 404),
        (ConflictError("x"), 409),
        (DataError("x"), 409),
        (UsageError("x"), 422),
        (ImageError("x"), 422),
        (BlemishError("x"), 422),
        (ModelError("x"), 503),
        (StoreError("x"), 503),
        (Busy("x"), 503),
        (OSError(28, "No space left on device"), 503),
        (Unauthorized("x"), 401),
        (Forbidden("x"), 403),
    ],
)
def test_each_error_has_one_status(error: Exception, status: int):
    assert status_of(error) == error_response(error).status_code == status


def test_what_to_wait_for_is_said():
    assert error_response(Busy("x")).headers["retry-after"] == "1"
    assert error_response(Unauthorized("x")).headers["www-authenticate"] == "Bearer"
    assert "retry-after" not in error_response(StoreError("x")).headers


def test_a_value_that_is_not_taken_is_one_line_that_can_be_sent(client: TestClient):
    endless = '{"share": 0.5, "seed": Infinity}'  # as Python writes it; JSON has no such number
    kind = {"content-type": "application/json"}
    answer = client.put("/v1/sampling", content=endless, headers=kind)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("seed: Input should be a finite number")
    answer = client.put("/v1/sampling", content='{"share": 2}', headers=kind)
    assert answer.json()["detail"].startswith("share: Input should be less than or equal to 1")
    lone = '{"name": "a", "method": "\\ud800", "\\n": 1}'  # half a letter, which cannot be sent back
    answer = client.post("/v1/trainings", content=lone, headers=kind)
    assert (answer.status_code, answer.json()["detail"].isprintable()) == (422, True)
    answer = client.put("/v1/reasons", content="[" * 50, headers=kind)
    assert (answer.status_code, isinstance(answer.json()["detail"], str)) == (422, True)


def test_what_is_missing_is_404_for_every_method(client: TestClient):
    training, model, inspection = (
        f"/v1/trainings/{NOWHERE}",
        f"/v1/models/{UNKNOWN}",
        f"/v1/inspections/{NOWHERE}",
    )
    for answer in (
        client.get(training),
        client.post(f"{training}/images", content=png(tiny_image(0))),
        client.post(f"{training}/start"),
        client.post(f"{training}/cancel"),
        client.get(f"{model}/calibration"),
        client.post(f"{model}/recalibration", json={}),
        client.post(f"{model}/use"),
        client.get(inspection),
        *(client.get(f"{inspection}/{kind}") for kind in ("image", "map", "overlay")),
        client.post(f"{inspection}/verdict", json={"verdict": "good"}),
        send(client, png(tiny_image(0)), model="nobody"),
    ):
        assert answer.status_code == 404, (answer.request.url, answer.text)
        assert isinstance(answer.json()["detail"], str)


def test_a_wrong_state_is_409(client: TestClient):
    id = client.post("/v1/trainings", json={"name": "a", "method": "pca"}).json()["id"]
    here = f"/v1/trainings/{id}"
    few = client.post(f"{here}/start")
    assert (few.status_code, "has 0 images" in few.json()["detail"]) == (409, True)
    assert client.post(f"{here}/cancel").status_code == 201
    for answer in (
        client.post(f"{here}/start"),
        client.post(f"{here}/cancel"),
        client.post(f"{here}/images", content=png(tiny_image(0))),
    ):
        assert (answer.status_code, "is cancelled" in answer.json()["detail"]) == (409, True)


@pytest.mark.heavy
def test_a_model_that_is_not_in_use_is_409(client: TestClient):
    (old,) = client.get("/v1/models").json()
    ids = [send(client, png(tiny_image(i))).json()["id"] for i in range(12)]
    for id in ids:
        client.post(f"/v1/inspections/{id}/verdict", json={"verdict": "good"})
    here = f"/v1/models/{old['digest']}"
    assert client.post(f"{here}/recalibration", json={}).status_code == 201
    again = client.post(f"{here}/recalibration", json={})
    assert (again.status_code, "is not in use" in again.json()["detail"]) == (409, True)
    assert client.post(f"{here}/use").status_code == 201
    assert client.post(f"{here}/use").status_code == 201  # what is in use stays so


def test_a_bad_value_is_422(client: TestClient):
    for wanted in ({"method": "magic"}, {"preset": "magic"}, {"source": "nothing"}):
        answer = client.post("/v1/trainings", json={"name": "a", "method": "pca"} | wanted)
        assert answer.status_code == 422, answer.text
        assert isinstance(answer.json()["detail"], str)
    id = client.post("/v1/trainings", json={"name": "a", "method": "pca"}).json()["id"]
    for body in (b"no image", b""):
        assert client.post(f"/v1/trainings/{id}/images", content=body).status_code == 422
        assert send(client, body).status_code == 422
    backwards = {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    assert client.get("/v1/summary", params=backwards).status_code == 422


def test_a_store_that_fails_is_503_for_every_method(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    id = send(client, png(tiny_image(0))).json()["id"]

    def away(*_: object, **__: object) -> None:
        raise StoreError("the database is away")

    store = client.app.state.station.store
    for name in ("search", "get", "models", "record", "alarms", "summary", "judged", "add_verdict"):
        monkeypatch.setattr(store, name, away)
    spans = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}
    for answer in (
        client.get("/v1/inspections"),
        client.get(f"/v1/inspections/{id}"),
        client.get("/v1/models"),
        client.get("/v1/alarms"),
        client.get("/v1/summary", params=spans),
        client.get("/v1/export.csv"),
        client.post(f"/v1/inspections/{id}/verdict", json={"verdict": "good"}),
        client.post(f"/v1/models/{next(iter(client.app.state.station.engines))}/recalibration", json={}),
        send(client, png(tiny_image(1))),
    ):
        assert (answer.status_code, answer.json()) == (503, {"detail": "the database is away"})


def test_no_answer_in_time_is_202_with_the_identifier(tiny_model: Path, tmp_path: Path):
    with served(tiny_model, tmp_path, time_limit=0.0) as client:
        answer = send(client, png(tiny_image(0)))
        assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
        id = answer.json()["id"]
        assert answer.json() == {"id": id, "state": "waiting"}
        assert answer.headers["location"] == f"/v1/inspections/{id}"
