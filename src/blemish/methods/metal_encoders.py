"""The encoders of MeTAL: transformer blocks that let each token gather a context from the others.

Shapes
    B images, n tokens, d embedding width of a token, d_k its width in a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blemish.methods.metal_equations import Masking, masked_attention

if TYPE_CHECKING:
    from blemish.methods.metal_config import MetalConfig


class Block(nn.Module):
    """A pre-norm transformer block whose attention is masked (Sec. 2.1, 3.2.1)."""

    def __init__(self, d: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.out = nn.Linear(d, d)
        self.feed_forward = mlp(d, feed_forward, d)

    def forward(self, x: Tensor, source: Tensor, masking: Masking) -> Tensor:
        """Update tokens x (B or 1, n, d) by attending to `source` (B, n, d); returns (B, n, d).

        With `source` equal to x this is self-attention.
        """
        normed = self.norm_attention(source)
        q, k, v = self.query(self.norm_attention(x)), self.key(normed), self.value(normed)
        a = masked_attention(self._split(q), self._split(k), self._split(v), masking)  # (B, heads, n, d_k)
        x = x + self.out(a.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norm_feed_forward(x))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, n, d_k)


class TokenEncoder(nn.Module):
    """Embeds the tokens of one shape and lets each gather a context from the others (Fig. 3)."""

    def __init__(self, n: int, pixels: int, d: int, feed_forward: int, config: MetalConfig) -> None:
        super().__init__()
        self.masking: Masking = config.masking
        self.embed = mlp(pixels, config.hidden, d)
        self.position = nn.Parameter(0.02 * torch.randn(1, n, d))
        self.blocks = nn.ModuleList(Block(d, config.heads, feed_forward) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(d)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, n, pixels) -> contexts (B, n, d).

        Strict masking: what is updated starts from the position alone and never becomes a key or a value;
        keys and values of every block come from the embedded tokens. So nothing of token i reaches its own
        context, neither by the residual path nor, in deeper blocks, by way of the other tokens.
        """
        source = self.embed(tokens) + self.position  # (B, n, d)
        strict = self.masking == "strict"
        x = self.position if strict else source
        for block in self.blocks:
            x = block(x, source if strict else x, self.masking)
        return self.norm(x)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers with a GELU between them: (..., inputs) -> (..., outputs)."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
