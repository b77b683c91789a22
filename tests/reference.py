"""Slow versions of the metrics, one loop per definition, that share nothing with the library's code."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def auroc(negatives: list[float], positives: list[float]) -> float:
    """All pairs: a positive above a negative counts 1, a tie 1/2."""
    won = 0.0
    for p in positives:
        for q in negatives:
            won += 1.0 if p > q else 0.5 if p == q else 0.0
    return won / (len(positives) * len(negatives))


def roc_points(
    negatives: list[float], positives: list[float], weights: list[float] | None = None
) -> list[tuple[float, float]]:
    """(fpr, tpr) for every threshold from above the largest score to the smallest."""
    weights = weights or [1.0] * len(positives)
    points = [(0.0, 0.0)]
    for threshold in sorted({*negatives, *positives}, reverse=True):
        false = sum(q >= threshold for q in negatives)
        found = sum(w for p, w in zip(positives, weights, strict=True) if p >= threshold)
        points.append((false / len(negatives), found / sum(weights)))
    return points


def area_up_to(points: list[tuple[float, float]], limit: float) -> float:
    """Trapezoid by trapezoid; the one that crosses the limit is cut there."""
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area


def regions_of(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The 8-connected regions of a mask, by flood filling."""
    left = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    found = []
    while left:
        region, frontier = set(), [left.pop()]
        while frontier:
            r, c = frontier.pop()
            region.add((r, c))
            for near in [(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    frontier.append(near)
        found.append(region)
    return found


def pro_points(maps: list[np.ndarray], masks: list[np.ndarray]) -> list[tuple[float, float]]:
    """(fpr, mean overlap) for every threshold: loops over thresholds, images and regions."""
    good = sum(int((~mask).sum()) for mask in masks)
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        false = 0
        overlaps = []
        for values, mask in zip(maps, masks, strict=True):
            false += int(((values >= threshold) & ~mask).sum())
            for region in regions_of(mask):
                overlaps.append(sum(values[pixel] >= threshold for pixel in region) / len(region))
        points.append((false / good, sum(overlaps) / len(overlaps)))
    return points


def masked_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, masking: str) -> np.ndarray:
    """Attention token by token: (B, heads, n, d_k) each; MeTAL's Eq. (1) with its mask."""
    out = np.zeros_like(v)
    batch, heads, n, d_k = q.shape
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                scores = [float(q[b, h, i] @ k[b, h, j]) / np.sqrt(d_k) for j in range(n)]
                if masking == "paper":
                    scores[i] = 0.0
                used = [j for j in range(n) if masking != "strict" or j != i]
                total = sum(np.exp(scores[j]) for j in used)
                for j in used:
                    out[b, h, i] += np.exp(scores[j]) / total * v[b, h, j]
    return out
