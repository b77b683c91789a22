"""AE-L2: what an autoencoder trained on the squared error does not reconstruct is anomalous.

Papers, network, symbols and differences: see `autoencoder.py`. It is the baseline "AE-L2" of CPC-AD's Table 2
and "l2-AE" of MeTAL's Table 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.methods.baselines.autoencoder import Autoencoder, weight_penalty

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

    def loss(self, x: Tensor) -> Tensor:
        """L2(x, x̂) = Σ_rc R(r, c), the mean of it over images (B, C, H, W) in [0, 1], and weight decay."""
        residual = squared_residual(x, self.reconstruct(x).float())
        return residual.flatten(1).sum(dim=1).mean() + weight_penalty(
            self.parameters(), self.config.weight_decay
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W) ≥ 0."""
        return squared_residual(x, self.reconstruct(x).float())
