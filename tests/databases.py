"""Databases for tests: a PostgreSQL server of their own, and rows to fill them with."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from blemish.core.types import Region
from blemish.record import database
from blemish.record.identifiers import new_id
from blemish.record.store import Inspection, Store, Verdict

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
MODELS = ("a" * 64, "b" * 64)
_numbers = itertools.count()


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start PostgreSQL on a socket in a temporary folder; yields the URL of its database.

    It does not run as root: then it runs as the user `postgres`.
    """
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    if not binaries:
        pytest.skip("PostgreSQL is not installed (/usr/lib/postgresql)")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    user = {"user": "postgres", "group": "postgres", "extra_groups": ()} if root else {}
    programs, folder = binaries[-1].parent, Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if root:
            shutil.chown(folder, "postgres", "postgres")

        def run(program: str, *arguments: str) -> None:
            command = [programs / program, "-D", folder / "data", *arguments]
            subprocess.run(command, check=True, capture_output=program == "initdb", cwd=folder, **user)

        run("initdb", *["-U", "blemish", "-A", "trust", "-E", "UTF8", "-N"])
        # no test takes the server's power away, so it need not wait for the disk
        settings = "fsync=off shared_buffers=16MB max_connections=40 listen_addresses= max_wal_senders=0"
        options = " ".join(f"-c {setting}" for setting in settings.split())
        control = ("-s", "-w", "-t", "300", "-l", f"{folder}/log")
        run("pg_ctl", "start", *control, "-o", f"-k {folder} {options}")
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(database, "PG_TIMEOUT_S", 120)  # on a busy machine
                yield f"postgresql://blemish@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", *control, "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(server: str) -> str:
    """Make an empty schema, which is as good as a database and much quicker; returns its URL."""
    name, place = f"s{next(_numbers)}", sa.make_url(server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(place)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    engine.dispose()
    place = sa.make_url(server).update_query_dict({"options": f"-c search_path={name}"})
    return place.render_as_string(hide_password=False)


def inspection(k: int, *, seed: int = 0, **given: object) -> Inspection:
    """Make the inspection of second k, with everything else drawn at random."""
    draw = random.Random(f"{seed} {k}")
    time = BEGIN + timedelta(seconds=k, milliseconds=draw.randrange(1000))
    failed = draw.random() < 0.1
    score = None if failed else draw.gauss()
    values: dict[str, object] = {
        "time": time,
        "source": draw.choice(["api", "page", "watch"]),
        "part": draw.choice([None, "left", "rïght 'x'"]),
        "path": draw.choice([None, f"{k}.png"]),
        "model": draw.choice(MODELS),
        "image": f"{draw.randrange(20):064x}",
        "map": None if failed else f"{draw.randrange(1000, 1020):064x}",
        "width": None if failed else draw.randrange(1, 5000),
        "height": None if failed else draw.randrange(1, 5000),
        "score": score,
        "p_value": draw.choice([None, draw.random()]),
        "threshold": draw.choice([None, draw.random()]),
        "anomalous": None if failed else draw.choice([True, False, None]),
        "regions": [Region(x0=0, y0=1, x1=2, y1=3, area_px=4, peak=draw.gauss())] * draw.randrange(3),
        "error": f"{k}.png: is no image\n" if failed else None,
        "seconds": draw.random(),
    }
    values |= given
    return Inspection(**{"id": new_id(values["time"]), **values})  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.database)])
def new_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], str]]:
    if request.param == "sqlite":
        yield lambda: f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'x.db'}"
    else:
        server = request.getfixturevalue("postgres")
        yield lambda: new_database(server)


@pytest.fixture
def store(new_url: Callable[[], str], tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(new_url(), tmp_path)
    yield opened
    opened.close()


def verdict(of: Inspection, k: int, said: str, **given: str) -> Verdict:
    time = BEGIN + timedelta(days=1, seconds=k)
    return Verdict(id=new_id(time), inspection=of.id, time=time, verdict=said, **given)  # type: ignore[arg-type]
