"""Pictures of parts: made once, and of large images one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_image

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from requests_to_station import png, send, served

from blemish.station import render


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with served(tiny_model, tmp_path_factory.mktemp("station")) as client:
        yield client


def test_thumbnails_and_overlays_are_made_once(client: Any, monkeypatch: pytest.MonkeyPatch):
    said = send(client, png(tiny_image(0))).json()
    first = [client.get(path).content for path in (f"{said['image']}?side=96", said["overlay"])]
    assert all(data.startswith(b"\x89PNG") for data in first)
    monkeypatch.setattr(render, "decode", None)  # nothing is decoded any more
    assert [client.get(p).content for p in (f"{said['image']}?side=96", said["overlay"])] == first
    again = send(client, png(tiny_image(0))).json()  # the same image, map and model
    assert client.get(again["overlay"]).content == first[1]


def test_an_overlay_is_another_one_for_another_style(client: Any):
    station = client.app.state.station
    said = send(client, png(tiny_image(1))).json()
    inspection = station.store.get(said["id"])
    style = station.map_style(said["model"])
    other = type(style)((0.0, 9.0), style.pixel_threshold)
    assert render.overlay_name(inspection, style) != render.overlay_name(inspection, other)


def test_sides_that_the_page_does_not_ask_for_are_not_kept(client: Any):
    said = send(client, png(tiny_image(2))).json()
    folder = client.app.state.station.archive.folder
    before = sorted(folder.rglob("*.png"))
    for side in range(20, 25):
        assert client.get(f"{said['image']}?side={side}").status_code == 200
    assert sorted(folder.rglob("*.png")) == before


def test_large_images_are_decoded_one_at_a_time_for_readers_too(client: Any, monkeypatch: pytest.MonkeyPatch):
    together, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(2)
    decode = render.decode

    def counted(data: bytes):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        with suppress(threading.BrokenBarrierError):
            gate.wait(0.2)  # another one comes in as well, if it may
        with lock:
            together -= 1
        return decode(data)

    parts = [send(client, png(tiny_image(k))).json() for k in range(10, 14)]
    monkeypatch.setattr(render, "decode", counted)
    monkeypatch.setattr(render, "LARGE_PIXELS", 10)
    with ThreadPoolExecutor(4) as pool:
        assert {a.status_code for a in pool.map(lambda part: client.get(part["overlay"]), parts)} == {200}
    assert most == 1
