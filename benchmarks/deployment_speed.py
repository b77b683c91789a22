"""Images a second of a model on real files, beside its own decoding and its own network; and its latency.

    python benchmarks/deployment_speed.py --data ROOT/mvtec/bottle MODEL [MODEL ...]
                                          [--images 96] [--rounds 9] [--calls 200] [--threads N] [--out FILE]

A model is a run folder, a model file (both run by torch) or an export (.onnx). The images of a round are
test images of the category, repeated if there are fewer, and read from the disk's cache. The parts, each of
which is measured once in a round, in turns:

    decode    files -> arrays as the network takes them, by as many threads as the pipeline has
    infer     arrays -> maps, the network alone, in batches of the same size
    finish    maps -> predictions at the images' own size, one after the other, as in the pipeline
    pipeline  `predict_many`, all of it, nothing written
    pictures  `predict_to_folder`: the same with rows, maps and overlays on disk

The ratio is pipeline / min(decode, infer), its median over the rounds, in each of which the machine was about
the same. Where decoding and the network each occupy all cores no program can reach min(decode, infer): what
the cores allow is cores / (CPU seconds of decode + infer + finish), and the second ratio divides by the least
of the three. Latency is that of `predict` on one file at batch 1, the models in turns of ten calls.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import ImageError
from blemish.data.dataset import open_dataset
from blemish.inference.load import load
from blemish.inference.onnx_backend import SUFFIX, OnnxBackend, load_exported
from blemish.inference.predict_folder import predict_to_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from blemish.inference.detector import Detector

PARTS = ("decode", "infer", "finish", "pipeline", "pictures")
TURN, WARM_UP = 10, 5
GOAL = 0.85


def opened(model: Path, threads: int) -> Detector:
    """Load a model of either kind for the CPU, its network on so many threads."""
    if model.suffix.lower() == SUFFIX:
        return load_exported(model, threads=threads)
    import torch

    torch.set_num_threads(threads)
    return load(model, device="cpu")


def decode_threads() -> int:
    """Return the size of the pipeline's own pool."""
    return max(2, os.cpu_count() or 2)


def parts_of(detector: Detector, files: Sequence[Path]) -> dict[str, Callable[[], object]]:
    """Return what a round times: each part of the pipeline by itself, and the whole."""
    with ThreadPoolExecutor(decode_threads()) as pool:
        loaded = list(pool.map(detector.prepare, files))
    step = detector.batch_size
    batches = [np.stack([x for x, _ in loaded[i : i + step]]) for i in range(0, len(files), step)]
    maps = np.concatenate([detector.backend.run(batch).maps for batch in batches])
    sizes = [size for _, size in loaded]
    inputs = [(file, Path(f"{i:04d}")) for i, file in enumerate(files)]

    def decode() -> None:
        with ThreadPoolExecutor(decode_threads()) as pool:
            for _ in pool.map(detector.prepare, files):
                pass

    def infer() -> None:
        for batch in batches:
            detector.backend.run(batch)

    def finish() -> None:
        for small_map, size in zip(maps, sizes, strict=True):
            detector._finish((small_map, None), size, None)

    def pipeline() -> None:
        for prediction in detector.predict_many(files):
            if isinstance(prediction, ImageError):
                raise prediction

    def pictures() -> None:
        with tempfile.TemporaryDirectory() as folder:
            predict_to_folder(detector, inputs, Path(folder) / "out")

    return dict(zip(PARTS, (decode, infer, finish, pipeline, pictures), strict=True))


def measured_in_rounds(calls: Mapping[str, Callable[[], object]], rounds: int) -> list[dict[str, Any]]:
    """Time each call once a round, beginning with another one each time: [{name: (wall s, CPU s)}]."""
    names, found = list(calls), []
    for number in range(rounds + 1):  # the first is the warm-up
        first, one = number % len(names), {}
        for name in names[first:] + names[:first]:
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            one[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        found.append(one)
    return found[1:]


def throughput(detector: Detector, files: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Return images/s and CPU seconds an image of each part, and the pipeline's ratios."""
    found, n = measured_in_rounds(parts_of(detector, files), rounds), len(files)
    rates = [{name: n / wall for name, (wall, _) in one.items()} for one in found]
    cpu = {name: statistics.median(one[name][1] for one in found) / n for name in PARTS}
    cores = (os.cpu_count() or 1) / sum(cpu[name] for name in ("decode", "infer", "finish"))
    limits = [min(rate["decode"], rate["infer"]) for rate in rates]
    shares = [rate["pipeline"] / limit for rate, limit in zip(rates, limits, strict=True)]
    attainable = [rate["pipeline"] / min(limit, cores) for rate, limit in zip(rates, limits, strict=True)]
    return {
        "images_per_s": {name: statistics.median(rate[name] for rate in rates) for name in PARTS},
        "cpu_s_per_image": cpu,
        "images_per_s_the_cores_allow": cores,
        "ratio": statistics.median(shares),
        "ratio_by_round": shares,
        "ratio_to_what_the_cores_allow": statistics.median(attainable),
    }


def latencies(
    calls: Mapping[str, Callable[[Path], object]], files: Sequence[Path], n: int
) -> dict[str, dict[str, float]]:
    """Time n calls of each, one file a call, in turns of ten, after a warm-up: quantiles in milliseconds."""
    for call in calls.values():
        for file in files[:WARM_UP]:
            call(file)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for start in range(0, n, TURN):
        for name, call in calls.items():
            for i in range(start, min(start + TURN, n)):
                began = time.perf_counter()
                call(files[i % len(files)])
                times[name].append(1000 * (time.perf_counter() - began))
    return {
        name: {
            "p50_ms": float(np.quantile(found, 0.5)),
            "p99_ms": float(np.quantile(found, 0.99)),
            "calls": len(found),
        }
        for name, found in times.items()
    }


def test_files(data: Path, images: int) -> list[Path]:
    """Return so many test images of a category, evenly spread over its kinds of defect, or repeated."""
    files = [sample.path for sample in open_dataset(data).test]
    chosen = np.linspace(0, len(files), images, endpoint=False).astype(int)
    return [files[i] for i in chosen]


def machine(threads: int) -> dict[str, Any]:
    """Say on what, and with how many threads, it was measured."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "decode_threads": decode_threads(),
        "network_threads": threads,
        "load_average_before": os.getloadavg(),
    }


def save(result: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


def print_table(models: dict[str, dict[str, Any]]) -> None:
    """Print a row for each model: images/s, ratios, latency."""
    heads = [*PARTS, "cores allow", "ratio", "of allowed", "p50 ms", "p99 ms"]
    width = max(map(len, models))
    print(" " * width, *(f"{head:>11}" for head in heads))
    for name, found in models.items():
        rates = [*found["images_per_s"].values(), found["images_per_s_the_cores_allow"]]
        shares = [found["ratio"], found["ratio_to_what_the_cores_allow"]]
        times = [found["latency"]["p50_ms"], found["latency"]["p99_ms"]]
        cells = [f"{rate:11.1f}" for rate in rates] + [f"{share:11.3f}" for share in shares]
        print(f"{name:<{width}}", *cells, *(f"{ms:11.1f}" for ms in times))
    print(f"\nimages/s but for the last four columns; the ratio should be {GOAL} or more")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True, help="a category with test images")
    parser.add_argument("--images", type=int, default=96, help="test images in a round")
    parser.add_argument("--rounds", type=int, default=9, help="of which the median counts")
    parser.add_argument("--calls", type=int, default=200, help="calls of predict for the latency, per model")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the network")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deployment_speed.json"))
    options = parser.parse_args()
    about, files = machine(options.threads), test_files(options.data, options.images)
    detectors = {str(model): opened(model, options.threads) for model in options.models}
    models: dict[str, dict[str, Any]] = {}
    for name, detector in detectors.items():
        models[name] = {
            "method": detector.model_file.method,
            "preset": detector.model_file.preset,
            "runs_on": "onnxruntime" if isinstance(detector.backend, OnnxBackend) else "torch",
            "input": [detector.model_file.image_format.channels, *detector.model_file.size],
            "batch_size": detector.batch_size,
            **throughput(detector, files, options.rounds),
        }
    for name, found in latencies({n: d.predict for n, d in detectors.items()}, files, options.calls).items():
        models[name]["latency"] = found
    about["load_average_after"] = os.getloadavg()
    data = f"{options.data.parent.name}/{options.data.name}"
    save({"machine": about, "data": data, "images": len(files), "models": models}, options.out)
    print_table(models)


if __name__ == "__main__":
    main()
