"""A model that is loaded again when its file changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.core.errors import BlemishError
from blemish.data.hashing import file_digest
from blemish.inference.model_file import find_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blemish.inference.detector import Detector


class ReloadingModel:
    """A model that is loaded again when its file changes."""

    def __init__(
        self, path: Path, open_model: Callable[[Path], Detector], say: Callable[[str], None]
    ) -> None:
        self.path, self.open_model, self.say = path, open_model, say
        self.signature = self._signature()
        self.changed: tuple[int, int, int] | None = None
        self.detector = open_model(path)
        self.digest = file_digest(self._file())

    def current(self) -> Detector:
        """Return the detector; a changed file is loaded once it has kept still for two calls."""
        try:
            signature = self._signature()
        except (OSError, BlemishError):  # being replaced
            return self.detector
        if signature == self.signature:
            return self.detector
        if signature != self.changed:
            self.changed = signature
            return self.detector
        self.signature = signature  # one try for each change
        try:
            self.detector, self.digest = self.open_model(self.path), file_digest(self._file())
            self.say(f"{self.path}: changed; loaded again")
        except BlemishError as error:
            self.say(f"changed, but the previous model stays in use: {error}")
        return self.detector

    def _file(self) -> Path:
        return find_model(self.path)

    def _signature(self) -> tuple[int, int, int]:
        about = self._file().stat()
        return about.st_ino, about.st_size, about.st_mtime_ns
