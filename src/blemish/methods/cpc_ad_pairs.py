"""Which sub-patches of an image are a pair of CPC-AD: a context, and what it predicts (Sec. 5).

Symbols (paper: here)
    t, t + k       the context (`sources`), and the sub-patch that it predicts, k steps from it

Shapes
    h×w sub-patches, g = h·w of them; p pairs that end in a sub-patch (directions × steps).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from blemish.methods.cpc_ad_config import CpcAdConfig

DIRECTIONS = {"above": (-1, 0), "below": (1, 0), "left": (0, -1), "right": (0, 1)}
"""Where the context lies, seen from the sub-patch that it predicts (rows, columns)."""


def targets_of(config: CpcAdConfig) -> tuple[Tensor, Tensor]:
    """Find the pairs of an image: for each target sub-patch, its context in each direction and step.

    A pair counts once for each patch that contains it, as the paper's patches overlap.

    Returns:
        sources: (p, g) int64, the context's place in the grid; the target's own where there is none.
        weights: (p, g) float32, the number of patches that contain the pair; 0 where there is none.
    """
    h, w = config.grid
    reach = range(1 + config.skip, 1 + config.skip + config.steps_ahead)
    offsets = [(dy * k, dx * k) for dy, dx in DIRECTIONS.values() for k in reach]
    weights = torch.zeros(len(offsets), h, w)
    rows, cols = torch.arange(h)[:, None], torch.arange(w)[None, :]
    sources = torch.zeros(len(offsets), h, w, dtype=torch.int64)
    # Patches lie in rows and columns: those that hold a pair are those rows of them times those columns.
    patches = _windows(config)
    heights, widths = {patch[:2] for patch in patches}, {patch[2:] for patch in patches}
    for p, (dy, dx) in enumerate(offsets):
        weights[p] = _holding(rows, dy, heights) * _holding(cols, dx, widths)
        sources[p] = torch.where(weights[p] > 0, (rows + dy) * w + cols + dx, rows * w + cols)
    return sources.flatten(1), weights.flatten(1)


def _holding(places: Tensor, step: int, ranges: set[tuple[int, int]]) -> Tensor:
    """Count, for each place, the half-open ranges that hold it and the place `step` further on."""
    held = torch.zeros(places.shape)
    for start, end in ranges:
        held += (places >= max(start, start - step)) & (places < min(end, end - step))
    return held


def _windows(config: CpcAdConfig) -> list[tuple[int, int, int, int]]:
    """Patches as half-open ranges of the grid: top, bottom, left, right. 5×5 of 7×7 at 768×768."""
    h, w = config.grid
    if config.window == "image":
        return [(0, h, 0, w)]
    step = config.sub_patch_size // 2
    side, stride = config.patch_size // step - 1, config.patch_size // 2 // step
    starts = [(y, x) for y in range(0, h - side + 1, stride) for x in range(0, w - side + 1, stride)]
    return [(y, y + side, x, x + side) for y, x in starts]
