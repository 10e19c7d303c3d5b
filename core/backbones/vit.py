"""Blocks of a vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929) over tokens of any grid.

Parameter names are those that most published checkpoints have: `norm1`, `attn.qkv`, `attn.proj`, `norm2`,
`mlp.fc1`, `mlp.fc2`, and `ls1.gamma`, `ls2.gamma` where branches are scaled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "MLP",
    "EncoderAttention",
    "EncoderBlock",
    "LayerScale",
    "drop_path",
    "full_attention",
    "reset_parts",
]

_SHORT = 400  # keys from which the fused kernel wins on a CPU


class EncoderBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Args:
        width: Features D of a token.
        heads: Attention heads; must divide the width.
        mlp_ratio: Hidden width of the MLP over D.
        drop_path: Probability in training that a branch is left out for a sample.
        layer_scale: First value of a learnt factor for each feature of a branch; None leaves it out.
        eps: Of the norms.

    Raises:
        ValueError: If `heads` does not divide the width.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = EncoderAttention(width, heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.drop_path = drop_path

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        reset_parts(self)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `(B, N, D)` to the same shape; `mask` `(B, 1, 1 or N, N)` is True where a token may look."""
        x = x + self._branch(self.ls1(self.attn(self.norm1(x), mask)))
        return x + self._branch(self.ls2(self.mlp(self.norm2(x))))

    def _branch(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_path) if self.training else x


class EncoderAttention(nn.Module):
    """Attention with one layer for queries, keys and values, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width is {width} and heads {heads}; heads must divide the width")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights by Xavier's rule; biases are 0."""
        _xavier(self.qkv, self.proj)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `(B, N, D)` to the same shape; for `mask` see `EncoderBlock`."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 B H N d
        mixed = full_attention(*parts.unbind(0), mask=mask)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights by Xavier's rule; biases are 0."""
        _xavier(self.fc1, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)`."""
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learnt factor for each feature, `initial` at first (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the factors to their first value."""
        nn.init.constant_(self.gamma, self.initial)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)`."""
        return x * self.gamma


def drop_path(branch: Tensor, rate: float) -> Tensor:
    """Zero the branch of whole samples with probability `rate` and scale the others to keep the mean."""
    if rate == 0.0:
        return branch
    keep = 1.0 - rate
    kept = branch.new_empty(len(branch), *[1] * (branch.dim() - 1)).bernoulli_(keep)
    return branch * (kept / keep if keep > 0.0 else kept)


def reset_parts(module: nn.Module) -> None:
    """Reset everything within a module, parts before what they are parts of; not the module itself."""
    for part in reversed(list(module.modules())):
        reset = getattr(part, "reset_parameters", None)
        if part is not module and callable(reset):
            reset()


def _xavier(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def full_attention(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return `softmax(q kᵀ / sqrt(d)) v`.

    Where float32 products go through oneDNN (`core.accelerators.cpu` turns that on where it gains) and keys
    are few, two batched products are about twice as fast as the fused kernel; they keep the weights for the
    backward pass. From some hundred keys on, with a mask, without oneDNN and on other devices the fused
    kernel is faster or as fast, and keeps none.

    Queries are `(B, H, N, d)`, keys and values `(B, H, M, d)`; the mask, broadcastable to `(B, H, N, M)`
    bool, is True where a query may look.
    """
    plain = (
        mask is None
        and query.device.type == "cpu"
        and key.shape[2] < _SHORT
        and not torch.compiler.is_compiling()
        and _through_onednn()
    )
    if not plain:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    q, k, v = (part.flatten(0, 1) for part in (query, key, value))
    unread = q.new_empty(1, 1, 1)
    logits = torch.baddbmm(unread, q, k.transpose(1, 2), beta=0.0, alpha=query.shape[-1] ** -0.5)
    return torch.bmm(logits.softmax(-1), v).unflatten(0, query.shape[:2])


def _through_onednn() -> bool:
    """Tell whether float32 products on a CPU may go through oneDNN."""
    try:
        return torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:  # it was set for each backend alone
        return False
