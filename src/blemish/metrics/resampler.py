"""Intervals of pixel measures, and their paired comparison, by resampling whole images.

Sources: as in `confidence`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from blemish.core.errors import UsageError
from blemish.core.files import temporary_for
from blemish.metrics.confidence import Comparison, check_resampling, compare_paired, percentile_interval
from blemish.metrics.pixels import check_map, region_weights
from blemish.metrics.roc import check_limit

if TYPE_CHECKING:
    from pathlib import Path

VALUES_PER_IMAGE = 1024
"""Good, and defective, values of an image that `PixelResampler` keeps at most, evenly spaced in rank."""
LEVELS = 512
"""Quantiles of the kept good values, and of the kept defective ones, at which its curves are counted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelMeasures:
    """Of r resamples, arrays (r,) in [0, 1]: `Roc.auroc`, `normalised_auroc`, and the latter of PRO."""

    auroc: np.ndarray
    limited: np.ndarray
    pro: np.ndarray


class PixelResampler:
    """Resamples of a test set's images, for the intervals of pixel measures.

    Of an image at most `VALUES_PER_IMAGE` good and as many defective values are kept, evenly spaced in rank,
    each with the weight of the pixels that it stands for: 20 KiB. A curve is counted at `LEVELS` quantiles
    of either kind, straight in between. So the measures are not exact as those of `PixelPool` are, but closer
    to them by far than any two resamples are to each other (`docs/metrics.md`).
    """

    def __init__(self) -> None:
        self._good: list[tuple[np.ndarray, np.ndarray]] = []
        self._defective: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Add one image: its map (H, W), unbounded, kept as float32, and its ground truth, bool (H, W).

        Raises UsageError as `PixelPool.add`.
        """
        values = check_map(anomaly_map, mask)
        self._good.append(thin_by_rank(np.sort(values[~mask])))
        defective, regions = values[mask], region_weights(mask)
        order = np.argsort(defective)
        weights = np.stack([np.ones(order.size), regions[order]])
        self._defective.append(thin_by_rank(defective[order], weights))

    def draws(self, n: int, seed: int = 0) -> np.ndarray:
        """Draw how often each image is in each of n resamples: int (n, images), in the order of adding.

        Images with defective pixels and those without are drawn apart. Equal seeds and masks give equal
        draws, which pairs the measures of two detectors.
        """
        rng = np.random.default_rng(seed)
        has_defect = np.array([values.size > 0 for values, _ in self._defective], dtype=bool)
        times = np.zeros((n, has_defect.size), dtype=np.int64)
        for kind in (~has_defect, has_defect):
            if size := int(kind.sum()):
                times[:, kind] = rng.multinomial(size, np.full(size, 1 / size), n)
        return times

    def measures(self, times: np.ndarray, limit: float = 0.3) -> PixelMeasures:
        """Measure resamples that hold each image `times` (r, images); partial areas up to FPR `limit`.

        Raises UsageError for another limit, and for a resample without good or without defective pixels.
        """
        check_limit(limit)
        levels = np.unique(np.concatenate([_quantiles(self._good), _quantiles(self._defective)]))
        good, pixels, regions = (
            times @ counts
            for counts in (*_counts(self._good, 1, levels), *_counts(self._defective, 2, levels))
        )
        if not (good.any(axis=1).all() and pixels.any(axis=1).all()):
            raise UsageError("a resample of images lacks good or defective pixels; add images that have them")
        fpr, tpr, pro = (_shares_above(counts) for counts in (good, pixels, regions))
        return PixelMeasures(
            auroc=areas_up_to(fpr, tpr, 1.0),
            limited=areas_up_to(fpr, tpr, limit) / limit,
            pro=areas_up_to(fpr, pro, limit) / limit,
        )

    def save(self, path: Path) -> None:
        """Write what is kept of the images as an .npz, to compare detectors later: whole or not at all."""
        arrays = {}
        for name, images in (("good", self._good), ("defective", self._defective)):
            arrays[f"{name}_ends"] = np.cumsum([values.size for values, _ in images])
            arrays[f"{name}_values"] = np.concatenate([values for values, _ in images])
            arrays[f"{name}_weights"] = np.concatenate([weights for _, weights in images], axis=1)
        with temporary_for(path) as part, part.open("wb") as file:  # to a path, numpy adds .npz
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> PixelResampler:
        """Read what `save` wrote. Raises OSError, ValueError or KeyError for something else."""
        loaded = cls()
        with np.load(path) as arrays:
            for name, images in (("good", loaded._good), ("defective", loaded._defective)):
                ends = arrays[f"{name}_ends"][:-1]
                values = np.split(arrays[f"{name}_values"], ends)
                images.extend(zip(values, np.split(arrays[f"{name}_weights"], ends, axis=1), strict=True))
        return loaded

    def intervals(
        self, limit: float = 0.3, *, n: int = 1000, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Bootstrap the 95 % percentile interval (low, high) of each of the `PixelMeasures`, by its name."""
        check_resampling(n, 0.95)
        measures = self.measures(self.draws(n, seed), limit)
        return {name: percentile_interval(values, 0.95) for name, values in vars(measures).items()}


def paired_bootstrap(
    a: PixelResampler,
    b: PixelResampler,
    measure: Literal["auroc", "limited", "pro"],
    limit: float = 0.3,
    *,
    n: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two detectors on the same images, added in the same order, by one of the `PixelMeasures`.

    Each of n resamples redraws the same images for both. The interval is the percentile interval of the
    difference, and p = 2 (1 + c) / (n + 1), 1 at most, with c the resamples at or beyond 0 on the rarer side.
    Raises UsageError for another number of images or another limit.
    """
    check_resampling(n, 0.95)
    times = a.draws(n, seed)
    if not np.array_equal(times, b.draws(n, seed)):
        raise UsageError("the two detectors were not measured on the same images, in the same order")
    drawn = [getattr(r.measures(times, limit), measure) for r in (a, b)]
    whole = [float(getattr(r.measures(np.ones_like(times[:1]), limit), measure)[0]) for r in (a, b)]
    return compare_paired(drawn[0], drawn[1], *whole)


def thin_by_rank(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Keep `VALUES_PER_IMAGE` at most of ascending values (m,), evenly in rank, with their weights (w, m).

    Returns the middle value of each run of ranks (k,) and the run's summed weights, float32 (w, k); without
    weights its length (1, k). With m <= `VALUES_PER_IMAGE` nothing is lost.
    """
    ends = np.linspace(0, values.size, min(values.size, VALUES_PER_IMAGE) + 1).astype(np.int64)
    middle = (ends[:-1] + ends[1:]) // 2
    summed = np.diff(ends)[None] if weights is None else np.add.reduceat(weights, ends[:-1], axis=1)
    return values[middle], summed.astype(np.float32)


def areas_up_to(fpr: np.ndarray, tpr: np.ndarray, limit: float) -> np.ndarray:
    """Integrate polylines from FPR 0 to `limit` in (0, 1], cut exactly there: (r, k) and (r, k) -> (r,)."""
    inside = np.diff(np.minimum(fpr, limit), axis=1)
    width = np.diff(fpr, axis=1)
    slope = np.diff(tpr, axis=1) / np.where(width > 0, width, 1)
    return np.sum(inside * (tpr[:, :-1] + slope * inside / 2), axis=1)


def _quantiles(images: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    values = np.concatenate([np.empty(0, dtype=np.float32), *(values for values, _ in images)])
    return np.quantile(values, np.linspace(0, 1, LEVELS), method="lower") if values.size else values


def _counts(images: list[tuple[np.ndarray, np.ndarray]], kinds: int, levels: np.ndarray) -> np.ndarray:
    """Sum each image's weights between levels (l,): (kinds, images, l + 1)."""
    counts = np.zeros((kinds, len(images), len(levels) + 1))
    for i, (values, weights) in enumerate(images):
        place = np.searchsorted(levels, values)
        for kind, weight in enumerate(weights):
            counts[kind, i] = np.bincount(place, weight, len(levels) + 1)
    return counts


def _shares_above(counts: np.ndarray) -> np.ndarray:
    """From counts between levels (r, k) to the shares above each, from the highest down: (r, k + 1)."""
    summed = np.cumsum(counts[:, ::-1], axis=1)
    return np.pad(summed / summed[:, -1:], ((0, 0), (1, 0)))
