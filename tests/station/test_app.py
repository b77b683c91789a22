"""The service through its routes, on a real model: what is answered, what is kept, what is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_image
from PIL import Image

pytest.importorskip("fastapi", reason="the station's packages are not installed")

import tifffile
from fastapi.testclient import TestClient
from requests_to_station import png, send, served
from waiting import wait_for

from blemish.inference import load
from blemish.station.security import Tokens


@pytest.fixture
def client(tiny_model: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_model, tmp_path / "station") as client:
        yield client


@pytest.fixture(scope="module")
def parts(tiny_category: Path) -> dict[str, bytes]:
    good, bad = (sorted((tiny_category / "test" / kind).iterdir())[0] for kind in ("good", "hole"))
    return {"good": good.read_bytes(), "bad": bad.read_bytes()}


def test_an_upload_is_scored_as_a_file_is(client: TestClient, parts, tiny_model: Path, tmp_path: Path):
    detector = load.load(tiny_model, device="cpu")
    for kind, data in parts.items():
        path = tmp_path / f"{kind}.png"
        path.write_bytes(data)
        expected = detector.predict(path)
        raw = send(client, data, part="P-1", name="a/../b.png")
        form = client.post("/v1/inspections", files={"image": (f"{kind}.png", data)}, data={"part": "P-2"})
        assert (raw.status_code, form.status_code) == (201, 201)
        for said, part, name in ((raw.json(), "P-1", "a/../b.png"), (form.json(), "P-2", f"{kind}.png")):
            assert said["score"] == pytest.approx(expected.score, rel=1e-6)
            assert (said["p_value"], said["threshold"]) == (expected.p_value, expected.threshold)
            assert said["anomalous"] == expected.anomalous == (kind == "bad")
            assert said["decision"] == ("rejected" if kind == "bad" else "accepted")
            assert len(said["regions"]) == len(expected.regions)
            assert (said["part"], said["path"]) == (part, name)
        full = client.get(raw.json()["map"], params={"full": True})
        got = tifffile.imread(io.BytesIO(full.content))
        np.testing.assert_allclose(got, expected.anomaly_map, rtol=1e-6)
        grid = client.get(raw.json()["map"])
        values = np.frombuffer(grid.content, "<f4").reshape(
            int(grid.headers["x-map-height"]), int(grid.headers["x-map-width"])
        )
        np.testing.assert_allclose(values, expected.coarse_map, rtol=1e-6)


def test_what_was_answered_is_found_again_with_its_pictures(client: TestClient, parts):
    said = send(client, parts["bad"]).json()
    assert client.get(f"/v1/inspections/{said['id']}").json() == said
    assert client.get(said["image"]).content == parts["bad"]
    assert client.get(said["image"]).headers["content-disposition"].startswith("attachment")
    small = Image.open(io.BytesIO(client.get(said["image"], params={"side": 32}).content))
    assert (small.format, small.size) == ("PNG", (32, 32))
    overlay = Image.open(io.BytesIO(client.get(said["overlay"]).content))
    assert (overlay.format, overlay.size) == ("PNG", (64, 64))
    red = (np.asarray(overlay) == (255, 0, 0)).all(axis=2)
    box = said["regions"][0]
    assert red[box["y0"] : box["y1"], box["x0"] : box["x1"]].any()


def test_lists_are_filtered_and_paged(client: TestClient, parts):
    ids = [send(client, parts["bad" if i % 3 == 0 else "good"], part=f"P-{i}").json()["id"] for i in range(7)]
    assert ids == sorted(ids)
    first = client.get("/v1/inspections", params={"limit": 3}).json()
    assert [item["id"] for item in first["items"]] == ids[:3:-1]
    rest = client.get("/v1/inspections", params={"limit": 4, "before": first["next"]}).json()
    assert [item["id"] for item in rest["items"]] == ids[3::-1]
    assert rest["next"] is None

    def parts_of(**query) -> list[str]:
        return [item["part"] for item in client.get("/v1/inspections", params=query).json()["items"]]

    assert parts_of(decision="rejected") == ["P-6", "P-3", "P-0"]
    assert parts_of(part="P-4") == ["P-4"]
    assert parts_of(since="2100-01-01T00:00:00") == []
    assert len(parts_of(until="2100-01-01T00:00:00Z")) == 7


def test_verdicts_are_kept_and_the_last_one_counts(tiny_model: Path, tmp_path: Path, parts):
    with served(tiny_model, tmp_path) as client:
        id = send(client, parts["bad"]).json()["id"]
        for verdict, note in (("defect", "a hole"), ("good", "")):
            said = client.post(f"/v1/inspections/{id}/verdict", json={"verdict": verdict, "note": note})
            assert said.status_code == 201
        assert client.get("/v1/inspections", params={"unjudged": True}).json()["items"] == []
    with served(tiny_model, tmp_path) as client:  # another life of the service
        found = client.get("/v1/inspections", params={"verdict": "good"}).json()["items"]
        assert [(v["verdict"], v["note"]) for v in found[0]["verdicts"]] == [
            ("defect", "a hole"),
            ("good", ""),
        ]


def test_refusals_are_one_line_each(client: TestClient, parts):
    nowhere = "0" * 26
    for answer, status, words in (
        (send(client, b""), 422, "the body is empty"),
        (send(client, b"no image"), 422, "image: is not an image blemish can read"),
        (send(client, png(tiny_image(0)[:8])), 422, "has a side below 16 px"),
        (send(client, png(tiny_image(0)[:, :, 0])), 422, "has 1 channels, but the model takes 3-channel"),
        (send(client, parts["good"], model="nobody"), 404, "model nobody: is not in use here"),
        (client.post("/v1/inspections", files={"other": ("a", b"a")}), 422, "no file named `image`"),
        (client.get(f"/v1/inspections/{nowhere}"), 404, "there is none"),
        (client.get(f"/v1/inspections/{nowhere}/map"), 404, "there is none"),
        (client.post(f"/v1/inspections/{nowhere}/verdict", json={"verdict": "good"}), 404, "there is none"),
        (client.get("/v1/models/" + "a" * 64 + "/calibration"), 404, "is not in use here"),
    ):
        assert answer.status_code == status, answer.text
        assert words in answer.json()["detail"]
    failed = client.get("/v1/inspections", params={"decision": "failed"}).json()["items"]
    assert len(failed) == 3  # what reached the detector is in the record
    assert all(item["image"] is None and item["map"] is None for item in failed)
    assert client.get(f"/v1/inspections/{failed[0]['id']}/image").status_code == 404


@pytest.mark.heavy
def test_upload_limits(tiny_model: Path, tmp_path: Path, parts):
    with served(tiny_model, tmp_path, max_bytes=1000, max_pixels=4000) as client:
        assert send(client, b"x" * 1001).status_code == 413
    with served(tiny_model, tmp_path, max_pixels=4000) as client:
        answer = send(client, parts["good"])
        assert answer.status_code == 422
        assert "64 x 64 px is more than the 4000 px" in answer.json()["detail"]


def test_models_and_their_calibration(client: TestClient, tiny_model: Path):
    detector = load.load(tiny_model, device="cpu")
    (model,) = client.get("/v1/models").json()
    assert (model["method"], model["active"]) == ("metal", True)
    assert model["threshold"] == detector.threshold
    said = client.get(f"/v1/models/{model['digest']}/calibration").json()
    assert said["scores"] == detector.model_file.calibration.scores.tolist()
    assert said["map_maxima"] == detector.model_file.calibration.map_maxima.tolist()


def test_health_and_meters(client: TestClient, parts):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    send(client, parts["bad"])
    send(client, b"nothing")
    for decision in ("rejected", "failed"):  # counted when it is recorded, a moment after the answer
        counted = f'blemish_inspections_total{{decision="{decision}",model="tiny"}} 1.0'
        wait_for(lambda counted=counted: counted in client.get("/metrics").text)
    text = client.get("/metrics").text
    assert "blemish_inspection_seconds_count" in text
    assert "blemish_drift_evidence" in text


def test_viewers_look_and_sessions_are_cookies(tiny_model: Path, tmp_path: Path, parts):
    tokens = Tokens(tmp_path)
    operator, viewer = tokens.add("ann", "engineer"), tokens.add("bob", "view")
    with served(tiny_model, tmp_path) as client:
        assert client.get("/v1/inspections").status_code == 401
        assert client.get("/v1/session").json() == {"name": None, "role": None}
        assert client.post("/v1/session", content=b"wrong").status_code == 401
        assert client.post("/v1/session", content=viewer.encode()).status_code == 204
        assert client.get("/v1/session").json() == {"name": "bob", "role": "view"}
        assert client.get("/v1/inspections").status_code == 200
        assert send(client, parts["good"]).status_code == 403
        said = client.post("/v1/session", content=operator.encode())
        cookie = said.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        id = send(client, parts["bad"]).json()["id"]
        judged = client.post(f"/v1/inspections/{id}/verdict", json={"verdict": "defect"}).json()
        assert judged["verdicts"][0]["by"] == "ann"


def test_full_is_said_so(tiny_model: Path, tmp_path: Path, parts):
    with served(tiny_model, tmp_path, capacity=1) as client:
        station = client.app.state.station
        (engine,) = station.engines.values()
        engine.room.enter(1)
        answer = send(client, parts["good"])
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        engine.room.leave(1)
        assert send(client, parts["good"]).status_code == 201


def test_a_full_disk_is_said_so(tiny_model: Path, tmp_path: Path, parts, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device", "/a/secret/path")

    with served(tiny_model, tmp_path) as client:
        with monkeypatch.context() as patched:
            patched.setattr(client.app.state.station.archive, "put", full)
            answer = send(client, parts["good"])
        assert answer.status_code == 503
        assert answer.json() == {"detail": "the disk refuses: No space left on device"}
        assert send(client, parts["good"]).status_code == 201


@pytest.mark.heavy
def test_drift_is_alarmed_and_kept(tiny_model: Path, tmp_path: Path, parts):
    with served(tiny_model, tmp_path, capacity=256) as client:
        for _ in range(60):
            send(client, parts["bad"])
        (drift,) = client.app.state.station.following.drifts.values()
        wait_for(lambda: drift.seen == 60)  # what is recorded is taken a moment after the answer
        (model,) = client.get("/v1/models").json()
        assert model["drift"]["alarm"]
        wait_for(lambda: client.get("/v1/alarms").json())
        (alarm,) = client.get("/v1/alarms").json()
        assert alarm["model"] == model["digest"]
    with served(tiny_model, tmp_path) as client:
        (again,) = client.get("/v1/models").json()
        assert again["drift"] == model["drift"]
        assert len(client.get("/v1/alarms").json()) == 1
