"""Resizing: the triangle filter, one axis after the other, each line a sum of whole lines (numpy).

A line of the result is a weighted sum of a few lines of the source, so numpy adds whole lines and no pixel
is visited alone. Sums are float64, always in the same order, and rounded to float32 once for each axis: an
area of one value keeps it, and the array depends on the values and the sizes alone, neither on how the source
lies in memory nor on the number of threads.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_STRIP_VALUES = 2**16
"""Values of the source, about, that are turned into float64 at a time: they stay in the cache."""


def resize(image_chw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize any (C, H, W) to float32 (C, *size), size being (height, width); unbounded values pass.

    The triangle filter, widened by the factor of reduction so that nothing is skipped (what Pillow calls
    BILINEAR). An image of that size is returned as it is, whatever its dtype.
    """
    old_height, old_width = image_chw.shape[1:]
    height, width = size
    if (old_height, old_width) == (height, width):
        return image_chw
    lines = image_chw.transpose(1, 2, 0)  # as a file has it: a line holds all channels
    if height < old_height:
        columns = _shrunk_or_enlarged(lines, height).transpose(1, 2, 0)
        return np.ascontiguousarray(_shrunk_or_enlarged(columns, width).transpose(1, 2, 0))
    rows = _shrunk_or_enlarged(lines.transpose(1, 2, 0), width).transpose(1, 2, 0)
    return np.ascontiguousarray(_shrunk_or_enlarged(rows.transpose(1, 0, 2), height).transpose(1, 0, 2))


def _shrunk_or_enlarged(lines: np.ndarray, count: int) -> np.ndarray:
    """Resize (n, a, b) of any dtype along its first axis to float32 (count, a, b)."""
    n, *shape = lines.shape
    if count == n:
        return lines.astype(np.float32)
    resized = np.empty((count, lines[0].size), np.float32)
    if count > n:
        _enlarge(np.ascontiguousarray(lines, np.float32).reshape(n, -1), resized)
    else:
        _shrink(lines, resized)
    return resized.reshape(count, *shape)


def _shrink(lines: np.ndarray, resized: np.ndarray) -> None:
    """Fill (count, m) with weighted sums of the n > count lines, (n, a, b) of m values each."""
    starts, weights = _weights(len(lines), len(resized))
    step, line = max(1, _STRIP_VALUES * len(resized) // lines.size), np.empty(resized.shape[1])
    parts = [range(first, min(first + step, len(resized))) for first in range(0, len(resized), step)]
    bounds = [(starts[part[0]], starts[part[-1]] + len(weights[part[-1]])) for part in parts]
    room = np.empty((max(bottom - top for top, bottom in bounds), *lines.shape[1:]))
    strip = room.reshape(len(room), -1)  # one place for all, as new memory costs more than the sums
    for part, (top, bottom) in zip(parts, bounds, strict=True):
        room[: bottom - top] = lines[top:bottom]
        for i in part:
            start = starts[i] - top
            resized[i] = np.einsum("k,kj->j", weights[i], strip[start : start + len(weights[i])], out=line)


def _enlarge(lines: np.ndarray, resized: np.ndarray) -> None:
    """Fill (count, m) with what lies between the n < count lines, float32 (n, m)."""
    n, count = len(lines), len(resized)
    places = np.clip((np.arange(count) + 0.5) * (n / count) - 0.5, 0, n - 1)
    below = places.astype(np.intp)
    shares = (places - below).astype(np.float32)[:, None]
    steps = np.zeros_like(lines)
    np.subtract(lines[1:], lines[:-1], out=steps[:-1])
    step = max(1, _STRIP_VALUES // lines.shape[1])
    for first in range(0, count, step):
        part = slice(first, first + step)
        np.take(steps, below[part], axis=0, out=resized[part], mode="clip")
        resized[part] *= shares[part]
        resized[part] += lines[below[part]]


@lru_cache(maxsize=64)
def _weights(n: int, count: int) -> tuple[list[int], list[np.ndarray]]:
    """Return what each of count < n pixels is made of: the first of n pixels, and the weights of all."""
    reach = n / count
    starts, weights = [], []
    for i in range(count):
        centre = (i + 0.5) * reach
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), n)
        heights = np.maximum(1 - np.abs(np.arange(first, last) + 0.5 - centre) / reach, 0)
        starts.append(first)
        weights.append(heights / heights.sum())
    return starts, weights
