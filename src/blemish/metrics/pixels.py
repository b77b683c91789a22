"""The pixels of a test set, for pixel-level curves and the per-region overlap (PRO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import UsageError
from blemish.images.connected import connected_runs
from blemish.metrics.roc import Ranking, Roc, check_two_classes

if TYPE_CHECKING:
    from collections.abc import Sequence


PIMO_RATES = (1e-5, 1e-4)
"""The rates of false positive pixels between which AUPIMO looks, those of its source."""


@dataclass(frozen=True, kw_only=True)
class SegmentationF1:
    """How well the pixels above one threshold are the defective ones, over all pixels of all images.

    With T of P defective pixels and F good ones above it: `precision` = T / (T + F), `recall` = T / P, `f1` =
    2 T / (T + F + P), all in [0, 1]. Where nothing is above it, all three are 0.
    """

    f1: float
    precision: float
    recall: float


class PixelPool:
    """The pixels of a test set, added image by image, for pixel-level curves.

    Good pixels are kept once, as float32, and sorted where they lie, those of good images apart from those of
    defective ones; defective pixels, far fewer, with their weight. They are ranked once, by the first curve
    that is asked for. With 5 % of defective pixels, all curves are had in less than 3 times the size of the
    maps.
    """

    def __init__(self) -> None:
        self._of_good, self._of_defective = _Block(), _Block()
        self._positives = [np.empty(0, dtype=np.float32)]
        self._weights = [np.empty(0)]
        self._saturated = [np.empty(0)]
        self._labels = [""]
        self._rankings: tuple[Ranking, Ranking] | None = None

    def add(
        self,
        anomaly_map: np.ndarray,
        mask: np.ndarray,
        label: str = "",
        regions: Sequence[tuple[np.ndarray, float]] = (),
        *,
        is_good: bool | None = None,
    ) -> None:
        """Add one image: its map (H, W), unbounded, kept as float32, and its ground truth, bool (H, W).

        A good image has a mask of all False; `is_good` False says of such a mask that the image is none.
        `label` names the defect for `pixel_roc`. `regions` are needed for `spro_roc` alone: masks, bool
        (H, W), that together are `mask` and may overlap, each with the number of pixels, above 0, that is
        enough to have found it. Raises UsageError as `check_map`.
        """
        values = check_map(anomaly_map, mask)
        defective = bool(mask.any())
        good = not defective if is_good is None else is_good
        (self._of_good if good else self._of_defective).add(values[~mask])
        if defective:
            self._positives.append(values[mask])
            self._weights.append(region_weights(mask))
            self._saturated.append(saturated_weights(values, mask, regions))
            self._labels.append(label)
        self._rankings = None

    def pixel_roc(self, label: str | None = None) -> Roc:
        """Build the curve in which every defective pixel counts alike, those of one `label` or all.

        Good pixels are those of all images either way. Raises UsageError without good or defective pixels.
        """
        return self._rank()[1].roc(chosen=slice(None) if label is None else self._chosen(label))

    def pro_roc(self) -> Roc:
        """Build the PRO curve: its "TPR" is PRO, its `normalised_auroc(0.3)` is AU-PRO up to FPR 0.3.

        The per-region overlap is the mean, over all 8-connected ground truth regions of all images, of the
        share of the region that is found; the FPR is over all good pixels of all images (Bergmann et al.
        2021). It is an ROC curve in which a pixel weighs 1 / area of its region. Raises as `pixel_roc`.
        """
        return self._rank()[1].roc(np.concatenate(self._weights))

    def spro_roc(self, label: str | None = None) -> Roc:
        """Build the sPRO curve of the regions of one `label` or all: its "TPR" is sPRO, its
        `normalised_auroc(0.05)` is AU-sPRO up to FPR 0.05.

        A region counts as found to the share min(found pixels / s, 1), s its saturation; sPRO is the mean
        over the regions. It is an ROC curve in which of each region the s highest pixels weigh 1 / s and the
        others nothing. Raises as `pixel_roc`, and UsageError for a defective image that came without regions.
        Source: Bergmann et al., International Journal of Computer Vision 130, 2022, equation 1.
        """
        ranking = self._rank()[1]
        weights = np.concatenate(self._saturated)
        if weights.size != ranking.rank.size:
            raise UsageError("sPRO needs the regions of every defective image, each with its saturation")
        return ranking.roc(weights, slice(None) if label is None else self._chosen(label))

    def pimo_rocs(self) -> list[tuple[str, Roc]]:
        """Build a curve for each defective image, with its label, in the order of adding.

        The FPR is over all pixels of the good images alone, the TPR is that of the one image. AUPIMO of an
        image is `mean_over_log_fpr(*PIMO_RATES)` of its curve. Raises UsageError without good or without
        defective images. Source: Bertoldo et al., BMVC 2024; where good images have one size, the FPR is its
        mean of the images' FPR. Our choice: straight between corners of the curve, as everywhere here.
        """
        ranking = self._rank()[0]
        ends = np.cumsum([p.size for p in self._positives])
        images = zip(self._labels[1:], ends, ends[1:], strict=False)
        rocs = [(label, ranking.roc(chosen=slice(start, end))) for label, start, end in images]
        return rocs or [("", ranking.roc())]  # which refuses

    def f1_at(self, threshold: float) -> SegmentationF1:
        """Measure the pixels strictly above a threshold, in the unit of the maps, against the ground truth.

        Nothing is chosen here: give a threshold that comes from good images. Raises as `pixel_roc`.
        Source: SegF1 of Heckler-Kram et al., arXiv 2503.21622 (MVTec AD 2).
        """
        blocks = (self._of_good.sorted(), self._of_defective.sorted())
        n_defective = sum(p.size for p in self._positives)
        check_two_classes(sum(b.size for b in blocks), n_defective)
        lowest = _next_above(threshold)
        found = int(sum(np.count_nonzero(p >= lowest) for p in self._positives))
        false = int(sum(b.size - np.searchsorted(b, lowest, side="left") for b in blocks))
        if found == 0:
            return SegmentationF1(f1=0.0, precision=0.0, recall=0.0)
        return SegmentationF1(
            f1=2 * found / (found + false + n_defective),
            precision=found / (found + false),
            recall=found / n_defective,
        )

    def _chosen(self, label: str) -> np.ndarray:
        sizes = [p.size for p in self._positives]
        return np.repeat([name == label for name in self._labels], sizes)

    def _rank(self) -> tuple[Ranking, Ranking]:
        """Rank the defective pixels among the pixels of good images, and among all good pixels."""
        if self._rankings is None:
            of_good = Ranking.of(self._of_good.sorted(), np.concatenate(self._positives))
            self._rankings = (of_good, of_good.with_more(self._of_defective.sorted()))
        return self._rankings


class _Block:
    """Pixels in one block that grows: a list of arrays would have to be joined and so be held twice."""

    def __init__(self) -> None:
        self._values = np.empty(0, dtype=np.float32)  # filled up to _n, the rest is room to grow
        self._n = 0
        self._is_sorted = True

    def add(self, values: np.ndarray) -> None:
        end = self._n + values.size
        if end > self._values.size:
            self._values.resize(end * 9 // 8, refcheck=False)
        self._values[self._n : end] = values
        self._n = end
        self._is_sorted = False

    def sorted(self) -> np.ndarray:
        values = self._values[: self._n]
        if not self._is_sorted:
            values.sort()
            self._is_sorted = True
        return values


def _next_above(threshold: float) -> np.float32:
    """Return the lowest float32 strictly above a threshold that need not be one itself."""
    nearest = np.float32(threshold)
    return nearest if float(nearest) > threshold else np.nextafter(nearest, np.float32(np.inf))


def check_map(anomaly_map: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a map (H, W) as float32, checked together with its ground truth, bool (H, W).

    Raises UsageError for NaN or infinity, a mask that is not bool, or shapes that differ.
    """
    values = np.asarray(anomaly_map, dtype=np.float32)
    if mask.dtype != np.bool_:
        raise UsageError(f"mask of type {mask.dtype}: it must be bool; compare it with 0 first")
    if values.ndim != 2 or values.shape != mask.shape:
        raise UsageError(f"map of shape {values.shape} and mask of shape {mask.shape}: both must be (H, W)")
    if not np.isfinite(values).all():
        raise UsageError("anomaly map holds NaN or infinity: metrics need finite float32 scores")
    return values


def region_weights(mask: np.ndarray) -> np.ndarray:
    """Weigh every defective pixel of a mask, bool (H, W), by 1 / area of its 8-connected region.

    Returns float64 (n,) in (0, 1], for the mask's pixels row by row; the sum is the number of regions.
    """
    runs = connected_runs(mask)
    lengths = runs.ends - runs.starts
    areas = np.bincount(runs.parts, weights=lengths)
    return np.repeat(1 / areas[runs.parts], lengths)


def saturated_weights(
    values: np.ndarray, mask: np.ndarray, regions: Sequence[tuple[np.ndarray, float]]
) -> np.ndarray:
    """Weigh the defective pixels of an image so that found weights are the regions' saturated overlaps.

    Of a region with area A and saturation s, the min(s, A) pixels of the highest `values` (H, W) weigh
    1 / min(s, A) each and the rest nothing; a part of a pixel weighs its part. A pixel's weights are summed
    over the regions, bool (H, W), that it belongs to.

    Returns float64 (n,) in [0, number of regions], for the pixels of `mask` row by row; empty without
    regions. Raises UsageError for a saturation of 0 or less, and for regions that are not `mask` together.
    """
    if not regions:
        return np.empty(0)
    if any(not saturation > 0 for _, saturation in regions):
        raise UsageError("saturation of a region: it must be above 0 pixels")
    if not np.array_equal(np.logical_or.reduce([region for region, _ in regions]), mask):
        raise UsageError("regions of a ground truth: together they must be its mask")
    total = np.zeros(mask.shape)
    for region, saturation in regions:
        order = np.argsort(-values[region], kind="stable")
        enough = min(saturation, order.size)
        weights = np.empty(order.size)
        weights[order] = np.clip(enough - np.arange(order.size), 0, 1) / enough
        total[region] += weights
    return total[mask]
