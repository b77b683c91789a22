"""PaDiM: at each place, how far pre-trained features are from a Gaussian of those of good images.

Source: T. Defard, A. Setkov, A. Loesch, R. Audigier, "PaDiM: a Patch Distribution Modeling Framework for
Anomaly Detection and Localization" (ICPR 2020 workshops), arXiv:2011.08785.

Symbols (paper: here)
    x_ij           embedding of the place (i, j), the features of several frozen layers: `features`
    μ_ij, Σ_ij     mean and covariance of x_ij over the N good images: `mean`; `whitening` is A with AᵀA = Σ⁻¹
    ε              what is added to the diagonal of Σ, Eq. (1): `epsilon`
    M(x_ij)        Mahalanobis' distance, Eq. (2): the root of `mahalanobis`
    Rd             random selection of d features (Sec. 3.4): `kept`

Shapes: B images, C channels, H×W pixels; h×w places of the grid, g = h·w of them; d features of a place.

The model holds 4·g·(d² + d) bytes and the network's layers: 43 MB with `default`, 132 MB with `paper`, 3.8 GB
with `paper-wide`, which no ONNX file takes (2 GB). Training needs hardly more: the products are summed up
where the model keeps A.

Differs from the source: it resizes to 256×256 and keeps the middle 224×224, so that it is blind to the
border; here whole images become 224×224. It repeats features of coarser layers, here they are interpolated.
Its weights are torchvision's; here they are of a file that the user names. The preset `default` is ours:
EfficientNet-Lite0 from a package, a grid at a stride of 8, means over 3×3 places, features over their spread,
covariances drawn towards the mean one of all places, and log(1 + M²), whose largest values do not drown the
others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from blemish.core.errors import UsageError
from blemish.methods.base import Batches
from blemish.methods.components.backbones.method import FeatureConfig, FeatureMethod
from blemish.methods.components.statistics import spread_of, whitening_matrix
from blemish.methods.density.densities import mahalanobis

PORTION = 64
"""Places whose covariances are inverted at a time, in float64."""


@dataclass(frozen=True, kw_only=True)
class PadimConfig(FeatureConfig):
    """The options of PaDiM."""

    dimensions: int | None = 100
    """d: features of a place, drawn at random among all; None: all of them."""
    dimension_seed: int = 0
    """Which features are drawn."""
    epsilon: float = 0.01
    """ε: added to the diagonal of each covariance."""
    standardise: bool = True
    """Divide features by their spread over all places first, so that ε means the same for all (ours)."""
    shrink: bool = True
    """Draw each covariance to the mean one by d / (d + N), as few images know few directions (ours)."""
    score: Literal["distance", "log"] = "log"
    """distance: M. log: log(1 + M²), so that one place does not drown the rest (ours)."""

    def __post_init__(self) -> None:
        """Refuse counts and numbers that mean nothing. Raises UsageError."""
        super().__post_init__()
        self.check_counts("dimensions")
        self.check_seeds("dimension_seed")
        if not 0 < self.epsilon < float("inf"):
            raise UsageError(f"--epsilon {self.epsilon}: must be a finite number above 0")


# --- the equations --------------------------------------------------------------------------------------


def random_dimensions(total: int, count: int | None, seed: int) -> Tensor:
    """Draw features at random, Rd of Sec. 3.4.

    Args:
        total: features there are.
        count: how many to draw, `total` at most; None: all.
        seed: which.

    Returns:
        (min(count, total),) different numbers in [0, total), ascending.
    """
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[: total if count is None else count].sort().values


def add_products(n: int, mean: Tensor, products: Tensor, x: Tensor) -> int:
    """Take samples into running means and sums of products, in place, without a difference of large numbers.

    With n_b new samples of mean μ_b, Σ (x - μ)(x - μ)ᵀ grows by Σ (x - μ_b)(x - μ_b)ᵀ and by
    δ δᵀ n n_b / (n + n_b), δ = μ_b - μ (Chan, Golub and LeVeque 1979).

    Args:
        n: samples so far.
        mean: (g, d).
        products: Σ (x - μ)(x - μ)ᵀ, (g, d, d).
        x: new samples (B, g, d).

    Returns:
        n + B.
    """
    own = x.mean(dim=0)
    centred, delta, total = (x - own).transpose(0, 1), own - mean, n + len(x)  # centred (g, B, d)
    products.baddbmm_(centred.transpose(1, 2), centred)
    products.baddbmm_(delta[:, :, None], delta[:, None, :] * (n * len(x) / total))
    mean.add_(delta, alpha=len(x) / total)
    return total


# --- the method -----------------------------------------------------------------------------------------


class Padim(FeatureMethod[PadimConfig]):
    """PaDiM. `forward` maps images to maps of their own size."""

    config_type = PadimConfig
    presets: ClassVar[dict[str, PadimConfig]] = {
        "default": PadimConfig(),
        "paper": PadimConfig(
            backbone="resnet18",
            image_size=224,
            grid_stride=4,
            neighbourhood=1,
            standardise=False,
            shrink=False,
            score="distance",
            image_score="max",
            calibration_fraction=0.0,
        ),
        "paper-wide": PadimConfig(
            backbone="wide_resnet50_2",
            image_size=224,
            grid_stride=4,
            neighbourhood=1,
            dimensions=550,
            standardise=False,
            shrink=False,
            score="distance",
            image_score="max",
            calibration_fraction=0.0,
        ),
    }

    kept: Tensor
    spread: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self, config: PadimConfig, channels: int) -> None:
        super().__init__(config, channels)
        kept = random_dimensions(sum(self.backbone.channels), config.dimensions, config.dimension_seed)
        places, d = config.grid[0] * config.grid[1], len(kept)
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("spread", torch.ones(d))
        self.register_buffer("mean", torch.zeros(places, d))
        self.register_buffer("whitening", torch.zeros(places, d, d))

    def embedding(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> x_ij, (B, g, d), of the drawn features."""
        return self.features(x)[:, :, self.kept]

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Take μ and Σ of each place from the good training images (batches (B, C, H, W))."""
        n = 0
        self.mean.zero_()
        self.whitening.zero_()
        for x in batches():
            embedded = torch.cat([self.embedding(part) for part in x.split(self.scoring_batch)])
            n = add_products(n, self.mean, self.whitening, embedded)
        self.whitening.div_(max(n - 1, 1))
        if self.config.standardise:
            self._standardise()
        # the mean of all places is needed before the first one is overwritten
        shared = self.whitening.mean(dim=0).double()
        share = len(self.kept) / (len(self.kept) + n) if self.config.shrink else 0.0
        for part in self.whitening.split(PORTION):
            part.copy_(whitening_matrix(part.double().lerp(shared, share), self.config.epsilon))

    def _standardise(self) -> None:
        """Divide means and covariances by the spread that each feature has over all places and images."""
        within = self.whitening.diagonal(dim1=1, dim2=2).mean(dim=0)
        self.spread.copy_(spread_of(within + self.mean.var(dim=0, correction=0)))
        self.mean.div_(self.spread)
        self.whitening.div_(self.spread).div_(self.spread[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W) ≥ 0, larger is more anomalous."""
        M2 = mahalanobis(self.embedding(x) / self.spread, self.mean, self.whitening)
        score = M2.sqrt() if self.config.score == "distance" else M2.log1p()
        return self.whole_maps(score)
