"""Whether the station can record is tried, troubles are said twice, and refusals are counted."""

from __future__ import annotations

import errno
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import tiny_image

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from fastapi.testclient import TestClient
from requests_to_station import png, send, served
from waiting import wait_for

from blemish.record.store import StoreError
from blemish.station import readiness
from blemish.station.readiness import REUSED_S, Readiness, Troubles

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "monitoring"
PART = png(tiny_image(0))


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with served(tiny_model, tmp_path_factory.mktemp("station"), max_bytes=10**6) as client:
        yield client


@pytest.fixture
def station(client: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readiness, "REUSED_S", 0.0)
    return client.app.state.station


def counted(client: TestClient, reason: str) -> float:
    found = re.search(rf'blemish_refusals_total{{reason="{reason}"}} (\S+)', client.get("/metrics").text)
    assert found, reason
    return float(found[1])


def test_a_trouble_is_said_when_it_begins_and_when_it_ends():
    said: list[str] = []
    now = 0.0
    troubles = Troubles(said.append, lambda: now)
    troubles.end("disk")
    for _ in range(50):
        troubles.note(OSError(errno.ENOSPC, "No space left on device"))
    troubles.note(StoreError("the database\nis away"))
    assert troubles.open == {"disk", "record"}
    now = 61.0
    troubles.end("disk")
    troubles.end("disk")
    assert said == [
        "disk: [Errno 28] No space left on device; said once until it is over",
        "record: the database is away; said once until it is over",
        "disk: works again, after 61 s and 50 failures",
    ]
    troubles.begin("disk", "again")
    assert said[-1].startswith("disk: again")


def test_a_trouble_that_comes_back_while_its_end_is_said_is_said_after_it():
    said: list[str] = []
    saying, back = threading.Event(), threading.Event()

    def say(line: str) -> None:
        if "works again" in line:
            saying.set()
            back.wait(0.1)  # the other one comes first, if it may
        said.append(line.split()[1])

    troubles = Troubles(say)
    troubles.begin("disk", "full")
    ending = threading.Thread(target=troubles.end, args=("disk",))
    ending.start()
    assert saying.wait(60)
    troubles.begin("disk", "again")
    back.set()
    ending.join()
    assert said == ["full;", "works", "again;"]
    assert troubles.open == {"disk"}


def test_a_full_disk_is_found_by_writing(
    client: Any, station: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/secret/place")

    assert client.get("/readyz").json() == {"status": "ready"}
    with monkeypatch.context() as patched:
        patched.setattr("blemish.record.archive.write_whole", full)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()) == (
            503,
            {"status": "the disk refuses: No space left on device"},
        )
        before = counted(client, "disk")
        assert [send(client, png(tiny_image(k))).status_code for k in range(50, 53)] == [503] * 3
        assert counted(client, "disk") == before + 3
        text = client.get("/metrics").text
        assert "blemish_ready 0.0" in text
        assert 'blemish_trouble{kind="disk"} 1.0' in text
    assert send(client, png(tiny_image(50))).status_code == 201
    assert client.get("/readyz").json() == {"status": "ready"}
    lines = [line for line in capsys.readouterr().err.splitlines() if "disk" in line]
    assert len(lines) == 2, lines
    assert "No space left on device" in lines[0]
    assert re.search(r"disk: works again, after \d+ s and \d+ failures$", lines[1])
    assert not list(station.archive.folder.glob("*.tmp")) + list(station.archive.folder.glob(".*.tmp"))


@pytest.mark.heavy
def test_a_record_that_takes_nothing_is_found_by_writing_and_over_without_an_image(
    client: Any, station: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rows = station.store.last_number()

    def away(*_: object) -> None:
        raise StoreError("sqlite:///station.db: database or disk is full; check the database and its disk")

    with monkeypatch.context() as patched:
        patched.setattr(station.store, "_wait_for_turn", away)
        patched.setattr(station.store, "try_to_write", away)
        assert send(client, PART).status_code == 503
        assert counted(client, "record") >= 1
        assert "the record cannot be written" in client.get("/readyz").json()["status"]
        assert station.troubles.open == {"record"}
    wait_for(lambda: not station.troubles.open)  # the station looks by itself
    said = capsys.readouterr().err
    assert said.count("record: ") == 2, said
    assert station.store.last_number() == rows
    station.store.try_to_write()
    assert station.store.last_number() == rows


def test_who_asks_often_does_not_write_often():
    written: list[str] = []
    place: Any = SimpleNamespace(try_to_write=lambda: written.append("x"))
    now = 5.0
    tried = Readiness(place, place, Troubles(), lambda: now)
    assert [tried.problem() for _ in range(20)] == [None] * 20
    assert len(written) == 2  # to the record, and to the disk
    now += REUSED_S
    assert tried.problem() is None
    assert len(written) == 4


def test_refusals_are_counted_by_reason(client: Any, station: Any):
    for reason, ask in {
        "image": lambda: send(client, b"nothing"),
        "not_found": lambda: client.get(f"/v1/inspections/{'0' * 26}"),
        "too_large": lambda: send(client, b"x" * (10**6 + 1)),
        "origin": lambda: client.post("/v1/inspections", headers={"Origin": "http://elsewhere"}),
        "value": lambda: client.get("/v1/inspections?limit=0"),
        "conflict": lambda: client.post(f"/v1/trainings/{made(client)}/start"),
    }.items():
        before = counted(client, reason)
        assert ask().status_code >= 400
        assert counted(client, reason) == before + 1, reason


def made(client: Any) -> str:
    return client.post("/v1/trainings", json={"name": "m", "method": "filters"}).json()["id"]


def test_the_dashboard_and_the_alerts_name_metrics_that_there_are(client: Any):
    send(client, PART)
    text = client.get("/metrics").text
    known = set(re.findall(r"^(blemish_[a-z_]+)", text, re.MULTILINE))
    labels = {*re.findall(r'[{,]([a-z]+)="', text)}
    dashboard = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = (EXAMPLES / "prometheus-alerts.yml").read_text()
    asked = re.findall(r"expr: (.+)", alerts)
    assert len(shown) >= 10
    assert len(asked) >= 8
    for expression in shown + asked:
        names = re.findall(r"blemish_[a-z_]+", expression)
        assert names or "up{" in expression, expression
        assert {*names} <= known, expression
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert {each.strip() for each in group.split(",")} <= labels, expression
        assert {*re.findall(r'[{,]([a-z]+)=~?"', expression)} - {"job"} <= labels, expression
        assert expression.count("(") == expression.count(")")
    described = set(
        re.findall(r"^# TYPE (blemish_[a-z_]+?)(?:_total)? (?:counter|gauge|histogram)", text, re.M)
    )
    used = " ".join(shown + asked)
    assert [name for name in described if name not in used and not name.endswith("_created")] == []
    yaml = pytest.importorskip("yaml")
    assert all(
        {"alert", "expr", "annotations"} <= {*rule} for rule in yaml.safe_load(alerts)["groups"][0]["rules"]
    )
