"""The autoencoder of AE-L2 and AE-SSIM: an image is squeezed into a short code and drawn again from it.

Papers: P. Bergmann, S. Löwe, M. Fauser, D. Sattlegger, C. Steger, "Improving Unsupervised Defect
Segmentation by Applying Structural Similarity to Autoencoders", VISAPP (2019), arXiv:1807.02011 (the
network: Table 1; the loss and the map: Sec. 3); P. Bergmann, M. Fauser, D. Sattlegger, C. Steger, "MVTec AD:
A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR (2019) (objects at 256×256).

Symbols (paper: here)
    x, x̂           image and its reconstruction: `x`, `x_hat`
    z, d           code and its length: `z`, `latent`
    λ              weight decay: `weight_decay`

Shapes
    B images, C channels, H×W pixels.

Differs from the papers
    - Whole images at every size. The papers cut textures (512×512) into patches of 128×128, 30 pixels apart,
      and average the maps.
    - No augmentation. The papers make 10,000 images of each category by random shifts and turns, and by
      mirroring where the object permits it: turned objects are defects on many lines. `paper` has as many
      steps all the same as 200 passes over 10,000 images.
    - The last convolution's kernel is what the others leave of the image (8×8 of 128×128): other sizes fit.
    - The first weights are He's for this leaky ReLU; the papers do not say theirs. With torch's own the
      signal of 18 layers without normalisation dies away, and so does its gradient.
    - The batch size is our choice; the papers do not say theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from blemish.core.errors import UsageError
from blemish.methods.base import TrainedMethod
from blemish.methods.config import TrainedConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOPE = 0.2
"""Slope of the leaky ReLU below 0."""

_FIRST = (32, 4, 2)
_REST = ((32, 3, 1), (64, 4, 2), (64, 3, 1), (128, 4, 2), (64, 3, 1), (32, 3, 1))
"""Table 1: channels, kernel and stride of the encoder's layers, each padded by 1; the first comes twice."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(TrainedConfig):
    """The options of both autoencoders."""

    steps: int = 1000
    """Optimiser steps when `epochs` is None."""
    batch_size: int = 4
    """Images in an optimiser step: of the same number of images in all, many small steps learn most."""
    latent: int = 100
    """d: length of the code."""
    halvings: int = 4
    """Layers of stride 2; each one above 4 is another first layer (5: the MVTec AD paper's for 256×256)."""
    weight_decay: float = 1e-5
    """λ: Adam's weight decay."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be halved so often, and numbers that no training can use."""
        super().__post_init__()
        self.check_counts("latent")
        if self.halvings < 4:
            raise UsageError(f"--halvings {self.halvings}: must be 4 or larger")
        self.check_weights("weight_decay")
        (H, W), unit = self.size, 2**self.halvings
        if H % unit or W % unit:
            raise UsageError(
                f"--image-size {H}x{W} cannot be halved {self.halvings} times: choose multiples of {unit}"
            )


_PAPER = AutoencoderConfig(
    learning_rate=2e-4,
    schedule="constant",
    steps=15_625,
    batch_size=128,
    calibration_fraction=0.0,
)

PRESETS: dict[str, AutoencoderConfig] = {
    "default": AutoencoderConfig(),
    "paper": _PAPER,
    "paper-object": AutoencoderConfig(**{**vars(_PAPER), "image_size": 256, "halvings": 5}),
}


def weight_penalty(parameters: Iterable[Tensor], weight_decay: float) -> Tensor:
    """What weight decay adds to the loss, so that its gradient has the λθ that Adam's option adds to it.

    λ/2 Σ θ²

    Args:
        parameters: the weights θ.
        weight_decay: λ ≥ 0.
    """
    return 0.5 * weight_decay * torch.stack([p.square().sum() for p in parameters]).sum()


class Autoencoder(TrainedMethod[AutoencoderConfig]):
    """Encoder and decoder, without the difference of image and reconstruction that a method adds."""

    config_type = AutoencoderConfig
    presets: ClassVar[dict[str, AutoencoderConfig]] = PRESETS

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__(config, channels)
        layers = [_FIRST] * (config.halvings - 2) + list(_REST)
        H, W = config.size
        code = (H >> config.halvings, W >> config.halvings)
        widths = [channels, *(width for width, _, _ in layers)]  # of the image and after each layer
        encoder, decoder = [], []
        for before, (after, kernel, stride) in zip(widths, layers, strict=False):
            encoder += [nn.Conv2d(before, after, kernel, stride, padding=1), nn.LeakyReLU(SLOPE)]
            kind = nn.ConvTranspose2d if stride == 2 else nn.Conv2d
            decoder[:0] = [nn.LeakyReLU(SLOPE), kind(after, before, kernel, stride, padding=1)]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(widths[-1], config.latent, code))
        # of a single pixel any stride makes the same image; this one tells `_initialise` that it is single
        self.decoder = nn.Sequential(nn.ConvTranspose2d(config.latent, widths[-1], code, code), *decoder)
        self.apply(_initialise)

    def reconstruct(self, x: Tensor) -> Tensor:
        """x̂: images (B, C, H, W) in [0, 1], through the code (B, d, 1, 1), to images, unbounded."""
        return self.decoder(self.encoder(x))


def _initialise(module: nn.Module) -> None:
    """He's weights for the leaky ReLU: as much variance goes out of a layer as comes in. Biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # an output pixel of a transposed convolution meets one in stride² of the kernel's places
        places = math.prod(module.stride) if isinstance(module, nn.ConvTranspose2d) else 1
        inputs = module.weight.numel() / module.out_channels / places
        nn.init.normal_(module.weight, std=math.sqrt(2 / (1 + SLOPE**2) / inputs))
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
