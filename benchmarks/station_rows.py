"""How long a station with many rows takes to start, and to answer the trends that its page asks for (Linux).

    python benchmarks/station_rows.py --model MODEL.onnx --rows 300000 1000000

Writes rows of generated parts, a week of them, into a SQLite record, and starts `blemish serve` as a process
on the loopback. `first_start_s` is the start on a record of before, which has neither roll-ups nor the state
of drift, until `/readyz` says ready; `rolled_up_s` is how long it then makes roll-ups in the background.
`start_s` is a start after that, `killed_start_s` one after `kill -9`; `trend_s` is GET /v1/summary as the
page sends it, for each of its spans. Medians. Where other programs share the cores, the seconds of a
processor (`cpu`) say more.

Writes station_rows.json, in which other numbers of rows are kept.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from blemish.data.hashing import file_digest
from blemish.record.identifiers import milliseconds, new_id
from blemish.record.rollups import ROWS
from blemish.record.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

WEEK = timedelta(days=7)
SPANS = {"hour": (timedelta(hours=1), 60), "day": (timedelta(days=1), 48), "week": (WEEK, 84)}
"""The spans that the page offers, and in how many pieces it asks for them."""
TIMES = 3
"""Of so many requests, or starts, the median is taken."""
COLUMNS = (
    *("id", "time", "source", "part", "model", "image", "map", "width", "height"),
    *("score", "p_value", "threshold", "decision", "regions", "seconds", "number"),
)


def fill(folder: Path, model: str, rows: int, until: datetime) -> None:
    """Write so many rows of the last week, past the store, which would take an hour for a million."""
    Store.open(None, folder).close()
    draw, step, begin = random.Random(0), WEEK / rows, until - WEEK

    def row(k: int) -> tuple[Any, ...]:
        moment, score = begin + k * step, draw.gauss(10, 1)
        decision = "rejected" if score > 12 else "accepted"
        figures = (900, 900, score, draw.random(), 12.0, decision, "[]", draw.uniform(0.1, 0.3))
        named = (new_id(moment), milliseconds(moment), "api", f"P-{k}", model, f"{k:064x}", f"{k:064x}")
        return (*named, *figures, k + 1)

    with sqlite3.connect(folder / "station.db") as connection:
        places = ", ".join("?" * len(COLUMNS))
        statement = f"INSERT INTO inspections ({', '.join(COLUMNS)}) VALUES ({places})"
        connection.executemany(statement, map(row, range(rows)))
    connection.close()


def rolled_up(folder: Path) -> int:
    """Return how many rows are in roll-ups."""
    with sqlite3.connect(folder / "station.db") as connection:
        (last,) = connection.execute("SELECT max(last) FROM rollups").fetchone()
    connection.close()
    return last or 0


class Served:
    """A running station; `seconds` from its start to its readiness."""

    def __init__(self, model: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "blemish.cli", "serve", "--port", "0"]
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--model", str(model), "--folder", str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        address = self.process.stdout.readline().split()[2]
        self.connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=300)
        while self.get("/readyz")[0] != 200:
            time.sleep(0.01)
        self.seconds, self.cpu_seconds = time.perf_counter() - began, self.cpu()

    def cpu(self) -> float:
        """Return the seconds of a processor that it has used."""
        said = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(said[11]) + int(said[12])) / os.sysconf("SC_CLK_TCK")

    def get(self, path: str) -> tuple[int, Any]:
        """Ask."""
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


@contextmanager
def serving(model: Path, folder: Path, *, kill: bool = False) -> Iterator[Served]:
    served = Served(model, folder)
    try:
        yield served
    finally:
        served.connection.close()
        served.process.kill() if kill else served.process.terminate()
        served.process.wait()


def trends(served: Served, model: str, until: datetime) -> dict[str, Any]:
    """Return the seconds of a trend of each span, and the processor's seconds of all of them, for one."""
    found, used, asked = {}, served.cpu(), 0
    for name, (length, buckets) in SPANS.items():
        span = {"since": (until - length).isoformat(), "until": until.isoformat(), "buckets": buckets}
        path = f"/v1/summary?{urlencode(span | {'model': model})}"
        seconds = []
        for _ in range(TIMES):
            began = time.perf_counter()
            status, answer = served.get(path)
            seconds.append(time.perf_counter() - began)
            assert status == 200, answer
            assert sum(each["n"] for each in answer) > 0
        found[name], asked = statistics.median(seconds), asked + TIMES
    return found | {"cpu": (served.cpu() - used) / asked}


def measure(model: Path, digest: str, folder: Path, rows: int, until: datetime) -> dict[str, Any]:
    with serving(model, folder) as first:
        began = time.perf_counter()
        while rolled_up(folder) < rows // ROWS * ROWS:
            time.sleep(0.05)
        took = time.perf_counter() - began
    with serving(model, folder, kill=True):
        pass
    with serving(model, folder) as killed:
        after = trends(killed, digest, until)
    starts = []
    for _ in range(TIMES):
        with serving(model, folder) as served:
            starts.append(served)
    return {
        "rows": rows,
        "megabytes": (folder / "station.db").stat().st_size / 1e6,
        "first_start_s": first.seconds,
        "rolled_up_s": took,
        "start_s": statistics.median(each.seconds for each in starts),
        "start_cpu_s": statistics.median(each.cpu_seconds for each in starts),
        "killed_start_s": killed.seconds,
        "killed_start_cpu_s": killed.cpu_seconds,
        "trend_s": after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    digest, file = file_digest(given.model), given.out / "station_rows.json"
    known = {each["rows"]: each for each in json.loads(file.read_text())} if file.exists() else {}
    for rows in given.rows:
        until = datetime.now(UTC)
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), digest, rows, until)
            known[rows] = measure(given.model, digest, Path(folder), rows, until)
        print(json.dumps(known[rows]), flush=True)
        file.write_text(json.dumps([known[rows] for rows in sorted(known)], indent=2) + "\n")


if __name__ == "__main__":
    main()
