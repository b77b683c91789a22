"""CPC-AD: what the surroundings of a sub-patch cannot tell from other sub-patches is anomalous.

Paper: P. de Haan, S. Löwe, "Contrastive Predictive Coding for Anomaly Detection and Segmentation" (2021),
arXiv:2107.07820.

Symbols (paper: here)
    x_t, g_enc     sub-patch and encoder: `x`, `encoders`
    z_t            encoding of a sub-patch, which is its own context c_t: `z`
    W_k            linear map that predicts k steps ahead: `W`
    t + k          sub-patch predicted from t; `skip` rows lie between, as they overlap: `targets`, `sources`
    N - 1          negatives of a positive: `negatives` in training, the bank's size in testing
    L_k            InfoNCE loss of a pair: `info_nce`

Shapes
    B images, C channels, H×W pixels; h×w sub-patches, g = h·w of them; d width of an encoding;
    E encoders; p pairs that end in a sub-patch (directions × steps); m negatives.

The network stands here; its equations in `cpc_ad_equations`, which sub-patches are a pair in `cpc_ad_pairs`,
and its options in `cpc_ad_config`.

Differs from the paper: see `docs/papers/cpc_ad.md`. Every difference is an option of `CpcAdConfig`; the
preset `paper` switches all of them off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.components.distributed import gather_parts, own_part
from blemish.methods.components.encoders import DenseEncoder, ResNetEncoder
from blemish.methods.components.functional import expose, grey
from blemish.methods.components.statistics import (
    Moments,
    mean_and_variance,
    mean_white,
    position_statistics,
    shrunk_whitening_matrix,
)
from blemish.methods.cpc_ad_config import CpcAdConfig
from blemish.methods.cpc_ad_equations import info_nce, log_f, margin, predict, random_crops
from blemish.methods.cpc_ad_pairs import DIRECTIONS, targets_of

if TYPE_CHECKING:
    from blemish.methods.components.distributed import Share

_ENCODERS = {"resnet18": ResNetEncoder, "dense": DenseEncoder}


class CpcAd(TrainedMethod[CpcAdConfig]):
    """CPC-AD's network. `forward` maps images to the scores of their sub-patches and is what is exported."""

    config_type = CpcAdConfig
    presets: ClassVar[dict[str, CpcAdConfig]] = {
        "default": CpcAdConfig(),
        "compact": CpcAdConfig(steps=400, grey=True, place_density=False, image_score="top5"),
        "paper": CpcAdConfig(
            aligned=False,
            image_size=768,
            image_score="top5",
            grey=True,
            patch_size=256,
            sub_patch_size=64,
            encoder="resnet18",
            width=64,
            exposure=False,
            shared_encoder=False,
            bank=16,
            place_statistics=False,
            place_density=False,
            interpolation="nearest",
            epochs=150,
            batch_size=16,
            learning_rate=1.5e-4,
            schedule="constant",
            validation_fraction=0.0,
            calibration_fraction=0.0,
        ),
    }

    # buffers; sources and weights are made from the config and are not saved
    mean_white: Tensor
    pixel_mean: Tensor
    pixel_spread: Tensor
    bank: Tensor
    place_mean: Tensor
    place_spread: Tensor
    place_encoding: Tensor
    place_whitening: Tensor
    sources: Tensor
    weights: Tensor

    def __init__(self, config: CpcAdConfig, channels: int) -> None:
        super().__init__(config, channels)
        if config.grey and channels not in (1, 3):
            raise UsageError(f"--grey: images have {channels} channels, not 3 or 1; give --no-grey")
        E = 1 if config.shared_encoder else len(DIRECTIONS)
        make, inputs = _ENCODERS[config.encoder], 1 if config.grey else channels
        self.encoders = nn.ModuleList(make(inputs, config.sub_patch_size, config.width) for _ in range(E))
        d: int = self.encoders[0].outputs  # type: ignore[assignment]
        sources, weights = targets_of(config)
        p, g = sources.shape
        self.W = nn.Parameter(torch.empty(E, p // E, d, d).uniform_(-1, 1) / math.sqrt(d))
        self.register_buffer("sources", sources.view(E, p // E, g), persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        if config.exposure:
            self.register_buffer("mean_white", torch.tensor(1.0))
        self.register_buffer("pixel_mean", torch.zeros(()))
        self.register_buffer("pixel_spread", torch.ones(()))
        self.register_buffer("bank", torch.zeros(E, config.bank, d))
        if config.place_statistics:
            kinds = 2 if config.place_density else 1
            self.register_buffer("place_mean", torch.zeros(kinds, g))
            self.register_buffer("place_spread", torch.ones(kinds, g))
        if config.place_density:
            self.register_buffer("place_encoding", torch.zeros(E, g, d))
            self.register_buffer("place_whitening", torch.zeros(E, g, d, d))

    @property
    def scoring_batch(self) -> int:
        """Images to score at a time.

        One on a CPU: so the score of an image is the same to the last bit whatever it is scored with. One for
        the paper's encoder too, which makes 529 of it.
        """
        return 1 if self.W.device.type == "cpu" or self.config.encoder == "resnet18" else 16

    def grey(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W) if the config says so."""
        return grey(x) if self.config.grey else x

    def plain(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) as configured: grey, and of the training images' white point."""
        x = self.grey(x)
        return expose(x, self.mean_white) if self.config.exposure else x

    def encode(self, x: Tensor) -> Tensor:
        """Return z = g_enc(x): each sub-patch once. (B, C, H, W) in [0, 1] -> (E, B, g, d)."""
        x = (self.plain(x) - self.pixel_mean) / self.pixel_spread
        return torch.stack([encoder(x).flatten(1, 2) for encoder in self.encoders])

    def predictions(self, z: Tensor) -> Tensor:
        """Return W_k z_t of all pairs, by target: z (E, B, g, d) -> (E, B, g, p/E, d)."""
        contexts = torch.stack(
            # index_select, as the gradient of z[:, at] is summed in no fixed order by several threads
            [z_e.index_select(1, at.T.flatten()) for z_e, at in zip(z, self.sources, strict=True)]
        ).unflatten(2, (-1, self.sources.shape[1]))
        return torch.stack([predict(W, z_t) for W, z_t in zip(self.W, contexts, strict=True)])

    def loss(self, x: Tensor) -> Tensor:
        """Mean of L_k over all pairs of the four directions, Eq. (2). Images (B, C, H, W) -> a number.

        Each sub-patch draws its negatives from all sub-patches of the batch; the pairs that end in it share
        them (our choice).
        """
        return self.loss_of_share(x, None)

    def loss_of_share(self, x: Tensor, share: Share | None) -> Tensor:
        """Return `loss` of the part of a batch that `share` says: the pairs are those of x alone."""
        config = self.config
        if self.training:
            x = random_crops(x, config.size, config.crop, config.flip, share)
        z = self.encode(x)  # (E, B, g, d)
        with torch.autocast(x.device.type, enabled=False):  # the encoder alone may be in bf16
            return self.loss_of(z.float(), share if config.negatives_of == "batch" else None)

    def loss_of(self, z: Tensor, share: Share | None = None) -> Tensor:
        """Return the mean of L_k over all pairs, Eq. (2), of encodings (E, B, g, d)."""
        E, B, g, d = z.shape
        negatives, total = self.config.negatives, share.total if share else B
        drawn = own_part(torch.randint(total * g, (total * g * negatives,)).view(total, -1), share).flatten()
        everyone = gather_parts(z, share, dim=1).flatten(1, 2)  # (E, total·g, d)
        z_j = everyone.index_select(1, drawn.to(z.device)).view(E, B, g, negatives, d)
        candidates = torch.cat([z[:, :, :, None], z_j], dim=3)  # the positive first
        scores = log_f(candidates, self.predictions(z))  # (E, B, g, p/E, 1 + negatives)
        losses = self._by_pair(info_nce(scores[..., 0], scores[..., 1:]))
        return (losses * self.weights).sum() / (B * self.weights.sum())

    def pair_scores(self, z: Tensor) -> Tensor:
        """Return L_k, or the margin, of each pair against the bank. Encodings (E, B, g, d) -> (B, p, g).

        Pairs that do not exist (their weight is 0) have a meaningless value.
        """
        prediction = self.predictions(z)
        positive = log_f(z[:, :, :, None], prediction)[..., 0]  # (E, B, g, p/E)
        negatives = log_f(self.bank[:, None, None], prediction)  # (E, B, g, p/E, m)
        rule = info_nce if self.config.score == "infonce" else margin
        return self._by_pair(rule(positive, negatives))

    def sub_patch_scores(self, z: Tensor) -> Tensor:
        """Score each sub-patch. Encodings (E, B, g, d) -> (B, 1, g), or (B, 2, g) with the density.

        First the mean (or sum) over the pairs that end in it (Sec. 5: "combine their losses"). Then, ours,
        how unlikely its encoding is at its position. Eq. (2) estimates log p(z | c) / p(z): what is rare but
        agrees with equally rare surroundings, a stain that covers its own context, scores well there. The
        density p(z), a Gaussian over the good training images, is the factor that is missing.
        """
        total = (self.pair_scores(z) * self.weights).sum(dim=1)  # (B, g)
        if self.config.combine == "mean":
            total = total / self.weights.sum(dim=0)
        kinds = [total]
        if self.config.place_density:
            white = torch.einsum("ebgd,egfd->ebgf", z - self.place_encoding[:, None], self.place_whitening)
            kinds.append(white.square().sum(dim=-1).mean(dim=0).log1p())  # 1 +: no pole at the mean itself
        return torch.stack(kinds, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> scores of sub-patches (B, h, w), larger is more anomalous."""
        scores = self.sub_patch_scores(self.encode(x))
        if self.config.place_statistics:
            scores = (scores - self.place_mean) / self.place_spread
        return scores.mean(dim=1).unflatten(1, self.config.grid)

    def _by_pair(self, values: Tensor) -> Tensor:
        """(E, B, g, p/E) -> (B, p, g)."""
        return values.permute(1, 0, 3, 2).flatten(1, 2)

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Before training: white point, mean and std of the training images (batches (B, C, H, W))."""
        if self.config.exposure:
            self.mean_white.copy_(mean_white(self.grey(x) for x in batches()))
        mean, variance = mean_and_variance(self.plain(x).flatten() for x in batches())
        self.pixel_mean.copy_(mean)
        self.pixel_spread.copy_(variance.sqrt().clamp(min=1e-3))

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """After training, from the good training images: the bank of negatives, each position's statistics.

        Each sub-patch draws a number, and the smallest make the bank: a uniform draw in one pass.
        """
        generator = torch.Generator().manual_seed(self.config.bank_seed)
        lots, kept, places = torch.empty(0), self.bank[:, :0], Moments()
        for x in self.as_scored(batches):
            z = self.encode(x)  # (E, B, g, d)
            lots = torch.cat([lots, torch.rand(z.shape[1] * z.shape[2], generator=generator)])
            kept = torch.cat([kept, z.flatten(1, 2)], dim=1)
            chosen = lots.argsort()[: self.config.bank]
            lots, kept = lots[chosen], kept[:, chosen.to(kept.device)]
            if self.config.place_density:
                places.add(z.transpose(1, 2))
        # fewer sub-patches than the bank holds (a handful of tiny images) fill it more than once
        self.bank.copy_(kept[:, torch.arange(self.config.bank) % kept.shape[1]])
        if self.config.place_density:
            self.place_encoding.copy_(places.mean)
            self.place_whitening.copy_(shrunk_whitening_matrix(places.covariance, places.n))
        if self.config.place_statistics:
            scores = (self.sub_patch_scores(self.encode(x)) for x in self.as_scored(batches))
            mean, std = position_statistics(scores, positions=1)
            self.place_mean.copy_(mean)
            self.place_spread.copy_(std)
