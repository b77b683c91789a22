"""What an image costs from its file to its row, here against another source tree, in one run.

    python benchmarks/throughput.py MODEL [MODEL ...] --data ROOT/mvtec/bottle --against OTHER/src
                                    [--images 40] [--rounds 5] [--kinds KIND [KIND ...]] [--out FILE]

MODEL is an exported model of 8-bit colour images. Each measurement is a process of its own, this tree and the
other in turns, with one thread for the network, but for `cores`. What is measured, in seconds of a processor
for an image, as others may work on the machine at the same time (of `start` the whole command counts):

    rows       `predict_many` over test images of the category, nothing written; where a tree has detectors
               without maps, which `predict --no-pictures` uses, by one of them
    pictures   `predict_to_folder`: rows, maps and overlays on disk
    small      the same with overlays as JPEG, where a tree can write such
    jpeg       rows of JPEG of 12 megapixels, made of the same images
    tiff       rows of 16-bit TIFF, made of the same images, with the conversion of depth allowed
    one        `predict` of one file after the other; by the clock too: least, p50 and p99
    cores      the same with as many threads of the network as there are cores
    watch      `watch` of a folder that holds the images, from the model on to the last row, with pictures
    station    `blemish serve` to which the images are sent one after the other, with pictures and record
    start      `python -m blemish.cli predict` of one file, from nothing, with pictures

Ratios are those of the medians, other / this: 2 means that this tree takes half as long. Memory is the most
that a process had. Scores are compared too: the largest difference, as a share of their range.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image

from blemish.core.errors import ImageError
from blemish.data.dataset import open_dataset
from blemish.inference.load import load
from blemish.inference.predict_folder import predict_to_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from blemish.inference.detector import Detector

SOURCE = Path(__file__).resolve().parents[1] / "src"
LARGE = (4000, 3000)
KINDS = ("rows", "pictures", "small", "jpeg", "tiff", "one", "cores", "watch", "station", "start")
SMALL = {"overlays": "jpeg"}
FEW = 4
"""Large files, and cold starts, in a round."""


def cpu_seconds(who: int = resource.RUSAGE_SELF) -> float:
    """Return the processor time of this process, or of its children."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of a call, and what it returns."""
    before = cpu_seconds()
    result = call()
    return cpu_seconds() - before, result


# --- in a process of its own, with either source tree ---


def scores_of(predictions: Iterable[Any]) -> list[float]:
    """Return the scores, and raise the first error."""
    found = []
    for prediction in predictions:
        if isinstance(prediction, ImageError):
            raise prediction
        found.append(float(prediction.score))
    return found


def measure(model: Path, folder: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """Measure everything but the start, once, with the source tree of this process."""
    files = {kind: sorted((folder / kind).iterdir()) for kind in ("png", "jpeg", "tiff")}
    detector = load(model, device="cpu", threads=1, allow=frozenset({"depth"}))
    rows_alone = dataclasses.replace(detector, maps=False) if hasattr(detector, "maps") else detector
    list(detector.predict_many(files["png"][:2], threads=1))
    found: dict[str, Any] = {"seconds": {}, "scores": {}, "milliseconds": {}}
    calls: dict[str, Callable[[], float]] = {
        "pictures": lambda: pictured(detector, files["png"], {}),
        "small": lambda: pictured(detector, files["png"], SMALL if can_write_jpeg() else {}),
        "one": lambda: one_by_one(detector, files["png"], found["milliseconds"].setdefault("one", [])),
        "cores": lambda: one_by_one(
            load(model, device="cpu"), files["png"], found["milliseconds"].setdefault("cores", [])
        ),
        "watch": lambda: watched(model, files["png"]),
        "station": lambda: inspected(model, files["png"]),
    }
    for name, kind in (("rows", "png"), ("jpeg", "jpeg"), ("tiff", "tiff")):
        if name in kinds:
            seconds, scores = timed(
                lambda kind=kind: scores_of(rows_alone.predict_many(files[kind], threads=1))
            )
            found["seconds"][name], found["scores"][kind] = seconds / len(files[kind]), scores
    for name, call in calls.items():
        if name == "watch":  # what follows has processes and folders of its own
            found["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if name in kinds:
            found["seconds"][name] = call()
    return found


def one_by_one(detector: Detector, files: Sequence[Path], times: list[float]) -> float:
    """Score file after file: seconds of a processor for each; `times` get milliseconds by the clock."""
    detector.predict(files[0])

    def run() -> None:
        for file in files:
            began = time.perf_counter()
            detector.predict(file)
            times.append(1000 * (time.perf_counter() - began))

    return timed(run)[0] / len(files)


def can_write_jpeg() -> bool:
    """Whether this tree writes overlays in other formats than PNG."""
    return "overlays" in inspect.signature(predict_to_folder).parameters


def pictured(detector: Detector, files: Sequence[Path], options: dict[str, Any]) -> float:
    """Score files to a folder, with pictures; returns seconds of a processor for each."""
    inputs = [(file, Path(file.stem)) for file in files]
    with tempfile.TemporaryDirectory() as out:
        return timed(lambda: predict_to_folder(detector, inputs, Path(out) / "out", **options))[0] / len(
            inputs
        )


def watched(model: Path, files: Sequence[Path]) -> float:
    """Return what an image costs in a folder that is watched, in seconds of a processor."""
    from blemish.watch.folder import watch
    from blemish.watch.settings import WatchSettings

    with tempfile.TemporaryDirectory() as temporary:
        folder, used, rows = Path(temporary) / "in", [], []
        folder.mkdir()
        for file in files:
            shutil.copy(file, folder)
        watch(
            WatchSettings(model=model, folder=folder, out=Path(temporary) / "out", device="cpu"),
            should_stop=lambda: len(rows) == len(files),
            on_row=rows.append,
            on_model=lambda _: used.append(cpu_seconds()),
        )
        return (cpu_seconds() - used[0]) / len(files)


def inspected(model: Path, files: Sequence[Path]) -> float:
    """Return what an image costs that is sent to a station, in seconds of the station's processor."""
    from station_load import processor_time, sent, serving

    with tempfile.TemporaryDirectory() as folder, serving(model, Path(folder)) as (process, port):
        sent(port, files[:1], 1, 0, 0)
        before = processor_time(process)
        for number, file in enumerate(files, start=1):
            if sent(port, [file], 1, 0, number).statuses != [201]:
                raise SystemExit(f"the station has not taken {file}")
        time.sleep(1)  # for pictures that are written after the answer
        return (processor_time(process) - before) / len(files)


# --- both trees in turns ---


def environment(source: Path) -> dict[str, str]:
    """Return the environment of a process that runs with a source tree."""
    cached = Path(tempfile.gettempdir()) / "blemish-throughput-bytecode"
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    one = {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(cached)}
    return usual | one | {"PYTHONPATH": str(source)}


def measured(source: Path, model: Path, folder: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """Measure one tree once, in a new process."""
    command = [sys.executable, __file__, "--measure", str(folder), str(model), "--kinds", *kinds]
    done = subprocess.run(command, env=environment(source), check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    if "start" in kinds:
        started = [started_once(source, model, next((folder / "png").iterdir())) for _ in range(FEW)]
        found["seconds"]["start"] = min(seconds for seconds, _ in started)
        found["start_clock"] = min(seconds for _, seconds in started)
    return found


def started_once(source: Path, model: Path, file: Path) -> tuple[float, float]:
    """Score one file by the command line: seconds of a processor, and by the clock."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "blemish.cli", "predict", "--model", str(model), str(file)]
        before, began = cpu_seconds(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [*command, "--out", f"{out}/o"], env=environment(source), check=True, capture_output=True
        )
        return cpu_seconds(resource.RUSAGE_CHILDREN) - before, time.perf_counter() - began


def make_files(data: Path, count: int, folder: Path) -> None:
    """Link test images of a category, and make large JPEG and 16-bit TIFF of some."""
    samples = [sample.path for sample in open_dataset(data).test]
    chosen = [samples[i] for i in np.linspace(0, len(samples), count, endpoint=False).astype(int)]
    for kind in ("png", "jpeg", "tiff"):
        (folder / kind).mkdir()
    for i, path in enumerate(chosen):
        (folder / "png" / f"{i:03d}.png").symlink_to(path.resolve())
    for i, path in enumerate(chosen[:: max(1, count // FEW)][:FEW]):
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        rgb.resize(LARGE, Image.Resampling.BICUBIC).save(folder / "jpeg" / f"{i}.jpg", quality=90)
        deep = np.asarray(rgb).astype(np.uint16) * 257
        tifffile.imwrite(
            folder / "tiff" / f"{i}.tif", deep, photometric="rgb", compression="zlib", predictor=True
        )


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the rounds of one tree together."""
    middle = {kind: statistics.median(run["seconds"][kind] for run in runs) for kind in runs[0]["seconds"]}
    latency = {}
    for kind in runs[0]["milliseconds"]:
        times = [ms for run in runs for ms in run["milliseconds"][kind]]
        latency[kind] = {"least": min(times)} | {f"p{q}": float(np.percentile(times, q)) for q in (50, 99)}
    found = {
        "cpu_ms_per_image": {kind: round(1000 * seconds, 2) for kind, seconds in middle.items()},
        "latency_ms": latency,
        "largest_memory_mib": max(run["mib"] for run in runs),
    }
    if "start" in middle:
        found["start_s_by_the_clock"] = min(run["start_clock"] for run in runs)
    return found


def compared(model: Path, folder: Path, other: Path, rounds: int, kinds: Sequence[str]) -> dict[str, Any]:
    """Measure both trees in turns, and compare their scores."""
    runs: dict[str, list[dict[str, Any]]] = {"this": [], "other": []}
    trees = {"this": SOURCE, "other": other}
    for number in range(rounds):
        for name in sorted(trees, reverse=bool(number % 2)):
            runs[name].append(measured(trees[name], model, folder, kinds))
    found = {name: summary(each) for name, each in runs.items()}
    ratios = {
        kind: round(ms / found["this"]["cpu_ms_per_image"][kind], 2)
        for kind, ms in found["other"]["cpu_ms_per_image"].items()
    }
    apart = {}
    for kind, scores in runs["this"][0]["scores"].items():
        theirs = np.array(runs["other"][0]["scores"][kind])
        apart[kind] = float(np.abs(np.array(scores) - theirs).max() / max(float(np.ptp(theirs)), 1e-12))
    return found | {"ratios": ratios, "scores_apart": apart}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=Path, help="a category with test images of 8-bit colour")
    parser.add_argument("--against", type=Path, help="the other source tree, a folder that holds blemish/")
    parser.add_argument("--images", type=int, default=40, help="test images in a round")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what is measured")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/throughput.json"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.models[0], options.measure, options.kinds)))
        return
    if options.data is None or options.against is None:
        parser.error("--data and --against are needed")
    load_before = os.getloadavg()
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        make_files(options.data, options.images, Path(folder))
        for model in options.models:
            models[model.stem] = compared(
                model, Path(folder), options.against.resolve(), options.rounds, options.kinds
            )
    about = {
        "cores": os.cpu_count(),
        "load_average": [load_before, os.getloadavg()],
        "images": options.images,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(about | {"rounds": options.rounds, "models": models}, indent=2) + "\n")
    for name, found in models.items():
        print(name)
        for kind in found["ratios"]:
            this, other = (found[tree]["cpu_ms_per_image"][kind] for tree in ("this", "other"))
            print(f"  {kind:<9} {this:9.1f} ms, the other tree {other:9.1f} ms: {found['ratios'][kind]:.2f}")


if __name__ == "__main__":
    main()
