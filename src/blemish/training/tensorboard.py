"""The log of a training as TensorBoard reads it: the rows of log.csv, at each finished epoch."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blemish.training.trainer import Trainer
    from blemish.training.watcher import Watcher

NAMES = {"train_loss": "loss/train", "validation_loss": "loss/validation", "seconds": "seconds"}
"""Columns of log.csv, and what TensorBoard calls them."""


@contextmanager
def logging_to(folder: Path, run: Path, watcher: Watcher) -> Iterator[TensorBoard]:
    """Give a watcher that also writes what it sees below `folder`, and passes all on to `watcher`.

    The place has the name of the run folder `run`; each of several trainings has a place of its own in it.

    Raises UsageError without the package of `blemish[tensorboard]`.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        cure = "pip install 'blemish[tensorboard]'"
        raise UsageError(f"--tensorboard: {error.name} is missing; {cure}") from error
    board = TensorBoard(folder, run, watcher)
    try:
        yield board
    finally:
        board.finish()


class TensorBoard:
    """A watcher that writes the epochs of each training, each into a folder of its own; it counts them."""

    def __init__(self, folder: Path, run: Path, watcher: Watcher) -> None:
        self.folder, self.run, self.watcher = folder, run, watcher
        self.trainings = 0
        self._trainer: Trainer | None = None
        self._written = 0

    def loading(self, total: int) -> Callable[[], None]:
        """Pass it on."""
        return self.watcher.loading(total)

    def choosing(self, total: int) -> Callable[[str], None]:
        """Pass it on."""
        return self.watcher.choosing(total)

    def training(self, trainer: Trainer) -> None:
        """Write the epochs that have been finished, and pass it on."""
        if trainer is not self._trainer:
            self.finish()
            self._begin(trainer)
        self._write(trainer)
        self.watcher.training(trainer)

    def finish(self) -> None:
        """Write the last epoch, which ends after the last step, and close the file."""
        if self._trainer is not None:
            self._write(self._trainer)
            self._writer.close()
        self._trainer = None

    def _begin(self, trainer: Trainer) -> None:
        """Open the file of a training: all its epochs, also those before it was gone on with."""
        from tensorboardX import SummaryWriter

        place = self.folder / self.run.name
        if trainer.folder != self.run:  # a candidate or a member of several
            place /= type(trainer.network).__name__ if trainer.folder is None else trainer.folder.name
        self._trainer, self._written, self.trainings = trainer, 0, self.trainings + 1
        # an interrupted training has left a file with the same epochs, which count no more
        self._writer = SummaryWriter(str(place), purge_step=1)
        options = {key: str(value) for key, value in trainer.identity.items()}
        self._writer.add_text("options", f"```\n{json.dumps(options, indent=2)}\n```", 1)

    def _write(self, trainer: Trainer) -> None:
        rows = trainer.state.rows
        for row in rows[self._written :]:
            for column, name in NAMES.items():
                if column in row:
                    self._writer.add_scalar(name, row[column], int(row["epoch"]))
        if self._written < len(rows):
            self._writer.flush()
        self._written = len(rows)
