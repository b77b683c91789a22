"""Which option should be a default? One method with several options, judged by planted defects.

    python benchmarks/options.py cpc-ad --data DATA/mvtec_512/pill --try grey=true --try grey=false

Each time the method learns the training images at its full length and scores good images that it did not
learn, and copies of them with planted defects: those of the trial of `auto`, of the second family. A default
is chosen by the first two figures. The others, of the real test split, are looked at afterwards.

`--try` may be empty (the preset as it is) or change several options: `--try steps=800,image_size=256`.
Writes benchmarks/results/options.json and options.md; what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from choice import areas, begun, maps_of_trial, real_maps

from blemish.core.files import write_whole
from blemish.methods.auto import Member
from blemish.methods.registry import method_named, preset_named
from blemish.training import choice
from blemish.training.learn import Chosen, learn, make_network

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


def measure(
    name: str, changes: dict[str, Any], data: Path, channels: int | None, seed: int
) -> dict[str, float]:
    """Have a method learn with these options, and measure planted and real defects."""
    method, _, preset = name.partition(":")
    kind = method_named(method)
    start = kind.start(replace(preset_named(method, preset or "default"), **changes))
    config: Any = start.config
    run = begun(data, 10.0, channels, seed)
    network = make_network(kind, config, run.channels, seed, start.tensors)
    train = run.images.train
    began = time.process_time()
    lesson = replace(
        run.lesson, train=Chosen(train, size=config.loading_size), scored=Chosen(train, size=config.size)
    )
    learn(network, config, lesson)
    seconds = time.process_time() - began
    member = Member(network, run.config.size)
    row = choice.compare((name,), *maps_of_trial(member, run), run.trial)
    maps, defective, masks = real_maps(data, run, {name: member})
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
    parser.add_argument("--try", dest="tries", action="append", required=True)
    parser.add_argument("--channels", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for data in options.data:
        for text in options.tries:
            name = f"{options.method} {text}".strip() + (f", seed {options.seed}" if options.seed else "")
            if name in found.get(data.name, {}):
                continue
            row = measure(options.method, changes_of(text), data, options.channels, options.seed)
            found.setdefault(data.name, {})[name] = row
            print(data.name, name, row, flush=True)
            write_whole(RESULTS, json.dumps(found, indent=2) + "\n")
            write_whole(RESULTS.with_suffix(".md"), table(found))


if __name__ == "__main__":
    main()
