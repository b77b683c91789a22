"""A model that is loaded again when its file changes, or when a station uses another version of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from blemish.core.errors import BlemishError
from blemish.data.hashing import file_digest
from blemish.inference.model_file import find_model
from blemish.inference.onnx_backend import version_bytes
from blemish.record.versions import FILE, Versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blemish.inference.detector import Detector
    from blemish.inference.model_file import ModelFile

Signature = tuple[int, int, int]


class ReloadingModel:
    """A model that is loaded again when its file, or the version of it that is in use, changes."""

    def __init__(
        self,
        path: Path,
        open_model: Callable[[Path], Detector],
        say: Callable[[str], None],
        *,
        versions: Path | None = None,
        of_product: Callable[[Path], ModelFile | None] = lambda _: None,
        recorded: bool = False,
    ) -> None:
        """Load it.

        Args:
            path: run folder, model file or exported model.
            open_model: loads it, and chooses its product.
            say: is told of changes.
            versions: where a station keeps versions of its models, if there is one.
            of_product: returns the model of that product where a file has several, each of which has versions
                of its own, else None.
            recorded: whether a station's record is told of it: the digest is then that of the product.
        """
        self.path, self.open_model, self.say, self.versions = path, open_model, say, versions
        self.of_product, self.recorded = of_product, recorded
        self._chosen: tuple[str, str, str | None] | None = None
        self.signature = self._signature()
        self.changed: tuple[Signature, Signature | None] | None = None
        self._own_digest: tuple[Signature, str] | None = None
        self.digest, self.file = self._find()
        self.name = self._open(self.file)

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
        same_file = signature[0] == self.signature[0]
        self.signature = signature  # one try for each change
        try:
            self._load(same_file=same_file)
        except BlemishError as error:
            self.say(f"changed, but the previous model stays in use: {error}")
        return self.detector

    def _load(self, *, same_file: bool) -> None:
        digest, file = self._find()
        if same_file and digest == self.digest:  # what the station has changed is another model's
            return
        self.name, self.digest, self.file = self._open(file), digest, file
        version = f"; version {digest[:8]} of the station" if file != self.path else ""
        self.say(f"{self.path}: changed; loaded again{version}")

    def _find(self) -> tuple[str, Path]:
        """Return the digest of the version in use, and what is to be opened."""
        own = find_model(self.path)
        about = _signature_of(own)
        if self._own_digest is None or self._own_digest[0] != about:
            self._own_digest = about, file_digest(own)
        digest = self._own_digest[1]
        if self.versions is not None and (self.versions / FILE).exists():
            versions = Versions(self.versions)
            active, file = versions.in_use(digest, self.path)
            if active == digest:
                active, file = versions.in_use(self._chosen_of(digest)[0], self.path)
            if file != self.path:
                return active, file
        return self._chosen_of(digest)[0] if self.recorded else digest, self.path

    def _open(self, file: Path) -> str:
        """Open what is in use; returns what a station calls it: a product of several is named too."""
        self.detector = self.open_model(file)
        product = None if self._chosen is None else self._chosen[2]
        return self.path.stem if product is None else f"{self.path.stem}:{product}"

    def _chosen_of(self, digest: str) -> tuple[str, str | None]:
        """Return the digest that a station gives to the product in use, and its name; opens a file once."""
        if self._chosen is None or self._chosen[0] != digest:
            model_file = self.of_product(self.path)
            if model_file is None or model_file.product is None:
                self._chosen = digest, digest, None
            else:
                content = version_bytes(find_model(self.path), model_file)
                self._chosen = digest, hashlib.sha256(content).hexdigest(), model_file.product.name
        return self._chosen[1:]

    def _signature(self) -> tuple[Signature, Signature | None]:
        own = _signature_of(find_model(self.path))
        index = self.versions and self.versions / FILE
        return own, _signature_of(index) if index and index.exists() else None


def _signature_of(file: Path) -> Signature:
    about = file.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns
