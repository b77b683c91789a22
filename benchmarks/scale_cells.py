"""How much faster a second node of one core makes a benchmark: two nodes against one, beside the ideal.

    python benchmarks/scale_cells.py [--cells 4] [--steps 300] [--out FOLDER]

Starts a Ray cluster on this machine, of one node and then of two, each of them processes of its own with one
core, and runs the same cells on both: MeTAL of 32×32 pixels on generated parts, with so many seeds; a cell is
`blemish train` and `blemish evaluate`, with one thread. The clock runs from the first cell to the last, once
a cell of PCA for each node has begun a worker there. The ideal is whole rounds: cells / ceil(cells / 2).
The models of both must be equal, byte for byte.

Writes scale_cells.json into FOLDER. The exit code is 1 when a cell fails or a model differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.cluster import jobs
from blemish.cluster.session import connect
from blemish.data import synthetic
from blemish.evaluation import benchmark

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = "--image-size 32 --patch-size 8 --embedding 8 --hidden 16 --heads 2 --batch-size 8"


@contextmanager
def nodes(count: int) -> Iterator[str]:
    """Start a cluster of nodes with one core each; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head = ("--head", f"--port={address.split(':')[1]}", "--include-dashboard=false")
    usual = ("--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", "--block")
    quiet, started = subprocess.DEVNULL, []
    try:
        for place in [head, *[(f"--address={address}",)] * (count - 1)]:
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", *place, *usual]
            started.append(subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True))
            while not answers(address):
                time.sleep(0.1)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def answers(address: str) -> bool:
    """Whether somebody listens there."""
    host, port = address.split(":")
    with socket.socket() as tried:
        return tried.connect_ex((host, int(port))) == 0


def timed(data: Path, out: Path, *, count: int, seeds: int) -> dict[str, Any]:
    """Run the cells on so many nodes: their seconds, and their models' digests."""
    import ray

    categories = benchmark.categories_in(data)
    first = benchmark.plan(["pca"], categories, range(count), out)
    planned = benchmark.plan(["metal"], categories, range(seeds), out)
    with nodes(count) as address, connect(address):
        while ray.cluster_resources().get("CPU", 0) < count:
            time.sleep(0.1)
        failed = jobs.run(first, cpus=1, gpus=0, on_change=lambda _: None).failed
        began = time.monotonic()
        failed |= jobs.run(planned, cpus=1, gpus=0, on_change=lambda _: None).failed
        seconds = time.monotonic() - began
    results = [result for cell in planned if (result := cell.result()) is not None]
    models = [cell.folder / "model.safetensors" for cell in planned if cell.result() is not None]
    return {
        "nodes": count,
        "seconds": round(seconds, 2),
        "seconds_of_cells": [round(result["seconds"], 2) for result in results],
        "failed": failed,
        "models": [hashlib.sha256(model.read_bytes()).hexdigest()[:16] for model in models],
    }


def shrink_cells(steps: int) -> None:
    """Have the cells trained with few pixels and steps."""
    commands = benchmark.commands

    def small(cell: benchmark.Cell) -> list[list[str]]:
        train, *rest = commands(cell)
        options = [*OPTIONS.split(), "--steps", str(steps), "--precision", "fp32"]
        return [train + (options if cell.method == "metal" else []), *rest]

    benchmark.commands = small


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    shrink_cells(args.steps)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        data = synthetic.generate(Path(folder) / "part", n_train=20, n_good=5, n_defect=3, size=128)
        one, two = (timed(data, Path(folder) / str(n), count=n, seeds=args.cells) for n in (1, 2))
    result = {
        "command": f"python benchmarks/scale_cells.py --cells {args.cells} --steps {args.steps}",
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "load_before": round(load, 2)},
        "runs": [one, two],
        "speed_up": round(one["seconds"] / two["seconds"], 3),
        "ideal": args.cells / math.ceil(args.cells / 2),
        "equal_models": one["models"] == two["models"],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scale_cells.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{one['seconds']} s on one node, {two['seconds']} s on two: {result['speed_up']} times as fast")
    print(f"ideally {result['ideal']}; the models {'are equal' if result['equal_models'] else 'differ'}")
    done = all(not run["failed"] and len(run["models"]) == args.cells for run in (one, two))
    return 0 if done and result["equal_models"] else 1


if __name__ == "__main__":
    sys.exit(main())
