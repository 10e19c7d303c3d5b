"""Cosine attention with an additive bias within windows (Swin V2, Liu et al. 2022, arXiv 2111.09883, 3.2).

On a CPU the logits of a few windows at a time are made, biased, put through the softmax and used while they
are in the core's cache; only the attention weights are written out, for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.backbones.recomputation import as_a_whole

__all__ = ["cosine_attention"]

_PIECE = 1 << 20  # bytes of logits worked on at a time: half of a usual second-level cache
_EPS = 1e-12  # smallest length of a query or key, as in torch's normalize


def cosine_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: Tensor,
    bias: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return `softmax(scale · cos(q, k) + bias + mask) v` for each window and head, in the dtype of `value`.

    Query, key, value and result are `(B * W, N, H * D)`, W windows to a sample; `scale` is `(H,)`, `bias`
    `(H, N, N)` and the same for all windows, `mask` `(W, N, N)`, the same for all heads and samples and
    without a gradient. `dropout` is the rate on the attention weights.
    """
    plain = dropout > 0.0 or query.device.type != "cpu" or torch.compiler.is_compiling()
    if plain:
        return _composed(query, key, value, scale, bias, mask, dropout)
    dtype = torch.promote_types(torch.promote_types(query.dtype, bias.dtype), torch.float32)
    tensors = [x.to(dtype) for x in (query, key, value, scale, bias)]
    with torch.autocast("cpu", enabled=False), as_a_whole():
        return _Attention.apply(*tensors, None if mask is None else mask.to(dtype)).to(value.dtype)


def _composed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    dropout: float,
) -> Tensor:
    count, size, width = query.shape
    heads = bias.shape[0]
    windows = 1 if mask is None else mask.shape[0]
    split = (count, size, heads, width // heads)
    folded = (count // windows, windows * heads, size, width // heads)  # windows stand among the heads
    query = F.normalize(query.view(split), dim=-1, eps=_EPS) * scale[:, None]
    key = F.normalize(key.view(split), dim=-1, eps=_EPS)
    q, k, v = (x.to(value.dtype).view(split).transpose(1, 2).reshape(folded) for x in (query, key, value))
    added = bias if mask is None else (bias + mask[:, None]).flatten(0, 1)
    added = added.to(value.dtype).expand(folded[0], -1, -1, -1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout, scale=1.0)
    return mixed.reshape(count, heads, size, -1).transpose(1, 2).reshape(count, size, width)


class _Attention(torch.autograd.Function):
    """The same in pieces, with the gradient written out.

    Rows are windows times heads. The scaled unit vectors `q' = f q` with `f = scale / |q|` are kept, from
    which the gradients follow: `dq = f (g - q' (g · q') / scale²)` and `dscale = sum(g · q') / scale`.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: Tensor, bias: Tensor, mask: Tensor | None
    ) -> Tensor:
        count, size, width = query.shape
        heads = bias.shape[0]
        per_head = scale.view(heads, 1, 1)
        q = _heads_first(query, heads)
        length = torch.linalg.vector_norm(q, dim=-1, keepdim=True).clamp_min_(_EPS)
        q_factor = torch.div(per_head, length)
        q.mul_(q_factor)
        k = _heads_first(key, heads)
        k_factor = torch.linalg.vector_norm(k, dim=-1, keepdim=True).clamp_min_(_EPS).reciprocal_()
        k.mul_(k_factor)
        v = _heads_first(value, heads)
        added = bias if mask is None else (bias + mask[:, None]).flatten(0, 1)
        flat = (count * heads, size, width // heads)
        rows = _piece(heads, added.shape[0] // heads, flat[0], size * size * q.element_size())
        kept = any(ctx.needs_input_grad)
        weights = q.new_empty(flat[0] if kept else rows, size, size)
        mixed = torch.empty_like(v)
        for start in range(0, flat[0], rows):
            part = slice(start, start + rows)
            logits = weights[part] if kept else weights[: min(rows, flat[0] - start)]
            torch.bmm(q.view(flat)[part], k.view(flat)[part].transpose(1, 2), out=logits)
            _add(logits, added, start)
            torch.softmax(logits, -1, out=logits)
            torch.bmm(logits, v.view(flat)[part], out=mixed.view(flat)[part])
        if kept:
            ctx.save_for_backward(q, k, v, q_factor, k_factor, weights, scale)
            ctx.rows = rows
        return mixed.transpose(1, 2).reshape(count, size, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, q_factor, k_factor, weights, scale = ctx.saved_tensors
        count, heads, size, depth = q.shape
        flat = (count * heads, size, depth)
        grad = _heads_first(grads[0], heads).view(flat)
        q_grad, k_grad, v_grad = (torch.empty_like(x) for x in (q, k, v))
        bias_grad = q.new_zeros(heads, size, size) if ctx.needs_input_grad[4] else None
        buffer = q.new_empty(ctx.rows, size, size)
        for start in range(0, flat[0], ctx.rows):
            part = slice(start, start + ctx.rows)
            shares = weights[part]
            logits = buffer[: shares.shape[0]]
            torch.bmm(shares.transpose(1, 2), grad[part], out=v_grad.view(flat)[part])
            torch.bmm(grad[part], v.view(flat)[part].transpose(1, 2), out=logits)
            torch.ops.aten._softmax_backward_data.out(logits, shares, -1, logits.dtype, grad_input=logits)
            torch.bmm(logits, k.view(flat)[part], out=q_grad.view(flat)[part])
            torch.bmm(logits.transpose(1, 2), q.view(flat)[part], out=k_grad.view(flat)[part])
            if bias_grad is not None:
                _gather(bias_grad, logits, start)
        along = torch.mul(q_grad, q).sum(-1, keepdim=True)
        scale_grad = along.sum((0, 2, 3)) / scale
        q_out = _unscaled(q_grad, q, along.div_(scale.square().view(heads, 1, 1)), q_factor)
        along = torch.mul(k_grad, k).sum(-1, keepdim=True)
        k_out = _unscaled(k_grad, k, along, k_factor)
        v_out = v_grad.transpose(1, 2).reshape(count, size, -1)
        return q_out, k_out, v_out, scale_grad, bias_grad, None


def _heads_first(x: Tensor, heads: int) -> Tensor:
    """Return `(M, N, H * D)` as a new `(M, H, N, D)`."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def _unscaled(grad: Tensor, unit: Tensor, along: Tensor, factor: Tensor) -> Tensor:
    """Return the gradient before the scaling to unit length, heads last again; `grad` is written to."""
    count, heads, size, depth = grad.shape
    out = grad.new_empty(count, size, heads, depth)
    torch.mul(grad.addcmul_(unit, along, value=-1.0), factor, out=out.transpose(1, 2))
    return out.view(count, size, heads * depth)


def _piece(heads: int, windows: int, rows: int, nbytes: int) -> int:
    """Return how many rows to work on at a time: whole windows, or an equal part of a window's heads."""
    most = max(1, _PIECE // nbytes)
    if most >= heads * windows:
        return min(rows, most // (heads * windows) * heads * windows)
    if most >= heads:
        return heads * max(n for n in range(1, windows + 1) if windows % n == 0 and n * heads <= most)
    return max(n for n in range(1, heads + 1) if heads % n == 0 and n <= most)


def _add(logits: Tensor, added: Tensor, start: int) -> None:
    """Add to rows from `start` on their part of `added`, which repeats."""
    period, rows = added.shape[0], logits.shape[0]
    if rows <= period:
        logits.add_(added[start % period : start % period + rows])
    else:
        logits.view(-1, *added.shape).add_(added)


def _gather(total: Tensor, logits: Tensor, start: int) -> None:
    """Add the rows from `start` on to their heads' part of `total`."""
    heads, rows = total.shape[0], logits.shape[0]
    if rows <= heads:
        total[start % heads : start % heads + rows].add_(logits)
    else:
        total.add_(logits.view(-1, *total.shape).sum(0))
