"""blemish: learn what good looks like from good images alone, and see where an image departs from it.

    detector = blemish.fit("data/bottle", method="metal")  # or blemish.load("run/")
    prediction = detector.predict("part.png")

Importing this does not import torch; `fit` and `load` do when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish.types import (
    BlemishError,
    DataError,
    ImageError,
    ModelError,
    Prediction,
    Region,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from blemish.fitting import fit, load

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
    """Import `fit` and `load`, and torch with them, when they are first used."""
    if name in ("fit", "load"):
        from blemish import fitting

        return getattr(fitting, name)
    raise AttributeError(f"module 'blemish' has no attribute {name!r}")
