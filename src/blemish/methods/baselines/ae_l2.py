"""AE-L2: what an autoencoder trained on the squared error does not reconstruct is anomalous.

Papers, network, symbols and differences: see `autoencoder.py`. It is the baseline "AE-L2" of CPC-AD's Table 2
and "l2-AE" of MeTAL's Table 4.

Measured on MVTec AD's bottle, one seed, pixel AUROC and its part up to an FPR of 0.3: 0.74 and 0.46 after
1,000 steps at a rate of 1e-3, when every reconstruction was still the mean image; 0.83 and 0.59 after the
default's 2,000 at 2e-3 (both raised together; which of them helps was not separated). Published: 0.86 and
0.53.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from blemish.methods.baselines.autoencoder import PRESETS, Autoencoder, AutoencoderConfig, weight_penalty

if TYPE_CHECKING:
    from torch import Tensor


def squared_residual(x: Tensor, x_hat: Tensor) -> Tensor:
    """R(r, c) = Σ_channels (x(r, c) - x̂(r, c))²: the map, and the terms of L2 (Sec. 3).

    Args:
        x, x_hat: images (B, C, H, W), x in [0, 1].

    Returns:
        (B, H, W), 0 where they are equal, unbounded.
    """
    return (x - x_hat).square().sum(dim=1)


class AeL2(Autoencoder):
    """AE-L2. `forward` maps images to squared residuals."""

    presets: ClassVar[dict[str, AutoencoderConfig]] = {
        **PRESETS,
        "default": AutoencoderConfig(steps=2000, learning_rate=2e-3),
    }

    def loss(self, x: Tensor) -> Tensor:
        """L2(x, x̂) = Σ_rc R(r, c), the mean of it over images (B, C, H, W) in [0, 1], and weight decay."""
        residual = squared_residual(x, self.reconstruct(x).float())
        return residual.flatten(1).sum(dim=1).mean() + weight_penalty(
            self.parameters(), self.config.weight_decay
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W) ≥ 0."""
        return squared_residual(x, self.reconstruct(x).float())
