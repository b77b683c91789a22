"""What `planted` is blind to: how well it sees a kind of defect that it never learnt.

    python benchmarks/blindness.py --data DATA/mvtec_512/pill [--steps 400]

Trains once on all kinds, and once without each kind. Then each kind is planted into good images that no
network learnt. Told is the pixel AUROC of that kind by both networks: what is lost where a kind is unknown.

Writes benchmarks/results/blindness.json and blindness.md; networks that are there already are not trained
again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

import numpy as np
import torch
from learning import task_of

from blemish.core.files import write_whole
from blemish.data import planting
from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.methods.planted import Planted, PlantedConfig
from blemish.metrics.roc import Roc
from blemish.training import choice
from blemish.training.auto import plant_trial_of
from blemish.training.images import ImageOptions, load_images
from blemish.training.learn import learn, make_network
from blemish.training.watcher import Silent

RESULTS = Path(__file__).parent / "results"
KINDS = tuple(planting.KINDS)


def trained(images: Any, kinds: tuple[str, ...], steps: int) -> Planted:
    """Train on these kinds alone."""
    config = PlantedConfig(steps=steps)
    with patch.object(PlantedConfig, "kind_names", PropertyMock(return_value=kinds)):
        network = make_network(Planted, config, images.image_format.channels, seed=0)
        learn(network, config, task_of(images))
    assert isinstance(network, Planted)
    return network.eval()


@torch.inference_mode()
def areas(network: Planted, trial: choice.Trial) -> dict[str, float]:
    """Return the pixel AUROC of each kind, and of all (`all`)."""

    def maps(images: torch.Tensor) -> np.ndarray:
        return torch.cat([network(part) for part in images.split(16)]).numpy()

    good, planted, kinds = maps(trial.good).ravel(), maps(trial.planted), np.array(trial.kinds)
    found = {"all": Roc.of(good, planted[trial.masks]).auroc()}
    for kind in KINDS:
        of_kind = kinds == kind
        if of_kind.any():
            found[kind] = Roc.of(good, planted[of_kind][trial.masks[of_kind]]).auroc()
    return found


def table(found: dict[str, Any]) -> str:
    """Write for each kind what is seen of it when it was learnt, and when it was not."""
    lines = [
        f"{found['data']}, {found['steps']} steps: pixel AUROC of each kind of planted defect.",
        "",
        "| kind | all kinds learnt | this one not learnt | lost |",
        "|---|---|---|---|",
    ]
    known = found["networks"]["all kinds"]
    for kind in KINDS:
        unknown = found["networks"].get(f"without {kind}")
        if unknown:
            lost = known[kind] - unknown[kind]
            lines.append(f"| {kind} | {known[kind]:.3f} | {unknown[kind]:.3f} | {lost:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, plant, score and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    split = split_good(open_dataset(options.data), validation_fraction=0.15, calibration_fraction=0.1, seed=0)
    config = replace(PlantedConfig(), validation_fraction=0.15)
    images = load_images(split, config, ImageOptions(), Silent().loading, 0)
    with patch.object(choice, "PLANTED_KINDS", KINDS):
        trial = plant_trial_of(images, seed=0)
    path = RESULTS / "blindness.json"
    found: dict[str, Any] = {"data": options.data.name, "steps": options.steps, "networks": {}}
    if path.exists():
        kept = json.loads(path.read_text())
        found = kept if (kept["data"], kept["steps"]) == (found["data"], found["steps"]) else found
    sets = {"all kinds": KINDS} | {f"without {kind}": tuple(k for k in KINDS if k != kind) for kind in KINDS}
    for name, kinds in sets.items():
        if name not in found["networks"]:
            found["networks"][name] = areas(trained(images, kinds, options.steps), trial)
            print(name, found["networks"][name], flush=True)
            write_whole(path, json.dumps(found, indent=2) + "\n")
            write_whole(path.with_suffix(".md"), table(found))


if __name__ == "__main__":
    main()
