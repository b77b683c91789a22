"""What a few known defects bring to the choice of `auto`: 1, 5 and 10 of them against none.

    python benchmarks/known_defects.py --data CATEGORY [--minutes 3] [--draws 10] [--seed 0] [--out FILE]

Candidates learn once, as `auto` has them learn. Defective test images are then drawn as the known ones, and
the choice is made with them. What was chosen is measured on all the other defective test images, against
the good images of the trial: image and pixel AUROC of the candidates' maps, whose members are not yet trained
at full length. `best` is the best that any candidate, or several together, reach on the same images.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.methods.auto import AutoConfig
from blemish.training.alignment import with_alignment
from blemish.training.auto import plant_trial_of, shaped
from blemish.training.candidates import learn_candidate
from blemish.training.choice import Row, Trial, best_of, compare, groups_of, maps_of, on_one_scale
from blemish.training.costs import candidates
from blemish.training.device import make_accelerator
from blemish.training.images import ImageOptions, load_images
from blemish.training.known_defects import with_known
from blemish.training.learn import LearningTask
from blemish.training.members import Run
from blemish.training.watcher import Silent

THINNED = 2
"""What was chosen is measured on one in so many rows and columns of the maps, to save time."""
Maps = dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]]


def candidates_of(data: Path, minutes: float, seed: int) -> tuple[Trial, Maps]:
    """Have the candidates learn, and return the trial with all defects of the test set, and all maps."""
    dataset, config = open_dataset(data), AutoConfig(minutes=minutes)
    split = split_good(
        dataset,
        validation_fraction=config.validation_share,
        calibration_fraction=config.calibration_fraction,
        seed=seed,
    )
    config = shaped(config, split)
    images = load_images(split, config, ImageOptions(), lambda _: lambda: None, seed)
    known = [s for s in dataset.test if s.is_defect]
    trial = with_known(plant_trial_of(images, seed), known, images, config.size)
    config, images = with_alignment(config, images)
    task = LearningTask(
        train=images.train,
        validation=images.validation,
        scored=images.scored,
        accelerator=make_accelerator("cpu", "fp32"),
        seed=seed,
        folder=None,
        identity={},
        resume=False,
        on_progress=lambda _: None,
    )
    run = Run(config=config, images=images, task=task, trial=trial, watcher=Silent(), tensors={})
    names, steps = candidates(minutes, len(images.train), backbone=False)
    single = {}
    for name in names:
        network = learn_candidate(name, run, steps)
        cpu = torch.device("cpu")
        single[name] = on_one_scale((maps_of(network, trial.good, cpu), maps_of(network, trial.planted, cpu)))
        print(f"{name} has learnt", flush=True)
    maps: Maps = {(name,): single[name] for name in names}
    for members in groups_of(names):
        good, planted = (np.mean([single[name][i] for name in members], axis=0) for i in (0, 1))
        maps[members] = (good, planted)
    return trial, maps


def on(
    numbers: np.ndarray, trial: Trial, maps: Maps, known: int, each: int = 1
) -> dict[tuple[str, ...], Row]:
    """Measure everyone on some of the images, the last `known` of them real, by one in `each`² pixels."""
    thin = slice(None, None, each)
    masks = trial.masks[numbers][:, thin, thin]
    part = replace(trial, planted=trial.planted[numbers], masks=masks, known=known)
    return {
        members: compare(members, good[:, thin, thin], bad[numbers][:, thin, thin], part)
        for members, (good, bad) in maps.items()
    }


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    trial, maps = candidates_of(options.data, options.minutes, options.seed)
    made = len(trial.planted) - trial.known
    planted = on(np.arange(made), trial, maps, 0)
    rng, rows = np.random.default_rng(options.seed), []
    for known in (0, 1, 5, 10):
        found = []
        for _ in range(options.draws if known else 1):  # none are drawn in one way
            order = made + rng.permutation(trial.known)
            of_known = on(order[:known], trial, maps, known) if known else planted
            shown = ("known_image_auroc", "known_pixel_auroc")
            table = [
                replace(planted[m], **{key: getattr(of_known[m], key) for key in shown})
                if known
                else planted[m]
                for m in maps
            ]
            chosen = best_of(table, known).members
            rest = on(order[known:], trial, maps, trial.known - known, each=THINNED)
            real = {m: (r.known_image_auroc or 0.0, r.known_pixel_auroc or 0.0) for m, r in rest.items()}
            found.append((chosen, real[chosen], max(sum(both) / 2 for both in real.values())))
        image, pixel = np.mean([real for _, real, _ in found], axis=0).tolist()
        rows.append(
            {
                "data": options.data.name,
                "known": known,
                "draws": len(found),
                "image_auroc": image,
                "pixel_auroc": pixel,
                "lowest": min(sum(real) / 2 for _, real, _ in found),
                "best": float(np.mean([best for _, _, best in found])),
                "chosen": {" + ".join(m): n for m, n in Counter(m for m, _, _ in found).most_common()},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
