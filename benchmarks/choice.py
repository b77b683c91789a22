"""How good is the choice of `auto`? Its candidates, judged by planted defects and by the real ones.

    python benchmarks/choice.py --data DATA/mvtec/bottle --data DATA/mvtec_512/pill … --minutes 10

For each category the candidates learn as in `blemish train --method auto`, on the same images. Then they, and
those together that `auto` compares, score the test split. The regret is what the best of them is above the
chosen one, in image and in pixel AUROC. Nothing here changes a choice: the test split is looked at after it.

Writes benchmarks/results/choice.json and choice.md, a category at a time; other categories stay in them. The
table tells the regret of other rules too: by both areas without the bonus of several methods together, by
planted pixels alone, and by planted images alone.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import task_of
from real import image_area, pixel_area, test_images

from blemish.core.files import write_whole
from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.methods.auto import Auto, AutoConfig
from blemish.methods.config import DetectorConfig
from blemish.training import auto, candidates, choice, costs
from blemish.training.alignment import with_alignment
from blemish.training.images import ImageOptions, load_images
from blemish.training.members import Run
from blemish.training.watcher import Silent

RESULTS = Path(__file__).parent / "results" / "choice.json"
RULES = {
    "images and pixels": lambda planted: planted["image"] + planted["pixel"],
    "pixels alone": lambda planted: planted["pixel"],
    "images alone": lambda planted: planted["image"],
}
"""What the choice could go by, from the planted areas of members."""


def begun(
    data: Path, minutes: float, channels: int | None, seed: int, *, learnt: DetectorConfig | None = None
) -> Run:
    """Read a category's images, hold some out and plant defects into them, as `auto` does.

    Of a network that has `learnt` all but the calibration images, with these options, the trial is made of
    those, in the size that it has seen.
    """
    config = AutoConfig(minutes=minutes)
    config = replace(config, image_size=learnt.size) if learnt else config
    split = split_good(
        open_dataset(data),
        validation_fraction=0.0 if learnt else config.validation_fraction,
        calibration_fraction=config.calibration_fraction,
        seed=seed,
    )
    if learnt:
        split = replace(split, validation=split.calibration, calibration=[])
    config = auto.shaped(config, split)
    images = load_images(split, config, ImageOptions(channels=channels), Silent().loading, seed)
    trial = auto.plant_trial_of(images, seed)
    config, images = (config, images) if learnt else with_alignment(config, images)
    task = task_of(images, seed)
    return Run(config=config, images=images, task=task, trial=trial, watcher=Silent(), tensors={})


def maps_of_trial(network: Auto, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of the trial's good and planted images by a network of one member."""
    here = torch.device("cpu")
    return choice.maps_of(network, run.trial.good, here), choice.maps_of(network, run.trial.planted, here)


def learnt(run: Run, minutes: float) -> tuple[dict[str, Any], dict, list[choice.Row]]:
    """Have the candidates learn; returns the networks by name, their maps of the trial, and their rows."""
    names, steps = costs.candidates(minutes, len(run.images.train))
    networks: dict[str, Any] = {}
    maps: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rows: list[choice.Row] = []
    for candidate in names:
        began, name = time.monotonic(), candidates.variant_of(candidate, rows)
        networks[name] = candidates.learn_candidate(name, run, steps)
        maps[name] = maps_of_trial(networks[name], run)
        rows.append(choice.compare((name,), *maps[name], run.trial))
        print(f"  {name}: {time.monotonic() - began:.0f} s", flush=True)
    return networks, maps, rows


def real_maps(data: Path, run: Any, networks: dict[str, Any]) -> tuple[dict, np.ndarray, np.ndarray | None]:
    """Score the test split: maps by name at half size, which images are defective, and their masks."""
    dataset = open_dataset(data)
    maps: dict[str, list[np.ndarray]] = {name: [] for name in networks}
    seen = []
    for one in test_images(dataset, run.images, run.config.size):
        for name, network in networks.items():
            maps[name].append(choice.maps_of(network, one.image, torch.device("cpu"))[0])
        seen.append((one.defective, one.mask))
    defective = np.array([is_defect for is_defect, _ in seen])
    masks = np.stack([mask for _, mask in seen]) if dataset.has_masks else None
    return {name: np.stack(found) for name, found in maps.items()}, defective, masks


def areas(maps: np.ndarray, defective: np.ndarray, masks: np.ndarray | None) -> dict[str, float]:
    """Image and pixel AUROC of real defects."""
    found = {"image": image_area(maps, defective)}
    return found if masks is None else found | {"pixel": pixel_area(maps, masks)}


def measure(data: Path, minutes: float, channels: int | None, seed: int) -> dict[str, Any]:
    """Compare what the choice knew with what the test split says."""
    run = begun(data, minutes, channels, seed)
    networks, maps, rows = learnt(run, minutes)
    chosen = choice.choose(rows, maps, run.trial)
    real, defective, masks = real_maps(data, run, networks)
    scales = {name: choice.scale_of(maps[name][0]) for name in networks}
    scaled = {name: (real[name] - low) / (high - low) for name, (low, high) in scales.items()}
    table = {}
    for members in [*((n,) for n in networks), *choice.groups_of(list(networks))]:
        table[" + ".join(members)] = areas(
            np.mean([scaled[name] for name in members], axis=0), defective, masks
        )
    planted = {" + ".join(r.members): {"image": r.image_auroc, "pixel": r.pixel_auroc} for r in chosen.rows}
    name = " + ".join(chosen.members)
    found = {"minutes": minutes, "seed": seed, "chosen": name, "real": table, "planted": planted}
    return found | {"regret": regret(found, name)}


def regret(row: dict[str, Any], chosen: str) -> dict[str, float]:
    """How far the best of a category is above the chosen one, by measure."""
    kept = row["real"][chosen]
    return {m: max(other[m] for other in row["real"].values()) - kept[m] for m in kept}


def table(found: dict[str, Any]) -> str:
    """Write what each rule would choose, and its regret in image and pixel AUROC."""
    rules = ("the rule", *RULES)
    lines = ["| category | " + " | ".join(rules) + " |", "|---" * (len(rules) + 1) + "|"]
    sums: dict[str, dict[str, list[float]]] = {rule: {"image": [], "pixel": []} for rule in rules}
    for category, row in found.items():
        cells = []
        others = {
            rule: max(row["planted"], key=lambda members: goodness(row["planted"][members]))
            for rule, goodness in RULES.items()
        }
        for rule, chosen in {"the rule": row["chosen"], **others}.items():
            lost = regret(row, chosen)
            for measured, value in lost.items():
                sums[rule][measured].append(value)
            cells.append(f"{chosen}: " + " / ".join(f"{value:.3f}" for value in lost.values()))
        lines.append(f"| {category} | " + " | ".join(cells) + " |")
    means = [" / ".join(f"{np.mean(v):.3f}" for v in sums[rule].values() if v) for rule in rules]
    lines.append("| mean | " + " | ".join(means) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the categories that are named, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--channels", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for data in options.data:
        print(data.name, flush=True)
        found[data.name] = measure(data, options.minutes, options.channels, options.seed)
        print(f"  {found[data.name]['chosen']}: {found[data.name]['regret']}", flush=True)
        write_whole(RESULTS, json.dumps(found, indent=2) + "\n")
        write_whole(RESULTS.with_suffix(".md"), table(found))


if __name__ == "__main__":
    main()
