"""The norm of all gradients together, wherever their pieces lie, and clipping by it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from core.strategies.pieces import local, settled

__all__ = ["clip_by_norm", "global_norm"]


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients as one vector, the same number on every rank.

    Pieces that lie on several axes of a mesh are summed over exactly those axes; a gradient that all ranks
    hold whole counts once.

    Args:
        gradients: Whole tensors and DTensors, mixed as they come.
    """
    sums: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = {}
    for gradient in gradients:
        gradient = settled(gradient)
        groups: tuple[dist.ProcessGroup, ...] = ()
        if isinstance(gradient, DTensor):
            mesh = gradient.device_mesh
            spread = [axis for axis, place in enumerate(gradient.placements) if not place.is_replicate()]
            groups = tuple(mesh.get_group(axis) for axis in spread if mesh.size(axis) > 1)
        sums.setdefault(groups, []).append(local(gradient))
    total: Tensor | None = None
    for groups, parts in sums.items():
        norms = torch.stack([torch.linalg.vector_norm(part, dtype=_wide(part)) for part in parts])
        square = norms.square().sum()
        for group in groups:
            dist.all_reduce(square, group=group)
        total = square if total is None else total + square
    return torch.zeros(()) if total is None else total.sqrt()


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


def _wide(tensor: Tensor) -> torch.dtype | None:
    return torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else None
