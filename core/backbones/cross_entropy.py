"""Summed cross entropy over a large vocabulary with few passes over the scores.

A row's largest logit `m` and the largest probability `p` of its softmax give the normaliser as `m - log p`:
one softmax serves the loss and the gradient, and log-probabilities are never written out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["cross_entropy", "linear_cross_entropy"]

_PIECE = 1 << 20  # bytes of scores worked on at a time on a CPU: half of a usual second-level cache
_CHUNK = 1 << 28  # bytes of scores that stand in memory at once


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore: int = -100) -> Tensor:
    """Return `Σ logsumexp(logits) - logits[label]` in nats, a scalar of at least float32.

    Logits are `(N, V)`, labels `(N,)` int64; rows with the label `ignore` do not count.
    """
    wide = logits.float() if logits.dtype.itemsize < 4 else logits
    if type(wide) is Tensor and wide.device.type == "cpu" and not torch.compiler.is_compiling():
        return _CrossEntropy.apply(wide, labels, ignore)
    return F.cross_entropy(wide, labels, ignore_index=ignore, reduction="sum")


def linear_cross_entropy(x: Tensor, weight: Tensor, labels: Tensor, *, ignore: int = -100) -> Tensor:
    """Return `cross_entropy(x weightᵀ, labels)` without keeping the scores: gradients are made on the way.

    For `x (N, D)` and `weight (V, D)`. It can be differentiated once; where autograd is off only the loss is
    computed.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    if torch.compiler.is_compiling():
        return cross_entropy(F.linear(x, weight), labels, ignore=ignore)
    with torch.autocast(x.device.type, enabled=False):
        return _LinearCrossEntropy.apply(x, weight, labels, ignore)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
        step = _rows(logits, _PIECE)
        buffer = torch.empty_like(logits[:step])
        parts = logits.split(step)
        normaliser = torch.cat([_softmax(part, buffer[: part.shape[0]]) for part in parts])
        places, real = _places(labels, ignore)
        ctx.save_for_backward(logits, places, real)
        return torch.where(real, normaliser - logits.gather(1, places)[:, 0], 0.0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, places, real = ctx.saved_tensors
        grad = torch.empty_like(logits)
        step = _rows(logits, _PIECE)
        share = (real * grads[0])[:, None]
        for scores, out, part in zip(logits.split(step), grad.split(step), share.split(step), strict=True):
            torch.softmax(scores, 1, out=out).mul_(part)
        return grad.scatter_add_(1, places, -share), None, None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, ignore: int) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=x.device)
        learns = any(ctx.needs_input_grad[:2])
        ctx.x_grad = torch.empty_like(x) if learns else None
        ctx.weight_grad = None
        places, real = _places(labels, ignore)
        step = max(256, _CHUNK // (weight.shape[0] * wide.itemsize))
        for start in range(0, x.shape[0], step):
            rows = slice(start, start + step)
            logits = F.linear(x[rows], weight).to(wide)
            chosen = logits.gather(1, places[rows])[:, 0]
            piece = _rows(logits, _PIECE) if logits.device.type == "cpu" else step
            normaliser = torch.cat([_softmax(part, part) for part in logits.split(piece)])  # in place
            total += torch.where(real[rows], normaliser - chosen, 0.0).sum()
            if not learns:
                continue
            _zero(logits, ~real[rows])
            logits.scatter_add_(1, places[rows], -real[rows, None].to(wide))
            grad = logits.to(x.dtype)
            torch.mm(grad, weight, out=ctx.x_grad[rows])
            if ctx.weight_grad is None:
                ctx.weight_grad = torch.mm(grad.t(), x[rows]).to(wide)
            else:
                ctx.weight_grad.addmm_(grad.t().to(wide), x[rows].to(wide))
        ctx.weight_type = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.x_grad is None:
            raise RuntimeError("this loss was differentiated already; its gradients were not kept")
        x_grad, weight_grad = ctx.x_grad.mul_(grads[0]), ctx.weight_grad.mul_(grads[0])
        ctx.x_grad = ctx.weight_grad = None
        return x_grad, weight_grad.to(ctx.weight_type), None, None


def _softmax(logits: Tensor, out: Tensor) -> Tensor:
    """Write the softmax of rows to `out`, which may be `logits`, and return their normalisers."""
    largest = logits.amax(1)
    return largest - torch.softmax(logits, 1, out=out).amax(1).log_()


def _zero(scores: Tensor, rows: Tensor) -> None:
    """Set some rows `(N,)` of the scores to zero; on a CPU only these are touched."""
    if scores.device.type == "cpu":
        scores[rows] = 0.0
    else:
        scores.masked_fill_(rows[:, None], 0.0)


def _places(labels: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """Return labels that are safe to gather with, `(N, 1)`, and which rows count, `(N,)`."""
    real = labels.ne(ignore)
    return labels.masked_fill(~real, 0)[:, None], real


def _rows(logits: Tensor, nbytes: int) -> int:
    """Return how many rows fit into so many bytes, at least one."""
    return max(1, nbytes // max(1, logits.shape[1] * logits.element_size()))
