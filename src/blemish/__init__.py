"""blemish: learn what good looks like from good images alone, and see where an image departs from it.

    detector = blemish.fit("data/bottle")  # or blemish.load("run/")
    prediction = detector.predict("part.png")

Importing this does not import torch; `fit` and `METHODS` do when they are first used, and `load` of a
trained model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blemish.core.errors import BlemishError, DataError, ImageError, ModelError, TrainingError, UsageError
from blemish.core.types import Prediction, Region

if TYPE_CHECKING:
    from blemish.inference.detector import Detector
    from blemish.inference.load import load
    from blemish.inference.p_values import combine_p_values
    from blemish.methods.registry import METHODS
    from blemish.training.fit import fit

__all__ = [
    "METHODS",
    "BlemishError",
    "DataError",
    "Detector",
    "ImageError",
    "ModelError",
    "Prediction",
    "Region",
    "TrainingError",
    "UsageError",
    "combine_p_values",
    "fit",
    "load",
]

_WHERE = {
    "METHODS": "blemish.methods.registry",
    "Detector": "blemish.inference.detector",
    "combine_p_values": "blemish.inference.p_values",
    "fit": "blemish.training.fit",
    "load": "blemish.inference.load",
}
"""The module of each name that is imported when it is first used."""


def __getattr__(name: str) -> Any:
    """Import what needs more than the core when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module 'blemish' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """Name what there is, also what is not imported yet."""
    return sorted({*globals(), *__all__})
