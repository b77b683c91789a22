"""PatchCore: how far each place's pre-trained features are from the nearest of a few good ones.

Source: K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler, "Towards Total Recall in Industrial
Anomaly Detection" (CVPR 2022), arXiv:2106.08265.

Symbols (paper: here)
    φ, N_p, f_agg  features of a place, averaged over its p×p neighbours, Eq. (1) to (3): `features`
    M              memory bank: such features of all places of all good images; after subsampling `bank`
    ψ              random projection, by which the subsampling measures distances: `projection`
    m^test, m*     a place's features, and the nearest of M, Eq. (6)
    N_b(m*)        the b members of M nearest to m*
    s*, s          largest distance of an image, Eq. (6); and weighted, Eq. (7)

Shapes: B images, C channels, H×W pixels; h×w places of the grid, g = h·w of them; d features of a place; m
members of M.

The bank holds 4·m·d bytes: 2.8 MB at most with `default`. Training holds 4·(d + p)·n bytes of n candidates, p
numbers of a projection: 60 MB at most with `default`; with `paper` all places are candidates, 1.1 GB for 209
images.

Differs from the source: it resizes to 256×256 and keeps the middle 224×224, so that it is blind to the
border; here whole images become 224×224. At the border a neighbourhood is the places that exist. Its weights
are torchvision's; here they are of a file that the user names. Its authors' program pools features to 1,024
numbers, here they keep all. b is not stated there; ours is 9. The preset `default` is ours:
EfficientNet-Lite0 from a package, features over their spread, a bank of fixed size from candidates drawn at
random, and image scores read off the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from blemish.core.errors import UsageError
from blemish.methods.base import Batches
from blemish.methods.components.backbones.method import FeatureConfig, FeatureMethod
from blemish.methods.components.statistics import mean_and_variance, spread_of


@dataclass(frozen=True, kw_only=True)
class PatchCoreConfig(FeatureConfig):
    """The options of PatchCore."""

    bank: int | None = 4000
    """m: features that the bank keeps at most; None: the share `bank_share` of all."""
    bank_share: float = 0.1
    """Share of the candidates that the bank keeps when `bank` is None, in (0, 1]."""
    candidates: int | None = 50_000
    """Features among which the bank is chosen, drawn at random and as many of each image; None: all."""
    projection: int = 64
    """Numbers that a feature is projected to at random while the bank is chosen."""
    standardise: bool = True
    """Divide features by their spread over the training images first (ours)."""
    reweighting: int = 0
    """b of Eq. (7), by which the image score is weighted; 0: it is read off the map, by --image-score."""

    def __post_init__(self) -> None:
        """Refuse counts and shares that mean nothing. Raises UsageError."""
        super().__post_init__()
        self.check_counts("bank", "candidates", "projection")
        if not 0 < self.bank_share <= 1:
            raise UsageError(f"--bank-share {self.bank_share}: must be above 0 and at most 1")
        if self.reweighting < 0:
            raise UsageError(f"--reweighting {self.reweighting}: must be 0 or larger")


# --- the equations --------------------------------------------------------------------------------------


def greedy_coreset(projected: Tensor, count: int, first: int) -> Tensor:
    """Choose members so that every candidate has one near: Algorithm 1, a greedy minimax facility location.

    Each next one is the candidate that is farthest from those chosen so far.

    Args:
        projected: ψ of the candidates (n, p).
        count: members to choose, n at most.
        first: the first one, in [0, n).

    Returns:
        (count,) different numbers in [0, n), in the order of their choice.
    """
    chosen = torch.empty(count, dtype=torch.long)
    norms = projected.square().sum(dim=1)
    nearest = torch.full_like(norms, float("inf"))
    member = first
    for i in range(count):
        chosen[i] = member
        d2 = norms + norms[member] - 2 * (projected @ projected[member])
        nearest = torch.minimum(nearest, d2)
        nearest[member] = -float("inf")  # rounding must not choose it again
        member = int(nearest.argmax())
    return chosen


def nearest_members(x: Tensor, bank: Tensor) -> Tensor:
    """Find m*, the member of a bank (m, d) nearest to each of features (..., d). Returns its number, (...).

    |x - m|² less |x|², which is the same for all members, is |m|² - 2 x·m: fewer passes over large arrays.
    """
    return (x @ (-2 * bank).T + bank.square().sum(dim=1)).argmin(dim=-1)


def image_score(x: Tensor, distances: Tensor, members: Tensor, bank: Tensor, b: int) -> Tensor:
    """Weigh an image's largest distance s*, Eq. (7): s = (1 - e^s* / Σ_{m ∈ N_b(m*)} e^|m^test,* - m|) s*.

    A place whose nearest member lies among many others like it counts for more.

    Args:
        x: features of the places (B, g, d).
        distances: to the nearest member (B, g).
        members: that member's number (B, g).
        bank: M, (m, d).
        b: members of N_b, m* itself among them; m at most.

    Returns:
        s, (B,) ≥ 0.
    """
    s, place = distances.max(dim=1)  # s*
    test = x.gather(1, place[:, None, None].expand(-1, -1, x.shape[2]))[:, 0]  # m^test,* (B, d)
    member = bank[members.gather(1, place[:, None])[:, 0]]  # m* (B, d)
    others = (member[:, None] - bank).square().sum(dim=2)
    near = others.topk(b, dim=1, largest=False).indices  # N_b(m*) (B, b)
    to_near = (test[:, None] - bank[near]).square().sum(dim=2).sqrt()
    return (1 - (s - to_near.logsumexp(dim=1)).exp()) * s


# --- the method -----------------------------------------------------------------------------------------


class PatchCore(FeatureMethod[PatchCoreConfig]):
    """PatchCore. `forward` maps images to maps of their own size, and to scores with `reweighting`."""

    config_type = PatchCoreConfig
    presets: ClassVar[dict[str, PatchCoreConfig]] = {
        "default": PatchCoreConfig(),
        "paper": PatchCoreConfig(
            backbone="wide_resnet50_2",
            image_size=224,
            strides=(8, 16),
            bank=None,
            candidates=None,
            projection=128,
            standardise=False,
            reweighting=9,
            image_score="max",
            calibration_fraction=0.0,
        ),
    }

    spread: Tensor
    bank: Tensor

    def __init__(self, config: PatchCoreConfig, channels: int) -> None:
        super().__init__(config, channels)
        d = sum(self.backbone.channels)
        self.register_buffer("spread", torch.ones(d))
        self.register_buffer("bank", torch.zeros(1, d))
        self.register_load_state_dict_pre_hook(_make_room)

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Choose the bank among the features of the good training images (batches (B, C, H, W))."""
        candidates = self._candidates(batches)
        if self.config.standardise:
            _, variance = mean_and_variance([candidates])
            self.spread.copy_(spread_of(variance))
            candidates.div_(self.spread)
        n, d = candidates.shape
        wanted = self.config.bank or round(self.config.bank_share * n)
        projection = torch.randn(d, min(self.config.projection, d)).to(candidates) / d**0.5
        first = int(torch.randint(n, ()))
        chosen = greedy_coreset(candidates @ projection, max(1, min(wanted, n)), first)
        self.bank = candidates[chosen.to(candidates.device)]

    def _candidates(self, batches: Batches) -> Tensor:
        """Features of places drawn at random, as many of each image: (n, d)."""
        return self.draw_features(batches, self.config.candidates)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W) ≥ 0, larger is more anomalous.

        With `reweighting`, image scores (B,) beside them.
        """
        features = self.features(x) / self.spread
        members = nearest_members(features, self.bank)
        # anew, as a difference of large numbers says little of a place that is nearly in the bank
        distances = (features - self.bank[members]).square().sum(dim=2).sqrt()
        maps = self.whole_maps(distances)
        if not self.config.reweighting:
            return maps
        b = min(self.config.reweighting, len(self.bank))
        return maps, image_score(features, distances, members, self.bank, b)


def _make_room(patchcore: PatchCore, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: how many features the bank keeps is known only from the model file."""
    if (saved := state.get(f"{prefix}bank")) is not None:
        patchcore.bank = patchcore.bank.new_empty(len(saved), patchcore.bank.shape[1])
