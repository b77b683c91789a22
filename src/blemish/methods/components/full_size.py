"""A network's map at the size of the image, as one product of matrices from either side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from blemish.images.resize import resize

if TYPE_CHECKING:
    from blemish.methods.base import Method


def resizing_matrix(n: int, to: int) -> Tensor:
    """Return the (to, n) matrix that does to a line of n pixels what `images.resize` does."""
    return torch.from_numpy(resize(np.eye(n, dtype=np.float32)[None], (to, n))[0].copy())


def spreading_matrix(patches: int) -> Tensor:
    """Return the (patches + 1, patches) matrix from patches that overlap by half to blocks of half a patch.

    A block's value is the mean over the patches that cover it, as in `postprocess.pixel_map`.
    """
    covers = torch.zeros(patches + 1, patches)
    covers[:-1] += torch.eye(patches)
    covers[1:] += torch.eye(patches)
    return covers / covers.sum(dim=1, keepdim=True)


class FullSize(nn.Module):
    """Brings a network's maps to a size: (B, h, w) -> (B, H, W)."""

    rows: Tensor
    cols: Tensor

    def __init__(self, network: Method[Any], size: tuple[int, int]) -> None:
        """Ask the network how large its maps are, and its options whether it scores patches."""
        super().__init__()
        here = next(iter(network.state_dict().values())).device
        with torch.no_grad():
            found = network.eval()(torch.zeros(1, network.channels, *network.config.size, device=here))
        network.train()
        patches = (found[0] if isinstance(found, tuple) else found).shape[1:]
        spread = getattr(network.config, "interpolation", None) is not None
        for name, n, side in zip(("rows", "cols"), patches, size, strict=True):
            matrix = resizing_matrix(n + spread, side)
            matrix = matrix @ spreading_matrix(n) if spread else matrix
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Bring maps (B, h, w) to the size, (B, H, W)."""
        return self.rows @ (maps @ self.cols.T)
