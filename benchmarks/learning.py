"""What the benchmarks that train outside of a run folder have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.training.device import make_accelerator
from blemish.training.learn import LearningTask
from blemish.training.watcher import Silent

if TYPE_CHECKING:
    from blemish.training.images import TrainingImages


def task_of(images: TrainingImages, seed: int = 0) -> LearningTask:
    """Return how a network learns all training images here: on the CPU, in silence, with nothing kept."""
    return LearningTask(
        train=images.train,
        validation=None,
        scored=images.scored,
        accelerator=make_accelerator("cpu", "auto"),
        seed=seed,
        folder=None,
        identity={},
        resume=False,
        on_progress=Silent().training,
    )
