"""CNN feature dictionary: how far a place's pre-trained features are from the nearest words of good ones.

Source: P. Napoletano, F. Piccoli, R. Schettini, "Anomaly Detection in Nanofibrous Materials by CNN-Based
Self-Similarity" (Sensors 2018, 18, 209). It is "Feature dictionary" of MeTAL's Table 4.

Symbols (source: here)
    f              features of a region, of ResNet-18's average pooling: `features`
    PCA            as many principal axes as hold a share of the variance: `axes`, with `mean`
    W              dictionary, for each centre of k-means the good region nearest to it: `words`
    m              words that a region is compared with: `nearest`
    visual self-similarity: the mean distance to the m nearest words: `mean_distance`

Shapes: B images, C channels, H×W pixels; g places or regions of an image; d features of one, p of them after
PCA; k words; n features that the dictionary is learnt from.

ResNet-18 without its classifier, with the projection of `paper`, has 11.2 to 11.4 M parameters (MeTAL's Table
6: 11.5 M). A model of `default` has 6 MB.

Differs from the source: the image is 256×256 pixels (there whole pictures of a microscope). Several sizes of
regions and dictionaries are tried there; `paper` has regions of 16 pixels, enlarged to 224 as there, at a
stride of 8, 50 words and the nearest word alone (m = 1): these three numbers are ours, near those by which
the authors of MVTec AD measured it. A pixel's score is the mean over the regions that cover it, an image's
the largest one of its pixels. The preset `default` is ours: EfficientNet-Lite0 from a package, which sees the
whole image once, features of several layers on a grid at a stride of 8, divided by their spread, 4,000 words
and all axes: chosen by planted defects in good images. So where it comes near a published figure, that is
another system's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.base import Batches
from blemish.methods.components.backbones.method import FeatureConfig, FeatureMethod
from blemish.methods.components.functional import blur
from blemish.methods.components.statistics import mean_and_variance, spread_of
from blemish.methods.density.densities import spread_out

PORTION = 8192
"""Features that are compared with all centres at a time, which bounds memory."""
REGIONS = 64
"""Regions of each image that the network sees at a time, for the same reason."""


@dataclass(frozen=True, kw_only=True)
class FeatureDictionaryConfig(FeatureConfig):
    """The options of the feature dictionary."""

    words: int = 4000
    """k: words of the dictionary, at most."""
    nearest: int = 1
    """m: words that a place is compared with, the nearest ones."""
    variance: float = 1.0
    """Share of the variance that the principal axes hold, in (0, 1]."""
    candidates: int | None = 50_000
    """Features that the dictionary is learnt from, drawn at random, as many of each image; None: all."""
    rounds: int = 30
    """Rounds of k-means at most."""
    region: int | None = None
    """Side in pixels of regions that are cut out and seen each by itself; None: the image is seen whole."""
    region_stride: int = 8
    """Pixels from one region to the next."""
    region_view: int | None = None
    """Side in pixels to which a region is enlarged before the network sees it; None: it is seen as it is."""
    normalise: Literal["spread", "l1"] = "spread"
    """Before PCA: each feature is divided by its spread, or a region's features by the sum of their sizes."""

    def __post_init__(self) -> None:
        """Refuse counts, shares and regions that mean nothing. Raises UsageError."""
        super().__post_init__()
        self.check_counts("words", "nearest", "candidates", "rounds")
        self.check_counts("region", "region_stride", "region_view")
        if self.nearest > self.words:
            raise UsageError(f"--nearest {self.nearest}: must be --words {self.words} or fewer")
        if not 0 < self.variance <= 1:
            raise UsageError(f"--variance {self.variance}: must be above 0 and at most 1")
        if self.region is None:
            return
        if self.region > min(self.size):
            raise UsageError(f"--region {self.region}: must be --image-size {min(self.size)} or smaller")
        if self.region_stride > self.region or any((n - self.region) % self.region_stride for n in self.size):
            raise UsageError(
                f"--region-stride {self.region_stride}: regions of {self.region} pixels leave pixels "
                "uncovered; choose a divisor of what is left of --image-size beside one region"
            )


# --- the equations --------------------------------------------------------------------------------------


def kept_axes(covariance: Tensor, share: float) -> Tensor:
    """Find the fewest principal axes that hold a share of the variance (PCA).

    Args:
        covariance: (d, d), float64.
        share: in (0, 1].

    Returns:
        (p, d), orthonormal, largest variance first, 1 ≤ p ≤ d.
    """
    variance, vectors = torch.linalg.eigh(covariance)  # ascending
    variance, vectors = variance.clamp(min=0).flip(0), vectors.flip(1)
    held = variance.cumsum(dim=0) / variance.sum().clamp(min=1e-12)
    count = int((held < share - 1e-9).sum()) + 1
    return vectors[:, : min(count, len(variance))].T.contiguous()


def nearest_of(x: Tensor, points: Tensor, m: int = 1) -> Tensor:
    """Find the m nearest of points (k, p) to each of x (..., p). Returns their numbers (..., m).

    |x - c|² less |x|², which is the same for all points, is |c|² - 2 x·c.
    """
    reach = points.square().sum(dim=1) - 2 * (x @ points.T)
    return reach.topk(m, dim=-1, largest=False).indices


def k_means(x: Tensor, centres: Tensor, rounds: int) -> Tensor:
    """Lloyd's k-means: each centre becomes the mean of what is nearest to it, until nothing changes.

    Args:
        x: (n, p).
        centres: to begin with, (k, p).
        rounds: at most.

    Returns:
        centres (k, p); one that nothing is nearest to stays where it was.
    """
    before = None
    for _ in range(rounds):
        members = torch.cat([nearest_of(part, centres)[:, 0] for part in x.split(PORTION)])
        if before is not None and torch.equal(members, before):
            break
        counts = torch.bincount(members, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, members, x)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        before = members
    return centres


def words_of(x: Tensor, centres: Tensor) -> Tensor:
    """Return for each centre (k, p) the member of x (n, p) that is nearest to it: (k', p), each once."""
    chosen = [nearest_of(part, x)[:, 0] for part in centres.split(64)]
    return x[torch.cat(chosen).unique()]


def mean_distance(x: Tensor, words: Tensor, m: int) -> Tensor:
    """Mean distance to the m nearest words: x (B, g, p) and words (k, p) -> (B, g) ≥ 0."""
    near = nearest_of(x, words, m)
    # anew, as a difference of large numbers says little of a place that is nearly a word
    return (x[..., None, :] - words[near]).square().sum(dim=-1).sqrt().mean(dim=-1)


def coverage_matrix(n: int, side: int, stride: int) -> Tensor:
    """Give each pixel of a line of n the mean over the regions that cover it: returns (n, h).

    Region j covers `side` pixels from `stride`·j on, h = (n - side) / stride + 1.
    """
    within = torch.arange(n)[:, None] - stride * torch.arange((n - side) // stride + 1)
    covers = ((within >= 0) & (within < side)).float()
    return covers / covers.sum(dim=1, keepdim=True)


# --- the method -----------------------------------------------------------------------------------------


class FeatureDictionary(FeatureMethod[FeatureDictionaryConfig]):
    """The feature dictionary. `forward` maps images to maps of their own size."""

    config_type = FeatureDictionaryConfig
    presets: ClassVar[dict[str, FeatureDictionaryConfig]] = {
        "default": FeatureDictionaryConfig(),
        "paper": FeatureDictionaryConfig(
            backbone="resnet18",
            strides=(32,),
            grid_stride=32,
            neighbourhood=1,
            region=16,
            region_view=224,
            normalise="l1",
            words=50,
            variance=0.95,
            candidates=100_000,
            smoothing=0.0,
            image_score="max",
            calibration_fraction=0.0,
        ),
    }

    mean: Tensor
    axes: Tensor
    words: Tensor
    cover_rows: Tensor
    cover_cols: Tensor

    def __init__(self, config: FeatureDictionaryConfig, channels: int) -> None:
        super().__init__(config, channels)
        d = sum(self.backbone.channels)
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("axes", torch.zeros(1, d))
        self.register_buffer("words", torch.zeros(1, 1))
        if config.region is not None:
            for name, n in zip(("cover_rows", "cover_cols"), config.size, strict=True):
                matrix = coverage_matrix(n, config.region, config.region_stride)
                self.register_buffer(name, matrix, persistent=False)
        self.register_load_state_dict_pre_hook(_make_room)

    def features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> f (B, g, d) of the grid's places or of all regions, row by row."""
        side, stride = self.config.region, self.config.region_stride
        found = super().features(x) if side is None else self._regions(x, side, stride)
        return F.normalize(found, p=1, dim=2) if self.config.normalise == "l1" else found

    def _regions(self, x: Tensor, side: int, stride: int) -> Tensor:
        squares = x.unfold(2, side, stride).unfold(3, side, stride)  # (B, C, h, w, side, side)
        crops = squares.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # (B, g, C, side, side)
        return torch.cat([self._pooled(part) for part in crops.split(REGIONS, dim=1)], dim=1)

    def _pooled(self, crops: Tensor) -> Tensor:
        """Regions (B, n, C, side, side), each seen by itself -> (B, n, d)."""
        found, view = crops.flatten(0, 1), self.config.region_view
        if view is not None:
            found = F.interpolate(found, size=(view, view), mode="bilinear", align_corners=False)
        pooled = torch.cat([layer.mean(dim=(2, 3)) for layer in self.backbone(found)], dim=1)
        return pooled.reshape(-1, crops.shape[1], pooled.shape[1])

    def embedding(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> features on the principal axes, (B, g, p)."""
        return (self.features(x) - self.mean) @ self.axes.T

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Learn the dictionary from the good training images (batches (B, C, H, W))."""
        found = self.draw_features(batches, self.config.candidates)
        mean, variance = mean_and_variance([found])
        spread = spread_of(variance) if self.config.normalise == "spread" else torch.ones_like(variance)
        centred = (found - mean.to(found)).div_(spread.to(found))
        products = torch.zeros(found.shape[1], found.shape[1], dtype=torch.float64, device=found.device)
        for part in centred.double().split(PORTION):
            products.addmm_(part.T, part)
        axes = kept_axes(products / len(found), self.config.variance)
        self.mean.copy_(mean)
        self.axes = (axes / spread).to(found)
        x = centred @ axes.T.to(found)
        k = min(self.config.words, len(x))
        self.words = words_of(x, k_means(x, spread_out(x, k), self.config.rounds))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W) ≥ 0, larger is more anomalous."""
        m = min(self.config.nearest, len(self.words))
        scores = mean_distance(self.embedding(x), self.words, m)
        if self.config.region is None:
            return self.whole_maps(scores)
        regions = scores.unflatten(1, (self.cover_rows.shape[1], self.cover_cols.shape[1]))
        maps = blur(regions, self.cover_rows, self.cover_cols)
        return blur(maps, self.smooth_rows, self.smooth_cols)


def _make_room(dictionary: FeatureDictionary, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: how many axes and words there are is known only from the model file."""
    for name in ("axes", "words"):
        if (saved := state.get(prefix + name)) is not None:
            setattr(dictionary, name, torch.empty_like(saved, device=dictionary.mean.device))
