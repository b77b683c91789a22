"""What does not grow for ever, what is not told to strangers, and clients that hang up."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_image

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from requests_to_station import png, send, served

from blemish.cli.commands.serve import record_line
from blemish.core.errors import DataError
from blemish.record.versions import Versions
from blemish.station.security import Tokens
from blemish.station.training_jobs import Trainings

PART = png(tiny_image(0))
LONG_AGO = 1e9


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("station")
    with served(tiny_model, folder) as client:
        yield client


def test_versions_to_which_nothing_refers_are_removed(tmp_path: Path):
    given = tmp_path / "given.onnx"
    given.write_bytes(b"0")
    versions = Versions(tmp_path / "models")
    first = versions.start(given)
    scored, spare, young, used = (versions.add(bytes([k]), suffix=".onnx", of=first) for k in range(1, 5))
    versions.use(used)
    for digest in (scored, spare, used):
        os.utime(versions.file(digest), (LONG_AGO, LONG_AGO))
    asked: list[list[str]] = []

    def keep(digests: list[str]) -> set[str]:
        asked.append(digests)
        return {scored}

    assert versions.remove_unused(keep, before=LONG_AGO + 1) == [spare]
    assert [sorted(digests) for digests in asked] == [sorted([scored, spare])]  # asked once of all
    assert given.exists()
    assert {file.name for file in (tmp_path / "models").glob("*.onnx")} == {
        f"{digest}.onnx" for digest in (scored, young, used)
    }
    again = Versions(tmp_path / "models")
    assert again.siblings(used) == {first, scored, young, used}
    assert again.remove_unused(keep, before=LONG_AGO + 1) == []


def test_trainings_to_which_nothing_refers_are_removed(tmp_path: Path):
    trainings = Trainings(tmp_path, data=None, max_pixels=10**6, on_model=lambda *_: "")
    states = ("collecting", "failed", "cancelled", "done", "done", "waiting", "collecting", "failed")
    made = [trainings.create(name=f"m{k}", method="filters", preset="default", source=None) for k in range(8)]
    trainings.close()  # nothing is begun
    for k, (job, state) in enumerate(zip(made, states, strict=True)):
        trainings._write(replace(job, state=state, model=f"{k}" if state == "done" else None))
        if k < 7:  # the last one has just ended
            os.utime(tmp_path / job.id / "job.json", (LONG_AGO, LONG_AGO))
        if k < 6:  # the one before has a new image
            os.utime(tmp_path / job.id / "images", (LONG_AGO, LONG_AGO))
    removed = trainings.remove_unused(lambda models: {*models} & {"4"}, before=LONG_AGO + 1)
    assert removed == [made[k].id for k in (0, 1, 2, 3)]
    assert [job.id for job in trainings.all()] == [made[k].id for k in (4, 5, 6, 7)]
    assert len(list(tmp_path.iterdir())) == 4


def test_the_station_keeps_what_is_in_use(client: Any):
    station = client.app.state.station
    digest = send(client, PART).json()["model"]
    assert station.store.models_in_use([digest, "0" * 64]) == {digest}
    assert station._needed_models([digest, "0" * 64]) == {digest}
    station.retain()
    assert station.versions.file(digest).exists()


def test_where_the_record_is_and_that_it_is_empty_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert record_line(Path("station"), 0) == f"record: {tmp_path}/station: a new one, without an inspection"
    assert record_line(Path("station"), 12) == f"record: {tmp_path}/station: 12 inspections"


def test_exchanged_bytes_are_not_served(client: Any):
    said = send(client, png(tiny_image(1))).json()
    archive = client.app.state.station.archive
    (path,) = [p for p in archive.folder.rglob("*") if p.is_file() and p.read_bytes() == png(tiny_image(1))]
    path.write_bytes(PART)
    for query in ("", "?side=97"):
        answer = client.get(f"{said['image']}{query}")
        assert answer.status_code == 409
        assert "the bytes on disk are no longer those that were recorded" in answer.json()["detail"]
    with pytest.raises(DataError):
        archive.read(path.name, "image")


@pytest.mark.parametrize("kind", ["", "multipart/form-data; boundary=x", "application/json"])
def test_a_client_that_hangs_up_leaves_no_traceback(kind: str, client: Any, caplog: pytest.LogCaptureFixture):
    path = "/v1/trainings" if kind == "application/json" else "/v1/inspections"
    parts = [{"type": "http.request", "body": b'--x\r\n{"', "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return parts.pop(0) if len(parts) > 1 else parts[0]

    async def send_nothing(message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": [(b"content-type", kind.encode())], "client": ("x", 1)}
    with caplog.at_level(logging.ERROR):
        asyncio.run(client.app(scope, receive, send_nothing))
    assert not caplog.records
    assert sent[0]["status"] == 400


def test_why_it_is_not_ready_is_not_told_to_strangers(  # the last: from here on a token is required
    client: Any, monkeypatch: pytest.MonkeyPatch
):
    station = client.app.state.station
    monkeypatch.setattr(station, "problem", lambda: "postgresql://me@db.plant/x: is away")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "postgresql://me@db.plant/x: is away"})
    secret = Tokens(client.app.state.station.folder).add("ann", "view")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})
    answer = client.get("/readyz", headers={"authorization": f"Bearer {secret}"})
    assert "db.plant" in answer.text
