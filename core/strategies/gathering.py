"""Rows of all processes, whose numbers may differ."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gathered"]


def gathered(rows: Tensor, strategy: Any, *, even: bool = False) -> tuple[Tensor, int]:
    """Return the rows of all processes in their order, without gradients, and the place of this one's first.

    Args:
        rows: `(B, ...)`, of one shape but for B.
        strategy: The Trainer's; a `Mesh` takes its data and context ranks, any other all ranks.
        even: Whether B is known to be the same everywhere; otherwise the host waits for the numbers.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows.detach(), 0
    group = strategy.loss_group if hasattr(strategy, "loss_group") else dist.group.WORLD
    if group is None or dist.get_world_size(group) == 1:
        return rows.detach(), 0
    sizes = [len(rows)] * dist.get_world_size(group)
    if not even:
        counts = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in sizes]
        dist.all_gather(counts, torch.full_like(counts[0], len(rows)), group=group)
        sizes = torch.cat(counts).tolist()
    own = rows.new_zeros(max(sizes), *rows.shape[1:])
    own[: len(rows)] = rows.detach()
    parts = [torch.empty_like(own) for _ in sizes]
    dist.all_gather(parts, own, group=group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]), sum(
        sizes[: dist.get_rank(group)]
    )
