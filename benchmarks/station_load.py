"""How much of a model's speed the station keeps, and whether it stays as it is over hours (Linux).

    python benchmarks/station_load.py --model MODEL.onnx --data DATA/mvtec/bottle

Starts `blemish serve` as a process on the loopback. Clients, all in one other process, POST the category's
test images; a number is appended to each file, so that no two have the same bytes and the archive keeps each.
`predict_many` over the same files is a process of its own. The two take turns, `--rounds` times, while the
station that has no turn waits: what else runs on the machine slows both. `ratio` is the median of the rounds'
ratios. Where other programs share the cores, the processor's time for an image (`cpu_s`) says more than the
rate: `cpu_ratio` is the batch's over the station's.

load: requests a second and latencies at 1, 8 and 64 clients, who keep their connections. burst: 1,000
requests at once, each on a connection of its own; all must be answered or refused. steady: --minutes of load
by 8 clients, `--pace` images a second at most, after half a minute at full speed; of the process /proc is
read each second, and the first third of the samples is compared with the last. Files older than a few
seconds are removed meanwhile, as retention does.

Writes station_load.json and station_load.png. The exit code is 1 when a request was lost or failed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from steady import Look, growth, look_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENTS = (1, 8, 64)
STEADY, KEPT = 8, 15.0
"""Clients of the steady load, and for how many seconds their files are kept."""
WARM_S = 30.0
"""Seconds of load at full speed before the steady one: memory depends on how many images come at a time."""
PATIENCE = 60.0
"""Seconds after which a request counts as lost."""
PANELS = {
    "rss_mb": "resident memory, MB",
    "descriptors": "open descriptors",
    "threads": "threads",
    "rows": "answers",
}


@dataclass(frozen=True, kw_only=True)
class Load:
    """What clients saw: each answer's status (0: lost) and latency in s, in `seconds` altogether."""

    seconds: float
    statuses: list[int]
    latencies: list[float]

    def summary(self) -> dict[str, Any]:
        """Return rate, latencies of what was scored, and how often each status came."""
        scored = [t for t, status in zip(self.latencies, self.statuses, strict=True) if status == 201]
        p50, p99 = np.quantile(scored, (0.5, 0.99)).tolist() if scored else (None, None)
        counts = {str(status): n for status, n in sorted(Counter(self.statuses).items())}
        return {"rate": len(scored) / self.seconds, "p50_s": p50, "p99_s": p99, "statuses": counts}


def test_images(data: Path) -> list[Path]:
    """Return the test images of a category."""
    return sorted(path for path in (data / "test").rglob("*") if path.is_file())


# --- the process of the clients, and that of the batch ---


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> int:
    """Send an image and read its answer; returns the status."""
    head = b"POST /v1/inspections HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(body))
    writer.write(body)
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
    await reader.readexactly(int(fields[b"content-length"]))
    return int(head.split(b" ", 2)[1])


async def client(
    port: int, bodies: Iterator[bytes], goes_on: Callable[[], bool], load: Load, apart_s: float
) -> None:
    """Send one image after the other over one connection, `apart_s` seconds from each other or more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while goes_on():
        body, began = next(bodies), time.perf_counter()
        try:
            status = await asyncio.wait_for(post(reader, writer, body), PATIENCE)
        except (OSError, EOFError, TimeoutError):
            status = 0
        load.statuses.append(status)
        load.latencies.append(time.perf_counter() - began)
        if not status:
            break
        left = apart_s - (time.perf_counter() - began)
        await asyncio.sleep(max(left, 0.1 if status == 503 else 0))
    writer.close()


def sent(
    port: int, files: list[Path], clients: int, seconds: float, first: int, pace: float | None = None
) -> Load:
    """Let clients send for some seconds (0: once each), the first body being numbered `first`.

    `pace`: images a second at most; None: as many as the station answers.
    """
    images = [file.read_bytes() for file in files]
    bodies = (images[n % len(images)] + b"%012d" % n for n in itertools.count(first))
    load, began = Load(seconds=0, statuses=[], latencies=[]), time.perf_counter()

    def going_on() -> Callable[[], bool]:
        if seconds:
            return lambda: time.perf_counter() - began < seconds
        turns = iter((True, False))
        return lambda: next(turns)

    async def all_of_them() -> None:
        apart_s = clients / pace if pace else 0.0
        every = (client(port, bodies, going_on(), load, apart_s) for _ in range(clients))
        for gone in await asyncio.gather(*every, return_exceptions=True):
            if isinstance(gone, BaseException):
                load.statuses.append(0)
                load.latencies.append(time.perf_counter() - began)

    asyncio.run(all_of_them())
    passed = time.perf_counter() - began
    return Load(seconds=passed, statuses=load.statuses, latencies=load.latencies)


def batch_rate(model: Path, files: list[Path], seconds: float) -> tuple[float, float]:
    """Return images a second of `predict_many`, after a first round, and the processor's time for one, s."""
    from blemish.inference import load as opening

    detector = opening.load(model, device="cpu")
    list(detector.predict_many(files[: detector.batch_size]))
    began, cpu = time.perf_counter(), time.process_time()
    going_on = itertools.takewhile(lambda _: time.perf_counter() - began < seconds, itertools.cycle(files))
    n = sum(1 for _ in detector.predict_many(going_on))
    return n / (time.perf_counter() - began), (time.process_time() - cpu) / n


def apart(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


# --- the station ---


@contextmanager
def serving(model: Path, folder: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """Run `blemish serve` and yield its process and port."""
    command = [sys.executable, "-m", "blemish.cli", "serve", "--model", str(model), "--folder", str(folder)]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if "http://" not in said:
            raise SystemExit("blemish serve did not start")
        yield process, int(said.split()[2].rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait(60)


def processor_time(process: subprocess.Popen) -> float:
    """Return the seconds that a process has had of the processors."""
    fields = (Path("/proc") / str(process.pid) / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def remove_old(folder: Path, seconds: float) -> None:
    """Remove the files of the archive that are older than some seconds."""
    for file in (folder / "archive").rglob("*"):
        if file.is_file() and time.time() - file.stat().st_mtime > seconds:
            file.unlink(missing_ok=True)


def metered(port: int) -> int:
    """Return how many inspections the station says that it has recorded."""
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(n.rsplit(" ", 1)[1])) for n in lines if n.startswith("blemish_inspections_total{"))


def steady(model: Path, root: Path, files: list[Path], seconds: float, pace: float | None) -> dict[str, Any]:
    """Load a station for some time, and look at its process each second."""
    looks: list[Look] = []
    with (
        serving(model, root) as (process, port),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        pool.submit(sent, port, files, STEADY, WARM_S, 10**9).result()  # as many at a time as there ever are
        loading, began = pool.submit(sent, port, files, STEADY, seconds, 0, pace), time.monotonic()
        while not loading.done():
            look = look_at(process, began, metered(port))
            if look is not None and look.rows:
                looks.append(look)
            remove_old(root, KEPT)
            time.sleep(1)
        found = loading.result().summary()
    return found | growth(looks) | {"looks": [vars(look) for look in looks]}


def loaded(
    model: Path, folder: Path, files: list[Path], clients: int, *, seconds: float, rounds: int
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """Measure a station under the load of some clients in turn with the batch; returns the batches too."""
    loads, batches, times = [], [], []
    with serving(model, folder) as (process, port):
        apart(sent, port, files, clients, 5.0, 0)
        for number in range(1, rounds + 1):
            batches.append(apart(batch_rate, model, files, seconds / rounds))
            cpu, before = processor_time(process), metered(port)
            loads.append(apart(sent, port, files, clients, seconds / rounds, number * 10**6))
            times.append((processor_time(process) - cpu) / max(1, metered(port) - before))
            remove_old(folder, 0)
    rates = [load.summary()["rate"] for load in loads]
    pairs = list(zip(rates, times, batches, strict=True))
    whole = Load(
        seconds=sum(load.seconds for load in loads),
        statuses=[status for load in loads for status in load.statuses],
        latencies=[latency for load in loads for latency in load.latencies],
    )
    return {
        **whole.summary(),
        "cpu_s": statistics.median(times),
        "ratio": statistics.median(rate / batch for rate, _, (batch, _) in pairs),
        "ratios": [rate / batch for rate, _, (batch, _) in pairs],
        "cpu_ratio": statistics.median(batch / time for _, time, (_, batch) in pairs),
    }, batches


def measured(
    model: Path, root: Path, files: list[Path], *, seconds: float, rounds: int, at_once: int
) -> dict[str, Any]:
    """Measure the batch rate, the load of few and many clients, and the burst."""
    batches, loads = [], {}
    for clients in CLIENTS:
        folder = root / str(clients)
        loads[str(clients)], turns = loaded(model, folder, files, clients, seconds=seconds, rounds=rounds)
        batches += turns
    rate, cpu_s = (statistics.median(values) for values in zip(*batches, strict=True))
    with serving(model, root / "burst") as (_, port):
        burst = apart(sent, port, files, at_once, 0, 0)
        recorded = metered(port)
    return {
        "batch": {"rate": rate, "cpu_s": cpu_s, "rates": [rate for rate, _ in batches]},
        "load": loads,
        "burst": {"sent": at_once, "recorded": recorded, **burst.summary()},
    }


def draw(results: dict[str, Any], file: Path) -> None:
    """Plot the rates, and the process over time."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS) + 1, figsize=(4 * len(PANELS) + 4, 3.5))
    names = list(results["load"])
    axes[0].bar(names, [results["load"][name]["rate"] for name in names])
    axes[0].axhline(results["batch"]["rate"], color="black", ls=":", label="predict_many")
    axes[0].set(xlabel="clients", ylabel="images a second")
    axes[0].legend()
    looks = results.get("steady", {}).get("looks", [])
    for axis, (name, label) in zip(axes[1:], PANELS.items(), strict=True):
        axis.plot([look["seconds"] for look in looks], [look[name] for look in looks], linewidth=1)
        axis.set(xlabel="s", ylabel=label, ylim=(0, 1.15 * max((look[name] for look in looks), default=1)))
    figure.tight_layout()
    figure.savefig(file, dpi=100)


def lost(results: dict[str, Any]) -> int:
    """Count the requests that were neither scored nor refused for want of room."""
    found = [*results["load"].values(), results["burst"], results.get("steady", {"statuses": {}})]
    return sum(n for one in found for status, n in one["statuses"].items() if status not in ("201", "503"))


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--data", type=Path, required=True, help="a category in MVTec layout")
    parser.add_argument("--seconds", type=float, default=30, help="of each load")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each load with the batch")
    parser.add_argument("--burst", type=int, default=1000, help="requests sent at once")
    parser.add_argument("--minutes", type=float, default=10, help="of the steady load; 0: none")
    parser.add_argument("--pace", type=float, help="images a second of the steady load at most")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    options = parser.parse_args()
    files = test_images(options.data)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        results = measured(
            options.model,
            root,
            files,
            seconds=options.seconds,
            rounds=options.rounds,
            at_once=options.burst,
        )
        if options.minutes:
            seconds = 60 * options.minutes
            results["steady"] = steady(options.model, root / "steady", files, seconds, options.pace)
    about = {"cores": os.cpu_count(), "model": options.model.name, "data": options.data.name}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "station_load.json").write_text(json.dumps(about | results, indent=1) + "\n")
    draw(results, options.out / "station_load.png")
    shown = results | {"steady": {k: v for k, v in results.get("steady", {}).items() if k != "looks"}}
    print(json.dumps(shown, indent=1))
    sys.exit(lost(results) > 0)


if __name__ == "__main__":
    main()
