"""`--method auto`: candidates learn, the one that sees planted defects best is kept, or several together.

The good images are cut in three. Calibration images take no part in anything here. Some of the others, the
trial's, are learnt by no candidate: on them, and on copies of them with planted defects, candidates are
compared (`training.choice`), and their maps are brought to one scale. Then the members that were chosen learn
at their full length; those without a training loop learn the trial's images too.

Which candidates there are, and how long a network trains (`training.costs`), follows from the options and the
number of images alone, never from a clock: so the same seed gives the same model, on a slow machine as well.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from blemish.core.errors import UsageError
from blemish.images import decode
from blemish.methods.auto import SIZE, Auto, AutoConfig
from blemish.training import choice as choosing
from blemish.training.alignment import with_alignment
from blemish.training.batches import spread
from blemish.training.candidates import choose_members
from blemish.training.choice import Choice, Trial
from blemish.training.known_defects import with_known
from blemish.training.members import Run, learn_members
from blemish.training.run_folder import CANDIDATES_FOLDER, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from blemish.core.types import Sample
    from blemish.data.split import Split
    from blemish.training.images import TrainingImages
    from blemish.training.learn import LearningTask
    from blemish.training.watcher import Watcher

LONG = 1.5
"""Images longer than this, by width and height or the other way round, keep their shape."""
SEEN_SIZES = 8
"""Images whose shapes are looked at."""


def shaped(config: AutoConfig, split: Split) -> AutoConfig:
    """Give long images an input of their own shape with as many pixels, in multiples of 32."""
    if config.image_size != SIZE or config.tiling is not None:
        return config
    seen = [split.train[i] for i in spread(len(split.train), SEEN_SIZES)]
    shapes = [decode.read(sample.path).shape[:2] for sample in seen]
    ratio = float(np.median([height / width for height, width in shapes]))
    if 1 / LONG <= ratio <= LONG:
        return config
    ratio = min(max(ratio, 1 / 8), 8.0)
    height, width = (max(64, 32 * round(SIZE * side / 32)) for side in (ratio**0.5, ratio**-0.5))
    return replace(config, image_size=(height, width))


def fit_auto(
    config: AutoConfig,
    images: TrainingImages,
    task: LearningTask,
    *,
    watcher: Watcher,
    tensors: Mapping[str, Tensor],
    known: Sequence[Sample] = (),
) -> tuple[Auto, Outcome, dict[str, Any]]:
    """Choose members, unless the options name them, and have them learn; `tensors` are what they begin with.

    `known` defects are shown to the candidates beside planted ones; none of them is learnt.

    Returns the network, how long it took, and what the choice was, for the model file. Raises UsageError when
    started in several processes, TrainingError when no candidate can learn.
    """
    if task.accelerator.num_processes > 1:
        raise UsageError("--method auto: chooses in one process; name a method to train it in several")
    began = time.monotonic()
    trial = with_known(plant_trial_of(images, task.seed), known, images, config.size)
    config, images = with_alignment(config, images)
    run = Run(config=config, images=images, task=task, trial=trial, watcher=watcher, tensors=tensors)
    if config.members:
        choice = Choice(members=config.members, aligned=images.alignment is not None)
    else:
        choice = choose_members(run)
    network = learn_members(run, choice.members)
    return network, Outcome(seconds=time.monotonic() - began), choice.describe()


def plant_trial_of(images: TrainingImages, seed: int) -> Trial:
    """Plant defects into the trial's images, with pieces of training images."""
    assert images.validation is not None
    good = images.validation.batch(spread(len(images.validation), choosing.MOST_GOOD))
    train = images.train.batch(spread(len(images.train), 60))
    covered = images.regions.cover_something
    return choosing.plant_trial(torch.from_numpy(good), torch.from_numpy(train), seed, covered=covered)


def remove_trial(folder: Path) -> None:
    """Remove what candidates and members left for a run to go on from; the table of the choice stays."""
    shutil.rmtree(folder / CANDIDATES_FOLDER, ignore_errors=True)
