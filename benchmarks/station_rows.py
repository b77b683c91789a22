"""How long a station with many rows takes to start, and to answer the trends that its page asks for.

    python benchmarks/station_rows.py --model MODEL.onnx --rows 300000 1000000

Writes rows of generated parts, a week of them, into a SQLite record, as many at a time as one row has, and
starts `blemish serve` as a process on the loopback. `first_start_s` is a start on a record of before, which
has neither roll-ups nor the state of drift, until `/readyz` says ready; `rolled_up_s` is how long it then
makes roll-ups in the background. `start_s` is the median of the starts after that, and `killed_start_s` one
after `kill -9`. `trend_s` are medians of GET /v1/summary as the page sends it, for each of its spans.

Writes station_rows.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
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
from blemish.record.store import Inspection, Store, new_id

if TYPE_CHECKING:
    from collections.abc import Iterator

WEEK = timedelta(days=7)
SPANS = {"hour": (timedelta(hours=1), 60), "day": (timedelta(days=1), 48), "week": (WEEK, 84)}
"""The spans that the page offers, and in how many pieces it asks for them."""
TIMES = 5
"""Of so many requests, or starts, the median is taken."""
BATCH = 5000


def fill(folder: Path, model: str, first: int, end: int, begin: datetime, step: timedelta) -> None:
    """Record the parts `first` to `end`, one after another."""
    store, draw = Store.open(None, folder), random.Random(first)
    for start in range(first, end, BATCH):
        parts = []
        for k in range(start, min(start + BATCH, end)):
            moment = begin + k * step
            moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
            score = draw.gauss(10, 1)
            parts.append(
                Inspection(
                    id=new_id(moment),
                    time=moment,
                    source="api",
                    part=f"P-{k}",
                    model=model,
                    image=f"{k:064x}",
                    map=f"{k:064x}",
                    width=900,
                    height=900,
                    score=score,
                    p_value=draw.random(),
                    threshold=12.0,
                    anomalous=score > 12,
                    regions=[],
                    seconds=draw.uniform(0.1, 0.3),
                    error=None,
                )
            )
        store.record(parts)
    store.close()


def forget(folder: Path) -> None:
    """Remove what a start would go on from."""
    with sqlite3.connect(folder / "station.db") as connection:
        connection.execute("DELETE FROM rollups")
        connection.execute("DELETE FROM drift_states")
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
        self.seconds = time.perf_counter() - began

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


def trends(served: Served, model: str, until: datetime) -> dict[str, float]:
    """Return the seconds of a trend of each span."""
    found = {}
    for name, (length, buckets) in SPANS.items():
        asked = {"since": (until - length).isoformat(), "until": until.isoformat(), "buckets": buckets}
        path = f"/v1/summary?{urlencode(asked | {'model': model})}"
        seconds = []
        for _ in range(TIMES):
            began = time.perf_counter()
            status, answer = served.get(path)
            seconds.append(time.perf_counter() - began)
            assert status == 200, answer
            assert sum(span["n"] for span in answer) > 0
        found[name] = statistics.median(seconds)
    return found


def measure(model: Path, digest: str, folder: Path, rows: int, until: datetime) -> dict[str, Any]:
    forget(folder)
    with serving(model, folder) as first:
        began = time.perf_counter()
        before = trends(first, digest, until)
        while rolled_up(folder) < rows // 4096 * 4096:
            time.sleep(0.1)
        took = time.perf_counter() - began
    with serving(model, folder, kill=True) as served:
        starts = [served.seconds]
    with serving(model, folder) as served:
        killed = served.seconds
        after = trends(served, digest, until)
    for _ in range(TIMES - 1):
        with serving(model, folder) as served:
            starts.append(served.seconds)
    return {
        "rows": rows,
        "megabytes": (folder / "station.db").stat().st_size / 1e6,
        "first_start_s": first.seconds,
        "trend_before_s": before,
        "rolled_up_s": took,
        "start_s": statistics.median(starts),
        "killed_start_s": killed,
        "trend_s": after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    digest, found = file_digest(given.model), []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for rows in sorted(given.rows):
            until = datetime.now(UTC)
            target = place / str(rows)
            fill(target, digest, 0, rows, until - WEEK, WEEK / rows)
            found.append(measure(given.model, digest, target, rows, until))
            print(json.dumps(found[-1]), flush=True)
            (given.out / "station_rows.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
