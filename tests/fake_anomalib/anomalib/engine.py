from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import pytorch

from anomalib.callbacks import ModelCheckpoint
from anomalib.data import Tabular
from anomalib.models import Fake


@dataclass(frozen=True, kw_only=True)
class Batch:
    image_path: list[str]
    pred_score: torch.Tensor
    anomaly_map: torch.Tensor | None


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

    def predict(self, *, model: Fake, datamodule: Tabular) -> list[Batch]:
        """Answers in batches of 3, the last image first."""
        assert not datamodule.train
        paths = datamodule.test[::-1]
        return [_batch(model, paths[i : i + 3]) for i in range(0, len(paths), 3)]


def _batch(model: Fake, paths: list[str]) -> Batch:
    scores, maps = zip(*map(model.answer, paths), strict=True)
    made = [one for one in maps if one is not None]
    return Batch(
        image_path=paths, pred_score=torch.tensor(scores), anomaly_map=torch.stack(made) if made else None
    )
