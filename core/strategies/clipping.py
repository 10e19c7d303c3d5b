"""Clipping by the norm of all gradients together, wherever their pieces lie."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from core.backbones.gradient_norm import global_norm
from core.strategies.pieces import local

__all__ = ["clip_by_norm"]


def clip_by_norm(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients so that their common norm is at most `limit`; return the norm before.

    Args:
        parameters: Their gradients are changed in place.
        limit: Largest norm that is left alone.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = global_norm(gradients)
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    for gradient in gradients:
        piece = local(gradient)
        piece.mul_(factor.to(piece.device, piece.real.dtype if piece.is_complex() else piece.dtype))
    return norm
