"""State dicts of pre-trained networks with random weights, as a user's file would hold them."""

from __future__ import annotations

import torch
from torch import Tensor

from blemish.methods.components.backbones.layers import convolutions, shapes
from blemish.methods.components.backbones.network import ARCHITECTURES, sources_of


def keys_of(name: str, tensorflow: bool = False) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a network's features in a state dict."""
    known = ARCHITECTURES[name]
    with torch.device("meta"):
        made = known.make(known.strides[-1])
    return shapes(convolutions(made), sources_of(made, tensorflow=tensorflow))


def random_state(name: str, tensorflow: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """A state dict with random weights under which features neither vanish nor explode."""
    draws = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for key, shape in keys_of(name, tensorflow).items():
        values = torch.randn(shape, generator=draws)
        if len(shape) == 4:
            values = values * (2 / values[0].numel()) ** 0.5
        elif key.endswith("running_var"):
            values = 0.5 + values.square()
        elif key.endswith("weight"):
            values = 1 + 0.2 * values
        else:
            values = 0.2 * values
        state[key] = values
    return state
