"""A decoder's block: causal attention with rotary positions and grouped key/value heads (Ainslie 2023, arXiv
2305.13245), and a gated linear unit (Shazeer 2020, arXiv 2002.05202), each after a norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.packed_attention import packed_attention
from core.backbones.rmsnorm import RMSNorm
from core.backbones.rope import rotate
from core.backbones.ulysses import gather_heads, repeat_for_ranks, scatter_heads
from core.errors import UserError

if TYPE_CHECKING:
    from core.backbones.kv_cache import KVCache
    from core.backbones.ulysses import Context

__all__ = ["DecoderAttention", "DecoderBlock", "FeedForward", "SequenceBounds", "attend", "causal_mask"]


class DecoderBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))`; `eps` is that of the norms."""

    def __init__(
        self, width: int, *, heads: int, kv_heads: int, head_width: int, ffn: int, eps: float
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(width, eps=eps)
        self.self_attn = DecoderAttention(width, heads=heads, kv_heads=kv_heads, head_width=head_width)
        self.post_attention_layernorm = RMSNorm(width, eps=eps)
        self.mlp = FeedForward(width, ffn)

    def forward(self, x: Tensor, **where: Any) -> Tensor:
        """Map `(B, S, D)` to `(B, S, D)`; `where` goes to the attention."""
        x = x + self.self_attn(self.input_layernorm(x), **where)
        return x + self.mlp(self.post_attention_layernorm(x))


@dataclass(frozen=True)
class SequenceBounds:
    """Sequences that stand one after the other in one row: `cu_seqlens` `(sequences + 1,)` int32 says where
    each begins, and the end of the last; `max_seqlen` is the length of the longest.
    """

    cu_seqlens: Tensor
    max_seqlen: int | None = None


class DecoderAttention(nn.Module):
    """Multi-head attention without biases; each of the `kv_heads`, which must divide `heads`, serves a run of
    consecutive query heads of `head_width` features.
    """

    def __init__(self, width: int, *, heads: int, kv_heads: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.context: Context | None = None
        self.q_proj = nn.Linear(width, heads * head_width, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_width, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_width, bias=False)
        self.o_proj = nn.Linear(heads * head_width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        *,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        packed: SequenceBounds | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Map `(B, S, D)` to `(B, S, D)`.

        Args:
            x: Normalised tokens.
            cos: `(B or 1, S, head_width / 2)` of their positions.
            sin: As `cos`.
            mask: `(B, 1, S, T)` bool, True where a query may look; None is causal.
            packed: Where sequences begin, if the row holds several.
            cache: Holds what came before, and is given the new keys and values of `layer`.
            layer: Number of this layer in the cache.
        """
        query, key, value = self.project(x, cos, sin)
        if self.context is not None:
            key, value = (repeat_for_ranks(t, self.context.size) for t in (key, value))
            query, key, value = (scatter_heads(t, self.context) for t in (query, key, value))
        if packed is not None:
            parts, longest = (query[0], key[0], value[0]), packed.max_seqlen
            mixed = packed_attention(*parts, packed.cu_seqlens, causal=True, max_seqlen=longest)[None]
        else:
            query, key, value = (t.transpose(1, 2) for t in (query, key, value))  # B S H D -> B H S D
            if cache is not None:
                key, value = cache.append(layer, key, value)
            mixed = attend(query, key, value, mask=mask).transpose(1, 2)
        if self.context is not None:
            mixed = gather_heads(mixed, self.context)
        return self.o_proj(mixed.flatten(2))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries and keys, and values, each `(B, S, H, head_width)`.

        Raises:
            UserError: If tensor parallelism cut a head in two.
        """
        query, key, value = (self._heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def _heads(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.head_width:
            raise UserError(
                f"tensor parallelism leaves a rank {x.shape[-1]} features of heads of {self.head_width}; "
                "its size must divide the number of key/value heads"
            )
        return x.unflatten(-1, (-1, self.head_width))


class FeedForward(nn.Module):
    """`down(silu(gate(x)) · up(x))` with `ffn` features between."""

    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, ffn, bias=False)
        self.up_proj = nn.Linear(width, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)`."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def attend(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return `softmax(q kᵀ / sqrt(D)) v`, `(B, H, S, D)`, causal where the last query is the last key.

    Keys and values are `(B, G, T, D)` with `G` dividing `H` and `T >= S`; the mask `(B or 1, 1, S, T)` bool
    is True where a query may look, and must be causal itself.
    """
    count, total = query.shape[2], key.shape[2]
    causal = mask is None and count > 1
    if causal and total > count:
        mask, causal = causal_mask(count, total, query.device), False
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )


def causal_mask(count: int, total: int, device: torch.device) -> Tensor:
    """Return `(1, 1, count, total)` bool: which of `total` keys the last `count` positions may look at."""
    return torch.ones(count, total, dtype=torch.bool, device=device).tril(total - count)[None, None]
