"""What a million and a billion images cost, from measured constants: bytes, FLOPs, core-hours, money.

    python benchmarks/scale.py --data ROOT/mvtec/bottle RUN [RUN ...] [--check FOLDER] [--core-price 0.05]
                     [--gpu-price 3.5] [--gpu-tflops 67] [--gpu-share 0.3] [--gpu-cores 16] [--out FILE]

RUN is a run folder. Measured, by one thread, as the median over rounds of processor seconds an image:
decoding (file -> array as the network takes it), the network on onnxruntime, and reading off map, score and
regions; counted: the network's FLOPs, the bytes of a file and of a row in Parquet. Assumed, and to be
replaced by your own: prices of a core and a GPU for an hour, and what share of its fp32 rate a GPU reaches.

    core-hours = images · (decode + network + finish) / 3600
    a GPU with its cores: images / min(cores / (decode + finish), share · rate / FLOPs)

With --check FOLDER, the folder of `scale_predict.py`, the rates of its runs are predicted: nodes / seconds
that a worker takes for an image, measured without a cluster, as many side by side as there are nodes.

Writes scale.json and prints the tables of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from deployment_speed import save, test_files
from torch.utils.flop_counter import FlopCounterMode

from blemish.cluster import listing
from blemish.cluster.predict_worker import THREADS, write_rows
from blemish.cluster.storage import OutputFolder
from blemish.export.onnx import export
from blemish.inference import torch_backend
from blemish.inference.model_file import load_model_file
from blemish.inference.onnx_backend import load_exported
from blemish.inference.predict_folder import row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blemish.inference.detector import Detector

MILLION, HOUR = 10**6, 3600
PARTITIONS = 8
"""That a worker's seconds are measured on, after one to warm up."""


def seconds(call: Callable[[], object], n: int, rounds: int) -> float:
    """Processor seconds of each of the n images of a call, the median over rounds after a warm-up."""
    found = []
    for _ in range(rounds + 1):
        began = time.process_time()
        call()
        found.append((time.process_time() - began) / n)
    return statistics.median(found[1:])


def cpu_seconds(detector: Detector, files: Sequence[Path], rounds: int) -> dict[str, float]:
    """Measure what an image costs in each part, one thread at a time."""
    prepared = [detector.prepare(file) for file in files]
    step = detector.batch_size
    batches = [np.stack([x for x, _ in prepared[i : i + step]]) for i in range(0, len(prepared), step)]
    maps = np.concatenate([detector.backend.run(batch).maps for batch in batches])

    def decode() -> None:
        for file in files:
            detector.prepare(file)

    def infer() -> None:
        for batch in batches:
            detector.backend.run(batch)

    def finish() -> None:
        for small_map, (_, size) in zip(maps, prepared, strict=True):
            detector._finish((small_map, None), size, None)

    parts = {"decode": decode, "network": infer, "finish": finish}
    return {name: seconds(call, len(files), rounds) for name, call in parts.items()}


def row_bytes(detector: Detector, files: Sequence[Path]) -> float:
    """Bytes of a row in Parquet, all of different images."""
    rows = (row_of(file, detector.predict(file)) for file in files)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.parquet"
        write_rows(rows, part)
        whole = part.stat().st_size
        write_rows(iter(()), part)
        return (whole - part.stat().st_size) / len(files)


def measured(run: Path, files: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Measure and count the constants of a model."""
    model_file = load_model_file(run)
    network = torch_backend.network_of(model_file, name=str(run))
    x = torch.zeros(1, model_file.image_format.channels, *model_file.size)
    with FlopCounterMode(display=False) as counter:
        network(x)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export(run, file)
        detector = load_exported(file, threads=1)
        parts = cpu_seconds(detector, files, rounds)
        row = row_bytes(detector, files)
    return {
        "input": list(x.shape[1:]),
        "flops": counter.get_total_flops(),
        "cpu_s": parts,
        "row_bytes": row,
        "model_bytes": sum(t.nbytes for t in model_file.tensors.values()),
    }


def worker_seconds(folder: Path, first: int) -> float:
    """Score partitions as a worker of a cluster does, without a cluster; seconds an image, warm."""
    detector = load_exported(folder / "pca.onnx", threads=1)
    place = OutputFolder(location=str(folder / "out-2"))
    began, images = 0.0, 0
    for number in range(first, first + PARTITIONS + 1):
        if number == first + 1:
            began, images = time.perf_counter(), 0
        inputs = listing.read_listing(place, number)
        results = detector.predict_many(listing.as_images(inputs), threads=THREADS)
        rows = (row_of(i.path, result) for i, result in zip(inputs, results, strict=True))
        with tempfile.TemporaryDirectory() as temporary:
            write_rows(rows, Path(temporary) / "part.parquet")
        images += len(inputs)
    return (time.perf_counter() - began) / images


def check(folder: Path) -> dict[str, Any]:
    """Predict the rates of `scale_predict.py` from a worker's seconds, and put them beside those measured."""
    run = json.loads(Path("benchmarks/results/scale_predict.json").read_text())
    found: dict[str, Any] = {}
    for nodes in (1, 2):
        with ProcessPoolExecutor(nodes, mp_context=get_context("spawn")) as pool:
            firsts = [i * (PARTITIONS + 1) for i in range(nodes)]
            taken = statistics.mean(pool.map(worker_seconds, [folder] * nodes, firsts))
        measured = run[f"nodes_{nodes}"]["images_per_second_steady"]
        found[f"nodes_{nodes}"] = {
            "worker_s": taken,
            "predicted": nodes / taken,
            "measured": measured,
            "measured_over_predicted": measured * taken / nodes,
        }
    return found


def cost(found: dict[str, Any], about: dict[str, float]) -> dict[str, float]:
    """What a million images take and cost, on cores alone and on GPUs with their cores."""
    decode, network, finish = (found["cpu_s"][name] for name in ("decode", "network", "finish"))
    core_hours = MILLION * (decode + network + finish) / HOUR
    fed = about["gpu_cores"] / (decode + finish)
    computed = about["gpu_share"] * about["gpu_tflops"] * 1e12 / max(found["flops"], 1)
    gpu_hours = MILLION / min(fed, computed) / HOUR
    price = about["gpu_price"] + about["gpu_cores"] * about["core_price"]
    return {
        "core_hours": core_hours,
        "core_price": core_hours * about["core_price"],
        "images_per_s_and_core": 1 / (decode + network + finish),
        "gpu_images_per_s_fed": fed,
        "gpu_images_per_s_computed": computed,
        "gpu_hours": gpu_hours,
        "gpu_price": gpu_hours * price,
    }


def show(models: dict[str, dict[str, Any]]) -> None:
    """Print the tables of docs/scale.md."""
    print("| method | MFLOP | decode, network, finish: ms of a core | row, bytes | images/s and core |")
    print("|---|---|---|---|---|")
    for name, found in models.items():
        parts = ", ".join(f"{1000 * s:.1f}" for s in found["cpu_s"].values())
        rate = found["million"]["images_per_s_and_core"]
        print(f"| {name} | {found['flops'] / 1e6:,.0f} | {parts} | {found['row_bytes']:.0f} | {rate:.0f} |")
    print()
    print("| method | a million: core-hours, $ | GPU-hours, $ | GPU: images/s it is fed, it computes |")
    print("|---|---|---|---|")
    for name, found in models.items():
        c = found["million"]
        cores = f"{c['core_hours']:.1f}, {c['core_price']:.2f}"
        gpus = f"{c['gpu_hours']:.2f}, {c['gpu_price']:.2f}"
        rates = f"{c['gpu_images_per_s_fed']:,.0f}, {c['gpu_images_per_s_computed']:,.0f}"
        print(f"| {name} | {cores} | {gpus} | {rates} |")


def main() -> None:
    """Measure, count, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--data", type=Path, required=True, help="a category with test images")
    parser.add_argument("--images", type=int, default=48, help="test images in a round")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    for name, default, text in (
        ("core-price", 0.05, "$ for a core and hour"),
        ("gpu-price", 3.5, "$ for a GPU and hour"),
        ("gpu-tflops", 67.0, "a GPU's fp32 rate"),
        ("gpu-share", 0.3, "the share of it that is reached"),
        ("gpu-cores", 16.0, "cores beside a GPU"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=text)
    parser.add_argument("--check", type=Path, help="the folder of scale_predict.py")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    prices = ("core_price", "gpu_price", "gpu_tflops", "gpu_share", "gpu_cores")
    about = {name: getattr(options, name) for name in prices}
    files = test_files(options.data, options.images)
    models: dict[str, dict[str, Any]] = {}
    for run in options.runs:
        found = measured(run, files, options.rounds)
        models[load_model_file(run).method] = found | {"million": cost(found, about)}
    data = {"name": options.data.name, "bytes": statistics.mean(file.stat().st_size for file in files)}
    result: dict[str, Any] = {"assumed": about, "data": data, "models": models}
    if options.check is not None:
        result["check"] = check(options.check.resolve())
        print(json.dumps(result["check"], indent=2))
    save(result, options.out)
    show(models)
    print(f"\nan image is {data['bytes'] / 1e6:.2f} MB: a million are {data['bytes'] / 1e6:.2f} TB")


if __name__ == "__main__":
    main()
