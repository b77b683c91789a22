"""Which option should be a default? One method with several options, judged by planted defects.

    python benchmarks/options.py cpc-ad --data DATA/mvtec_512/pill --try grey=true --try grey=false

Each time the method learns the training images at its full length and scores good images that it did not
learn, and copies of them with planted defects: those of the trial of `auto`, of the second family. A default
is chosen by the first two figures. The others, of the real test split, are looked at afterwards.

`--try` may be empty (the preset as it is) or change several options: `--try steps=800,image_size=256`.

Options of the map alone need no training each: `--of RUN`, once for each `--data`, takes the weights of a
training (`blemish train`, with the images that it held out for calibration, which the trial is made of); only
what is taken of the good images after a training is taken anew. Images have the network's size then.
Writes benchmarks/results/options.json and options.md; what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from choice import areas, begun, maps_of_trial, real_maps

from blemish.core.errors import UsageError
from blemish.core.files import write_whole
from blemish.inference.model_file import load_model_file
from blemish.methods.auto import Member
from blemish.methods.base import TrainedMethod
from blemish.methods.registry import method_named, preset_named
from blemish.training import choice
from blemish.training.batches import in_order
from blemish.training.learn import FIT_BATCH, learn, make_network, resized
from blemish.training.members import begin

if TYPE_CHECKING:
    from blemish.methods.base import Method
    from blemish.training.members import Run

RESULTS = Path(__file__).parent / "results" / "options.json"


def changes_of(text: str) -> dict[str, Any]:
    """Read NAME=VALUE,NAME=VALUE; values as JSON has them, or plain words."""
    changes = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return changes


def options_named(name: str, changes: dict[str, Any]) -> Any:
    """Return the options of METHOD or METHOD:PRESET, changed."""
    method, _, preset = name.partition(":")
    return replace(preset_named(method, preset or "default"), **changes)


def learnt(name: str, changes: dict[str, Any], run: Run, seed: int) -> Method[Any]:
    """Have a method learn with these options."""
    kind = method_named(name.partition(":")[0])
    start = kind.start(options_named(name, changes))
    config: Any = start.config
    network = make_network(kind, config, run.channels, seed, start.tensors)
    train = run.images.train
    task = replace(
        run.task,
        train=resized(train, config.loading_size),
        scored=resized(train, config.size),
    )
    learn(network, config, task)
    return network


def finished(name: str, changes: dict[str, Any], run: Run, weights: Path) -> Method[Any]:
    """Give a network with these options the weights of a training; it takes its statistics anew."""
    method, model_file = name.partition(":")[0], load_model_file(weights)
    if model_file.method != method:
        raise UsageError(f"--of {weights}: a model of {model_file.method}, not of {method}")
    if model_file.config.get("aligned"):
        raise UsageError(f"--of {weights}: turns parts, and what it has learnt fits no others; train anew")
    network = method_named(method)(options_named(name, changes), run.channels)
    assert isinstance(network, TrainedMethod)
    own = network.state_dict()
    tensors = {key: torch.from_numpy(values) for key, values in model_file.tensors.items()}
    fitting = {key: t for key, t in tensors.items() if key in own and t.shape == own[key].shape}
    if missing := [key for key, _ in network.named_parameters() if key not in fitting]:
        raise UsageError(f"--of {weights}: {missing[0]} does not fit these options and images")
    network.load_state_dict(fitting, strict=False)
    train = resized(run.images.train, network.config.size)
    network.eval().finish(lambda: (torch.from_numpy(batch) for batch in in_order(train, FIT_BATCH)))
    return network


def measure(
    name: str, changes: dict[str, Any], data: Path, run: Run, seed: int, weights: Path | None
) -> dict[str, float]:
    """Measure planted and real defects by a method with these options, which learns or takes `weights`."""
    began = time.process_time()
    network = finished(name, changes, run, weights) if weights else learnt(name, changes, run, seed)
    seconds = time.process_time() - began
    alone = begin(run, ())  # which turns parts, where the run does
    alone.members.append(Member(network, run.config.size))
    alone.low, alone.high = torch.zeros(1), torch.ones(1)
    row = choice.compare((name,), *maps_of_trial(alone, run), run.trial)
    maps, defective, masks = real_maps(data, run, {name: alone})
    real = areas(maps[name], defective, masks)
    assert row.image_auroc is not None
    assert row.pixel_auroc is not None
    return {
        "planted_image_auroc": row.image_auroc,
        "planted_pixel_auroc": row.pixel_auroc,
        **{f"real_{measured}_auroc": value for measured, value in real.items()},
        "seconds_of_a_core": seconds,
    }


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Write all as a table, a line for each category and option."""
    lines = [
        "| category | method, options | planted image, pixel | mean | real image, pixel | minutes of a core |"
    ]
    lines += ["|---" * 6 + "|"]
    for category, rows in found.items():
        for name, row in rows.items():
            planted = row["planted_image_auroc"], row["planted_pixel_auroc"]
            real = ", ".join(f"{v:.3f}" for k, v in row.items() if k.startswith("real"))
            cells = f"{planted[0]:.3f}, {planted[1]:.3f} | {sum(planted) / 2:.3f} | {real}"
            lines.append(f"| {category} | {name} | {cells} | {row['seconds_of_a_core'] / 60:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure each option on each category, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("method", help="METHOD or METHOD:PRESET")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--of", type=Path, action="append", help="a run of each --data: takes its weights")
    parser.add_argument("--try", dest="tries", action="append", required=True)
    parser.add_argument("--channels", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    weights = options.of or [None] * len(options.data)
    for data, folder in zip(options.data, weights, strict=True):
        run = None
        for text in options.tries:
            name = f"{options.method} {text}".strip() + (f", seed {options.seed}" if options.seed else "")
            name += ", weights of a run" if folder else ""
            if name in found.get(data.name, {}):
                continue
            learnt_by = options_named(options.method, {}) if folder else None
            run = run or begun(data, 10.0, options.channels, options.seed, learnt=learnt_by)
            row = measure(options.method, changes_of(text), data, run, options.seed, folder)
            found.setdefault(data.name, {})[name] = row
            print(data.name, name, row, flush=True)
            write_whole(RESULTS, json.dumps(found, indent=2) + "\n")
            write_whole(RESULTS.with_suffix(".md"), table(found))


if __name__ == "__main__":
    main()
