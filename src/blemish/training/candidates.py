"""Candidates of `--method auto`: each learns and scores the trial; what sees planted defects best is kept."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from blemish.core.errors import BlemishError, CheckpointError, Interrupted, TrainingError, one_line
from blemish.core.files import temporary_for, write_whole
from blemish.images.draw import write_pixels
from blemish.methods.base import TrainedMethod
from blemish.methods.config import TrainedConfig
from blemish.methods.planted import PlantedConfig
from blemish.training import choice as choosing
from blemish.training.batches import spread
from blemish.training.choice import Choice, Row
from blemish.training.choice_picture import PICTURE, draw_choice
from blemish.training.costs import MOST_IMAGES, candidates
from blemish.training.learn import ImageSubset
from blemish.training.members import as_text, begin, learn_member

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from blemish.methods.auto import Auto
    from blemish.training.batches import ImageBatches
    from blemish.training.members import Run

TABLE = "choice.json"


def choose_members(run: Run) -> Choice:
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
            of_trial = maps_of_candidate(name, run, steps)
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
    choice = replace(choosing.choose(rows, maps, run.trial), aligned=run.images.alignment is not None)
    if run.task.folder is not None:
        write_whole(run.task.folder / TABLE, json.dumps(choice.describe(), indent=2) + "\n")
        stretch = run.images.image_format.dtype != "uint8"
        picture = draw_choice(run.trial, [maps[name] for name in choice.members], stretch=stretch)
        write_pixels(run.task.folder / PICTURE, picture)
    return choice


def variant_of(candidate: str, rows: Sequence[Row]) -> str:
    """Name what is learnt of a candidate, after `rows`: `planted` is told places where they say something."""
    return "planted:anywhere" if candidate == "planted" and choosing.parts_lie_anywhere(rows) else candidate


def maps_of_candidate(name: str, run: Run, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Have a candidate learn and return its maps of the trial; those of an interrupted run are kept."""
    kept = run.candidates and run.candidates / f"{name.replace(':', '+')}.npz"
    if kept is not None and run.task.resume:
        found = _kept_maps(kept, as_text(run.task.identity))
        if found is not None:
            return found
    network = learn_candidate(name, run, steps)
    good, planted = (
        choosing.maps_of(network, images, run.task.accelerator.device)
        for images in (run.trial.good, run.trial.planted)
    )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with temporary_for(kept, durable=True) as part, part.open("wb") as file:
            np.savez(file, good=good, planted=planted, identity=as_text(run.task.identity))
    return good, planted


def _kept_maps(file: Path, identity: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Read a candidate's maps of a run that was stopped; None: there are none, or they are damaged."""
    try:
        with np.load(file) as found:
            return (found["good"], found["planted"]) if str(found["identity"]) == identity else None
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None


def learn_candidate(name: str, run: Run, steps: int) -> Auto:
    """Have a candidate learn: `planted` the first family, in so many steps; others make half of theirs."""
    network = begin(run, [name])
    member = network.each[0]
    own = member.network.config
    if isinstance(own, PlantedConfig):
        own = replace(own, kinds="first", steps=steps)
    elif isinstance(own, TrainedConfig):
        own = replace(own, steps=max(1, own.steps // 2))
    member.network.config = own
    train: ImageBatches = run.images.train
    if not isinstance(member.network, TrainedMethod):
        train = ImageSubset(train, spread(len(train), MOST_IMAGES).tolist())
    place = run.candidates and run.candidates / name.replace(":", "+")
    learn_member(member, own, train, run, place)
    return network
