"""The errors, each of them one clear line (file, value, rule, cure).

BlemishError                  anything blemish refuses
├── ImageError                an image cannot be used
├── DataError                 a data set contradicts itself or is too small
├── ModelError                a model file is missing, foreign, truncated or too new
├── TrainingError             training cannot go on
│   ├── CheckpointError       a checkpoint is of another run, or damaged
│   └── Interrupted           training was asked to stop
└── UsageError                an option or a request cannot be honoured
    ├── NotFoundError         what is asked for does not exist
    └── ConflictError         it exists, and its state does not allow what is asked
"""

from __future__ import annotations


class BlemishError(Exception):
    """Something blemish refuses. `str(error)` is one line that a user can act on."""


class ImageError(BlemishError):
    """An image cannot be read, or does not fit what a model expects."""


class DataError(BlemishError):
    """A data set contradicts itself, or is too small for what is asked."""


class ModelError(BlemishError):
    """A model file is missing, truncated, foreign, or written by a newer blemish."""


class TrainingError(BlemishError):
    """Training cannot go on, as with a loss that is not finite."""


class CheckpointError(TrainingError):
    """A checkpoint is of another run, or damaged: nothing can go on from it."""


class Interrupted(TrainingError):
    """Training was asked to stop; what it has done is kept in the run folder, if there is one."""


class UsageError(BlemishError):
    """An option, or a request, cannot be honoured as given."""


class NotFoundError(UsageError):
    """What a request names does not exist."""


class ConflictError(UsageError):
    """What a request names exists, and the state that it is in does not allow what is asked."""


def one_line(error: BaseException, longest: int = 200) -> str:
    """Return what an error of a library says, as one line of at most so many characters; it may be empty."""
    return " ".join(str(error).split())[:longest]
