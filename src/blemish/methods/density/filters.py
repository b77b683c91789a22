"""Filters: what a fixed bank of filters never saw at a place, near it or anywhere is anomalous (ours).

Nothing is trained, so it learns within seconds. The parts have sources: the Gabor pairs of Daugman (1985),
the Gaussian at each place of Defard et al., "PaDiM" (2020), arXiv:2011.08785, the nearest good feature of
Cohen and Hoshen, "SPADE" (2020), arXiv:2005.02357, the mixture of Gaussians of texture inspection (Böttger
and Ulrich 2016). There they stand on networks that were trained on millions of pictures, here on 42 numbers
that a reader can name.

Symbols
    z           the feature of a place, standardised: `describe`
    μ, A        mean and whitening of z at a place, over good images: `mean`, `whitening`
    D²          squared distance from what is good: `mahalanobis`, `nearest`
    π_k         weight of a Gaussian of the mixture: `log_weights`

The map is log(1 + D²) at each place, or -log p for the mixture; interpolated
to the image's size and smoothed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, Method
from blemish.methods.components.functional import blur, smoothing_matrix
from blemish.methods.components.statistics import (
    Moments,
    mean_and_variance,
    mean_white,
    shrink_to_mean,
    whitening_matrix,
)
from blemish.methods.config import DetectorConfig
from blemish.methods.density import densities
from blemish.methods.density import features as filter_bank

if TYPE_CHECKING:
    from collections.abc import Iterator

LIGHT_SIGMA = 21 / 256
"""σ of what counts as light in `rel`, as a share of the image's side: a window of about 72 of 256 pixels."""
RIDGE = 0.01
"""Added to each variance of a standardised feature."""
ROUNDS = 20
"""Of expectation and maximisation."""
MIXTURE_FEATURES = 20_000
"""Features that a mixture is fitted to, at most."""
KEPT_BYTES = 2**28
"""Of features that learning keeps from one pass over the training images for the next, at most."""


@dataclass(frozen=True, kw_only=True)
class FiltersConfig(DetectorConfig):
    """The options of fixed filters and a density."""

    image_size: tuple[int, int] | int = 256
    """Images are resized to this: one number for a square, or height and width, in pixels."""
    aligned: bool | None = None
    """Turn and move parts so that they lie alike; None: only if good images become much more alike by it."""
    density: Literal["position", "neighbours", "shared"] = "position"
    """position: a Gaussian at each place. neighbours: the nearest of good images around the place. shared: a
    mixture of Gaussians for all places."""
    light: Literal["abs", "rel"] = "abs"
    """abs: brightness counts. rel: only brightness against the surroundings does."""
    grid: int | None = None
    """Places along the longer side; None: 64, or 32 for neighbours."""
    smoothing: float = 4.0
    """σ of the map's Gaussian filter in pixels of a side of 256, larger on larger images; 0: none."""
    keep: int = 120
    """Good images that neighbours are looked for in, at most; drawn by `bank_seed`."""
    reach: int = 2
    """Places by which a neighbour may lie away, in rows and columns."""
    gaussians: int = 16
    """Of the mixture."""
    bank_seed: int = 0
    """Fixes which images are kept, and where the mixture begins."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing, and images too small for the pyramid. Raises UsageError."""
        super().__post_init__()
        self.check_counts("grid", "keep", "gaussians")
        self.check_seeds("bank_seed")
        smallest = (filter_bank.REACH + 1) << (filter_bank.LEVELS - 1)
        if min(self.size) < smallest:
            raise UsageError(f"--image-size {min(self.size)}: filters needs {smallest} pixels or more")
        if self.reach < 0:
            raise UsageError(f"--reach {self.reach}: must be 0 or larger")
        self.check_weights("smoothing")

    @property
    def places(self) -> tuple[int, int]:
        """Rows h and columns w of the grid; the longer side has `grid`."""
        longer = self.grid or (32 if self.density == "neighbours" else 64)
        H, W = self.size
        return max(1, round(longer * H / max(H, W))), max(1, round(longer * W / max(H, W)))


class Filters(Method[FiltersConfig]):
    """Fixed filters and a density. `forward` maps images to maps of their own size."""

    config_type = FiltersConfig
    presets: ClassVar[dict[str, FiltersConfig]] = {
        "default": FiltersConfig(),
        "position-rel": FiltersConfig(light="rel"),
        "neighbours": FiltersConfig(density="neighbours"),
        "neighbours-rel": FiltersConfig(density="neighbours", light="rel"),
        "shared": FiltersConfig(density="shared"),
        "shared-rel": FiltersConfig(density="shared", light="rel"),
    }

    white: Tensor
    mixing: Tensor
    centre: Tensor
    scale: Tensor
    gabor: Tensor
    light_rows: Tensor
    light_cols: Tensor
    up_rows: Tensor
    up_cols: Tensor
    mean: Tensor
    whitening: Tensor
    whitener: Tensor
    bank: Tensor
    log_weights: Tensor
    means: Tensor
    whitenings: Tensor

    def __init__(self, config: FiltersConfig, channels: int) -> None:
        super().__init__(config, channels)
        (H, W), (h, w) = config.size, config.places
        kept = filter_bank.kept_channels(channels)
        d = filter_bank.feature_width(kept)
        self.register_buffer("white", torch.tensor(1.0))
        mixing = filter_bank.opponent_mixing() if channels == 3 else torch.eye(channels)[:kept]
        self.register_buffer("mixing", mixing)
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))
        self.register_buffer("gabor", filter_bank.gabor_bank(), persistent=False)
        for level, (rows, cols) in enumerate(filter_bank.pyramid_sizes(config.size)):
            self.register_buffer(f"rows_{level}", filter_bank.averaging_matrix(rows, h), persistent=False)
            self.register_buffer(f"cols_{level}", filter_bank.averaging_matrix(cols, w), persistent=False)
        if config.light == "rel":
            self.register_buffer("light_rows", smoothing_matrix(H, LIGHT_SIGMA * H), persistent=False)
            self.register_buffer("light_cols", smoothing_matrix(W, LIGHT_SIGMA * W), persistent=False)
        sigma = config.smoothing * max(H, W) / 256
        for name, n, places in (("up_rows", H, h), ("up_cols", W, w)):
            matrix = smoothing_matrix(n, sigma) @ filter_bank.averaging_matrix(places, n)
            self.register_buffer(name, matrix, persistent=False)
        for name, shape in self._density_shapes(h * w, d).items():
            # two bytes a number: a third decimal of a whitening moves no score by a thousandth
            dtype = torch.float16 if name in ("whitening", "bank") else torch.float32
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self.register_load_state_dict_pre_hook(_make_room)

    def _density_shapes(self, g: int, d: int) -> dict[str, tuple[int, ...]]:
        """Name what the density keeps, with its shapes; a bank's number of images follows from the data."""
        k = self.config.gaussians
        return {
            "position": {"mean": (g, d), "whitening": (g, d, d)},
            "neighbours": {"whitener": (d, d), "bank": (*self.config.places, 1, d)},
            "shared": {"log_weights": (k,), "means": (k, d), "whitenings": (k, d, d)},
        }[self.config.density]

    @property
    def scoring_batch(self) -> int:
        """Images to score at a time: one on a CPU, so that a score does not depend on its company."""
        return 1 if self.white.device.type == "cpu" else 16

    def raw(self, x: Tensor) -> Tensor:
        """Describe each place, not yet standardised: images (B, C, H, W) in [0, 1] -> (B, h, w, d)."""
        x = x / self.white
        if self.config.light == "rel":
            x = filter_bank.relative(x, self.light_rows, self.light_cols)
        x = torch.einsum("kc,bchw->bkhw", self.mixing, x)
        averages = [
            (getattr(self, f"rows_{i}"), getattr(self, f"cols_{i}")) for i in range(filter_bank.LEVELS)
        ]
        return filter_bank.features(x, self.gabor, averages)

    def describe(self, x: Tensor) -> Tensor:
        """Return z, the standardised feature of each place: images (B, C, H, W) -> (B, h, w, d)."""
        return (self.raw(x) - self.centre) / self.scale

    def place_scores(self, z: Tensor) -> Tensor:
        """Score each place: z (B, h, w, d) -> (B, h, w)."""
        if self.config.density == "position":
            distance = densities.mahalanobis(z.flatten(1, 2), self.mean, self.whitening.float())
            return distance.unflatten(1, self.config.places).log1p()
        if self.config.density == "neighbours":
            distance = densities.nearest(z @ self.whitener.T, self.bank.float(), self.config.reach)
            return distance.log1p()
        return densities.minus_log_mixture(z, self.log_weights, self.means, self.whitenings)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W), larger is more anomalous."""
        return blur(self.place_scores(self.describe(x)), self.up_rows, self.up_cols)

    # --- learning -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Learn white, the channels' mixing, and the density of the training images (B, C, H, W)."""
        self.white.copy_(mean_white(batches()).clamp(min=1e-3))
        if self.channels not in (1, 3):
            self._fit_mixing(batches)
        described, images = _Described(self, batches), sum(len(x) for x in batches())
        mean, variance = mean_and_variance(z.flatten(0, 1) for z in described)
        self.centre.copy_(mean)
        self.scale.copy_(variance.sqrt() + 1e-4)
        {"position": self._fit_position, "neighbours": self._fit_neighbours, "shared": self._fit_shared}[
            self.config.density
        ](described, images)

    def _fit_mixing(self, batches: Batches) -> None:
        """Learn the principal channels of images that are neither RGB nor grey."""
        pixels = Moments()
        for x in batches():
            pixels.add(x.movedim(1, -1).flatten(0, 2))
        self.mixing.copy_(filter_bank.principal_mixing(pixels.covariance))

    def _fit_position(self, described: _Described, images: int) -> None:
        """Take mean and covariance of z at each place over the good images; the products are float32."""
        total, products = torch.zeros(()), torch.zeros_like(self.whitening, dtype=torch.float32)
        for z in described:
            z = ((z - self.centre) / self.scale).flatten(0, 1)  # (g, d)
            total = total + z.double()
            products.baddbmm_(z[:, :, None], z[:, None, :])
        mean = total / images
        self.mean.copy_(mean)
        covariance = products.double() / images - mean[:, :, None] * mean[:, None, :]
        covariance = shrink_to_mean(covariance, images)
        for now, part in zip(self.whitening.split(256), covariance.split(256), strict=True):
            now.copy_(whitening_matrix(part, RIDGE))

    def _fit_neighbours(self, described: _Described, images: int) -> None:
        """Keep z of good images, whitened by the covariance of all places together."""
        generator = torch.Generator().manual_seed(self.config.bank_seed)
        chosen = set(torch.randperm(images, generator=generator)[: self.config.keep].tolist())
        kept, products = [], torch.zeros(())
        for number, z in enumerate(described):
            z = (z - self.centre) / self.scale
            flat = z.flatten(0, 1)
            products = products + (flat.T @ flat).double() / len(flat)
            if number in chosen:
                kept.append(z)
        self.whitener.copy_(whitening_matrix(products / images, RIDGE))
        self.bank = torch.stack(kept, dim=2).matmul(self.whitener.T).half()

    def _fit_shared(self, described: _Described, images: int) -> None:
        """Fit the mixture to as many places of each image as make `MIXTURE_FEATURES`."""
        generator = torch.Generator().manual_seed(self.config.bank_seed)
        each = max(1, MIXTURE_FEATURES // images)
        drawn = []
        for z in described:
            flat = ((z - self.centre) / self.scale).flatten(0, 1)
            drawn.append(flat[torch.randperm(len(flat), generator=generator)[:each]])
        z = torch.cat(drawn)[:MIXTURE_FEATURES].double()
        k = self.config.gaussians
        z = z.repeat(-(-k // len(z)), 1)  # once, unless there are fewer features than Gaussians
        with torch.random.fork_rng():
            torch.manual_seed(self.config.bank_seed)
            found = densities.fit_mixture(z, k, rounds=ROUNDS, ridge=RIDGE)
        for now, fitted in zip((self.log_weights, self.means, self.whitenings), found, strict=True):
            now.copy_(fitted)


class _Described:
    """The training images one at a time, as scoring describes them, not yet standardised: (h, w, d).

    To describe an image takes most of the time of learning. So what the first pass makes is kept for the
    second one, as far as `KEPT_BYTES` go; the other images are described again, to the same bits.
    """

    def __init__(self, network: Filters, batches: Batches) -> None:
        self.network, self.batches, self.kept = network, batches, list[Tensor]()

    def __iter__(self) -> Iterator[Tensor]:
        images = itertools.chain.from_iterable(x.split(1) for x in self.batches())
        for number, image in enumerate(images):
            if number < len(self.kept):
                yield self.kept[number]
                continue
            described = self.network.raw(image)[0]
            if (number + 1) * described.nbytes <= KEPT_BYTES:
                self.kept.append(described)
            yield described


def _make_room(filters: Filters, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: the number of images in a bank is known only from the model file."""
    if (saved := state.get(f"{prefix}bank")) is not None and filters.config.density == "neighbours":
        filters.bank = filters.bank.new_empty(saved.shape)
