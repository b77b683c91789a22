"""What is done through the service is in the audit log, with who did it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from conftest import tiny_image
from requests_to_station import png, send, served

from blemish.cli.commands.verify import verify
from blemish.record.labels import Labelling, Labels
from blemish.station.security import Tokens
from blemish.station.token_changes import TokenChanges


def test_who_did_what(tiny_model: Path, tmp_path: Path):
    tokens = Tokens(tmp_path)
    secret = tokens.add("ann", "engineer")
    labelling = Labelling(Labels(station="east"))
    with served(tiny_model, tmp_path, labelling=labelling) as client:
        station = client.app.state.station
        assert client.post("/v1/session", content=secret).status_code == 204
        id = send(client, png(tiny_image(0))).json()["id"]
        here = f"/v1/inspections/{id}"
        client.post(f"{here}/verdict", json={"verdict": "defect", "reason": "unknown"})  # is refused
        client.post(f"{here}/verdict", json={"verdict": "defect", "note": "scratch", "key": "k"})
        client.post(f"{here}/withdrawal", json={"verdict": "k"})
        client.put("/v1/reasons", json={"reasons": ["dent"]})
        client.put("/v1/sampling", json={"share": 0.1})
        (model,) = client.get("/v1/models").json()
        assert client.post(f"/v1/models/{model['digest']}/recalibration", json={}).status_code == 409
        client.post(f"/v1/models/{model['digest']}/use")
        entries = client.get("/v1/audit-log", params={"limit": 500}).json()
        assert (
            client.get("/v1/audit-log", params={"limit": 2, "before": entries[1]["number"]}).json()
            == [entry for entry in entries if entry["number"] < entries[1]["number"]][:2]
        )
        client.delete("/v1/session")
        (last,) = station.store.acts(limit=1, what="log-out")
        assert last.who == "ann"
    mine = [entry for entry in reversed(entries) if entry["what"] != "tokens"]
    assert [(entry["what"], entry["subject"], entry["detail"]) for entry in mine] == [
        ("log-in", "", {}),
        ("verdict", id, {"verdict": "defect", "reason": None, "note": "scratch"}),
        ("withdrawal", id, {"verdict": "k"}),
        ("reasons", "", {"reasons": ["dent"]}),
        ("sampling", "", {"share": 0.1, "seed": 0}),
        ("use", model["digest"], {}),
    ]
    assert {(entry["who"], entry["station"]) for entry in mine} == {("ann", "east")}
    assert verify(["--folder", str(tmp_path)]) == 0
    with served(tiny_model, tmp_path) as client:
        station = client.app.state.station
        noticed = TokenChanges(station, tokens)
        noticed()
        (told,) = station.store.acts(what="tokens")  # the same tokens are told once
        assert told.detail["ann"]["role"] == "engineer"
        Tokens(tmp_path).remove("ann")
        noticed()
        assert next(iter(station.store.acts(what="tokens"))).detail == {}
