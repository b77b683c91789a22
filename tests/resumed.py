"""Trainings that are stopped and gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from blemish.core.errors import Interrupted
from blemish.inference.model_file import MODEL_NAME
from blemish.methods.config import DetectorConfig
from blemish.training import fit, trainer


def trained(method: str, config: DetectorConfig, data: Path, out: Path, *, resume: bool = False) -> bytes:
    """Train to the end; return the model file's bytes."""
    fit.fit(data, method=method, config=config, out=out, device="cpu", precision="fp32", resume=resume)
    return (out / MODEL_NAME).read_bytes()


def stopped_and_resumed(method: str, config: DetectorConfig, data: Path, out: Path, at: int) -> bytes:
    """Train until step `at`, then to the end; return the model file's bytes."""
    taken, step = [], trainer.Trainer._step

    def counted(self, x, share) -> None:
        step(self, x, share)
        taken.append(1)
        if len(taken) == at:
            self.ask_to_stop()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(trainer.Trainer, "_step", counted)
        trained(method, config, data, out)
    return trained(method, config, data, out, resume=True)
