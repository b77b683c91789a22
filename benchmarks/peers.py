"""Exported models beside anomalib's, in one run on the same images: latency, rate, memory, size; a picture.

    python benchmarks/peers.py MODEL.onnx [MODEL.onnx ...] --data ROOT/mvtec/bottle --python PYTHON
                               [--good 20] [--images 40] [--rounds 4] [--threads N] [--out FILE]

PYTHON is the interpreter of an environment of its own (pip install anomalib); blemish need not be there.
Each contender is a process of its own, which is asked in turns: for `predict` of one file after the other,
and for all files in batches of 16, decoded by as many threads as there are cores.

anomalib's PatchCore (Wide ResNet-50-2, layers 2 and 3, a coreset of 10 %), PaDiM (ResNet-18, layers 1 to 3,
100 features) and EfficientAD (small) have anomalib's defaults and 256×256 pixels, but random weights, as
nothing is downloaded: the arithmetic is the same, the maps are worth nothing. The memories of the first two
are filled from the first `good` training images, and PatchCore's search takes time in proportion to it.
They are called as anomalib's `TorchInferencer` calls them, without its post-processor. Their maps stay at
256×256; ours come at the image's own size, with score, p-value and regions.

Of each: p50 and p99 by the clock, images a second by the clock, milliseconds of a processor for an image
(others may work on the machine), the most memory that its process had once the model was made, and the
bytes of its model: of the file, or of all tensors. Writes the figures and, beside them, the picture.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PEERS = ("Patchcore", "Padim", "EfficientAd")
BATCH = 16
DECLARED: list[Any] = []
"""Libraries of operators, whose declarations last as long as they do."""
SOURCE = Path(__file__).resolve().parents[1] / "src"


class Contender(NamedTuple):
    """What a process measures: calls for one file and for many, and what the model is."""

    one: Callable[[str], object]
    many: Callable[[Sequence[str]], object]
    about: dict[str, Any]


# --- in the process of a contender ---


def our_model(file: str, threads: int) -> Contender:
    """Open an exported model."""
    from blemish.inference.onnx_backend import load_exported

    detector = load_exported(file, threads=threads)
    about = {
        "method": f"{detector.model_file.method}:{detector.model_file.preset}",
        "input": list(detector.model_file.size),
        "bytes": Path(file).stat().st_size,
    }
    return Contender(detector.predict, lambda files: list(detector.predict_many(files)), about)


def peer_model(name: str, threads: int, good: Sequence[str]) -> Contender:
    """Make a model of anomalib with random weights, and let it see good images where it has a memory."""
    import torch

    _without_torchvision_operators()
    from anomalib import models
    from anomalib.data.utils import read_image

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    options = {} if name == "EfficientAd" else {"pre_trained": False}
    model = getattr(models, name)(**options, post_processor=False, evaluator=False, visualizer=False)
    read = partial(read_image, as_tensor=True)
    if name != "EfficientAd":
        model.model.train()
        model.model.feature_extractor.eval()
        with torch.inference_mode():
            for file in good:
                model.model(model.pre_processor(read(file)[None]))
            model.fit()
    model.eval()

    @torch.inference_mode()
    def one(file: str) -> object:
        return model(read(file)[None]).anomaly_map

    @torch.inference_mode()
    def many(files: Sequence[str]) -> None:
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            for start in range(0, len(files), BATCH):
                model(torch.stack(list(pool.map(read, files[start : start + BATCH]))))

    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    about = {"method": f"anomalib:{name}", "input": [256, 256], "bytes": size, "good_images": len(good)}
    return Contender(one, many, about)


def _without_torchvision_operators() -> None:
    """Declare two operators that torchvision asks for where its own library needs a torch for GPUs.

    No model here uses them.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    DECLARED.append(library)


def processor_seconds() -> float:
    """Return the processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def largest_memory_mib() -> float:
    """Return the most memory that this process had (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def work(kind: str, name: str, threads: int, good: Sequence[str]) -> None:
    """Answer requests, a line of JSON each: {"one": files} or {"many": files}."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    made = our_model(name, threads) if kind == "ours" else peer_model(name, threads, good)
    Path("/proc/self/clear_refs").write_text("5")  # the most memory counts from here on
    answers.write(json.dumps(made.about) + "\n")
    for line in sys.stdin:
        (how, files), times = next(iter(json.loads(line).items())), []
        before = processor_seconds()
        for call in (
            [partial(made.one, file) for file in files] if how == "one" else [partial(made.many, files)]
        ):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        cpu = (processor_seconds() - before) / len(files)
        answers.write(json.dumps({"seconds": times, "cpu": cpu, "mib": largest_memory_mib()}) + "\n")


# --- the one that asks ---


class Process:
    """A contender that runs."""

    def __init__(
        self, python: str, kind: str, name: str, options: argparse.Namespace, good: list[str]
    ) -> None:
        command = [
            python,
            __file__,
            "--work",
            kind,
            name,
            "--threads",
            str(options.threads),
            "--files",
            *good,
        ]
        usual = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        if kind == "ours":
            usual |= {"PYTHONPATH": str(SOURCE)}
        else:
            usual.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=usual
        )
        self.about = self._answer()
        self.name = Path(name).stem if kind == "ours" else f"anomalib {name}"
        self.one: list[float] = []
        self.rates: list[float] = []
        self.cpu: dict[str, list[float]] = {"one": [], "many": []}
        self.mib = 0.0

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args}: has ended; what it said is above")
        return json.loads(line)

    def ask(self, how: str, files: Sequence[str]) -> None:
        """Have the contender score files, and keep what it took."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({how: list(files)}) + "\n")
        self.process.stdin.flush()
        found = self._answer()
        self.cpu[how].append(1000 * found["cpu"])
        self.mib = found["mib"]
        if how == "one":
            self.one += [1000 * seconds for seconds in found["seconds"]]
        else:
            self.rates.append(len(files) / found["seconds"][0])

    def summary(self) -> dict[str, Any]:
        """Put all turns but the first, the warm-up, together; ends the process."""
        import numpy as np

        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        turns = len(self.rates)
        times = self.one[len(self.one) // turns :]
        return self.about | {
            "p50_ms": float(np.quantile(times, 0.5)),
            "p99_ms": float(np.quantile(times, 0.99)),
            "calls": len(times),
            "images_per_s": float(np.median(self.rates[1:])),
            "cpu_ms_one": float(np.median(self.cpu["one"][1:])),
            "cpu_ms_many": float(np.median(self.cpu["many"][1:])),
            "largest_memory_mib": self.mib,
        }


def draw(models: dict[str, dict[str, Any]], out: Path) -> None:
    """Draw the contenders: processor time for one image and in batches, memory and size."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    names = sorted(models, key=lambda name: -models[name]["cpu_ms_one"])
    colours = ["#999999" if name.startswith("anomalib") else "#1f6fb4" for name in names]
    panels = {
        "one image alone, ms of a processor": lambda m: m["cpu_ms_one"],
        "an image in batches, ms of a processor": lambda m: m["cpu_ms_many"],
        "memory of the process, MiB": lambda m: m["largest_memory_mib"],
        "model, MB": lambda m: m["bytes"] / 1e6,
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 0.45 * len(names) + 1), sharey=True)
    for axis, (title, value) in zip(axes, panels.items(), strict=True):
        values = [value(models[name]) for name in names]
        axis.barh(names, values, color=colours)
        for row, shown in enumerate(values):
            axis.text(shown, row, f" {shown:.0f}", va="center", fontsize=7)
        axis.set_title(title, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.25)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def compare(options: argparse.Namespace) -> None:
    """Ask all contenders in turns, print and write."""
    from deployment_speed import machine, save, test_files

    from blemish.data.dataset import open_dataset

    about = {"machine": machine(options.threads), "data": f"{options.data.parent.name}/{options.data.name}"}
    good = [str(sample.path) for sample in open_dataset(options.data).train[: options.good]]
    files = [str(file) for file in test_files(options.data, options.images)]
    running = [Process(sys.executable, "ours", str(model), options, []) for model in options.models]
    running += [Process(options.python, "peer", name, options, good) for name in PEERS]
    for _ in range(options.rounds + 1):
        for how in ("one", "many"):
            for process in running:
                process.ask(how, files)
    models = {process.name: process.summary() for process in running}
    about |= {"images": len(files), "rounds": options.rounds, "load_average_after": os.getloadavg()}
    save(about | {"models": models}, options.out)
    draw(models, options.out.with_suffix(".png"))
    for name, found in models.items():
        shown = [f"{key} {value:.1f}" for key, value in found.items() if isinstance(value, float)]
        print(f"{name:<22}", *shown)


def main() -> None:
    """Compare, or be one of the processes that are compared."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="*", metavar="MODEL.onnx")
    parser.add_argument("--data", type=Path, help="a category in MVTec layout")
    parser.add_argument("--python", help="an interpreter with anomalib")
    parser.add_argument("--good", type=int, default=20, help="good images that fill the peers' memories")
    parser.add_argument("--images", type=int, default=40, help="test images of a turn")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each, after one to warm up")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each network")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/peers.json"))
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs="*", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        kind, name = options.work
        work(kind, name, options.threads, options.files)
    elif options.data is None or options.python is None or not options.models:
        parser.error("MODEL.onnx, --data and --python are needed")
    else:
        compare(options)


if __name__ == "__main__":
    main()
