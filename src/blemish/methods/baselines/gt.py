"""GT: a network learns which of 72 geometric transformations an image has had; on an odd image it errs.

Source: I. Golan, R. El-Yaniv, "Deep Anomaly Detection Using Geometric Transformations", NeurIPS (2018),
arXiv:1805.10917. It is "GT" of MeTAL's Table 5.

Symbols (source: here)
    T_i, k     transformations and their number, 72: `transformed`, `KINDS`
    y(x)       what the network says, softmax over k: `network`
    α̃_i        Dirichlet distribution of y(T_i(x)) on good images, (k,): `alpha`
    n_S(x)     normality score, Σ_i (α̃_i - 1) · log y(T_i(x))

It scores images and draws nothing: its map is 0 everywhere, and there are no figures of pixels.

Differs from the source: a step takes one transformation, drawn anew, of each of its images, where the source
goes through all 72 of each; `paper` makes as many passes over them as the source has, ⌈200/72⌉ · 72 epochs.
The search for α̃ ends after 100 rounds (there when nothing changes any more, 1,000 at most). Translations are
by a quarter of the side, mirrored at the border, and the score is -n_S / 72, as in the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.baselines.autoencoder import weight_penalty
from blemish.methods.components.collapse import refuse_constant
from blemish.methods.components.functional import mirrored_line
from blemish.methods.components.statistics import mean_and_variance
from blemish.methods.config import TrainedConfig

KINDS = 72
"""k: mirrored or not, moved by rows (3) and by columns (3), turned (4)."""


@dataclass(frozen=True, kw_only=True)
class GtConfig(TrainedConfig):
    """The options of GT."""

    image_size: tuple[int, int] | int = 64
    """Images are resized to this square, in pixels: a multiple of 4, as they are turned and moved."""
    steps: int = 1500
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 32
    """Images in an optimiser step."""
    width: int = 1
    """Times as many channels as a plain residual network: 16, 32 and 64 for 1, as many more for 4."""
    blocks: int = 1
    """Residual blocks of each of the three stages."""
    weight_decay: float = 0.0
    """Weight of half the squared sum of all weights in the loss."""

    def __post_init__(self) -> None:
        """Refuse images that cannot be turned. Raises UsageError."""
        super().__post_init__()
        self.check_counts("width", "blocks")
        self.check_weights("weight_decay")
        H, W = self.size
        if H != W or H % 4:
            raise UsageError(
                f"--image-size {H}x{W}: gt turns images; choose a square with sides of 4, 8, 12, …"
            )


# --- the equations --------------------------------------------------------------------------------------


def transformed(x: Tensor, kind: int) -> Tensor:
    """T_i(x): mirrored left to right, moved by a quarter of the side, turned by 90°, in that order.

    Args:
        x: square images (B, C, S, S).
        kind: i in [0, 72): turns, then columns, then rows, then mirrored.

    Returns:
        (B, C, S, S); 0 is the image itself.
    """
    rest, turns = divmod(kind, 4)
    rest, columns = divmod(rest, 3)
    mirror, rows = divmod(rest, 3)
    x = x.flip(3) if mirror else x
    for dim, move in ((2, rows), (3, columns)):
        if move:
            n = x.shape[dim]
            by = torch.tensor(-(n // 4) if move == 1 else n // 4)
            x = x.index_select(dim, mirrored_line(n, by).to(x.device))
    return x.rot90(turns, dims=(2, 3))


def dirichlet(log_mean: Tensor, mean: Tensor, steps: int = 100) -> Tensor:
    """α̃: the most likely Dirichlet distribution of given samples, by the source's fixed point.

    It begins at s̄ (k - 1) (-ψ(1)) / (k (Σ s̄ log s̄ - Σ s̄ l)) and repeats ψ⁻¹(ψ(Σ α) + l).

    Args:
        log_mean: l, the mean of log s over samples (..., k).
        mean: s̄, the mean of s over samples (..., k), of sum 1.
        steps: repetitions.

    Returns:
        (..., k) above 0, in float64.
    """
    log_mean, mean = log_mean.double(), mean.double()
    k = mean.shape[-1]
    mean = mean.clamp(min=1e-300)
    apart = (mean * (mean.log() - log_mean)).sum(dim=-1, keepdim=True).clamp(min=1e-9)
    alpha = mean * (k - 1) * -torch.digamma(mean.new_ones(())) / (k * apart)
    for _ in range(steps):
        alpha = inverse_digamma(torch.digamma(alpha.sum(dim=-1, keepdim=True)) + log_mean)
    return alpha


def inverse_digamma(y: Tensor) -> Tensor:
    """ψ⁻¹(y), by five of Newton's steps from Minka's approximation; float64, any shape."""
    first = torch.where(y >= -2.22, y.exp() + 0.5, -1 / (y - torch.digamma(y.new_ones(()))))
    for _ in range(5):
        first = first - (torch.digamma(first) - y) / torch.polygamma(1, first)
    return first


def normality(log_y: Tensor, alpha: Tensor) -> Tensor:
    """n_S(x) / k = mean_i (α̃_i - 1) · log y(T_i(x)).

    Args:
        log_y: log y(T_i(x)), (B, k transformations, k classes).
        alpha: α̃, (k, k).

    Returns:
        (B,), larger is more normal.
    """
    return ((alpha - 1) * log_y).sum(dim=-1).mean(dim=-1)


# --- the network ----------------------------------------------------------------------------------------


class WideBlock(nn.Module):
    """A block of a wide residual network: x + conv(relu(norm(conv(relu(norm(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h/stride, w/stride)."""
        active = F.relu(self.norm(x))
        kept = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(active)
        return kept + self.second(F.relu(self.norm2(self.first(active))))


class Gt(TrainedMethod[GtConfig]):
    """GT. `forward` maps images to empty maps and to scores."""

    config_type = GtConfig
    whole_batches = True
    presets: ClassVar[dict[str, GtConfig]] = {
        "default": GtConfig(),
        "paper": GtConfig(
            image_size=32,
            epochs=3 * KINDS,
            batch_size=128,
            learning_rate=1e-3,
            schedule="constant",
            width=4,
            weight_decay=5e-4,
            calibration_fraction=0.0,
        ),
    }

    alpha: Tensor
    places: Tensor

    def __init__(self, config: GtConfig, channels: int) -> None:
        super().__init__(config, channels)
        widths = [16, *(16 * config.width * times for times in (1, 2, 4))]
        blocks: list[nn.Module] = []
        for (before, now), stride in zip(pairwise(widths), (1, 2, 2), strict=True):
            blocks += [WideBlock(before, now, stride)]
            blocks += [WideBlock(now, now, 1) for _ in range(config.blocks - 1)]
        self.first = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*blocks, nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.last = nn.Linear(widths[-1], KINDS)
        self.register_buffer("alpha", torch.ones(KINDS, KINDS))
        H, W = config.size  # which pixel each transformation shows at each place: (72, S²), not saved
        numbers = torch.arange(H * W).view(1, 1, H, W)
        places = torch.cat([transformed(numbers, kind).flatten(1) for kind in range(KINDS)])
        self.register_buffer("places", places, persistent=False)

    @property
    def scoring_batch(self) -> int:
        """Images to score at a time: each is seen 72 times."""
        return 4

    def logits(self, x: Tensor) -> Tensor:
        """Images (n, C, S, S) in [0, 1] -> logits (n, 72)."""
        return self.last(self.blocks(self.first(2 * x - 1)).mean(dim=(2, 3))).float()

    def loss(self, x: Tensor) -> Tensor:
        """Cross-entropy of the transformation that each image (B, C, S, S) in [0, 1] has had."""
        kinds = torch.randint(KINDS, (len(x),))
        seen = torch.cat([transformed(x[i : i + 1], int(kind)) for i, kind in enumerate(kinds)])
        loss = F.cross_entropy(self.logits(seen), kinds.to(x.device))
        return loss + weight_penalty(self.parameters(), self.config.weight_decay)

    def log_softmax_of_all(self, x: Tensor) -> Tensor:
        """Log y(T_i(x)) of all 72: images (B, C, S, S) -> (B, 72, 72)."""
        seen = x.flatten(2)[:, :, self.places.flatten()].unflatten(2, (KINDS, *x.shape[2:])).movedim(2, 1)
        logits = self.logits(seen.flatten(0, 1)).unflatten(0, (-1, KINDS))
        return logits.log_softmax(dim=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, S, S) in [0, 1] -> maps of 0 (B, 1, 1), and -n_S / 72 (B,)."""
        scores = -normality(self.log_softmax_of_all(x), self.alpha)
        return torch.zeros_like(scores)[:, None, None], scores

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """α̃ of the good training images. Raises TrainingError where the network answers all alike."""
        parts = [self.log_softmax_of_all(x).double() for x in self.as_scored(batches)]
        apart = torch.cat(parts).std(dim=1).max()
        refuse_constant("gt", apart, "the network says the same of every transformation")
        log_mean, _ = mean_and_variance(parts)
        mean, _ = mean_and_variance(part.exp() for part in parts)
        self.alpha.copy_(dirichlet(log_mean, mean / mean.sum(dim=-1, keepdim=True)))
