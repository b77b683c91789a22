"""How a trained network scores images as they come: parts that lie at any angle are turned first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from blemish.methods.components.full_size import FullSize

if TYPE_CHECKING:
    from blemish.methods.base import Method


class Scorer(nn.Module):
    """A method's network, and around it what its alignment does, if it has one."""

    def __init__(self, network: Method[Any]) -> None:
        """Take a network with its weights."""
        super().__init__()
        self.network = network
        self.full_size = FullSize(network, network.config.size) if network.alignment is not None else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> what the network says of them; maps (B, H, W) of turned parts.

        Maps are turned back to where the parts lie.
        """
        alignment = self.network.alignment
        if alignment is None or self.full_size is None:
            return self.network(x)
        pose = alignment.pose_of(x)
        found = self.network(alignment.align(x, pose))
        maps, scores = found if isinstance(found, tuple) else (found, None)
        maps = alignment.back(self.full_size(maps)[:, None], pose)[:, 0]
        return maps if scores is None else (maps, scores)
