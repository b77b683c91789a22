"""The versions of a station's models: which files there are, and which one of each model is in use."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from blemish.core.errors import DataError, UsageError
from blemish.core.files import write_whole
from blemish.data.hashing import file_digest
from blemish.inference.model_file import find_model

if TYPE_CHECKING:
    from pathlib import Path

FILE = "versions.json"


class Versions:
    """Model files by digest: those a station was started with, and those made of them since.

    What was made lies in `folder`, with a file that says of which model each is a version, and which one is
    in use; it is read at the next start. Nothing is ever removed.
    """

    def __init__(self, folder: Path) -> None:
        """Read what was made before. Raises DataError when the file that says so is damaged."""
        self.folder, self._file = folder, folder / FILE
        self._files: dict[str, Path] = {}
        self._origin: dict[str, str] = {}
        self._active: dict[str, str] = {}
        self.adopted: dict[str, str] = {}
        """Names, by digest, of models that were trained here."""
        if self._file.exists():
            try:
                known = json.loads(self._file.read_text())
                self._origin = dict(known["origin"])
                self._active = dict(known["active"])
                self.adopted = dict(known["adopted"])
                self._files = {digest: folder / name for digest, name in known["files"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{self._file}: is damaged ({error}); remove it") from error

    def start(self, model: Path) -> str:
        """Take a model that the station is started with; returns the digest of its version in use."""
        file = find_model(model)
        digest = file_digest(file)
        self._files[digest] = file
        self._origin.setdefault(digest, digest)
        return self.active(digest)

    def add(self, file: Path, of: str) -> str:
        """Move a new file here, as a version of the model `of`; returns its digest."""
        digest = self._keep(file)
        file.unlink()
        self._origin[digest] = self._origin[of]
        self._write()
        return digest

    def adopt(self, file: Path, name: str) -> str:
        """Copy the file of a model that was trained here; returns its digest."""
        digest = self._keep(file)
        self._origin[digest] = digest
        self.adopted[digest] = name
        self._write()
        return digest

    def active(self, origin: str) -> str:
        """Return the digest of the version in use of a model."""
        return self._active.get(origin, origin)

    def use(self, digest: str) -> None:
        """Say which version of its model is in use from now on. Raises UsageError for an unknown one."""
        if digest not in self._origin:
            raise UsageError(f"model {digest}: is no version of a model of this station")
        self._active[self._origin[digest]] = digest
        self._write()

    def _keep(self, file: Path) -> str:
        digest = file_digest(file)
        target = self.folder / f"{digest}{file.suffix}"
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{digest}.tmp"
        shutil.copyfile(file, part)
        part.replace(target)
        self._files[digest] = target
        return digest

    def _write(self) -> None:
        made = {d: file.name for d, file in self._files.items() if file.parent == self.folder}
        known = {
            "files": made,
            "origin": self._origin,
            "active": self._active,
            "adopted": self.adopted,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps(known, indent=2) + "\n")

    def file(self, digest: str) -> Path:
        """Return a version's file. Raises UsageError for an unknown one."""
        if digest not in self._files:
            raise UsageError(f"model {digest}: its file is not here; start the station with it")
        return self._files[digest]

    def origin(self, digest: str) -> str | None:
        """Return the digest of the model that this is a version of; None when its file is not here."""
        return self._origin.get(digest) if digest in self._files else None

    def siblings(self, digest: str) -> set[str]:
        """Return the digests of all versions of the same model, this one included."""
        return {d for d, origin in self._origin.items() if origin == self._origin.get(digest)}
