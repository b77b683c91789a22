"""What the work of `--method auto` is thought to take: which candidates fit into the time, how many steps.

No clock is read: the same options and number of images mean the same candidates and steps, on a slow machine
as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.methods.auto import ON_BACKBONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.methods.auto import AutoConfig

COSTS: dict[str, tuple[float, float]] = {
    "pca": (2.0, 0.01),
    "filters": (4.0, 0.05),
    "padim": (10.0, 0.12),
    "filters:position-rel": (4.0, 0.05),
    "filters:neighbours": (12.0, 0.05),
    "filters:shared": (12.0, 0.05),
    "planted": (5.0, 0.0),
    "filters:neighbours-rel": (12.0, 0.05),
    "metal": (50.0, 0.02),
    "cpc-ad": (200.0, 0.05),
}
"""Candidates, as they are tried: seconds of two cores that one takes, whatever the images and for each.

`planted` without its steps, which take `STEP` each; those of `HALVED` with half of their steps, as candidates
make them. Measured on two cores of 2026 (benchmarks/candidates.py).
"""
HALVED = ("metal", "cpc-ad")
"""They make all of their steps as members, in twice the time."""
STEP = 0.165
"""Seconds of two cores that a step of `planted` takes."""
TRIAL_STEPS, LEAST_STEPS, MOST_STEPS = 400, 600, 6000
"""Steps of `planted` as a candidate, at most; and as a member, at least and at most."""
LEAST_TRIAL_STEPS = 50
"""With fewer steps `planted` would show nothing, and is no candidate."""
MOST_IMAGES = 120
"""Images that a candidate without a training loop learns, at most; a member learns all."""
SHARE = 0.45
"""Of the time, candidates take this share at most; members have the rest."""


def _seconds(name: str, images: int) -> float:
    """Return what a candidate takes of so many images, without the steps of `planted`."""
    always, each = COSTS[name]
    return always + each * min(images, MOST_IMAGES)


def candidates(minutes: float, images: int, *, backbone: bool = False) -> tuple[list[str], int]:
    """Name the candidates that fit into the time, as they are tried, and the steps that `planted` gets.

    With a `backbone`, methods on it are among them.
    """
    left = SHARE * 60 * minutes
    names, steps = [], 0
    for name in COSTS:
        if name in ON_BACKBONE and not backbone:
            continue
        seconds = _seconds(name, images)
        if name == "planted":
            affordable = int(min(TRIAL_STEPS, 0.6 * max(0.0, left - seconds) / STEP))
            if affordable < LEAST_TRIAL_STEPS:
                continue
            steps = affordable
            seconds += steps * STEP
        if names and seconds > left:
            continue
        names.append(name)
        left -= seconds
    return names, steps


def member_steps(config: AutoConfig, images: int, members: Sequence[str] = ()) -> int:
    """Return the steps of `planted` as a member: what candidates and other members leave of the time."""
    names, steps = (
        ([], 0) if config.members else candidates(config.minutes, images, backbone=bool(config.backbone))
    )
    spent = sum(_seconds(name, images) for name in names) + STEP * steps
    beside = 0.12 * images + 10  # reading, learning and scoring
    trained = sum(2 * _seconds(name, images) for name in members if name in HALVED)
    left = 60 * config.minutes - spent - beside - trained
    return int(min(MOST_STEPS, max(LEAST_STEPS, left / STEP)))
