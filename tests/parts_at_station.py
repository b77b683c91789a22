"""A station that decides of parts with two views, in this process, with a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from requests_to_station import send, served
from several_views import with_parts

from blemish.station.parts import PartSettings
from blemish.station.station import Station


@dataclass
class Place:
    """A station in this process, with a clock of its own."""

    client: TestClient
    station: Station
    now: float = 0.0

    def send(self, data: bytes, **said: str):
        return send(self.client, data, **said)

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass; what is due is decided."""
        self.now += seconds
        self.station._decide_due()

    def parts(self, **filters) -> list[dict]:
        return self.client.get("/v1/inspections", params=filters).json()["items"]


@contextmanager
def at(run: Path, folder: Path, settings: PartSettings | None = None, **options) -> Iterator[Place]:
    with served(run, folder, parts=settings, **options) as client:
        place = Place(client, client.app.state.station)  # type: ignore[attr-defined]
        for line in place.station.parts.lines:
            line.now = lambda: place.now
            for part in line._open.values():
                part.since = 0.0
        yield place


@pytest.fixture(scope="module")
def goods(tiny_category: Path) -> list[Path]:
    return sorted((tiny_category / "test" / "good").iterdir())


@pytest.fixture(scope="module")
def run(tiny_model: Path, goods: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_parts(tiny_model, goods[:1], tmp_path_factory.mktemp("runs") / "valve")


@pytest.fixture
def place(run: Path, tmp_path: Path) -> Iterator[Place]:
    with at(run, tmp_path / "station") as place:
        yield place


@pytest.fixture(scope="module")
def good(goods: list[Path]) -> bytes:
    return goods[0].read_bytes()


@pytest.fixture(scope="module")
def bad(tiny_category: Path) -> bytes:
    return min((tiny_category / "test" / "hole").iterdir()).read_bytes()
