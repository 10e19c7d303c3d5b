"""Sequence parallelism by exchanging heads for positions (DeepSpeed-Ulysses, arXiv 2309.14509).

Every rank holds a contiguous slice of the sequence. Around attention, one exchange gives each rank all
positions of its share of the heads, another one undoes it: the attention itself is the usual one, and exact.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.errors import UserError

__all__ = ["Context", "gather_heads", "repeat_for_ranks", "scatter_heads"]


class Context:
    """The process group over whose ranks sequences are cut.

    Copies of a network share it: a group cannot be copied.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)

    def __deepcopy__(self, memo: dict[int, Any]) -> Context:
        return self

    def __reduce__(self) -> Any:
        return (_no_context, ())

    def gather(self, x: Tensor) -> Tensor:
        """Join the slices `(B, S/P)` of all ranks to `(B, S)`; no gradient flows."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, dim=1)


def scatter_heads(x: Tensor, context: Context) -> Tensor:
    """Exchange `(B, S/P, H, D)` of this rank's positions for `(B, S, H/P, D)` of this rank's heads.

    Raises:
        UserError: If the ranks do not divide the heads.
    """
    if x.shape[2] % context.size:
        raise UserError(f"{context.size} context ranks must divide {x.shape[2]} attention heads")
    return _Exchange.apply(x, context, 2, 1)


def gather_heads(x: Tensor, context: Context) -> Tensor:
    """Exchange `(B, S, H/P, D)` of this rank's heads for `(B, S/P, H, D)` of this rank's positions."""
    return _Exchange.apply(x, context, 1, 2)


def repeat_for_ranks(x: Tensor, ranks: int) -> Tensor:
    """Repeat key or value heads `(B, S, H, D)` in place as often as the ranks need to divide them.

    The gradient of a head is the sum over its copies.
    """
    copies = ranks // math.gcd(ranks, x.shape[2])
    return x if copies == 1 else x.repeat_interleave(copies, dim=2)


class _Exchange(torch.autograd.Function):
    """Cut along one dimension, send part `r` to rank `r`, join what comes along another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Context, cut: int, join: int) -> Tensor:
        ctx.context, ctx.cut, ctx.join = context, cut, join
        return _exchange(x, context, cut, join)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _exchange(grads[0], ctx.context, ctx.join, ctx.cut), None, None, None


def _exchange(x: Tensor, context: Context, cut: int, join: int) -> Tensor:
    sent = torch.stack(x.chunk(context.size, dim=cut))  # rank first
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=context.group)
    return torch.cat(received.unbind(0), dim=join)


def _no_context() -> None:
    """Stand for a group in a file: whoever reads it sets its own."""
