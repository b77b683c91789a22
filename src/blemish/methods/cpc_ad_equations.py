"""The equations of CPC-AD, one function each, and the crops that it learns from.

Symbols (paper: here)
    z_t            encoding of a sub-patch, which is its own context c_t: `z`
    W_k            linear map that predicts k steps ahead: `W`
    f_k            exp(z_{t+k}ᵀ W_k z_t), of which `log_f` is the exponent
    L_k            InfoNCE loss of a pair: `info_nce`

Shapes
    d width of an encoding; p pairs that end in a sub-patch (directions × steps); m negatives;
    B images, C channels, H×W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from blemish.methods.components.distributed import own_part

if TYPE_CHECKING:
    from torch import Tensor

    from blemish.methods.components.distributed import Share


def predict(W: Tensor, z_t: Tensor) -> Tensor:
    """Return W_k z_t, the prediction of Eq. (2) for each direction and step.

    Args:
        W: (p, d, d).
        z_t: (..., p, d), the contexts.

    Returns:
        (..., p, d).
    """
    return torch.einsum("pfd,...pd->...pf", W, z_t)


def log_f(z: Tensor, prediction: Tensor) -> Tensor:
    """Return log f_k = z_{t+k}ᵀ W_k z_t, the exponent of Eq. (2), of each prediction and each encoding.

    Args:
        z: (..., n, d).
        prediction: W_k z_t, (..., p, d).

    Returns:
        (..., p, n), unbounded.
    """
    return prediction @ z.transpose(-2, -1)


def info_nce(positive: Tensor, negatives: Tensor) -> Tensor:
    """Return L_k = -log( exp(log f_k) / Σ_X exp(log f_j) ), Eq. (2); X is the positive and its negatives.

    Args:
        positive: (...), log f_k of each pair.
        negatives: (..., m), log f_j of its negatives.

    Returns:
        (...), ≥ 0; log(1 + m) when all are alike.
    """
    return F.softplus((negatives - positive[..., None]).logsumexp(dim=-1))


def margin(positive: Tensor, negatives: Tensor) -> Tensor:
    """Return max_j log f_j - log f_k: by how much the best negative beats the positive (ours).

    InfoNCE grows with the number of negatives that look like the positive, as many do on a plain background;
    the largest alone does not. But it has no lower bound: a blemish far from all good ones may have a huge
    encoding, and pass for the best of positives.
    """
    return negatives.amax(dim=-1) - positive


def random_crops(
    x: Tensor, size: tuple[int, int], smallest: float, flip: bool, share: Share | None = None
) -> Tensor:
    """Crop each image to a random share of its sides, resize it, and mirror half of them (Sec. 5).

    Both sides shrink by the same share, so the shape stays. Drawn from torch's generator.

    Args:
        x: (B, C, H, W), or the part of them that `share` says.
        size: height and width of the result in pixels.
        smallest: the share is drawn from [smallest, 1].
        flip: whether to mirror left to right with probability 1/2.
        share: which part of a batch x is; None: all of it.

    Returns:
        (B, C, *size), with the filter of `blemish.images.resize`.
    """
    H, W = x.shape[2:]
    drawn = own_part(torch.rand(share.total if share else len(x), 4), share)
    crops = []
    for image, (scale, down, across, coin) in zip(x, drawn.tolist(), strict=True):
        scale = smallest + (1 - smallest) * scale
        h, w = max(1, round(scale * H)), max(1, round(scale * W))
        top, left = int(down * (H - h + 1)), int(across * (W - w + 1))
        crop = _resize(image[None, :, top : top + h, left : left + w], size)
        crops.append(crop.flip(3) if flip and coin < 0.5 else crop)
    return torch.cat(crops)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
