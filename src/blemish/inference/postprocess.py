"""From patch scores to what the user sees: pixel map, image score, regions.

scores (h, w) of patches or pixels  --image_score-->  one number
scores (h, w)  --pixel_map-->  map  --to_original_size-->  map (H, W)  --regions-->  boxes
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from blemish.core.errors import UsageError
from blemish.core.types import Region
from blemish.images.connected import Runs, connected_runs
from blemish.images.resize import resize

PatchMap = Literal["nearest", "linear"]
"""Scores of patches that overlap by half: blocks as they are, or smoothed; see `pixel_map`."""
ImageScore = Literal["max", "mean", "top1", "top5"]
"""How a map becomes the score of its image: see `image_score`."""


def image_score(anomaly_map: np.ndarray, how: ImageScore, *, inside: np.ndarray | None = None) -> float:
    """Reduce an anomaly map to the score of its image.

    `anomaly_map` is (h, w) at the model's resolution, unbounded; the score has its unit. `max` is the
    largest pixel, `mean` the mean of all, `top1` and `top5` the mean of the largest 1 % and 5 % (rounded
    down, at least one pixel), of the pixels `inside`, bool (h, w); None: of all. Raises UsageError for an
    empty map, NaN, infinity or another `how`.

    Source: `top5` is the rule of CPC-AD (section on the evaluation; there over sub-patches); `top1` is our
    choice, between it and the maximum: a speck is not averaged away, one odd pixel does not decide.
    """
    values = _check_map(anomaly_map).astype(np.float64)
    values = values.ravel() if inside is None else values[inside]
    if how == "max":
        return float(values.max())
    if how == "mean":
        return float(values.mean())
    if how in ("top1", "top5"):
        count = max(1, values.size // (100 if how == "top1" else 20))
        return float(np.partition(values, values.size - count)[-count:].mean())
    raise UsageError(f"image score {how!r} is unknown: choose max, mean, top1 or top5")


def pixel_map(scores: np.ndarray, size: tuple[int, int], patch_map: PatchMap | None) -> np.ndarray:
    """Spread the scores of patches onto the pixels they cover.

    Args:
        scores: (h, w), unbounded: of patches that overlap by half, so that h + 1 by w + 1 blocks of half a
            patch make the image; or of pixels (`patch_map` None), which are returned as they are.
        size: height and width of the resized image in pixels, multiples of h + 1 and w + 1.
        patch_map: "nearest" gives every pixel its block's value: (H, W) = `size`. "linear" returns the
            blocks, (h + 1, w + 1), whose edges the resizing to the original size then smooths (ours).

    A block's value is the mean over the patches that cover it: one at a corner, two at an edge, else four.

    Source: CPC-AD, Sec. 5.2.
    """
    if patch_map is None:
        return scores
    h, w = scores.shape
    total, covered = np.zeros((h + 1, w + 1)), np.zeros((h + 1, w + 1))
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total[y : y + h, x : x + w] += scores
        covered[y : y + h, x : x + w] += 1
    blocks = (total / covered).astype(np.float32)
    if patch_map == "linear":
        return blocks
    return blocks.repeat(size[0] // (h + 1), axis=0).repeat(size[1] // (w + 1), axis=1)


def to_original_size(anomaly_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map to the size of the original image.

    (h, w) unbounded -> float32 (H, W), `size` = (H, W) in pixels, the same unit. Equal sizes leave every
    value as it is. Raises UsageError for an empty map, NaN or infinity. Our choice: bilinear, the filter
    of `images.resize`, so that a map is aligned with the resized image it came from.
    """
    values = _check_map(anomaly_map).astype(np.float32)
    if values.shape == tuple(size):
        return values
    return resize(values[np.newaxis], size)[0]


def may_exceed(coarse_map: np.ndarray, threshold: float) -> bool:
    """Tell whether a map (h, w) may lie above a threshold anywhere once it has the size of its image.

    Resizing takes means with weights of sum 1, which lie between the values up to rounding.
    """
    largest, smallest = float(coarse_map.max()), float(coarse_map.min())
    return largest + 1e-5 * max(abs(largest), abs(smallest)) > threshold


def regions(anomaly_map: np.ndarray, threshold: float, *, min_area_px: int = 1) -> list[Region]:
    """Find the connected regions where the map lies strictly above the threshold.

    `anomaly_map` (H, W) and `threshold` share a unit and are unbounded. Pixels touching at a corner
    belong together (8-connected); regions smaller than `min_area_px` pixels are left out. Sorted by
    descending peak, equal peaks from top to bottom, then left to right. Raises UsageError for an empty
    map, NaN, infinity, a NaN threshold or `min_area_px` < 1.

    Our choice: 8-connected, as the ground truth regions of PRO, so that thin diagonal scratches stay whole.
    """
    values = _check_map(anomaly_map)
    if np.isnan(threshold):
        raise UsageError("pixel threshold nan: it must be a number; calibrate the model, or give one")
    if min_area_px < 1:
        raise UsageError(f"min_area_px {min_area_px}: a region has at least 1 pixel; give 1 or more")
    level = _largest_not_above(threshold, values.dtype)
    if not values.max() > level:
        return []
    above = values > level
    rows = np.flatnonzero(above.any(axis=1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    runs = connected_runs(above[top:bottom])
    areas = np.bincount(runs.parts, weights=runs.ends - runs.starts)
    x0, y0 = (_fold(np.minimum, runs, of) for of in (runs.starts, runs.rows))
    x1, y1 = (_fold(np.maximum, runs, of) for of in (runs.ends, runs.rows))
    peaks = _fold(np.maximum, runs, _peaks(values[top:bottom], runs))
    found = [
        Region(
            x0=int(x0[part]),
            y0=top + int(y0[part]),
            x1=int(x1[part]),
            y1=top + int(y1[part]) + 1,
            area_px=int(areas[part]),
            peak=float(peaks[part]),
        )
        for part in np.flatnonzero(areas >= min_area_px)
    ]
    return sorted(found, key=lambda region: (-region.peak, region.y0, region.x0))


def large_parts(above: np.ndarray, *, min_area: float, min_length: float) -> np.ndarray:
    """Return the pixels of a mask (H, W) that belong to its large 8-connected parts, bool (H, W).

    Those have `min_area` pixels or more, and a box whose diagonal is `min_length` pixels or more.
    """
    runs = connected_runs(above)
    chosen = _are_large(runs, min_area, min_length)[runs.parts]
    offsets = runs.rows[chosen] * above.shape[1]
    changes = np.zeros(above.size + 1, np.int8)  # 1 where a run begins, -1 where one has ended
    np.add.at(changes, offsets + runs.starts[chosen], 1)
    np.subtract.at(changes, offsets + runs.ends[chosen], 1)
    return np.cumsum(changes[:-1], dtype=np.int8).astype(bool).reshape(above.shape)


def _are_large(runs: Runs, min_area: float, min_length: float) -> np.ndarray:
    """Tell of each part whether it is large, bool (count,)."""
    large = np.bincount(runs.parts, weights=runs.ends - runs.starts, minlength=runs.count) >= min_area
    if min_length and large.any():
        across = _fold(np.maximum, runs, runs.ends) - _fold(np.minimum, runs, runs.starts)
        down = _fold(np.maximum, runs, runs.rows) - _fold(np.minimum, runs, runs.rows) + 1
        large &= np.hypot(across, down) >= min_length
    return large


def opened_peak(
    anomaly_map: np.ndarray, *, min_area: float, min_length: float, inside: np.ndarray | None = None
) -> float | None:
    """Return the largest level at which the map, at or above it, has a large part; None: it has no room.

    `anomaly_map` (H, W), unbounded; large is meant as in `large_parts`. Of the map counts what is `inside`,
    bool (H, W); None: all.
    Exact: the level is a value of the map. First the levels that twice and twice as many pixels reach, until
    there is a large part; then, within its box, the values between the last two by halves.

    Raises UsageError for an empty map, NaN or infinity.
    """
    values, most = _check_map(anomaly_map), anomaly_map.size
    if inside is not None:
        values, most = np.where(inside, values, -np.inf), int(inside.sum())
    # a diagonal step adds the root of 2 to the length
    fewest = max(1, math.ceil(min_area), math.ceil(min_length / math.sqrt(2)))
    count, failed, kept = fewest, np.inf, np.zeros(values.shape, dtype=bool)
    while not kept.any():
        count = min(count, most)
        level = np.partition(values, values.size - count, axis=None)[values.size - count]
        kept = large_parts(values >= level, min_area=min_area, min_length=min_length)
        if count == most and not kept.any():
            return None
        if not kept.any():
            failed, count = level, 2 * count
    rows, columns = (np.flatnonzero(kept.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    within = np.where(kept[box], values[box], -np.inf)  # what is large at a higher level lies within
    levels = np.unique(within[kept[box] & (within < failed)])
    low, high = 0, len(levels)  # there is a large part at `low`, and none at `high`
    while high - low > 1:
        middle = (low + high) // 2
        if _are_large(connected_runs(within >= levels[middle]), min_area, min_length).any():
            low = middle
        else:
            high = middle
    return float(levels[low])


def _largest_not_above(threshold: float, dtype: np.dtype) -> float | np.floating:
    """Return the largest number of a map's dtype up to a threshold: what lies above one lies above both.

    Beside a float32 map numpy would round the threshold to nearest, and `>` would not be exact.
    """
    if dtype.kind != "f" or dtype.itemsize >= 8:
        return float(threshold)
    with np.errstate(over="ignore"):
        level = dtype.type(threshold)
    return np.nextafter(level, dtype.type(-np.inf)) if float(level) > threshold else level


def _fold(combine: np.ufunc, runs: Runs, values: np.ndarray) -> np.ndarray:
    """Combine one value of each run, (n,), for each part."""
    firsts = np.empty(runs.count, values.dtype)
    firsts[runs.parts[::-1]] = values[::-1]
    combine.at(firsts, runs.parts, values)
    return firsts


def _peaks(values: np.ndarray, runs: Runs) -> np.ndarray:
    """Find the largest value (H, W) in each run."""
    width = values.shape[1]
    edges = np.stack([runs.rows * width + runs.starts, runs.rows * width + runs.ends], axis=1).ravel()
    if edges[-1] == values.size:
        edges = edges[:-1]  # the last run ends with the map, as its sum does
    return np.maximum.reduceat(values.ravel(), edges)[::2]


def _check_map(anomaly_map: np.ndarray) -> np.ndarray:
    """Return the map itself, refused unless it is (h, w), not empty and finite."""
    values = np.asarray(anomaly_map)
    if values.ndim != 2 or values.size == 0:
        raise UsageError(f"anomaly map of shape {values.shape}: it must be (height, width), not empty")
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):  # either is NaN where any value is
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise UsageError(
            f"anomaly map is {values[row, column]} at row {row}, column {column}: it must be finite; "
            "check the image and the model's weights"
        )
    return values
