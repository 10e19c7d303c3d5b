"""Losses of uneven batches: each rank's counts by its share of what all ranks hold."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["weighted"]


def weighted(mean: Tensor, count: Tensor | float, strategy: Any) -> Tensor:
    """Return `mean` times `count * ranks / sum of counts`: gradients are averaged over ranks, so the mean of
    these over the ranks is the mean over everything that all of them hold.

    Args:
        mean: This rank's loss, a mean over `count` values, of any finite value where the count is zero.
        count: How many; no gradient flows through it.
        strategy: The Trainer's; a `Mesh` sums over its data and context ranks, any other over all ranks. With
            one process the loss comes back as it is.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    group = strategy.loss_group if hasattr(strategy, "loss_group") else dist.group.WORLD
    if group is None or dist.get_world_size(group) == 1:
        return mean
    own = torch.as_tensor(count, device=mean.device).detach().to(_wide(mean.dtype))
    total = own.clone()
    dist.all_reduce(total, group=group)
    share = own * dist.get_world_size(group) / total.clamp(min=1)
    return mean * share.to(mean.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
