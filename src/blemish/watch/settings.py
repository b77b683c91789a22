"""What `watch` is told: the model, the folders, and the options of a detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError
from blemish.inference.load import load
from blemish.inference.predict_folder import has_products

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.inference.detector import Detector
    from blemish.inference.model_file import ModelFile
    from blemish.watch.parts import PartSettings

BATCH_SIZE = 16
"""Files scored between two looks at the folder and the model, at most."""


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """What to watch, with which model, and where the results go."""

    model: Path
    """Run folder, model file or exported model; loaded again when it changes."""
    folder: Path
    """Where images appear, sub-folders included. If it goes away it is waited for."""
    out: Path
    """Where inspections.jsonl, maps/ and overlays/ are written. In a station's folder, the version of the
    model is used that the station uses."""
    move_to: Path | None = None
    """A recorded file goes to accepted/, review/, rejected/, failed/ or, without a calibration, unjudged/
    below it; None: it stays."""
    allow: frozenset[str] = frozenset()
    """This, the rates, `device` and `provider` are as in `blemish.inference.load.load`."""
    false_alarm_rate: float | None = None
    review_rate: float | None = None
    device: str = "auto"
    provider: str = "cpu"
    parts: PartSettings | None = None
    """How parts of several views are told and decided; None: each image is a part."""
    product: str | None = None
    """What is made, which a model of several products has to be told."""

    def load(self, path: Path) -> Detector:
        """Load a model with these options, of several products that which is made. Raises BlemishError."""
        detector = self._load(path)
        return detector.for_product(self.product) if has_products(detector) else detector

    def of_product(self, path: Path) -> ModelFile | None:
        """Return the model of the product that is made where a file has several, else None.

        Raises BlemishError as `load` does.
        """
        found = None if self.product is None else self._load(path).model_file
        return found.of_product(self.product) if found is not None and found.products else None

    def _load(self, path: Path) -> Detector:
        return load(
            path,
            device=self.device,
            allow=self.allow,
            false_alarm_rate=self.false_alarm_rate,
            review_rate=self.review_rate,
            batch_size=BATCH_SIZE,
            provider=self.provider,
        )

    def check_folders(self) -> None:
        """Refuse a folder that is not there, or that lies inside one whose files are not looked at."""
        if self.folder.suffix.lower() == ".csv" and self.folder.is_file():
            raise UsageError(
                f"--folder {self.folder}: is a manifest, and images that come have none; give their folder, "
                "and --product for what is made"
            )
        if not self.folder.is_dir():
            raise UsageError(
                f"--folder {self.folder}: no such folder; make it, or name the one the cameras write into"
            )
        for option, path in (("--out", self.out), ("--move-to", self.move_to)):
            if path is not None and self.folder.resolve().is_relative_to(path.resolve()):
                raise UsageError(
                    f"{option} {path}: holds the watched folder {self.folder}; choose another {option}"
                )
