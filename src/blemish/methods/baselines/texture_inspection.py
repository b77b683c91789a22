"""Texture inspection: a patch that is unlikely under a mixture of Gaussians of good patches is anomalous.

Paper: T. Böttger, M. Ulrich, "Real-time texture error detection on textured surfaces with compressed
sensing", Pattern Recognition and Image Analysis 26 (2016); with the parameters of the MVTec AD paper
(P. Bergmann et al., CVPR 2019, Sec. 4.1.4): patches of 7×7 grey pixels on each of four levels of an image
pyramid.

Symbols: x a patch as a vector of D = C·p·p values, N patches, K components; w (K,) weights, μ (K, D) means,
Σ (K, D, D) covariances, P (K, D, D) with Σ⁻¹ = P Pᵀ, r (N, K) responsibilities.

Differs from the source: patches are taken as they are instead of by random projections; images are resized
to 128×128 instead of 400×400 (`--image-size 400` is possible and ten times as slow); patches are drawn from
all training images instead of ten; the levels' scores, standardised, are averaged where HALCON holds each
against a threshold of its own and intersects neighbours. RGB becomes grey, as there; of other images a patch
holds all channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, Method
from blemish.methods.components.functional import grey
from blemish.methods.components.statistics import whitening_matrix
from blemish.methods.config import DetectorConfig

VARIANCE_FLOOR = 1e-6
"""Added to each variance, so that Σ has an inverse: a quarter of a grey step of 8 bits, squared."""
TOLERANCE = 1e-3
"""EM ends when the mean log-likelihood of a patch gains less than this."""
LEAST_SPREAD = 1.0
"""Nats that a level's log-likelihood varies at least: where all patches are equal, it does not."""
LLOYD_STEPS = 10
"""Rounds of k-means before EM."""


@dataclass(frozen=True, kw_only=True)
class TextureInspectionConfig(DetectorConfig):
    """The options of texture inspection."""

    levels: int = 4
    """Levels of the image pyramid, each half as large as the one before."""
    patch_size: int = 7
    """p: side of a patch in pixels of its level, odd."""
    components: int = 10
    """K: Gaussians in each level's mixture."""
    patches: int = 10000
    """N: training patches drawn at random on each level, evenly from all images; bounds memory and time."""
    iterations: int = 30
    """Rounds of EM at most."""

    def __post_init__(self) -> None:
        """Refuse counts and sizes that no pyramid of patches has. Raises UsageError."""
        super().__post_init__()
        self.check_counts("levels", "patch_size", "components", "patches", "iterations")
        if self.patch_size % 2 == 0:
            raise UsageError(
                f"--patch-size {self.patch_size}: must be odd, so that a patch has a middle pixel"
            )
        (H, W), step = self.size, 2 ** (self.levels - 1)
        if H % step or W % step or min(H, W) < step * self.patch_size:
            raise UsageError(
                f"--image-size {H}x{W}: {self.levels} levels of {self.patch_size}-pixel patches need "
                f"multiples of {step} from {step * self.patch_size} on; or choose fewer --levels"
            )


# --- the mixture, one equation each -----------------------------------------------------------------


def log_densities(x: Tensor, mu: Tensor, P: Tensor) -> Tensor:
    """The densities log N(x; μ_k, Σ_k) = -½ (D log 2π + |(x - μ_k) P_k|²) + log |P_k|, with Σ_k⁻¹ = P_k P_kᵀ.

    Args:
        x: (N, D).
        mu: (K, D).
        P: upper triangular (K, D, D).

    Returns:
        (N, K). Component by component, so that memory is that of x.
    """
    squares = [((x - m) @ p).square().sum(dim=1) for m, p in zip(mu, P, strict=True)]
    half_log_det = P.diagonal(dim1=1, dim2=2).log().sum(dim=1)  # (K,)
    return -0.5 * (x.shape[1] * math.log(2 * math.pi) + torch.stack(squares, dim=1)) + half_log_det


def expectation(x: Tensor, w: Tensor, mu: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """E step: log p(x) = log Σ_k w_k N(x; μ_k, Σ_k), and r_k = w_k N(x; μ_k, Σ_k) / p(x).

    (N, D), (K,), (K, D), (K, D, D) -> (N,) and (N, K), whose rows have the sum 1.
    """
    joint = log_densities(x, mu, P) + w.log()
    log_p = joint.logsumexp(dim=1)
    return log_p, (joint - log_p[:, None]).exp()


def maximisation(x: Tensor, r: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """M step: the weighted moments of the patches, with N_k = Σ_n r_nk.

    w_k = N_k / N,  μ_k = Σ_n r_nk x_n / N_k,  Σ_k = Σ_n r_nk (x_n - μ_k)(x_n - μ_k)ᵀ / N_k + floor·I

    Args:
        x: (N, D).
        r: (N, K), rows of sum 1.
        floor: added to each variance, above 0.

    Returns:
        w (K,), mu (K, D) and P (K, D, D) with Σ_k⁻¹ = P_k P_kᵀ.
    """
    n = r.sum(dim=0) + 10 * torch.finfo(r.dtype).eps  # a component without patches stays finite
    mu = (r.T @ x) / n[:, None]
    centred = ((x - m, r_k) for m, r_k in zip(mu, r.T, strict=True))
    sigma = torch.stack([(c * r_k[:, None]).T @ c for c, r_k in centred]) / n[:, None, None]
    return n / n.sum(), mu, whitening_matrix(sigma, floor).mT


def em(
    x: Tensor, w: Tensor, mu: Tensor, P: Tensor, *, iterations: int, floor: float = VARIANCE_FLOOR
) -> tuple[Tensor, Tensor, Tensor]:
    """Alternate E and M steps until the mean log p(x) gains less than TOLERANCE; returns w, mu and P."""
    before = -math.inf
    for _ in range(iterations):
        log_p, r = expectation(x, w, mu, P)
        w, mu, P = maximisation(x, r, floor)
        now = log_p.mean().item()
        if abs(now - before) < TOLERANCE:
            break
        before = now
    return w, mu, P


def k_means(x: Tensor, K: int) -> Tensor:
    """Assign the rows of x (N, D) to K clusters: k-means++ with torch's seeded draws, then Lloyd's rounds.

    Returns one-hot (N, K) in x's type; clusters may be empty when rows are equal.
    """
    centres = x[torch.randint(len(x), (1,))]
    while len(centres) < K:
        d2 = torch.cdist(x, centres).square().amin(dim=1).cpu()
        centres = torch.cat([centres, x[torch.multinomial(d2 + 1e-12, 1)]])
    nearest = _nearest(x, centres)
    for _ in range(LLOYD_STEPS):
        n = nearest.sum(dim=0)[:, None]
        centres = torch.where(n > 0, (nearest.T @ x) / n.clamp(min=1), centres)
        nearest = _nearest(x, centres)
    return nearest


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    return functional.one_hot(torch.cdist(x, centres).argmin(dim=1), len(centres)).to(x.dtype)


# --- images ---------------------------------------------------------------------------------------------


def pyramid(x: Tensor, levels: int) -> list[Tensor]:
    """Halve images (B, C, H, W), each pixel the mean of 2×2, once per further level: (B, C, H/2^l, W/2^l)."""
    images = [x]
    for _ in range(levels - 1):
        images.append(functional.avg_pool2d(images[-1], 2))
    return images


def patches_of(x: Tensor, p: int) -> Tensor:
    """Take the p×p patch around each pixel, mirrored at the border: (B, C, H, W) -> (B, H·W, C·p·p)."""
    return functional.unfold(functional.pad(x, [p // 2] * 4, mode="reflect"), p).transpose(1, 2)


class TextureInspection(Method[TextureInspectionConfig]):
    """Texture inspection. `forward` maps images to the levels' mean of -log p(patch), standardised."""

    config_type = TextureInspectionConfig
    presets: ClassVar[dict[str, TextureInspectionConfig]] = {"default": TextureInspectionConfig()}

    weights: Tensor
    means: Tensor
    factors: Tensor
    level_mean: Tensor
    level_spread: Tensor

    def __init__(self, config: TextureInspectionConfig, channels: int) -> None:
        super().__init__(config, channels)
        L, K, D = config.levels, config.components, (1 if channels == 3 else channels) * config.patch_size**2
        self.register_buffer("weights", torch.full((L, K), 1 / K))
        self.register_buffer("means", torch.zeros(L, K, D))
        self.register_buffer("factors", torch.eye(D).repeat(L, K, 1, 1))
        self.register_buffer("level_mean", torch.zeros(L))
        self.register_buffer("level_spread", torch.ones(L))

    @property
    def scoring_batch(self) -> int:
        """Images scored at a time: the patches of one are 49 times as large as it is."""
        return 4

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Fit each level's mixture, in float64, to patches of the training images (batches (B, C, H, W))."""
        images = sum(len(x) for x in batches())
        each = math.ceil(self.config.patches / images)
        drawn: list[list[Tensor]] = [[] for _ in range(self.config.levels)]
        for batch in batches():
            for level, x in zip(drawn, self._levels(batch), strict=True):
                level.extend(p[torch.randperm(len(p))[:each]] for p in patches_of(x, self.config.patch_size))
        for level, patches in enumerate(drawn):
            x = torch.cat(patches).double()
            start = maximisation(x, k_means(x, self.config.components), VARIANCE_FLOOR)
            w, mu, P = em(x, *start, iterations=self.config.iterations)
            self.weights[level], self.means[level], self.factors[level] = w, mu, P
            surprise = -expectation(x, w, mu, P)[0]
            self.level_mean[level] = surprise.mean()
            self.level_spread[level] = surprise.std(correction=0).clamp(min=LEAST_SPREAD)

    def _levels(self, x: Tensor) -> list[Tensor]:
        return pyramid(grey(x), self.config.levels)

    def level_maps(self, x: Tensor) -> list[Tensor]:
        """-log p of the patch around each pixel, standardised: (B, C, H, W) -> (B, H/2^l, W/2^l) by level."""
        maps = []
        for level, image in enumerate(self._levels(x)):
            patches = patches_of(image, self.config.patch_size).flatten(0, 1)
            log_p, _ = expectation(patches, self.weights[level], self.means[level], self.factors[level])
            score = (-log_p - self.level_mean[level]) / self.level_spread[level]
            maps.append(score.view(image.shape[0], *image.shape[2:]))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W), unbounded: the levels' mean, each enlarged."""
        enlarged = [
            functional.interpolate(m[:, None], size=self.config.size, mode="bilinear")[:, 0]
            for m in self.level_maps(x)
        ]
        return torch.stack(enlarged).mean(dim=0)
