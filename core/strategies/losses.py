"""Losses of uneven batches: each rank's counts by its share of what all ranks hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["averaged", "weighted"]


def weighted(mean: Tensor, count: Tensor | float, strategy: Any) -> tuple[Tensor, Tensor]:
    """Return `mean` times `count * ranks / sum of counts`, and that sum.

    Gradients are averaged over ranks, so the mean of these over the ranks is the mean over everything that
    all of them hold.

    Args:
        mean: This rank's loss, a mean over `count` values, of any finite value where the count is zero.
        count: How many; no gradient flows through it.
        strategy: The Trainer's; a `Mesh` sums over its data and context ranks, any other over all ranks. With
            one process the loss comes back as it is.
    """
    if not isinstance(count, Tensor):  # filled there: a copy from the host would wait for the device
        count = torch.full((), float(count), device=mean.device)
    own = count.detach().to(mean.device, _wide(mean.dtype))
    group = _group(strategy)
    if group is None:
        return mean, own
    total = own.clone()
    dist.all_reduce(total, group=group)
    share = own * dist.get_world_size(group) / total.clamp(min=1)
    return mean * share.to(mean.dtype), total


def averaged(scalars: Mapping[str, Tensor], strategy: Any) -> dict[str, Tensor]:
    """Return the means over the ranks that gradients are averaged over, in one exchange; of losses that are
    `weighted` these are the means over all that the ranks hold.

    Args:
        scalars: The same names on every rank; no gradient flows through the means.
        strategy: As for `weighted`.
    """
    group = _group(strategy)
    if group is None or not scalars:
        return dict(scalars)
    every = torch.stack([value.detach().to(_wide(value.dtype)).reshape(()) for value in scalars.values()])
    dist.all_reduce(every, group=group)
    means = (every / dist.get_world_size(group)).unbind()
    return dict(zip(scalars, means, strict=True))


def _group(strategy: Any) -> dist.ProcessGroup | None:
    """Return the processes over which gradients are averaged; None if that is this one alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group: dist.ProcessGroup | None = (
        strategy.loss_group if hasattr(strategy, "loss_group") else dist.group.WORLD
    )
    return None if group is None or dist.get_world_size(group) == 1 else group


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
