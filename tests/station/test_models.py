"""New versions of models, and training, through the service: nothing is lost over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from conftest import tiny_image
from fastapi.testclient import TestClient
from requests_to_station import png, send, served
from stations import wait_for_training

from blemish.inference import load
from blemish.record.store import Store
from blemish.station.app import create
from blemish.station.security import Tokens
from blemish.station.station import Station


@pytest.fixture(params=["trained", "exported"])
def model(request, tiny_model: Path, tiny_onnx: Path) -> Path:
    return tiny_model if request.param == "trained" else tiny_onnx


def dim(i: int) -> bytes:
    """A good part under another light, by which the model was not calibrated."""
    return png((tiny_image(i) * 0.93).astype(np.uint8))


def judged(client: TestClient, ids: list[str], verdict: str) -> None:
    for id in ids:
        assert client.post(f"/v1/inspections/{id}/verdict", json={"verdict": verdict}).status_code == 201


# --- versions ---


@pytest.mark.heavy
def test_a_recalibration_makes_a_version_and_keeps_the_old(model: Path, tmp_path: Path):
    folder = tmp_path / "station"
    with served(model, folder) as client:
        (old,) = client.get("/v1/models").json()
        said = [send(client, dim(i)).json() for i in range(20)]
        rejected = [s["id"] for s in said if s["anomalous"]]
        assert rejected  # the light has changed
        refused = client.post(f"/v1/models/{old['digest']}/recalibration", json={})
        assert refused.status_code == 409
        assert f"{len(rejected)} of the newest 20 parts were rejected and wait" in refused.json()["detail"]
        judged(client, rejected[:1], "defect")
        judged(client, rejected[1:], "good")
        new = client.post(f"/v1/models/{old['digest']}/recalibration", json={}).json()
        assert new["digest"] != old["digest"]
        assert (new["active"], new["calibration_images"]) == (True, 19)
        good = sorted(s["score"] for s in said if s["id"] != rejected[0])
        calibration = client.get(f"/v1/models/{new['digest']}/calibration").json()
        np.testing.assert_allclose(calibration["scores"], good, rtol=1e-6)
        largest = max(s["regions"][0]["peak"] for s in said if s["regions"] and s["id"] != rejected[0])
        assert calibration["map_maxima"][-1] == pytest.approx(largest, rel=1e-6)
        again = send(client, dim(3)).json()
        assert again["model"] == new["digest"]
        assert not again["anomalous"]
    with served(model, folder) as client:  # the version in use is remembered
        assert send(client, dim(3)).json()["model"] == new["digest"]
        states = {m["digest"]: m["active"] for m in client.get("/v1/models").json()}
        assert states == {new["digest"]: True, old["digest"]: False}
        back = client.post(f"/v1/models/{old['digest']}/use")
        assert back.status_code == 201
        assert send(client, dim(3)).json()["model"] == old["digest"]
    with served(model, folder) as client:
        assert send(client, dim(3)).json()["model"] == old["digest"]


@pytest.mark.heavy
def test_a_version_stands_by_itself(model: Path, tmp_path: Path):
    station = Station([model], tmp_path / "station", device="cpu")
    with TestClient(create(station, tokens=Tokens(tmp_path))) as client:
        for i in range(20):
            send(client, png(tiny_image(i)))
        judged(client, [i["id"] for i in client.get("/v1/inspections").json()["items"]], "good")
        digest = client.get("/v1/models").json()[0]["digest"]
        new = client.post(f"/v1/models/{digest}/recalibration", json={"parts": 15}).json()["digest"]
    file = station.versions.file(new)
    detector, original = load.load(file, device="cpu"), load.load(model, device="cpu")
    assert detector.model_file.calibration.n == 15
    assert detector.model_file.provenance["recalibrated"]["from"] == digest
    image = tiny_image(5)
    np.testing.assert_array_equal(detector.predict(image).anomaly_map, original.predict(image).anomaly_map)


def test_what_cannot_be_recalibrated_is_said(tiny_model: Path, tmp_path: Path):
    with served(tiny_model, tmp_path) as client:
        digest = client.get("/v1/models").json()[0]["digest"]
        few = client.post(f"/v1/models/{digest}/recalibration", json={})
        assert few.status_code == 409
        assert "0 good parts are on record" in few.json()["detail"]
        unknown = client.post(f"/v1/models/{'a' * 64}/recalibration", json={})
        assert (unknown.status_code, "not in use here" in unknown.json()["detail"]) == (404, True)
        assert client.post(f"/v1/models/{'a' * 64}/use").status_code == 404
        assert client.post(f"/v1/models/{digest}/recalibration", json={"parts": 0}).status_code == 422


# --- training ---


def wait_for(client: TestClient, id: str, *states: str) -> dict:
    wait_for_training(client.app.state.station.trainings, id, *states)
    return client.get(f"/v1/trainings/{id}").json()


@pytest.fixture
def client(tiny_model: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_model, tmp_path / "station") as client:
        yield client


@pytest.mark.slow
@pytest.mark.usefixtures("forked_processes")
def test_uploaded_images_become_a_model(client: TestClient, tiny_model: Path, tmp_path: Path):
    job = client.post("/v1/trainings", json={"name": "by hand", "method": "pca"}).json()
    here = f"/v1/trainings/{job['id']}"
    for i in range(12):
        assert client.post(f"{here}/images", content=png(tiny_image(i))).status_code == 204
    client.post(f"{here}/images", content=png(tiny_image(3)))  # the same again is one image
    assert client.post(f"{here}/images", content=b"no image").status_code == 422
    assert client.get(here).json()["images"] == 12
    assert client.post(f"{here}/start").json()["state"] == "waiting"
    done = wait_for(client, job["id"], "done", "failed")
    assert done["state"] == "done", done
    assert done["share"] == 1
    models = {m["name"]: m for m in client.get("/v1/models").json()}
    assert models["by hand"]["digest"] == done["model"]
    said = send(client, png(tiny_image(30)), model="by hand").json()
    assert said["model"] == done["model"]
    client.__exit__(None, None, None)
    with served(tiny_model, tmp_path / "station") as again:  # it is there at the next start, too
        assert send(again, png(tiny_image(30)), model="by hand").json()["score"] == said["score"]
        assert again.get(here).json()["state"] == "done"


@pytest.mark.slow
@pytest.mark.usefixtures("forked_processes")
def test_a_folder_is_named_never_spelled(tiny_model: Path, tiny_category: Path, tmp_path: Path):
    with served(tiny_model, tmp_path, training_data=tiny_category / "train") as client:
        assert client.get("/v1/trainings/choices").json()["sources"] == ["good"]
        for source in ("../train/good", "/etc", "nothing", "good/"):
            refused = client.post("/v1/trainings", json={"name": "a", "method": "pca", "source": source})
            assert refused.status_code == 422
        made = client.post("/v1/trainings", json={"name": "a", "method": "pca", "source": "good"}).json()
        upload = client.post(f"/v1/trainings/{made['id']}/images", content=png(tiny_image(1)))
        assert "not from uploads" in upload.json()["detail"]
        client.post(f"/v1/trainings/{made['id']}/start")
        assert wait_for(client, made["id"], "done", "failed")["state"] == "done"


@pytest.mark.slow
@pytest.mark.usefixtures("forked_processes")
def test_a_training_survives_a_restart(tiny_model: Path, tiny_category: Path, tmp_path: Path):
    with served(tiny_model, tmp_path, training_data=tiny_category / "train") as client:
        job = client.post("/v1/trainings", json={"name": "long", "source": "good"}).json()
        client.post(f"/v1/trainings/{job['id']}/start")
        wait_for(client, job["id"], "running")
        later = client.post("/v1/trainings", json={"name": "next", "method": "pca", "source": "good"}).json()
        client.post(f"/v1/trainings/{later['id']}/start")
        assert client.get(f"/v1/trainings/{later['id']}").json()["state"] == "waiting"
    with served(tiny_model, tmp_path, training_data=tiny_category / "train") as client:
        assert wait_for(client, job["id"], "running")["error"] is None
        assert client.post(f"/v1/trainings/{job['id']}/cancel").json()["state"] == "cancelled"
        assert wait_for(client, later["id"], "done", "failed")["state"] == "done"
        assert client.get(f"/v1/trainings/{job['id']}").json()["state"] == "cancelled"


def test_refusals_of_trainings(client: TestClient):
    def create(**wanted: str) -> str:
        return client.post("/v1/trainings", json={"name": "a", "method": "pca"} | wanted)

    assert "no such method or preset" in create(method="magic").json()["detail"]
    assert "no such member 'magic'; choose from" in create(method="pca+magic").json()["detail"]
    both = create(method="pca+filters:shared").json()
    assert (both["method"], both["preset"]) == ("pca+filters:shared", "default")
    assert create(name="../x").status_code == 422
    id = create().json()["id"]
    few = client.post(f"/v1/trainings/{id}/start")
    assert (few.status_code, "has 0 images; give 10" in few.json()["detail"]) == (409, True)
    assert client.get(f"/v1/trainings/{'0' * 26}").status_code == 404
    assert client.post(f"/v1/trainings/{'0' * 26}/start").status_code == 404
    client.post(f"/v1/trainings/{id}/cancel")
    assert "is cancelled" in client.post(f"/v1/trainings/{id}/start").json()["detail"]


def test_a_share_that_was_set_on_the_page_stays_at_the_next_start(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def share(sample: float | None) -> float:
        station = Station([tiny_model], tmp_path / "station", device="cpu", sample=sample)
        found = station.store.sampling().share
        station.close()
        return found

    assert [share(None), share(0.02), share(0.05), share(None)] == [0.0, 0.02, 0.05, 0.05]
    with served(tiny_model, tmp_path / "station") as client:
        assert client.put("/v1/sampling", json={"share": 0.5}).status_code == 200
    assert share(0.02) == 0.5
    assert "--sample 0.02: 0.5 was set since, and stays" in capsys.readouterr().err
    store = Store.open(None, tmp_path / "station")
    assert len(store.acts(what="sampling")) == 3, "a start that changes nothing is no act"
    store.close()
