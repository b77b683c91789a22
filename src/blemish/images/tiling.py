"""Large images in tiles: where they lie, and how their maps become one without seams (numpy).

Tiles lie on a regular grid from edge to edge. A tile's map counts for nothing near those of its edges that
lie inside the image, where the network saw no surroundings, and for more and more towards its middle:

    d(p) = distance of pixel p to the nearest inner edge,  o = the overlap asked for, both in pixels
    w(p) = clip((d(p) - o/4) / (o/2), 0, 1),  divided by the sum over all tiles that cover p

along each axis; a pixel's weight is the product. Our choice: a network that looks no farther than o/4 gives
exactly the map of the whole image, and any other one fades from tile to tile.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from blemish.images.limits import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blemish.core.types import Tiling

Box = tuple[slice, slice]
"""Rows and columns of a tile."""
WHOLE: Box = (slice(None), slice(None))


class Grid:
    """The tiles of one image, (H, W) pixels, row by row. Raises ImageError when it is smaller than a tile."""

    def __init__(self, size: tuple[int, int], tiling: Tiling, *, name: str = "image") -> None:
        (height, width), (tile_height, tile_width) = size, tiling.size
        if height < tile_height or width < tile_width:
            raise refusal(
                name,
                f"{width} x {height} px is smaller than the model's tiles, {tile_width} x {tile_height} px; "
                "give a larger image, or train with a smaller --tile-size",
            )
        self.size = size
        rows, columns = (_starts(n, t, tiling.overlap) for n, t in zip(size, tiling.size, strict=True))
        self.boxes: list[Box] = [
            (slice(y, y + tile_height), slice(x, x + tile_width)) for y in rows for x in columns
        ]
        across = _weights(columns, tile_width, width, tiling.overlap)
        down = _weights(rows, tile_height, height, tiling.overlap)
        self._weights = [(a, b) for a in down for b in across]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.boxes)

    def stitch(self, maps: Iterable[np.ndarray]) -> np.ndarray:
        """Join the tiles' maps, each (h, w) of a tile, in the order of `boxes`, into one float32 (H, W)."""
        whole = np.zeros(self.size, np.float32)
        for box, (down, across), part in zip(self.boxes, self._weights, maps, strict=True):
            whole[box] += down[:, None] * across * part
        return whole


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Place as few tiles as overlap enough: the first at 0, the last at the end, evenly between."""
    step = max(1, math.floor(tile * (1 - overlap)))
    last = length - tile
    count = 1 + math.ceil(last / step)
    return [last * i // max(1, count - 1) for i in range(count)]


def _weights(starts: list[int], tile: int, length: int, overlap: float) -> np.ndarray:
    """Weigh each tile's pixels along one axis: float32 (tiles, tile) in [0, 1], 1 in all at every pixel."""
    margin, ramp = overlap * tile / 4, overlap * tile / 2
    centres = np.arange(tile) + 0.5
    weights = np.empty((len(starts), tile))
    total = np.zeros(length)
    for i, start in enumerate(starts):
        before = np.inf if start == 0 else centres
        after = np.inf if start + tile == length else tile - centres
        inside = np.minimum(before, after) - margin
        weights[i] = np.clip(inside / max(ramp, 1e-9), 0, 1)
        total[start : start + tile] += weights[i]
    return np.stack([w / total[s : s + tile] for w, s in zip(weights, starts, strict=True)]).astype(
        np.float32
    )
