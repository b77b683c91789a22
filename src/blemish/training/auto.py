"""`--method auto`: candidates learn, the one that sees planted defects best is kept, or several together.

The good images are cut in three. Calibration images take no part in anything here. Some of the others, the
trial's, are learnt by no candidate: on them, and on copies of them with planted defects, candidates are
compared (`training.choice`), and their maps are brought to one scale. Then the members that were chosen learn
at their full length; those without a training loop learn the trial's images too.

Which candidates there are, and how long a network trains (`training.costs`), follows from the options and the
number of images alone, never from a clock: so the same seed gives the same model, on a slow machine as well.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch

from blemish.core.errors import (
    BlemishError,
    CheckpointError,
    Interrupted,
    TrainingError,
    UsageError,
    one_line,
)
from blemish.core.files import temporary_for, write_whole
from blemish.images import decode
from blemish.images.draw import write_pixels
from blemish.methods.auto import SIZE, Auto, AutoConfig
from blemish.methods.base import TrainedMethod
from blemish.methods.config import TrainedConfig
from blemish.methods.planted import PlantedConfig
from blemish.training import choice as choosing
from blemish.training.choice import Choice, Row, Trial
from blemish.training.choice_picture import PICTURE, draw_choice
from blemish.training.costs import MOST_IMAGES, candidates, member_steps
from blemish.training.known_defects import with_known
from blemish.training.learn import (
    ImageSubset,
    JoinedImages,
    LearningTask,
    ResizedImages,
    learn,
    make_network,
)
from blemish.training.run_folder import CANDIDATES_FOLDER, Outcome, read_log, write_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from blemish.core.types import Sample
    from blemish.data.split import Split
    from blemish.methods.auto import Member
    from blemish.training.batches import ImageBatches
    from blemish.training.images import TrainingImages
    from blemish.training.watcher import Watcher

LONG = 1.5
"""Images longer than this, by width and height or the other way round, keep their shape."""
SEEN_SIZES = 8
"""Images whose shapes are looked at."""
TABLE = "choice.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all candidates and members of a run have in common; `task` is that of the whole images."""

    config: AutoConfig
    images: TrainingImages
    task: LearningTask
    trial: Trial
    watcher: Watcher
    tensors: Mapping[str, Tensor]

    @property
    def candidates(self) -> Path | None:
        """The folder of what a stopped run goes on from; None: nothing is kept."""
        return None if self.task.folder is None else self.task.folder / CANDIDATES_FOLDER

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.images.image_format.channels


def shaped(config: AutoConfig, split: Split) -> AutoConfig:
    """Give long images an input of their own shape with as many pixels, in multiples of 32."""
    if config.image_size != SIZE or config.tiling is not None:
        return config
    seen = [split.train[i] for i in _spread(len(split.train), SEEN_SIZES)]
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
    run = Run(config=config, images=images, task=task, trial=trial, watcher=watcher, tensors=tensors)
    choice = Choice(members=config.members) if config.members else _choose(run)
    network = _learn_members(replace(config, members=choice.members), run)
    return network, Outcome(seconds=time.monotonic() - began), choice.describe()


def plant_trial_of(images: TrainingImages, seed: int) -> Trial:
    """Plant defects into the trial's images, with pieces of training images."""
    assert images.validation is not None
    good = images.validation.batch(_spread(len(images.validation), choosing.MOST_GOOD))
    train = images.train.batch(_spread(len(images.train), 60))
    covered = images.regions.cover_something
    return choosing.plant_trial(torch.from_numpy(good), torch.from_numpy(train), seed, covered=covered)


def _spread(n: int, most: int) -> np.ndarray:
    """Return numbers below n, evenly spread, `most` of them at most."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


# --- candidates -------------------------------------------------------------------------------------------


def _choose(run: Run) -> Choice:
    """Have the candidates learn, one after the other, and choose. What failed costs its row."""
    images, backbone = len(run.images.train), bool(run.config.backbone)
    names, steps = candidates(run.config.minutes, images, backbone=backbone)
    tell = run.watcher.choosing(len(names))
    rows: list[Row] = []
    maps: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for planned in names:
        name = variant_of(planned, rows)
        tell(name)
        began = time.monotonic()
        try:
            of_trial = _maps_of(name, run, steps)
            row = choosing.compare((name,), *of_trial, run.trial, time.monotonic() - began)
        except (Interrupted, CheckpointError):
            raise
        except (BlemishError, RuntimeError, ValueError) as error:
            rows.append(Row(members=(name,), error=one_line(error)))
            continue
        maps[name] = of_trial
        rows.append(row)
    if not maps:
        raise TrainingError(f"no method can learn these images: {rows[0].members[0]}: {rows[0].error}")
    choice = choosing.choose(rows, maps, run.trial)
    if run.task.folder is not None:
        write_whole(run.task.folder / TABLE, json.dumps(choice.describe(), indent=2) + "\n")
        stretch = run.images.image_format.dtype != "uint8"
        picture = draw_choice(run.trial, [maps[name] for name in choice.members], stretch=stretch)
        write_pixels(run.task.folder / PICTURE, picture)
    return choice


def variant_of(candidate: str, rows: Sequence[Row]) -> str:
    """Name what is learnt of a candidate, after `rows`: `planted` is told places where they say something."""
    return "planted:anywhere" if candidate == "planted" and choosing.parts_lie_anywhere(rows) else candidate


def _maps_of(name: str, run: Run, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Have a candidate learn and return its maps of the trial; those of an interrupted run are kept."""
    kept = run.candidates and run.candidates / f"{name.replace(':', '+')}.npz"
    if kept is not None and run.task.resume:
        found = _kept_maps(kept, _text(run.task.identity))
        if found is not None:
            return found
    member = learn_candidate(name, run, steps)
    good, planted = (
        choosing.maps_of(member, images, run.task.accelerator.device)
        for images in (run.trial.good, run.trial.planted)
    )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with temporary_for(kept, durable=True) as part, part.open("wb") as file:
            np.savez(file, good=good, planted=planted, identity=_text(run.task.identity))
    return good, planted


def _kept_maps(file: Path, identity: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Read a candidate's maps of a run that was stopped; None: there are none, or they are damaged."""
    try:
        with np.load(file) as found:
            return (found["good"], found["planted"]) if str(found["identity"]) == identity else None
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None


def learn_candidate(name: str, run: Run, steps: int) -> Member:
    """Have a candidate learn: `planted` the first family, in so many steps; others make half of theirs."""
    network = make_network(Auto, replace(run.config, members=(name,)), run.channels, run.task.seed)
    assert isinstance(network, Auto)
    network.begin(run.tensors)
    member = network.each[0]
    own = member.network.config
    if isinstance(own, PlantedConfig):
        own = replace(own, kinds="first", steps=steps)
    elif isinstance(own, TrainedConfig):
        own = replace(own, steps=max(1, own.steps // 2))
    member.network.config = own
    train: ImageBatches = run.images.train
    if not isinstance(member.network, TrainedMethod):
        train = ImageSubset(train, _spread(len(train), MOST_IMAGES).tolist())
    place = run.candidates and run.candidates / name.replace(":", "+")
    _learn_member(member, own, train, run, place)
    return member


def _learn_member(member: Member, own: Any, train: ImageBatches, run: Run, place: Path | None) -> Outcome:
    """Have one member learn from images that are resized to what it takes."""
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    learnt = ResizedImages(train, own.loading_size)
    task = replace(
        run.task,
        train=learnt,
        validation=None,
        scored=learnt if own.loading_size == own.size else ResizedImages(train, own.size),
        folder=place,
        identity=run.task.identity | {"options": _text(vars(own))},
    )
    return learn(member.network, own, task)


def _text(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True, default=str)


# --- members ----------------------------------------------------------------------------------------------


def _learn_members(config: AutoConfig, run: Run) -> Auto:
    """Have the members learn at their full length, and bring their maps to one scale.

    The scale is that of images that a member did not learn; one without a training loop then learns them too.
    """
    network = make_network(Auto, config, run.channels, run.task.seed)
    assert isinstance(network, Auto)
    network.begin(run.tensors)
    log: list[dict[str, str]] = []
    for number, (name, member) in enumerate(zip(config.members or (), network.each, strict=True)):
        own = member.network.config
        if isinstance(own, PlantedConfig):
            own = replace(own, steps=member_steps(run.config, len(run.images.train), config.members or ()))
        place = run.candidates and run.candidates / f"member {number}"
        has_loop, needs_scale = isinstance(member.network, TrainedMethod), len(network.each) > 1
        if has_loop or needs_scale:
            _learn_member(member, own, run.images.train, run, place)
        if needs_scale:
            good = choosing.maps_of(member, run.trial.good, run.task.accelerator.device)
            network.low[number], network.high[number] = choosing.scale_of(good)
        if has_loop:
            log += _log_of(name, place)
        else:
            assert run.images.validation is not None  # auto's options hold some out
            _learn_member(member, own, JoinedImages(run.images.train, run.images.validation), run, None)
    if log and run.task.folder is not None:
        write_log(run.task.folder, log)
    return network


def _log_of(member: str, place: Path | None) -> list[dict[str, str]]:
    """Return the rows of a member's log, which say whose they are."""
    return [] if place is None else [{"member": member} | row for row in read_log(place)]


def remove_trial(folder: Path) -> None:
    """Remove what candidates and members left for a run to go on from; the table of the choice stays."""
    shutil.rmtree(folder / CANDIDATES_FOLDER, ignore_errors=True)
