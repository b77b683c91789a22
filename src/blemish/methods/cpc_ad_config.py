"""The options of CPC-AD.

Symbols
    K              sub-patches that a context predicts in each direction: `steps_ahead`
    H, W; P, S     sides of the image, of a patch and of a sub-patch, in pixels
    h, w           rows and columns of sub-patches: `grid`
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from blemish.core.errors import UsageError
from blemish.methods.config import TrainedConfig
from blemish.methods.cpc_ad_pairs import targets_of


@dataclass(frozen=True, kw_only=True)
class CpcAdConfig(TrainedConfig):
    """The options of CPC-AD. The defaults measured best over several categories (docs/papers/cpc_ad.md)."""

    image_size: tuple[int, int] | int = 192
    """Images are resized to this: one number for a square, or height and width, in pixels."""
    image_score: Literal["max", "mean", "top1", "top5"] = "top1"
    """The image score: largest value, mean, or mean of the top 1 % or 5 % of the sub-patches."""
    steps: int = 800
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 16
    """Images in an optimiser step."""
    aligned: bool | None = None
    """Turn and move parts so that they lie alike; None: only if good images become much more alike by it."""
    grey: bool = False
    """Turn RGB into grey first, as the paper does; images of one channel are grey already."""
    exposure: bool = True
    """Scale each image first, so that its brightest tenth is as bright as the training images'."""
    crop: float = 0.8
    """Training images are cropped to between this share of their sides and the whole; 1: never."""
    flip: bool = True
    """Mirror half of the training images left to right."""
    patch_size: int = 64
    """Side of a patch in pixels: the sub-patches of a pair lie in one patch. Patches overlap by half."""
    sub_patch_size: int = 16
    """Side of a sub-patch in pixels, a power of 2 from 8; sub-patches overlap by half."""
    window: Literal["patch", "image"] = "patch"
    """What holds a pair: a patch, or the whole image."""
    encoder: Literal["resnet18", "dense"] = "dense"
    """resnet18: the paper's, on each sub-patch by itself. dense: overlapping sub-patches share arithmetic."""
    width: int = 16
    """Channels of the encoder's first stage; an encoding has 4 times as many (dense of 8 pixels: twice)."""
    shared_encoder: bool = True
    """One encoder for the four directions, or one for each."""
    skip: int = 1
    """Sub-patches between a context and the first that it predicts."""
    steps_ahead: int = 5
    """K: sub-patches that a context predicts in each direction."""
    negatives: int = 16
    """Negatives of each sub-patch in training, from across the batch."""
    negatives_of: Literal["batch", "process"] = "batch"
    """Trained by several processes: negatives from the whole batch, or from each process's own part of it."""
    bank: int = 256
    """Negatives in testing: encodings of good training images, kept in the model."""
    bank_seed: int = 0
    """Fixes which encodings make the bank."""
    score: Literal["infonce", "margin"] = "infonce"
    """infonce: the loss of a pair. margin: how far its best negative beats the positive."""
    place_statistics: bool = True
    """Standardise each score by its mean and std at its position over the good training images."""
    place_density: bool = True
    """Add how unlikely each encoding is at its position: a Gaussian over the good training images."""
    combine: Literal["mean", "sum"] = "mean"
    """Of the pairs that end in a sub-patch: mean or sum."""
    interpolation: Literal["nearest", "linear"] = "linear"
    """nearest: the map has blocks of half a sub-patch, as in the paper; linear: their edges are smoothed."""

    def __post_init__(self) -> None:
        """Refuse sizes that the grid does not fit, and numbers that no training can use."""
        super().__post_init__()
        self.check_counts("patch_size", "width", "steps_ahead", "negatives", "bank")
        self.check_seeds("bank_seed")
        if self.skip < 0:
            raise UsageError(f"--skip {self.skip}: must be 0 or larger")
        if not 0.1 <= self.crop <= 1:
            raise UsageError(f"--crop {self.crop}: must be from 0.1 to 1 (whole images)")
        (H, W), P, S = self.size, self.patch_size, self.sub_patch_size
        if S < 8 or S & (S - 1):
            raise UsageError(f"--sub-patch-size {S}: must be a power of 2, 8 or larger")
        if self.window == "patch":
            if P % S or P < 2 * S:
                raise UsageError(
                    f"--patch-size {P}: must be a multiple of --sub-patch-size {S}, twice it at least"
                )
            if min(H, W) < P or H % (P // 2) or W % (P // 2):
                raise UsageError(
                    f"--image-size {H}x{W} does not fit patches of {P} that overlap by half: "
                    f"choose multiples of {P // 2}, {P} at least, or another --patch-size"
                )
        elif H % (S // 2) or W % (S // 2) or min(H, W) < S:
            raise UsageError(
                f"--image-size {H}x{W} does not fit sub-patches of {S} that overlap by half: "
                f"choose multiples of {S // 2}"
            )
        if (targets_of(self)[1].sum(0) == 0).any():
            side = f"--patch-size {P}" if self.window == "patch" else f"--image-size {H}x{W}"
            raise UsageError(
                f"{side}: with --sub-patch-size {S} and --skip {self.skip} some sub-patches have no context: "
                "enlarge it, or lower the others"
            )
        if self.place_density and not self.place_statistics:
            raise UsageError(
                "--no-place-statistics needs --no-place-density: scores of different kinds compare only "
                "when standardised"
            )

    @property
    def loading_size(self) -> tuple[int, int]:
        """Height and width at which training images are kept: the smallest crop of them has `size`."""
        return math.ceil(self.size[0] / self.crop), math.ceil(self.size[1] / self.crop)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows h and columns w of sub-patches of an image: 23×23 for the paper's 768×768."""
        step = self.sub_patch_size // 2
        return self.size[0] // step - 1, self.size[1] // step - 1
