"""NSA: a network learns to see pieces of other good images, blended into good ones, and sees real defects.

Source: H. Schlüter, J. Tan, B. Hou, B. Kainz, "Natural Synthetic Anomalies for Self-Supervised Anomaly
Detection and Localization" (2022), arXiv:2109.15222, and its code: one image, one network, labels by the size
of the change (there "logistic").

Symbols
    x, x'       a good image, and the same with pieces of another one: `nsa_patches.alter`
    d           median over 3×3 pixels of the mean |x' - x| over channels, in grey levels: `change`
    m           where d > 1, and the part was or is there
    y           how anomalous a pixel is said to be, Eq. (3): `label`
    x₀          the change in grey levels of y = 1/2, Eq. (4): `half_change`
    f           the network's logit; the map is σ(f) = 1 / (1 + exp(-f))

    (3)  y = m / (1 + exp(-k (d - x₀))), k = log 9 / x₀
    (4)  x₀ = clip(min(q₀.₉(d between two good images), q₀.₅(d of pieces)), 3, 24)
    (5)  loss = mean(softplus(f) - y f), the binary cross-entropy

Eq. (1) and (2) and where pieces lie: `nsa_patches`. The network is a ResNet-18, which goes down to a 32nd of
the height and width, two 1×1 convolutions, and three transposed residual blocks, a bilinear and a transposed
7×7 step back up. The image score is the mean of the map.

Differs from the source: (k, x₀) are by hand for each category there, from (1/12, 24) to (1, 3), so that k x₀
is 2 to 3; here Eq. (4) derives x₀, and k x₀ = 2.2. What is an object, its background, and the bounds of its
pieces are by hand there too; see `nsa_patches`. Its medians are of 5×5 pixels for m and of a radius of 5 for
d. Its images are cut to 224 of 256 pixels, moved by 3 or 4, textures flipped, and turned by 5° where objects
lie at any angle; here they are whole, and moved by a 64th of their side at most. A piece comes from the same
batch. A batch of too few images is filled up with more changes of the same ones. The learning rate rises over
the first 50 steps, and falls to 0, not to 1e-6. Some objects learn for 560 epochs there, `paper` has the 320
of most. The preset `default`, for a few minutes of two cores, has 192×192 pixels, a quarter of the width and
16 images a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.data.part import background_of, seen_of
from blemish.data.planting import LEVELS
from blemish.methods.base import Batches, TrainedMethod
from blemish.methods.baselines.nsa_network import EncoderDecoder
from blemish.methods.baselines.nsa_patches import OBJECT, TEXTURE, Habit, alter_each, part_pixels
from blemish.methods.components.altered import count_of, draw_apart, filled
from blemish.methods.components.functional import mirrored_line
from blemish.methods.components.statistics import image_statistics
from blemish.methods.config import TrainedConfig

if TYPE_CHECKING:
    from blemish.methods.components.distributed import Share

BETWEEN, OF_PIECES = 0.9, 0.5
"""Quantiles of Eq. (4)."""
BOUNDS = (3.0, 24.0)
"""Of x₀, in grey levels: the source's least and most."""
SAMPLES = 256
"""Training images that Eq. (4) looks at, at most."""
BINS = 16
"""Steps of a grey level in which quantiles of changes are told."""


@dataclass(frozen=True, kw_only=True)
class NsaConfig(TrainedConfig):
    """The options of NSA."""

    image_size: tuple[int, int] | int = 192
    """Images are resized to this: one number for a square, or height and width, in pixels."""
    image_score: Literal["max", "mean", "top1", "top5"] = "mean"
    """The image score: `mean` is the source's; the others take the map's largest values."""
    steps: int = 1200
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 16
    """Images in an optimiser step."""
    width: int = 16
    """Channels of the network's first stage, a multiple of 4; the last has 8 times as many."""

    def __post_init__(self) -> None:
        """Refuse sizes that the network does not take. Raises UsageError."""
        super().__post_init__()
        if min(self.size) < 32:
            raise UsageError(f"--image-size {min(self.size)}: nsa needs 32 pixels or more")
        if self.width < 4 or self.width % 4:
            raise UsageError(f"--width {self.width}: must be a multiple of 4, 4 or larger")


# --- the equations --------------------------------------------------------------------------------------


def median3(x: Tensor) -> Tensor:
    """Take the median of 3×3 pixels: (B, H, W) -> (B, H, W). The border's pixels go on beyond it.

    Of each column of three the least, the middle and the largest are found; of three columns, the median of
    the largest least, the median middle and the least largest is the median of all nine.
    """
    x = F.pad(x[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    a, b, c = x[:, :-2], x[:, 1:-1], x[:, 2:]
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    columns = torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)
    least, middle, most = ((v[..., :-2], v[..., 1:-1], v[..., 2:]) for v in columns)
    return _median_of_three(
        torch.maximum(torch.maximum(least[0], least[1]), least[2]),
        _median_of_three(*middle),
        torch.minimum(torch.minimum(most[0], most[1]), most[2]),
    )


def _median_of_three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def change(good: Tensor, altered: Tensor) -> Tensor:
    """Return d: images (B, C, H, W) twice, of white 1 -> (B, H, W) in grey levels."""
    return median3((altered - good).abs().mean(dim=1) * LEVELS)


def label(d: Tensor, touched: Tensor, half: Tensor) -> Tensor:
    """Return y = m / (1 + exp(-k (d - x₀))), Eq. (3), k = log 9 / x₀: 0.1 near no change, 0.9 at 2 x₀.

    Args:
        d: change in grey levels, any shape.
        touched: where the part was or is in what was put there, bool; m is `touched` and d > 1.
        half: x₀ in grey levels, a number above 0.

    Returns:
        in [0, 1], of that shape.
    """
    return (touched & (d > 1)) * torch.sigmoid(math.log(9) / half * (d - half))


def half_change(between: Tensor, of_pieces: Tensor) -> Tensor:
    """Return x₀, Eq. (4), in grey levels. Our choice.

    A change that two good images show at a place is no defect there. But where good images have nothing in
    common, as textures, this would be any change. So half of what pieces change is to count for more than
    1/2, whatever good images do.

    Args:
        between, of_pieces: how often each d was met, (n,): the change i / BINS is counted in place i.
    """
    found = torch.minimum(_quantile(between, BETWEEN), _quantile(of_pieces, OF_PIECES))
    return found.clamp(*BOUNDS)


def _quantile(counts: Tensor, share: float) -> Tensor:
    """Return the least change that this share of all counted ones does not exceed, in grey levels."""
    reached = counts.double().cumsum(dim=0) >= share * counts.sum()
    return reached.int().argmax().float() / BINS


def counts_of(d: Tensor) -> Tensor:
    """Count changes by `BINS` steps a grey level, up to 1024 levels: any shape -> (n,)."""
    n = 1024 * BINS
    return torch.bincount((d.flatten() * BINS).long().clamp(max=n - 1), minlength=n)


# --- the network ----------------------------------------------------------------------------------------


class Nsa(TrainedMethod[NsaConfig]):
    """NSA's network. `forward` maps images to maps of their own size in [0, 1]."""

    config_type = NsaConfig
    presets: ClassVar[dict[str, NsaConfig]] = {
        "default": NsaConfig(),
        "paper": NsaConfig(image_size=256, width=64, epochs=320, batch_size=64, calibration_fraction=0.0),
    }

    white: Tensor
    pixel_mean: Tensor
    pixel_spread: Tensor
    colour: Tensor
    apart: Tensor
    half_way: Tensor

    def __init__(self, config: NsaConfig, channels: int) -> None:
        super().__init__(config, channels)
        self.network = EncoderDecoder(channels, config.width)
        self.register_buffer("white", torch.tensor(1.0))
        self.register_buffer("pixel_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("pixel_spread", torch.ones(()))
        self.register_buffer("colour", torch.zeros(channels))
        self.register_buffer("apart", torch.tensor(-1.0))
        self.register_buffer("half_way", torch.tensor(BOUNDS[0]))

    @property
    def habit(self) -> Habit:
        """How pieces are put: an object is what lies on a plain background."""
        return OBJECT if self.apart >= 0 else TEXTURE

    def logits(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) of white 1 -> f, (B, H, W)."""
        return self.network((x - self.pixel_mean) / self.pixel_spread)

    def loss(self, x: Tensor) -> Tensor:
        """Blend pieces into each image and return Eq. (5). Images (B, C, H, W) in [0, 1]."""
        return self.loss_of_images(x, self.config.batch_size)

    def loss_of_images(self, x: Tensor, count: int) -> Tensor:
        """Return `loss` with so many images at least: of few images several are made of each."""
        x = moved(filled(x, count) / self.white)
        altered, touched = self.alter(x)
        labels = label(change(x, altered), touched, self.half_way)
        return F.binary_cross_entropy_with_logits(self.logits(altered).float(), labels)

    def loss_of_share(self, x: Tensor, share: Share) -> Tensor:
        """Return the loss of one process's images; batch normalisation sees these alone."""
        draw_apart(share)
        return self.loss_of_images(x, count_of(share, len(x), self.config.batch_size))

    @torch.no_grad()
    def alter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Blend pieces into each image, where pieces are drawn: `alter_each` of images of white 1."""
        cpu, colour, apart = x.cpu(), self.colour.cpu(), self.apart.cpu()
        seen = seen_of(cpu * self.white.cpu()) if self.covered else None
        altered, touched = alter_each(cpu, part_pixels(cpu, colour, apart, seen), self.habit)
        if seen is not None:
            altered, touched = torch.where(seen, altered, cpu), touched & seen[:, 0]
        return altered.to(x.device), touched.to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> maps (B, H, W) in [0, 1], larger is more anomalous."""
        return self.logits(x / self.white).sigmoid()

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Before training: white, mean and spread of the pixels, background, and x₀."""
        good = image_statistics(batches)
        self.white.copy_(good.white)
        self.pixel_mean.copy_(good.mean.mean(dim=(1, 2), keepdim=True))
        self.pixel_spread.copy_(good.spread)
        colour, apart = background_of(good.mean, good.std, self.seen_in(batches))
        self.colour.copy_(colour)
        self.apart.copy_(apart)
        self.half_way.copy_(self._half_change(batches))

    def _half_change(self, batches: Batches) -> Tensor:
        """Take x₀ from the first training images: two of a batch, half a batch apart, and pieces in each."""
        between, of_pieces = (torch.zeros(1024 * BINS, dtype=torch.long) for _ in range(2))
        seen = 0
        with torch.random.fork_rng([]):
            torch.manual_seed(0)  # so that it depends on the images alone
            for batch in batches():
                x = batch[: SAMPLES - seen] / self.white
                between += counts_of(change(x, x.roll(len(x) // 2, dims=0)))
                altered, touched = self.alter(x)
                of_pieces += counts_of(change(x, altered)[touched])
                seen += len(x)
                if seen >= SAMPLES:
                    break
        return half_change(between, of_pieces)


def moved(x: Tensor) -> Tensor:
    """Move each image by a 64th of its side at most, mirrored at its border: (B, C, H, W), the same shape."""
    (B, _, H, W) = x.shape
    rows, cols = (mirrored_line(n, torch.randint(-(n // 64), n // 64 + 1, (B,))[:, None]) for n in (H, W))
    rows, cols = rows.to(x.device), cols.to(x.device)
    images = torch.arange(B, device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[images, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
