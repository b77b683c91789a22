"""Latency of anomalib's PatchCore and PaDiM beside our exported models: file on disk -> anomaly map, batch 1.

    PYTHONPATH=src PYTHON-WITH-ANOMALIB benchmarks/peer_latency.py --data ROOT/mvtec/bottle MODEL.onnx [...]
                                        [--good 20] [--calls 100] [--threads N] [--out FILE]

Runs in an environment with anomalib and onnxruntime. The networks of PatchCore (Wide ResNet-50-2, layers 2
and 3, a coreset of 10 %) and PaDiM (ResNet-18, layers 1 to 3, 100 features) have anomalib's defaults and
256×256 pixels, but random weights, as nothing is downloaded: the arithmetic is the same, the maps are worth
nothing. Their memory is filled from the first `good` training images, and PatchCore's search takes time in
proportion to it. They are called as anomalib's `TorchInferencer` calls them, `read_image` and `forward`
without gradients, but without its post-processor (thresholds and normalisation). Their maps stay at 256×256;
ours come at the image's own size, with score, p-value and regions.

All are measured in one session, in turns of ten calls, on the same test images.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import importlib.metadata
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data.utils import read_image
from anomalib.models import Padim, Patchcore
from deployment_speed import latencies, machine, opened, save, test_files

from blemish.data.dataset import open_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PEERS = {"anomalib:Patchcore": Patchcore, "anomalib:Padim": Padim}


def filled(kind: type, good: Sequence[Path]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Make a model with random weights and let it see the good images; says how large its memory is."""
    torch.manual_seed(0)
    model = kind(pre_trained=False, post_processor=False, evaluator=False, visualizer=False)
    began = time.perf_counter()
    model.model.train()
    model.model.feature_extractor.eval()
    with torch.inference_mode():
        for file in good:
            model.model(model.pre_processor(read_image(file, as_tensor=True)[None]))
        model.fit()
    memory = model.model.memory_bank if kind is Patchcore else model.model.gaussian.inv_covariance
    about = {
        "good_images": len(good),
        "memory": list(memory.shape),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds_to_fill": time.perf_counter() - began,
    }
    return model.eval(), about


def caller(model: torch.nn.Module) -> Callable[[Path], object]:
    """Return a function of a file that gives the model's map of it."""

    def call(file: Path) -> object:
        with torch.inference_mode():
            return model(read_image(file, as_tensor=True)[None]).anomaly_map

    return call


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="*", metavar="MODEL.onnx")
    parser.add_argument("--data", type=Path, required=True, help="a category in MVTec layout")
    parser.add_argument("--good", type=int, default=20, help="good images that fill the peers' memories")
    parser.add_argument("--calls", type=int, default=100, help="calls of each")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each network")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/peer_latency.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {
        "machine": machine(options.threads),
        "versions": {p: importlib.metadata.version(p) for p in ("anomalib", "torch", "onnxruntime")},
        "data": f"{options.data.parent.name}/{options.data.name}",
    }
    good = [sample.path for sample in open_dataset(options.data).train[: options.good]]
    calls: dict[str, Callable[[Path], object]] = {}
    models: dict[str, dict[str, Any]] = {}
    for name, kind in PEERS.items():
        model, models[name] = filled(kind, good)
        calls[name] = caller(model)
    for file in options.models:
        detector = opened(file, options.threads)
        name = f"{detector.model_file.method}:{detector.model_file.preset} ({file.name})"
        models[name] = {"input": [detector.model_file.image_format.channels, *detector.model_file.size]}
        calls[name] = detector.predict
    for name, found in latencies(calls, test_files(options.data, options.calls), options.calls).items():
        models[name] |= found
    slowest = models["anomalib:Patchcore"]["p50_ms"]
    for name, found in models.items():
        found["patchcore_takes_times"] = slowest / found["p50_ms"]
        print(f"{name:<40} p50 {found['p50_ms']:8.1f} ms  p99 {found['p99_ms']:8.1f} ms")
    save(result | {"models": models}, options.out)


if __name__ == "__main__":
    main()
