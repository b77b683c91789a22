"""The learning rate of each optimiser step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blemish.methods.config import TrainedConfig


def learning_rate_at(step: int, total: int, config: TrainedConfig) -> float:
    """Adam's learning rate at an optimiser step (counted from 0) of `total`."""
    if config.schedule == "constant":
        return config.learning_rate
    warm_up = min(50, max(1, total // 10))
    if step < warm_up:
        return config.learning_rate * (step + 1) / warm_up
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))
