"""The power goes while the station records: what it said is recorded is there, with its files."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cameras import wait_for
from databases import new_database
from warm import Warm

from blemish.record.archive import Archive
from blemish.record.identifiers import new_id
from blemish.record.store import Inspection, Store


def record_on_and_on(url: str, folder: Path) -> int:
    """Record three inspections with their files, say their names, and so on until it is killed."""
    store, archive = Store.open(url, folder), Archive(folder)
    while True:
        rows = []
        for _ in range(3):
            now, data = datetime.now(UTC), os.urandom(20_000)
            image, map = archive.put(data, "image"), archive.put(data[:5000], "map")
            same = {"source": "api", "model": "a" * 64, "score": None, "seconds": 0.0}
            rows.append(Inspection(id=new_id(now), time=now, image=image, map=map, **same))
        store.record(rows)
        print(*(row.id for row in rows), flush=True)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.database)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'x.db'}"
    else:
        yield new_database(request.getfixturevalue("postgres"))


@pytest.mark.slow
def test_killed_five_times_while_recording(url: str, tmp_path: Path):
    said: list[str] = []
    draw = random.Random(0)
    for number in range(5):
        out = tmp_path.with_name(f"{tmp_path.name}-said-{number}")
        life = Warm(record_on_and_on, url, tmp_path, out=out)
        wait_for(lambda out=out: out.exists() and "\n" in out.read_text())  # it is up
        time.sleep(draw.uniform(0, 0.3))
        life.kill()
        assert life.wait() == -signal.SIGKILL
        said += out.read_text().split()
    assert len(set(said)) == len(said) >= 15
    store, archive = Store.open(url, tmp_path), Archive(tmp_path)
    assert store.existing_ids(said) == set(said)
    rows = store.find(limit=100_000)
    assert len(rows) % 3 == 0  # each transaction whole, also the last of each life
    for row in rows:
        assert row.image
        assert row.map
        image, map_data = archive.read(row.image, "image"), archive.read(row.map, "map")
        assert (len(image), map_data) == (20_000, image[:5000])
    for file in archive.files():
        assert hashlib.sha256(archive.read(file.hash, file.kind)).hexdigest() == file.hash
    store.close()
