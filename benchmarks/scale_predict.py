"""Scoring many images on a cluster: rows lost or doubled, memory over time, and two nodes against one.

    python benchmarks/scale_predict.py FOLDER [--images 200000] [--out benchmarks/results/scale_predict.json]

Generates 64×64 PNG files below FOLDER/images (a thousand a folder; what is there stays, so it goes on where
it was stopped), trains and exports a PCA model, and scores them all by `blemish predict --cluster`, on a
cluster of one node and on one of two, each a node of one core on this machine. Each second it reads the
memory that the command and each worker have for themselves (USS). Writes the figures, and the curves beside
them (.png).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image
from ray.cluster_utils import Cluster

IN_A_FOLDER = 1000
PARTITION = 1024
CLI = [sys.executable, "-m", "blemish.cli"]
Curve = list[tuple[float, float]]
"""Seconds since the first finished partition, and MiB."""


def picture(number: int) -> Image.Image:
    """Draw a good part, a disc on a gradient; every 50th has a hole."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:64, :64]
    dx, dy = rng.uniform(-1, 1, 2)
    grey = 60 + 0.3 * x + 90 * np.clip(22 - np.hypot(x - 31.5 - dx, y - 31.5 - dy), 0, 1)
    if number % 50 == 0:
        grey[24:34, 26:36] = 0
    return Image.fromarray(np.clip(grey + rng.normal(0, 2, grey.shape), 0, 255).astype(np.uint8))


def write_folder(folder: Path, first: int, count: int) -> None:
    """Write a folder of images, whole or not at all."""
    if folder.exists():
        return
    part = folder.with_name(f".{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number in range(first, first + count):
        picture(number).save(part / f"{number:08d}.png", compress_level=1)
    part.rename(folder)


def generate(images: Path, count: int) -> list[str]:
    """Write what is missing of the images, and return the paths of all."""
    firsts = range(0, count, IN_A_FOLDER)
    with ProcessPoolExecutor() as pool:
        jobs = [
            pool.submit(write_folder, images / f"{first:08d}", first, min(IN_A_FOLDER, count - first))
            for first in firsts
        ]
        for job in jobs:
            job.result()
    return [str(images / f"{n // IN_A_FOLDER * IN_A_FOLDER:08d}" / f"{n:08d}.png") for n in range(count)]


def train(folder: Path) -> Path:
    """Make the exported model, unless it is there."""
    model = folder / "pca.onnx"
    if not model.exists():
        write_folder(folder / "good", 10**7 + 1, 49)  # no hole among them
        options = ("--method", "pca", "--image-size", "64", "--calibration-fraction", "0.5", "--resume")
        subprocess.run(
            [*CLI, "train", "--data", folder / "good", "--out", folder / "run", *options], check=True
        )
        subprocess.run([*CLI, "export", "--model", folder / "run", "--out", model], check=True)
    return model


def sample(driver: psutil.Process, curves: dict[str, Curve], at: float) -> None:
    """Note the memory of the command and of each worker; one that has just ended is left out."""
    found = {"command": driver} | {
        f"worker {p.pid}": p
        for p in psutil.Process().children(recursive=True)
        if any(word.startswith(("ray::score_partition", "ray::IDLE")) for word in _words(p))
    }
    for name, process in found.items():
        try:
            curves.setdefault(name, []).append((at, process.memory_full_info().uss / 2**20))
        except psutil.Error:
            continue


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def score(folder: Path, model: Path, nodes: int) -> tuple[dict[str, Curve], dict[str, Any], Path]:
    """Score all images on so many nodes; return the curves of memory, the run's summary and its folder."""
    out = folder / f"out-{nodes}"
    shutil.rmtree(out, ignore_errors=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    curves: dict[str, Curve] = {}
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        command = [*CLI, "predict", "--model", str(model), str(folder / "images"), "--out", str(out)]
        driver = subprocess.Popen(
            [*command, "--cluster", cluster.address, "--partition", str(PARTITION)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        began = None
        while driver.poll() is None:
            if began is None and any(out.glob("part-*.parquet")):
                began = time.monotonic()
            if began is not None:
                sample(psutil.Process(driver.pid), curves, time.monotonic() - began)
            time.sleep(1)
        if driver.returncode != 0:
            sys.exit(f"scoring ended with {driver.returncode}")
    finally:
        cluster.shutdown()
    return curves, json.loads((out / "_summary.json").read_text()), out


def growth(curve: Curve) -> dict[str, float]:
    """Compare the mean of the first third of a curve to that of its last third, in MiB."""
    values = [value for _, value in curve]
    third = max(1, len(values) // 3)
    first, last = mean(values[:third]), mean(values[-third:])
    return {"first_third": first, "last_third": last, "growth": last - first, "peak": max(values)}


def measured(
    curves: dict[str, Curve], summary: dict[str, Any], out: Path, paths: list[str], nodes: int
) -> dict[str, Any]:
    """Gather the figures of a run. The steady rate begins when each node has finished a partition."""
    parts = sorted(out.glob("part-*.parquet"), key=lambda part: part.stat().st_mtime)
    found = [row for part in parts for row in pq.read_table(part, columns=["path"])["path"].to_pylist()]
    spent = parts[-1].stat().st_mtime - parts[nodes - 1].stat().st_mtime
    steady = sum(pq.read_metadata(part).num_rows for part in parts[nodes:])
    return {
        "rows": len(found),
        "missing": len(set(paths) - set(found)),
        "twice": len(found) - len(set(found)),
        "scored": summary["scored"],
        "anomalous": summary["anomalous"],
        "seconds": summary["seconds"],
        "images_per_second": len(found) / summary["seconds"],
        "images_per_second_steady": steady / max(spent, 1e-9),
        "memory_mib": {name: growth(curve) for name, curve in curves.items()},
    }


def draw(curves: dict[int, dict[str, Curve]], target: Path) -> None:
    """Draw the memory of each process over time, a panel for each number of nodes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for panel, (nodes, named) in zip(panels, curves.items(), strict=True):
        for name, curve in sorted(named.items()):
            panel.plot(*zip(*curve, strict=True), label=name)
        panel.set(title=f"{nodes} node{'s' * (nodes > 1)}", xlabel="seconds", ylabel="own memory, MiB")
        panel.set_ylim(bottom=0)
        panel.legend()
    figure.savefig(target, dpi=120)


def main() -> None:
    """Generate, train, score, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale_predict.json"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    paths = generate(folder / "images", options.images)
    model = train(folder)
    result: dict[str, Any] = {"images": options.images, "partition": PARTITION, "cores": os.cpu_count()}
    curves: dict[int, dict[str, Curve]] = {}
    for nodes in (1, 2):
        curves[nodes], summary, out = score(folder, model, nodes)
        result[f"nodes_{nodes}"] = measured(curves[nodes], summary, out, paths, nodes)
    one, two = (result[f"nodes_{nodes}"]["images_per_second_steady"] for nodes in (1, 2))
    result["speed_up"] = {"measured": two / one, "ideal": 2.0}
    text = json.dumps(result, indent=2)
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text + "\n")
    draw(curves, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
