"""blemish: learn what good looks like from good images alone, and see where an image departs from it.

    detector = blemish.fit("data/bottle", method="metal")  # or blemish.load("run/")
    prediction = detector.predict("part.png")

Importing this does not import torch; `fit` does when it is first used, and `load` of a trained model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish.core.errors import BlemishError, DataError, ImageError, ModelError, TrainingError, UsageError
from blemish.core.types import Prediction, Region

if TYPE_CHECKING:
    from blemish.inference.load import load
    from blemish.training.fit import fit

__all__ = [
    "BlemishError",
    "DataError",
    "ImageError",
    "ModelError",
    "Prediction",
    "Region",
    "TrainingError",
    "UsageError",
    "fit",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import `fit` (and torch with it) and `load` when they are first used."""
    if name == "fit":
        from blemish.training.fit import fit

        return fit
    if name == "load":
        from blemish.inference.load import load

        return load
    raise AttributeError(f"module 'blemish' has no attribute {name!r}")
