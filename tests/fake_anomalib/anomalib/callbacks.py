from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelCheckpoint:
    """Without `save_top_k=0` the real one writes the weights and the optimiser's state after each epoch."""

    save_top_k: int = 1
