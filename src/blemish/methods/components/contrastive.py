"""Contrastive learning: two views of one thing get codes that are close, those of different things do not.

Papers: T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations", ICML (2020), arXiv:2002.05709; in the form of K. Sohn et al., "Learning and Evaluating
Representations for Deep One-class Classification", ICLR (2021), arXiv:2011.02578.

Symbols: n things, f a feature of d numbers, g the head, φ = g(f) / |g(f)| a code of unit length, τ the
temperature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


class ContrastiveHead(nn.Module):
    """g and the division by its length: layers of the features' width, then one without an activation."""

    def __init__(self, inputs: int, *, layers: int, outputs: int) -> None:
        super().__init__()
        hidden: list[nn.Module] = []
        for _ in range(layers):
            hidden += [nn.Linear(inputs, inputs, bias=False), nn.BatchNorm1d(inputs), nn.ReLU()]
        self.layers = nn.Sequential(*hidden, nn.Linear(inputs, outputs))

    def forward(self, f: Tensor) -> Tensor:
        """Features (n, inputs) -> codes φ (n, outputs) of unit length."""
        return F.normalize(self.layers(f).float(), dim=1)


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """-log exp(φ_i·φ'_i / τ) / Σ_j exp(φ_i·φ'_j / τ), the mean over things i.

    Args:
        first, second: codes φ and φ' of two views of the same n things, (n, outputs) of unit length.
        temperature: τ > 0.

    Returns:
        A number > 0; log n where all codes are equal.
    """
    with torch.autocast(first.device.type, enabled=False):  # τ is small: what bf16 rounds, it makes large
        logits = first.float() @ second.float().T / temperature
    return F.cross_entropy(logits, torch.arange(len(first), device=first.device))
