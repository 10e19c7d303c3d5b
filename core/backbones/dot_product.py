"""Dot-product attention within windows of a token grid (Swin, Liu et al. 2021, arXiv 2103.14030, 3.1).

On a CPU the tokens of a few windows at a time are gathered, attended to and put back while they are in the
core's cache. Neither windows nor attention weights are written out: the backward pass makes them again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.backbones.recomputation import as_a_whole
from core.backbones.windows import WindowPlan, join_windows, split_windows

__all__ = ["window_attention"]

_NOTHING = -80.0  # logits less their greatest whose share of a sum is below float32's precision by far
_PIECE = 1 << 20  # bytes of logits worked on at a time: half of a usual second-level cache


def window_attention(
    qkv: Tensor,
    plan: WindowPlan,
    *,
    heads: int,
    padding: Tensor | None = None,
    apart: float = -100.0,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return `softmax(q kᵀ / sqrt(D) + mask + bias) v` for each window and head, as tokens `(B, L, H * D)`.

    Args:
        qkv: `(B, L, 3 * H * D)`, queries, keys and values of every token, each with its heads.
        plan: Windows of the tokens.
        heads: Number of heads H.
        padding: `(3 * H * D,)`, what padding has for queries, keys and values; None is zero.
        apart: Value of the mask between places of different regions of the plan.
        bias: `(H, N, N)`, added in all windows.
        dropout: Rate on the attention weights.
    """
    fast = qkv.device.type == "cpu" and qkv.dtype in (torch.float32, torch.float64)
    if not fast or bias is not None or dropout > 0.0 or torch.compiler.is_compiling():
        return _composed(qkv, plan, heads, padding, apart, bias, dropout)
    padding = qkv.new_zeros(qkv.shape[-1]) if padding is None else padding.to(qkv.dtype)
    with torch.autocast("cpu", enabled=False), as_a_whole():
        return _WindowAttention.apply(qkv, padding, plan, heads, apart)


def _composed(
    qkv: Tensor,
    plan: WindowPlan,
    heads: int,
    padding: Tensor | None,
    apart: float,
    bias: Tensor | None,
    dropout: float,
) -> Tensor:
    windows = split_windows(qkv, plan, padding=padding).unflatten(-1, (3, heads, -1))
    query, key, value = windows.permute(2, 0, 3, 1, 4).unbind(0)  # B*W N 3 H D -> 3 of B*W H N D
    added = plan.mask(value=apart, dtype=qkv.dtype)
    if added is not None:
        added = added.repeat(len(qkv), 1, 1)[:, None]
    if bias is not None:
        added = bias.to(qkv.dtype) if added is None else added + bias.to(qkv.dtype)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropout)
    return join_windows(mixed.transpose(1, 2).flatten(2), plan)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some whole windows: the row that each place shows, padding the one behind the last, and their mask."""

    rows: Tensor
    shown: Tensor  # the same with padding at row 0
    blank: Tensor | None  # places of padding
    mask: Tensor | None  # (windows, 1, N, N)


@lru_cache(maxsize=64)
def _pieces(plan: WindowPlan, batch: int, most: int, apart: float, dtype: torch.dtype) -> list[_Piece]:
    """Cut the windows of a batch into pieces of at most `most` windows of one sample."""
    tokens = math.prod(plan.grid)
    with torch.inference_mode(False):
        shown = torch.arange(tokens) if plan.gather is None else plan.gather
        inside = torch.ones(plan.count * plan.size, dtype=torch.bool)
        if plan.padding is not None:
            inside[plan.padding] = False
        mask = plan.mask(value=apart, dtype=dtype)
        each = max(n for n in range(1, plan.count + 1) if plan.count % n == 0 and (n <= most or n == 1))
        pieces = []
        for start in range(0, plan.count, each):
            part = slice(start * plan.size, (start + each) * plan.size)
            masked = None if mask is None else mask[start : start + each, None]
            blank = torch.nonzero(~inside[part]).flatten()
            for sample in range(batch):
                rows = torch.where(inside[part], shown[part] + sample * tokens, batch * tokens)
                pieces.append(
                    _Piece(
                        rows,
                        torch.where(inside[part], rows, 0),
                        blank if len(blank) else None,
                        masked if masked is not None and bool(masked.any()) else None,
                    )
                )
        return pieces


class _WindowAttention(torch.autograd.Function):
    """The same in pieces of whole windows, with the gradient written out."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, padding: Tensor, plan: WindowPlan, heads: int, apart: float) -> Tensor:
        rows = qkv.reshape(-1, qkv.shape[-1])
        most = _PIECE // (heads * plan.size**2 * qkv.element_size())
        pieces = _pieces(plan, len(qkv), most, apart, qkv.dtype)
        out = qkv.new_empty(len(rows) + 1, rows.shape[1] // 3)  # padding is written to the last row
        for piece in pieces:
            _, _, value, weights = _attended(rows, padding, piece, heads, plan.size)
            out.index_copy_(0, piece.rows, _heads_last(torch.bmm(weights, value)[None], heads))
        ctx.save_for_backward(rows, padding)
        ctx.pieces, ctx.heads, ctx.plan = pieces, heads, plan
        return out[:-1].view(*qkv.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, padding = ctx.saved_tensors
        size, heads = ctx.plan.size, ctx.heads
        scale = (rows.shape[1] // (3 * heads)) ** -0.5
        out_grad = grads[0].reshape(len(rows), -1)
        rows_grad = rows.new_empty(len(rows) + 1, rows.shape[1])
        padding_grad = torch.zeros_like(padding)
        for piece in ctx.pieces:
            query, key, value, weights = _attended(rows, padding, piece, heads, size)
            gathered = out_grad.index_select(0, piece.shown)
            if piece.blank is not None:
                gathered.index_fill_(0, piece.blank, 0.0)
            grad = _heads_first(gathered, 1, heads, size)[0]
            parts = rows.new_empty(3, *query.shape)
            torch.bmm(weights.transpose(1, 2), grad, out=parts[2])
            shares = torch.bmm(grad, value.transpose(1, 2))
            torch.ops.aten._softmax_backward_data.out(shares, weights, -1, shares.dtype, grad_input=shares)
            torch.baddbmm(parts[0], shares, key, beta=0.0, alpha=scale, out=parts[0])
            torch.baddbmm(parts[1], shares.transpose(1, 2), query, beta=0.0, alpha=scale, out=parts[1])
            together = _heads_last(parts, heads)
            if piece.blank is not None and ctx.needs_input_grad[1]:
                padding_grad += together.index_select(0, piece.blank).sum(0)
            rows_grad.index_copy_(0, piece.rows, together)
        return rows_grad[:-1].view(*grads[0].shape[:2], -1), padding_grad, None, None, None


def _attended(
    rows: Tensor, padding: Tensor, piece: _Piece, heads: int, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return query, key, value `(windows * H, N, D)` and the attention weights of a piece."""
    gathered = rows.index_select(0, piece.shown)
    if piece.blank is not None:
        gathered[piece.blank] = padding
    query, key, value = _heads_first(gathered, 3, heads, size).unbind(0)
    scale = query.shape[-1] ** -0.5
    unread = query.new_empty(1, 1, 1)
    weights = torch.baddbmm(unread, query, key.transpose(1, 2), beta=0.0, alpha=scale)
    if piece.mask is not None:
        weights.view(-1, heads, size, size).add_(piece.mask)
        weights.sub_(weights.amax(-1, keepdim=True))
        # Their shares would be numbers below the normal ones, with which processors are many times slower.
        torch.threshold_(weights, _NOTHING, 1e4 * _NOTHING)
    torch.softmax(weights, -1, out=weights)
    return query, key, value, weights


def _heads_first(rows: Tensor, parts: int, heads: int, size: int) -> Tensor:
    """Return `(parts, windows * H, N, D)` of rows `(windows * N, parts * H * D)`."""
    split = rows.view(-1, size, parts, heads, rows.shape[1] // (parts * heads))
    return split.permute(2, 0, 3, 1, 4).reshape(parts, -1, size, split.shape[-1])


def _heads_last(x: Tensor, heads: int) -> Tensor:
    """Return rows `(windows * N, parts * H * D)` of `(parts, windows * H, N, D)`."""
    split = x.view(x.shape[0], -1, heads, *x.shape[2:])
    return split.permute(1, 3, 0, 2, 4).reshape(split.shape[1] * x.shape[2], -1)
