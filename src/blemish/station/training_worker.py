"""A training job's own process: `python -m blemish.station.training_worker PLACE IMAGES DEVICE`.

It trains as `blemish train --resume` does, from PLACE/job.json, and says in PLACE/progress how far it is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import BlemishError
from blemish.core.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from blemish.training.trainer import Trainer

INTERVAL = 0.5
"""Seconds between two reports of progress."""


class Progress:
    """Writes how far a training is into a file."""

    def __init__(self, file: Path) -> None:
        self.file, self._said, self._parent = file, 0.0, os.getppid()

    def loading(self, total: int) -> Callable[[], None]:
        """Say how many images are decoded."""
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self._say("decoding", done / total, None)

        return advance

    def choosing(self, total: int) -> Callable[[str], None]:
        """Say how many candidates have been tried."""
        begun = 0

        def begin(_name: str) -> None:
            nonlocal begun
            self._say("choosing", begun / total, None)
            begun += 1

        return begin

    def training(self, trainer: Trainer) -> None:
        """Say how many steps are made, and how long the rest will take; stop when the station is gone."""
        if os.getppid() != self._parent:  # it was killed: the next one goes on from the checkpoint
            signal.raise_signal(signal.SIGTERM)
        steps = trainer.state.epoch * trainer.steps_per_epoch + trainer.state.step
        share = steps / (trainer.epochs * trainer.steps_per_epoch)
        left = trainer.state.seconds / share * (1 - share) if share else None
        self._say("training", share, left)

    def _say(self, what: str, share: float, seconds_left: float | None) -> None:
        now = time.monotonic()
        if now - self._said < INTERVAL and share < 1:
            return
        self._said = now
        write_whole(self.file, json.dumps({"what": what, "share": share, "seconds_left": seconds_left}))


def main(place: Path, images: Path, device: str) -> int:
    """Train; the exit code is 0 when there is a model, else the last line of output says why."""
    job = json.loads((place / "job.json").read_text())
    if hasattr(os, "nice"):
        os.nice(10)  # inspections come first
    try:
        from blemish.training import fit

        fit.fit(
            images,
            method=job["method"],
            preset=job["preset"],
            out=place / "run",
            device=device,
            resume=True,
            watcher=Progress(place / "progress"),
        )
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing; pip install 'blemish[train]'")
        return 2
    except BlemishError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
