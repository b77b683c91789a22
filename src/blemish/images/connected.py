"""Connected parts of a mask, found by its runs: the stretches of set pixels in its rows (numpy).

A mask has far fewer runs than pixels. Runs of neighbouring rows that touch are the edges of a graph, which
falls apart into the parts: each run hangs itself below the first run that it touches, and trees that still
touch each other are joined until none do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """The runs of a mask, row by row: pixels `starts` to `ends` (exclusive) of `rows`, all int (n,).

    `parts` numbers the part of each from 0 on, in the order of the parts' first pixels; there are `count`.
    """

    rows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    parts: np.ndarray
    count: int


def connected_runs(mask: np.ndarray) -> Runs:
    """Find the runs of a mask, bool (H, W), and its parts; pixels that touch at a corner belong together."""
    width = mask.shape[1] + 2  # a clear pixel on both sides keeps the rows apart
    clear = np.zeros((len(mask), width), bool)
    clear[:, 1:-1] = mask
    flat = clear.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = changes[::2], changes[1::2]  # of the mask's own pixels in rows of `width`
    rows = starts // width
    roots = _roots(*_touching(starts, ends, width), len(starts))
    number = np.cumsum(roots == np.arange(len(roots)))  # of roots up to each run
    offsets, parts, count = rows * width, number[roots] - 1, int(number[-1]) if len(number) else 0
    return Runs(rows=rows, starts=starts - offsets, ends=ends - offsets, parts=parts, count=count)


def _touching(starts: np.ndarray, ends: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (above, below) of runs in neighbouring rows that touch, corners included, by `below`."""
    first = np.searchsorted(ends, starts - width)  # the first run above that reaches it
    counts = np.maximum(np.searchsorted(starts, ends - width, side="right") - first, 0)
    below = np.repeat(np.arange(len(starts)), counts)
    nth = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts, counts)
    return first[below] + nth, below


def _roots(above: np.ndarray, below: np.ndarray, count: int) -> np.ndarray:
    """Return for each of `count` runs the first run of its part, from all pairs of runs that touch."""
    parents = np.arange(count)
    while len(above):
        high, low = np.maximum(above, below), np.minimum(above, below)
        np.minimum.at(parents, high, low)  # each root below the lowest one that it touches
        while not np.array_equal(further := parents[parents], parents):
            parents = further
        above, below = parents[above], parents[below]
        apart = above != below
        above, below = above[apart], below[apart]
    return parents
