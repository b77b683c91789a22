"""Trainings that have collapsed: what should differ is the same, and nothing is saved but a line is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.core.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

SAME = 1e-5
"""What spreads by less than this is the same."""


def spread(values: Tensor) -> Tensor:
    """Return the standard deviation of all values over the mean of their sizes; no number if all are 0."""
    return values.std() / values.abs().mean()


def refuse_constant(method: str, apart: Tensor, said: str, *, lower: str = "--learning-rate") -> None:
    """Refuse to go on where nothing differs.

    Args:
        method: its name, for the message.
        apart: how far apart things are that should differ, a number ≥ 0, or none.
        said: what is the same, for the message.
        lower: the option of which less may help.

    Raises:
        TrainingError: `apart` is not above SAME.
    """
    if not apart > SAME:
        raise TrainingError(
            f"--method {method}: {said}; nothing was saved; train with another --seed or a lower {lower}"
        )
