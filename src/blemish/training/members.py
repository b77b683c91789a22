"""What all networks of a run of `--method auto` have in common, and how its members learn."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from blemish.methods.auto import Auto, AutoConfig
from blemish.methods.base import TrainedMethod
from blemish.methods.planted import PlantedConfig
from blemish.training import choice as choosing
from blemish.training.alignment import align_all
from blemish.training.costs import member_steps
from blemish.training.learn import JoinedImages, LearningTask, learn, make_network, resized
from blemish.training.run_folder import CANDIDATES_FOLDER, Outcome, read_log, write_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from blemish.methods.auto import Member
    from blemish.training.batches import ImageBatches
    from blemish.training.choice import Trial
    from blemish.training.images import TrainingImages
    from blemish.training.watcher import Watcher


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


def begin(run: Run, members: Sequence[str]) -> Auto:
    """Make the network of members that are to learn."""
    config = replace(run.config, members=tuple(members))
    network = make_network(Auto, config, run.channels, run.task.seed, alignment=run.images.alignment)
    assert isinstance(network, Auto)
    network.begin(run.tensors)
    return network


def learn_members(run: Run, members: Sequence[str]) -> Auto:
    """Have the members learn at their full length, and bring their maps to one scale.

    The scale is that of images that a member did not learn; one without a training loop then learns them too.
    """
    network = begin(run, members)
    alignment, good = run.images.alignment, run.trial.good
    good = good if alignment is None else align_all(alignment, good)
    log: list[dict[str, str]] = []
    for number, (name, member) in enumerate(zip(members, network.each, strict=True)):
        own = member.network.config
        if isinstance(own, PlantedConfig):
            own = replace(own, steps=member_steps(run.config, len(run.images.train), members))
        place = run.candidates and run.candidates / f"member {number}"
        has_loop, needs_scale = isinstance(member.network, TrainedMethod), len(network.each) > 1
        if has_loop or needs_scale:
            learn_member(member, own, run.images.train, run, place)
        if needs_scale:
            maps = choosing.maps_of(network, good, run.task.accelerator.device, member)
            network.low[number], network.high[number] = choosing.scale_of(maps)
        if has_loop:
            log += _log_of(name, place)
        else:
            assert run.images.validation is not None  # auto's options hold some out
            learn_member(member, own, JoinedImages(run.images.train, run.images.validation), run, None)
    if log and run.task.folder is not None:
        write_log(run.task.folder, log)
    return network


def _log_of(member: str, place: Path | None) -> list[dict[str, str]]:
    """Return the rows of a member's log, which say whose they are."""
    return [] if place is None else [{"member": member} | row for row in read_log(place)]


def learn_member(member: Member, own: Any, train: ImageBatches, run: Run, place: Path | None) -> Outcome:
    """Have one member learn from images that are resized to what it takes."""
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    learnt = resized(train, own.loading_size)
    task = replace(
        run.task,
        train=learnt,
        validation=None,
        scored=learnt if own.loading_size == own.size else resized(train, own.size),
        folder=place,
        identity=run.task.identity | {"options": as_text(vars(own))},
    )
    return learn(member.network, own, task)


def as_text(identity: dict[str, Any]) -> str:
    """Return what must be the same for a run to go on, as one line."""
    return json.dumps(identity, sort_keys=True, default=str)
