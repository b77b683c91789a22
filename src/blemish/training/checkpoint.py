"""Checkpoints: one file, written whole or not at all, that holds where a training stands."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from blemish.core.errors import CheckpointError
from blemish.core.files import temporary_for

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT_FOLDER = "checkpoint"
"""Its name in a run folder."""


@dataclass
class State:
    """Where the loop stands. Together with weights and optimiser this is a checkpoint."""

    epoch: int = 0
    step: int = 0  # within the epoch
    phase: int = 0  # of those that the network names
    loss_sum: float = 0.0  # over the epoch's images so far
    images: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(file: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint and force it to disk. Raises OSError where the disk refuses."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary_for(file, durable=True) as part, part.open("wb") as opened:
            torch.save(content, opened)
    except RuntimeError as error:
        # torch hides the disk's refusal behind an error of its own
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load_checkpoint(file: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of the run that `identity` describes. Raises CheckpointError for any other."""
    content = _read(file)
    before = content["identity"]
    for key in before | identity:  # an option may be there before alone, or now alone
        if before.get(key) != identity.get(key):
            was, now = (each.get(key, "not given") for each in (before, identity))
            raise CheckpointError(
                f"{file}: {key} was {was} and is now {now}; "
                "resume with the same options and data, or train into another --out"
            )
    return content


def _read(file: Path) -> dict[str, Any]:
    damaged = CheckpointError(f"{file}: not a whole checkpoint; remove it, and --resume starts anew")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError) as error:
        raise damaged from error
    if not isinstance(content, dict) or "identity" not in content:
        raise damaged
    return content
