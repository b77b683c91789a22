"""The pixels of a test set, for pixel-level curves and the per-region overlap (PRO)."""

from __future__ import annotations

import numpy as np

from blemish.core.errors import UsageError
from blemish.metrics.roc import Ranking, Roc


class PixelPool:
    """The pixels of a test set, added image by image, for pixel-level curves.

    Good pixels are kept once, as float32, and sorted where they lie; defective ones, far fewer, with their
    weight. They are ranked once, by the first curve that is asked for. With 5 % of defective pixels, all
    curves are had in less than 3 times the size of the maps.
    """

    def __init__(self) -> None:
        self._negatives = np.empty(0, dtype=np.float32)  # filled up to _n_negatives, the rest is room to grow
        self._n_negatives = 0
        self._positives = [np.empty(0, dtype=np.float32)]
        self._weights = [np.empty(0)]
        self._labels = [""]
        self._ranking: Ranking | None = None

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray, label: str = "") -> None:
        """Add one image: its map (H, W), unbounded, kept as float32, and its ground truth, bool (H, W).

        A good image has a mask of all False. `label` names the defect for `pixel_roc`. Raises UsageError as
        `check_map`.
        """
        values = check_map(anomaly_map, mask)
        self._add_negatives(values[~mask])
        if mask.any():
            self._positives.append(values[mask])
            self._weights.append(region_weights(mask))
            self._labels.append(label)
        self._ranking = None

    def pixel_roc(self, label: str | None = None) -> Roc:
        """Build the curve in which every defective pixel counts alike, those of one `label` or all.

        Good pixels are those of all images either way. Raises UsageError without good or defective pixels.
        """
        if label is None:
            return self._rank().roc()
        sizes = [p.size for p in self._positives]
        return self._rank().roc(chosen=np.repeat([name == label for name in self._labels], sizes))

    def pro_roc(self) -> Roc:
        """Build the PRO curve: its "TPR" is PRO, its `normalised_auroc(0.3)` is AU-PRO up to FPR 0.3.

        The per-region overlap is the mean, over all 8-connected ground truth regions of all images, of the
        share of the region that is found; the FPR is over all good pixels of all images (Bergmann et al.
        2021). Hence an ROC curve in which a pixel weighs 1 / area of its region. Raises as `pixel_roc`.
        """
        return self._rank().roc(np.concatenate(self._weights))

    def _add_negatives(self, values: np.ndarray) -> None:
        end = self._n_negatives + values.size
        if end > self._negatives.size:
            # One block that grows, where a list of arrays would have to be joined and so be held twice.
            self._negatives.resize(end * 9 // 8, refcheck=False)
        self._negatives[self._n_negatives : end] = values
        self._n_negatives = end

    def _rank(self) -> Ranking:
        if self._ranking is None:
            negatives = self._negatives[: self._n_negatives]
            negatives.sort()
            self._ranking = Ranking.of(negatives, np.concatenate(self._positives))
        return self._ranking


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
    from scipy import ndimage

    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return np.empty(0)
    box = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]  # small, mostly: the rest need not be labelled
    labels = np.empty(box.shape, dtype=np.int32)
    ndimage.label(box, structure=np.ones((3, 3), dtype=bool), output=labels)
    region = labels[box]
    return 1 / np.bincount(region)[region]
