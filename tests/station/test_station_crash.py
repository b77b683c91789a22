"""The power goes while the station records: what it said is recorded is there, with its files."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import new_database, postgres_server

from blemish.record.archive import Archive
from blemish.record.store import Store

RECORDING = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from blemish.record.archive import Archive
from blemish.record.identifiers import new_id
from blemish.record.store import Inspection, Store

store, archive = Store.open(sys.argv[1], Path(sys.argv[2])), Archive(Path(sys.argv[2]))
while True:
    rows = []
    for _ in range(3):
        time, data = datetime.now(UTC), os.urandom(20_000)
        image, map = archive.put(data, "image"), archive.put(data[:5000], "map")
        same = {"source": "api", "model": "a" * 64, "score": None, "seconds": 0.0}
        rows.append(Inspection(id=new_id(time), time=time, image=image, map=map, **same))
    store.record(rows)
    print(*(row.id for row in rows), flush=True)
"""


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.database)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'x.db'}"
    else:
        with postgres_server() as server:
            yield new_database(server)


@pytest.mark.slow
def test_killed_five_times_while_recording(url: str, tmp_path: Path):
    said: list[str] = []
    draw = random.Random(0)
    for _ in range(5):
        life = subprocess.Popen(
            [sys.executable, "-c", RECORDING, url, tmp_path], stdout=subprocess.PIPE, text=True
        )
        assert life.stdout is not None
        said += life.stdout.readline().split()  # it is up
        killing = threading.Timer(draw.uniform(0, 0.3), life.kill)
        killing.start()
        said += life.stdout.read().split()
        assert life.wait() == -signal.SIGKILL
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
