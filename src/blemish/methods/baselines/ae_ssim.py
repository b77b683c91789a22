"""AE-SSIM: what an autoencoder trained on structural similarity does not reconstruct is anomalous.

Papers, network, symbols and differences: see `autoencoder.py`. It is the baseline "AE-SSIM" of CPC-AD's
Table 2 and "SSIM-AE" of MeTAL's Table 4. RGB is turned into grey first, as in the MVTec AD paper: SSIM is a
measure of grey images. Other channel counts are taken as they are, the mean of their similarities.

Differs from the papers beyond that: c1 and c2 are (0.01 L)² and (0.03 L)² with the range L = 1, as Wang et
al. have them, where the paper names the factors alone; the window is theirs too, a Gaussian of 11 pixels.

Measured on MVTec AD's bottle, pixel AUROC and its part up to an FPR of 0.3: 0.94 and 0.80, with another
seed 0.93 and 0.80 (published 0.93 and 0.62). At twice the default's learning rate the loss jumped to 1 and
stayed there, and every map was flat: far from every image SSIM is near 0 and so is its slope. A training loss
near 1 in log.csv is the sign. Such a model is refused when its training ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from blemish.methods.baselines.autoencoder import Autoencoder, AutoencoderConfig, weight_penalty
from blemish.methods.components.collapse import refuse_constant, spread
from blemish.methods.components.functional import SSIM_SIGMA, SSIM_WINDOW, grey, same_blur_matrix, ssim_map

if TYPE_CHECKING:
    from torch import Tensor

    from blemish.methods.base import Batches


def dissimilarity(x: Tensor, x_hat: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """R = 1 - SSIM(x, x̂) at each place, the mean over channels (Sec. 3).

    Args:
        x, x_hat: images (B, C, H, W), x in [0, 1].
        rows, cols: blur matrices (H', H) and (W', W) of the window.

    Returns:
        (B, H', W') in [0, 2], 0 where they are equal.
    """
    return 1 - ssim_map(x, x_hat, rows, cols).mean(dim=1)


class AeSsim(Autoencoder):
    """AE-SSIM. `forward` maps images to dissimilarities."""

    # made from the config and not saved
    rows: Tensor
    cols: Tensor

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__(config, 1 if channels == 3 else channels)
        for side, n in zip(("rows", "cols"), config.size, strict=True):
            self.register_buffer(side, same_blur_matrix(n, SSIM_WINDOW, SSIM_SIGMA), persistent=False)

    def loss(self, x: Tensor) -> Tensor:
        """Mean of R over all places, and weight decay. Images (B, C, H, W) in [0, 1] -> a number.

        Each image counts by itself, whatever `share` of a batch x is.

        Our choice: images are mirrored at their borders, as for the map. Where only whole windows count, the
        outermost pixels weigh next to nothing, are never learnt, and frame every map.
        """
        x = grey(x)
        x_hat = self.reconstruct(x).float()
        with torch.autocast(x.device.type, enabled=False):  # SSIM subtracts squares: not in bf16
            residual = dissimilarity(x, x_hat, self.rows, self.cols)
            return residual.mean() + weight_penalty(self.parameters(), self.config.weight_decay)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> anomaly maps (B, H, W) in [0, 2]."""
        x = grey(x)
        return dissimilarity(x, self.reconstruct(x).float(), self.rows, self.cols)

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """Refuse to be saved where every map is flat. Raises TrainingError."""
        maps = self(next(iter(batches())))
        refuse_constant("ae-ssim", spread(maps), "its map is the same at every place of every image")
