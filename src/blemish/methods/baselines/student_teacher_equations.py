"""The equations of Student-teacher (`student_teacher` has their symbols): losses, error and difference.

Shapes: M students, B images, n patches, f numbers of the pre-trained network, d of a description, h×w places.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distillation_loss(said: Tensor, features: Tensor) -> Tensor:
    """L_k: the mean of (D(T̂(p)) - P(p))² over patches and numbers; (n, f) each -> a number."""
    return (said - features).square().mean()


def compactness(descriptions: Tensor) -> Tensor:
    """L_c: the mean of |c_ij|, i ≠ j, correlations of a description's numbers; (n, d) -> a number."""
    descriptions = descriptions.float()
    centred = descriptions - descriptions.mean(dim=0)
    scaled = centred / centred.norm(dim=0).clamp(min=1e-6)
    d = descriptions.shape[1]
    with torch.autocast(descriptions.device.type, enabled=False):  # most correlations are small: not in bf16
        c = scaled.T @ scaled
    return (c.abs().sum() - c.diagonal().abs().sum()) / max(d * (d - 1), 1)


def student_loss(said: Tensor, target: Tensor) -> Tensor:
    """Mean over students and places of |μ_S - t|² / d: (M, B, d, h, w) and (B, d, h, w) -> a number."""
    return (said - target).square().mean()


def errors(said: Tensor, target: Tensor) -> Tensor:
    """e: |mean_i μ_Si - t|² at each place: (M, B, d, h, w) and (B, d, h, w) -> (B, h, w) ≥ 0."""
    return (said.mean(dim=0) - target).square().sum(dim=1)


def differences(said: Tensor) -> Tensor:
    """v: mean_i |μ_Si|² - |mean_i μ_Si|² at each place: (M, B, d, h, w) -> (B, h, w) ≥ 0."""
    return (said - said.mean(dim=0)).square().sum(dim=2).mean(dim=0)  # the same, without a difference
