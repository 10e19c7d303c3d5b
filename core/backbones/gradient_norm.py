"""The norm of all gradients together, wherever their pieces lie."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

__all__ = ["global_norm", "local", "settled"]


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients as one vector, a whole scalar and the same on every rank.

    Pieces that lie on several axes of a mesh are summed over exactly those axes; a gradient that all ranks
    hold whole counts once. torch's own `get_total_norm` refuses whole tensors beside pieces, and pieces on
    several meshes.
    """
    sums: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = {}
    for gradient in gradients:
        gradient = settled(gradient)
        groups: tuple[dist.ProcessGroup, ...] = ()
        if isinstance(gradient, DTensor):
            mesh = gradient.device_mesh
            spread = [axis for axis, kind in enumerate(gradient.placements) if not kind.is_replicate()]
            groups = tuple(mesh.get_group(axis) for axis in spread if mesh.size(axis) > 1)
        sums.setdefault(groups, []).append(local(gradient).detach())
    if set(sums) == {()} and all(_wide(part) is None for part in sums[()]):
        return torch.nn.utils.get_total_norm(sums[()])
    total: Tensor | None = None
    for groups, parts in sums.items():
        norms = torch.stack([torch.linalg.vector_norm(part, dtype=_wide(part)) for part in parts])
        square = norms.square().sum()
        for group in groups:
            dist.all_reduce(square, group=group)
        total = square if total is None else total + square
    return torch.zeros(()) if total is None else total.sqrt()


def local(tensor: Tensor) -> Tensor:
    """Return this rank's piece, which shares its memory with `tensor`."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def settled(tensor: Tensor) -> Tensor:
    """Return `tensor` with sums over ranks that are still outstanding carried out."""
    if not isinstance(tensor, DTensor) or not any(placement.is_partial() for placement in tensor.placements):
        return tensor
    placements = [Replicate() if placement.is_partial() else placement for placement in tensor.placements]
    return tensor.redistribute(placements=placements)


def _wide(tensor: Tensor) -> torch.dtype | None:
    return torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else None
