"""The options of MeTAL, and those of its paper.

Symbols (paper: here)
    N, K           side of the image and of a square patch: `image_size`, `patch_size`
    d              width of a square's embedding: `embedding`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blemish.core.errors import UsageError
from blemish.methods.components.functional import SSIM_WINDOW
from blemish.methods.config import TrainedConfig
from blemish.methods.metal_equations import Masking

Stripes = Literal["none", "rows", "cols", "both", "only"]


@dataclass(frozen=True, kw_only=True)
class MetalConfig(TrainedConfig):
    """The options of MeTAL. The defaults measured best over several categories (docs/papers/metal.md)."""

    aligned: bool | None = None
    """Turn and move parts so that they lie alike; None: only if good images become much more alike by it."""
    patch_size: int = 16
    """K: side of a square patch and short side of a stripe, in pixels."""
    stripes: Stripes = "rows"
    """Stripes beside the squares (Table 3): none, rows, cols, both; `only`: rows and cols without squares."""
    masking: Masking = "strict"
    """strict: nothing of a patch reaches its own reconstruction. paper: the diagonal of QKᵀ is set to 0."""
    embedding: int = 128
    """d: width of a square's embedding; a stripe's is p times as wide (Fig. 5)."""
    hidden: int = 512
    """Hidden width of the embedding and decoder MLPs."""
    heads: int = 4
    """Attention heads (Table 2)."""
    blocks: int = 1
    """Transformer blocks in each encoder (Table 2)."""
    feed_forward_squares: int = 1
    """Feed-forward width of the squares' blocks, in units of their embedding."""
    feed_forward_stripes: int = 2
    """Feed-forward width of the stripes' blocks, in units of their embedding."""
    reduction: Literal["mean", "sum"] = "mean"
    """L1 of the loss: mean over pixels, or Eq. 2's literal sum."""
    exposure: bool = True
    """Scale each image first, so that its brightest tenth is as bright as the training images'."""
    center: bool = True
    """Subtract the mean good image first and add it back to the reconstruction."""
    bounded_context: bool = True
    """Show the network each pixel no darker and no brighter than the training images have it there."""
    error: Literal["squared", "combined", "joint"] = "joint"
    """What the map shows: the squared difference; the mean of its root and of 1 - SSIM; or how unlikely all
    kinds of error together are among those of good images."""
    gradients: bool = False
    """With `joint`, look at how much the strength of edges differs as well: 1 - MSGMS."""
    smoothing: tuple[float, ...] = (2.0, 4.0, 8.0)
    """σ of the errors' Gaussian filters in pixels of the resized image; of several, the largest value counts,
    or all of them with `joint`."""
    place_statistics: bool = True
    """Standardise each error by its mean and std at each position over the good training images; with `joint`
    there is a Gaussian at each position, without it one for all."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be cut into patches, and widths that no layer can have."""
        super().__post_init__()
        self.check_counts("patch_size", "embedding", "hidden", "heads", "blocks")
        self.check_counts("feed_forward_squares", "feed_forward_stripes")
        self.check_weights("smoothing")
        H, W = self.size
        K = self.patch_size
        if H % K or W % K:
            raise UsageError(
                f"--image-size {H}x{W} cannot be cut into patches of {K}: "
                f"choose multiples of {K}, or another --patch-size"
            )
        if self.masking == "strict" and min(H, W) < 2 * K:
            raise UsageError(
                f"--image-size {H}x{W} holds a single row or column of {K}-pixel patches: "
                "strict masking needs two at least"
            )
        if min(H, W) < SSIM_WINDOW:
            raise UsageError(f"--image-size {H}x{W} is under SSIM's window of {SSIM_WINDOW} pixels")
        competing = self.error == "combined" or (self.error == "squared" and len(self.smoothing) > 1)
        if competing and not self.place_statistics:
            raise UsageError(
                "--no-place-statistics needs --error joint, or --error squared and one --smoothing value: "
                "errors of different kinds compare only when standardised"
            )
        if self.gradients and self.error != "joint":
            raise UsageError(
                f"--gradients needs --error joint, not {self.error}: it is one more kind of error"
            )
        if self.embedding % self.heads:
            raise UsageError(f"--embedding {self.embedding} must be a multiple of --heads {self.heads}")


PAPER = MetalConfig(
    aligned=False,
    hidden=1024,
    blocks=1,
    exposure=False,
    center=False,
    bounded_context=False,
    error="squared",
    smoothing=(4.0,),
    place_statistics=False,
    masking="paper",
    image_score="max",
    learning_rate=1e-4,
    schedule="constant",
    batch_size=64,
    epochs=3000,
    min_epochs=500,
    patience=50,
    validation_fraction=0.1,
    calibration_fraction=0.0,
)
