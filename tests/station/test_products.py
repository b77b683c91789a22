"""A model of several products in a station and in a watch: each product is as a model by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from conftest import tiny_image
from fastapi.testclient import TestClient
from products import as_two_products
from requests_to_station import png, send, served

from blemish.core.errors import BlemishError, UsageError
from blemish.inference import load
from blemish.inference.model_file import find_model, load_model_file, save_model_file
from blemish.station.station import Station
from blemish.watch.reload import ReloadingModel
from blemish.watch.settings import WatchSettings


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as one of two products; a nut may score more than a bolt."""
    found = as_two_products(load_model_file(tiny_model))
    folder = tmp_path_factory.mktemp("run") / "parts"
    folder.mkdir()
    save_model_file(folder / "model.safetensors", found)
    return folder


@pytest.fixture
def client(model: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(model, tmp_path / "station") as client:
        yield client


@pytest.fixture(scope="module")
def bad(tiny_category: Path) -> Path:
    return min((tiny_category / "test" / "hole").iterdir())


def test_the_field_product_says_which_thresholds_count(client: TestClient, model: Path, bad: Path):
    answers = {name: send(client, bad.read_bytes(), product=name).json() for name in ("bolt", "nut")}
    for name, said in answers.items():
        expected = load.load(model, device="cpu", product=name).predict(bad)
        assert said["score"] == pytest.approx(expected.score, rel=1e-5)
        assert (said["threshold"], said["anomalous"]) == (expected.threshold, expected.anomalous)
        assert said["product"] == name
    assert [answers[name]["decision"] for name in answers] == ["rejected", "accepted"]
    names = [each["name"] for each in client.get("/v1/models").json()]
    assert sorted(names) == ["parts:bolt", "parts:nut"]
    named = send(client, bad.read_bytes(), model="parts:nut").json()
    assert (named["product"], named["decision"]) == ("nut", "accepted")


def test_a_record_calls_a_watch_s_model_as_the_station_does(client: TestClient, model: Path, tmp_path: Path):
    out = tmp_path / "elsewhere"
    settings = WatchSettings(model=model, folder=tmp_path, out=out, device="cpu", product="nut")
    watched = ReloadingModel(model, settings.load, print, of_product=settings.of_product, recorded=True)
    known = {each["name"]: each["digest"] for each in client.get("/v1/models").json()}
    assert known[watched.name] == watched.digest
    assert watched.name == "parts:nut"


def test_an_upload_without_a_known_product_is_refused(client: TestClient, bad: Path):
    none, other = (send(client, bad.read_bytes(), **said) for said in ({}, {"product": "cup"}))
    assert none.status_code == other.status_code
    assert none.status_code in (400, 422)
    cure = "model parts has bolt, nut; send one of them as the field product"
    assert none.json()["detail"] == f"no product is given: {cure}"
    assert other.json()["detail"] == f"product 'cup' is unknown: {cure}"


def test_a_rollout_gives_each_product_its_own_and_refuses_another_ones(
    model: Path, tiny_model: Path, tmp_path: Path
):
    station = Station([model], tmp_path / "station", device="cpu")
    before = dict(station.engines)
    of_nut = station.versions.file(station.engine(None, "nut").model.digest).read_bytes()
    for file, why in (
        (of_nut, "is in use here as parts:nut"),
        (find_model(tiny_model).read_bytes(), "product 'bolt': this model has no products"),
    ):
        with pytest.raises(BlemishError, match=why):
            station.take_version("parts:bolt", file, suffix=".safetensors")
        assert station.engines == before
    newer = load_model_file(model)
    save_model_file(tmp_path / "newer.safetensors", replace(newer, provenance={"made": "later"}))
    content = (tmp_path / "newer.safetensors").read_bytes()
    assert all(
        station.take_version(f"parts:{name}", content, suffix=".safetensors") for name in ("bolt", "nut")
    )
    station.close()
    again = Station([model], tmp_path / "station", device="cpu")
    assert not set(again.engines) & set(before)
    for name in ("bolt", "nut"):
        found = again.engine(None, name).model.detector.model_file
        assert (found.product and found.product.name, found.provenance["made"]) == (name, "later")
    again.close()


def test_a_watch_is_told_the_product(model: Path, tiny_model: Path, tmp_path: Path):
    def settings(path: Path, product: str | None) -> WatchSettings:
        return WatchSettings(model=path, folder=tmp_path, out=tmp_path / "out", device="cpu", product=product)

    found = settings(model, "nut").load(model).model_file.product
    assert found is not None
    assert found.name == "nut"
    with pytest.raises(UsageError, match="no product is given: this model has bolt, nut; give one of them"):
        settings(model, None).load(model)
    assert settings(tiny_model, "nut").load(tiny_model).model_file.product is None  # a label of rows alone


@pytest.mark.heavy
def test_new_thresholds_are_those_of_one_product(model: Path, tmp_path: Path):
    folder = tmp_path / "station"
    with served(model, folder) as client:
        known = {each["name"]: each for each in client.get("/v1/models").json()}
        n = known["parts:nut"]["calibration_images"]
        scores = [send(client, png(tiny_image(i)), product="nut").json()["score"] for i in range(n)]
        for each in client.get("/v1/inspections", params={"to_judge": True, "limit": 500}).json()["items"]:
            client.post(f"/v1/inspections/{each['id']}/verdict", json={"verdict": "good"})
        answer = client.post(f"/v1/models/{known['parts:nut']['digest']}/recalibration", json={})
        assert answer.status_code == 201, answer.text
        made = answer.json()
        assert (made["name"], made["calibration_images"]) == ("parts:nut", n)
        assert client.get(f"/v1/models/{made['digest']}/calibration").json()["scores"] == sorted(scores)
        said = send(client, png(tiny_image(1)), product="nut").json()
        assert (said["model"], said["product"]) == (made["digest"], "nut")
        assert (
            send(client, png(tiny_image(1)), product="bolt").json()["model"] == known["parts:bolt"]["digest"]
        )
    with served(model, folder) as client:
        used = {each["name"]: each["digest"] for each in client.get("/v1/models").json() if each["active"]}
        assert used == {"parts:nut": made["digest"], "parts:bolt": known["parts:bolt"]["digest"]}
