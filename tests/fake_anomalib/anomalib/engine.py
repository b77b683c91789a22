from __future__ import annotations

import json
from pathlib import Path

from lightning import pytorch

from anomalib.callbacks import ModelCheckpoint
from anomalib.data import Tabular
from anomalib.models import Fake


class Engine:
    """Leaves `seen.json` in its folder: what it was trained on, with which seed, and for how long.

    Like the real one it trains for as many epochs as the model says itself, else for those it was given.
    """

    def __init__(
        self, *, default_root_dir: Path, logger: bool, max_epochs: int, callbacks: list[ModelCheckpoint]
    ) -> None:
        assert logger is False
        assert [callback.save_top_k for callback in callbacks] == [0], "it would write the weights each epoch"
        self.folder, self.max_epochs = Path(default_root_dir), max_epochs

    def fit(self, *, model: Fake, datamodule: Tabular) -> None:
        assert datamodule.train
        self.folder.mkdir(parents=True)
        epochs = model.trainer_arguments.get("max_epochs", self.max_epochs)
        seen = {
            "train": datamodule.train,
            "seed": datamodule.seed,
            "seeded": pytorch.seeded,
            "epochs": epochs,
        }
        (self.folder / "seen.json").write_text(json.dumps(seen))
