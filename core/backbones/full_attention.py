"""Attention of every token to every token, by the kernel that is fastest for the length and device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["full_attention"]

_SHORT = 400  # keys from which the fused kernel wins on a CPU


def full_attention(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return `softmax(q kᵀ / sqrt(d)) v`.

    Where float32 products go through oneDNN (`core.accelerators.cpu` turns that on where it gains) and keys
    are few, two batched products are about twice as fast as the fused kernel; they keep the weights for the
    backward pass. From some hundred keys on, with a mask, without oneDNN and on other devices the fused
    kernel is faster or as fast, and keeps none.

    Args:
        query: `(B, H, N, d)`.
        key: `(B, H, M, d)`.
        value: As `key`.
        mask: Broadcastable to `(B, H, N, M)` bool, True where a query may look.

    Returns:
        `(B, H, N, d)`.
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
