"""Who is told what a training is doing; the command line draws it, the station answers with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from blemish.training.trainer import Trainer


class Watcher(Protocol):
    """Told what training is doing; the command line draws it."""

    def loading(self, total: int) -> Callable[[], None]:
        """Return what to call for each decoded image."""
        ...

    def choosing(self, total: int) -> Callable[[str], None]:
        """Return what to call with each candidate's name, as it begins to learn."""
        ...

    def training(self, trainer: Trainer) -> None:
        """Training made a step."""
        ...


class Silent:
    """A watcher that says nothing."""

    def loading(self, total: int) -> Callable[[], None]:
        """Return what to call for each decoded image."""
        return lambda: None

    def choosing(self, total: int) -> Callable[[str], None]:
        """Do nothing."""
        return lambda _name: None

    def training(self, trainer: Trainer) -> None:
        """Do nothing."""
