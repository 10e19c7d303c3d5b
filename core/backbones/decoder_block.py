"""A decoder's block: attention and a gated linear unit (Shazeer 2020, arXiv 2002.05202) after norms."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.attention import Attention
from core.backbones.rmsnorm import RMSNorm

__all__ = ["Block", "FeedForward"]


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))`.

    Args:
        width: Features of a token.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_width: Features of a head.
        ffn: Inner width of the gated linear unit.
        eps: Of the norms.
    """

    def __init__(
        self, width: int, *, heads: int, kv_heads: int, head_width: int, ffn: int, eps: float
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(width, eps=eps)
        self.self_attn = Attention(width, heads=heads, kv_heads=kv_heads, head_width=head_width)
        self.post_attention_layernorm = RMSNorm(width, eps=eps)
        self.mlp = FeedForward(width, ffn)

    def forward(self, x: Tensor, **where: Any) -> Tensor:
        """Map `(B, S, D)` to `(B, S, D)`; `where` goes to the attention."""
        x = x + self.self_attn(self.input_layernorm(x), **where)
        return x + self.mlp(self.post_attention_layernorm(x))


class FeedForward(nn.Module):
    """`down(silu(gate(x)) · up(x))`.

    Args:
        width: Features of a token.
        ffn: Inner width.
    """

    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, ffn, bias=False)
        self.up_proj = nn.Linear(width, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)`."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
