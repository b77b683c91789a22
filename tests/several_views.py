"""A small model as one of parts with two views, calibrated together."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from blemish.data.hashing import file_digest
from blemish.inference import load
from blemish.inference.model_file import find_model
from blemish.inference.part_models import ViewModels, write_part_calibration
from blemish.inference.parts import PartCalibration


def with_parts(model: Path, goods: list[Path], run: Path, *, n: int = 19) -> Path:
    """Copy a run, or a model file, to `run`; n parts that score as these good images do calibrate it."""
    shutil.copytree(model, run) if model.is_dir() else shutil.copy(model, run)
    detector = load.load(run, device="cpu")
    scores = np.array([detector.predict(path).score for path in goods])
    spread = np.random.default_rng(0).normal(1.0, 0.05, (n, 2))
    calibration = PartCalibration(scores=scores.mean() * spread, views=("side", "top"))
    digest = file_digest(find_model(run))
    names = [str(k) for k in range(n)]
    write_part_calibration(
        ViewModels(usual=run).calibration_file,
        calibration,
        {"side": digest, "top": digest},
        parts=names,
        data="tiny",
    )
    return run
