"""The versions of a station's models: which files there are, and which one of each model is in use."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from blemish.core.errors import ConflictError, DataError, NotFoundError
from blemish.core.files import make_folder, temporary_for, write_whole
from blemish.data.hashing import file_digest
from blemish.inference.model_file import find_model
from blemish.inference.part_models import ViewModels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOLDER = "models"
"""The folder of the versions, in that of the station."""
FILE = "versions.json"


@dataclass(frozen=True)
class _Index:
    """What is known of the versions. A change makes a new index, so that a reader needs no lock."""

    files: dict[str, Path] = field(default_factory=dict)
    """The file of each digest."""
    origin: dict[str, str] = field(default_factory=dict)
    """The digest of the model that each digest is a version of."""
    active: dict[str, str] = field(default_factory=dict)
    """The digest in use of each origin."""
    adopted: dict[str, str] = field(default_factory=dict)
    """The name of each digest that was trained here."""


class Versions:
    """Model files by digest: those a station was started with, and those made of them since.

    What was made lies in `folder`, with an index that says of which model each is a version, and which one is
    in use; it is read at the next start. Only what nothing refers to is ever removed. A file is on disk
    before the index names it, and an index before a method that changes it returns. Methods that change it
    are called one at a time.
    """

    def __init__(self, folder: Path) -> None:
        """Read what was made before. Raises DataError when the index is damaged."""
        self.folder, self._file = folder, folder / FILE
        self._index = self._read() if self._file.exists() else _Index()

    def _read(self) -> _Index:
        try:
            known = json.loads(self._file.read_text())
            return _Index(
                files={digest: self.folder / name for digest, name in known["files"].items()},
                origin=dict(known["origin"]),
                active=dict(known["active"]),
                adopted=dict(known["adopted"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{self._file}: is damaged ({error}); remove it") from error

    def start(self, model: Path) -> str:
        """Take a model that the station is started with; returns the digest of its version in use."""
        file = find_model(model)
        return self._begin(file_digest(file), file)

    def start_product(self, content: bytes, *, suffix: str) -> str:
        """Take the model file of one product of a model that the station is started with, as `start` does."""
        digest = hashlib.sha256(content).hexdigest()
        file = self._place(digest, suffix)
        if not file.exists():
            write_whole(file, content, durable=True)
        return self._begin(digest, file)

    def _begin(self, digest: str, file: Path) -> str:
        index = self._index
        self._index = replace(
            index, files=index.files | {digest: file}, origin={digest: digest} | index.origin
        )
        return self.active(digest)

    def add(self, content: bytes, *, suffix: str, of: str, parts: str | None = None) -> str:
        """Keep the content of a new model file, as a version of the model `of`; returns its digest.

        `parts` is the content of the calibration of parts that was made with it, which is kept beside it.
        """
        digest = hashlib.sha256(content).hexdigest()
        file = self._place(digest, suffix)
        if parts is not None:
            write_whole(ViewModels(usual=file).calibration_file, parts, durable=True)
        write_whole(file, content, durable=True)
        index = self._index
        self._write(
            replace(
                index,
                files=index.files | {digest: file},
                origin=index.origin | {digest: index.origin[of]},
            )
        )
        return digest

    def adopt(self, model: Path, name: str) -> str:
        """Copy the file of a model that was trained here; returns its digest."""
        digest = file_digest(model)
        file = self._place(digest, model.suffix)
        with temporary_for(file, durable=True) as part:
            shutil.copyfile(model, part)
        index = self._index
        self._write(
            replace(
                index,
                files=index.files | {digest: file},
                origin=index.origin | {digest: digest},
                adopted=index.adopted | {digest: name},
            )
        )
        return digest

    def use(self, digest: str) -> None:
        """Say which version of its model is in use from now on. Raises NotFoundError for an unknown one."""
        index = self._index
        if digest not in index.origin:
            raise NotFoundError(f"model {digest}: is no version of a model of this station")
        self._write(replace(index, active=index.active | {index.origin[digest]: digest}))

    def remove_unused(self, keep: Callable[[list[str]], set[str]], *, before: float) -> list[str]:
        """Remove versions that were made here before a time (seconds since 1970); returns their digests.

        Kept are those in use, those that another kept one was made of, and those that `keep` names of them.
        """
        index = self._index
        used = {*index.active.values(), *index.adopted, *index.origin.values()}
        old = [d for d, file in index.files.items() if d not in used and self._is_old(file, before)]
        kept = keep(old)
        unused = [digest for digest in old if digest not in kept]
        if unused:
            files = {digest: file for digest, file in index.files.items() if digest not in unused}
            origin = {digest: of for digest, of in index.origin.items() if digest not in unused}
            self._write(replace(index, files=files, origin=origin))
            for digest in unused:
                index.files[digest].unlink(missing_ok=True)
                ViewModels(usual=index.files[digest]).calibration_file.unlink(missing_ok=True)
        return unused

    def _is_old(self, file: Path, before: float) -> bool:
        return file.parent == self.folder and file.is_file() and file.stat().st_mtime < before

    def _place(self, digest: str, suffix: str) -> Path:
        make_folder(self.folder)
        return self.folder / f"{digest}{suffix}"

    def _write(self, index: _Index) -> None:
        made = {digest: file.name for digest, file in index.files.items() if file.parent == self.folder}
        known = {"files": made, "origin": index.origin, "active": index.active, "adopted": index.adopted}
        make_folder(self.folder)
        write_whole(self._file, json.dumps(known, indent=2) + "\n", durable=True)
        self._index = index

    @property
    def adopted(self) -> dict[str, str]:
        """Names, by digest, of models that were trained here."""
        return self._index.adopted

    def active(self, origin: str) -> str:
        """Return the digest of the version in use of a model."""
        return self._index.active.get(origin, origin)

    def in_use(self, digest: str, file: Path) -> tuple[str, Path]:
        """Return the version in use of the model in a file, and that version's file.

        Raises ConflictError when it is not here.
        """
        active = self.active(self._index.origin.get(digest, digest))
        return (active, file) if active == digest else (active, self.file(active))

    def file(self, digest: str) -> Path:
        """Return a version's file. Raises ConflictError when it is not here."""
        file = self._index.files.get(digest)
        if file is None:
            raise ConflictError(f"model {digest}: its file is not here; start the station with it")
        return file

    def made_file(self, digest: str) -> Path | None:
        """Return the file of a version that was made of a model; None: it is that model itself.

        Raises ConflictError as `file` does.
        """
        return None if self._index.origin.get(digest, digest) == digest else self.file(digest)

    def origin(self, digest: str) -> str | None:
        """Return the digest of the model that this is a version of; None when its file is not here."""
        index = self._index
        return index.origin.get(digest) if digest in index.files else None

    def siblings(self, digest: str) -> set[str]:
        """Return the digests of all versions of the same model, this one included; none of an unknown one."""
        origins = self._index.origin
        return {each for each, origin in origins.items() if origin == origins.get(digest)}
