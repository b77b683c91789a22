"""What each candidate of `auto` costs at 128, 256 and 512 pixels: seconds to train and to score, and memory.

    python benchmarks/candidates.py --data DATA/mvtec/bottle [--sizes 128 256 512]

Seconds are those of one processor core (CPU time), so other programs beside it do not change them much.
Images are decoded and resized before. Networks with a training loop are trained for 8 and for 40 steps, after
two that are not counted; what the preset's steps would take follows from both. Each measurement has a process
of its own; its memory is what the process has at its peak above what it had before it learnt. One that asks
for more than `--most-gib` of addresses ends with a row that says so.

Writes benchmarks/results/candidates.json and candidates.md, a candidate at a time; other ones stay in them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import task_of

from blemish.core.errors import BlemishError
from blemish.core.files import write_whole
from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.methods.base import TrainedMethod
from blemish.methods.registry import method_named, preset_named
from blemish.training.batches import as_floats
from blemish.training.costs import COSTS
from blemish.training.images import ImageOptions, load_images
from blemish.training.learn import learn, make_network, resized
from blemish.training.watcher import Silent

RESULTS = Path(__file__).parent / "results"
WARM_UP, STEPS = 2, (8, 40)
SCORED = 20
"""Images that are scored, one at a time."""


def peak() -> float:
    """Return the most memory that this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def learn_timed(name: str, size: int, images: Any, steps: int | None) -> tuple[Any, float, int | None]:
    """Have a method learn; returns the network, seconds of a core, and the steps of its preset."""
    method, _, preset = name.partition(":")
    config: Any = replace(preset_named(method, preset or "default"), image_size=size)
    of_preset = config.steps if hasattr(config, "steps") else None
    if steps is not None and of_preset is not None:
        config = replace(config, steps=steps)
    kind = method_named(method)
    start = kind.start(config)
    config = start.config
    network = make_network(kind, config, images.image_format.channels, 0, start.tensors)
    task = task_of(images)
    began = time.process_time()
    learn(network, config, task)
    return network.eval(), time.process_time() - began, of_preset


def measure(name: str, size: int, data: Path) -> dict[str, Any]:
    """Measure one candidate in this process."""
    torch.set_num_threads(1)
    method, _, preset = name.partition(":")
    config: Any = replace(preset_named(method, preset or "default"), image_size=size)
    split = split_good(open_dataset(data), validation_fraction=0.0, calibration_fraction=0.1, seed=0)
    images = load_images(split, config, ImageOptions(), Silent().loading, 0)
    before = peak()
    trained = issubclass(method_named(method), TrainedMethod)
    if trained:
        learn_timed(name, size, images, WARM_UP)
    network, seconds, steps = learn_timed(name, size, images, STEPS[0] if trained else None)
    row: dict[str, Any] = {"images": len(images.train)}
    if trained:
        assert steps is not None
        network, longer, _ = learn_timed(name, size, images, STEPS[1])
        step = (longer - seconds) / (STEPS[1] - STEPS[0])
        row |= {"steps": steps, "step_seconds": step}
        seconds += (steps - STEPS[0]) * step
    row |= {"train_seconds": seconds, "train_mib": peak() - before}
    scored = resized(images.train, config.size).batch(np.arange(min(SCORED, len(images.train))))
    x = as_floats(torch.from_numpy(scored))
    with torch.inference_mode():
        network(x[:1])
        began = time.process_time()
        for image in x.split(1):
            network(image)
        row["score_ms"] = 1000 * (time.process_time() - began) / len(x)
    tensors = network.state_dict().values()
    row["model_mb"] = sum(t.numel() * t.element_size() for t in tensors) / 1e6
    return row


def measured(name: str, size: int, data: Path, most_gib: int) -> dict[str, Any]:
    """Return a candidate's row, or why there is none."""
    most = most_gib * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        return measure(name, size, data)
    except BlemishError as error:
        return {"error": str(error)}
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        return {"error": f"takes more than {most_gib} GiB"}


def table(found: dict[str, Any]) -> str:
    """Write all as a table."""
    lines = ["| candidate | pixels | training, s | memory, MiB | scoring, ms | model, MB |", "|---" * 6 + "|"]
    for name, sizes in found["candidates"].items():
        for size, row in sizes.items():
            if "error" in row:
                lines.append(f"| `{name}` | {size} | {row['error']} | | | |")
                continue
            seconds, scoring = f"{row['train_seconds']:.1f}", f"{row['score_ms']:.1f}"
            cells = f"{seconds} | {row['train_mib']:.0f} | {scoring} | {row['model_mb']:.1f}"
            lines.append(f"| `{name}` | {size} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all candidates, each in a process of its own, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--names", nargs="+", default=[name for name in COSTS if name != "padim"])
    parser.add_argument("--most-gib", type=int, default=16, help="addresses that one may ask for")
    parser.add_argument(
        "--one", action="store_true", help="measure one candidate at one size in this process"
    )
    options = parser.parse_args()
    if options.one:
        row = measured(options.names[0], options.sizes[0], options.data, options.most_gib)
        print(json.dumps(row))
        return
    path = RESULTS / "candidates.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("data") != options.data.name:
        found = {"data": options.data.name, "candidates": {}}
    for name in options.names:
        for size in options.sizes:
            command = [sys.executable, __file__, "--one", "--data", str(options.data), "--names", name]
            command += ["--most-gib", str(options.most_gib)]
            done = subprocess.run(
                [*command, "--sizes", str(size)], check=True, capture_output=True, text=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            found["candidates"].setdefault(name, {})[str(size)] = row
            print(name, size, row, flush=True)
            write_whole(path, json.dumps(found, indent=2) + "\n")
            write_whole(path.with_suffix(".md"), table(found))


if __name__ == "__main__":
    main()
