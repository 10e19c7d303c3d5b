"""Losses, gradients and rows of all processes, whose batches may differ: each counts by what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.backbones.gradient_norm import local

__all__ = ["AccumulationWindow", "averaged", "gathered", "weighted"]


def weighted(mean: Tensor, count: Tensor | float, strategy: Any) -> tuple[Tensor, Tensor]:
    """Return `mean` times `count * ranks / sum of counts`, and that sum.

    Gradients are averaged over ranks, so the mean of these over the ranks is the mean over everything that
    all of them hold. `mean` is this rank's loss over `count` values, of any finite value where that is zero;
    no gradient flows through the count. A `Mesh` sums over its data and context ranks, any other strategy
    over all ranks; with one process the loss comes back as it is.
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
    """
    group = _group(strategy)
    if group is None or not scalars:
        return dict(scalars)
    every = torch.stack([value.detach().to(_wide(value.dtype)).reshape(()) for value in scalars.values()])
    dist.all_reduce(every, group=group)
    means = (every / dist.get_world_size(group)).unbind()
    return dict(zip(scalars, means, strict=True))


def gathered(rows: Tensor, strategy: Any, *, even: bool = False) -> tuple[Tensor, int]:
    """Return the rows `(B, ...)` of all processes in their order, without gradients, and the index of this
    one's first; where B is not known to be the same everywhere (`even`), the host waits for the numbers.
    """
    group = _group(strategy)
    if group is None:
        return rows.detach(), 0
    sizes = [len(rows)] * dist.get_world_size(group)
    if not even:
        counts = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in sizes]
        dist.all_gather(counts, torch.full_like(counts[0], len(rows)), group=group)
        sizes = torch.cat(counts).tolist()
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    every = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return every, sum(sizes[: dist.get_rank(group)])


class AccumulationWindow:
    """Makes the gradient of batches that are added up before one update the mean over all their values.

    Lightning divides each loss by the window's length, which makes a mean of the batches' means, and one that
    is too small where an epoch ends within a window. Losses are weighted by their count over the first one's,
    and the gradients by `length * first / sum` once all are there: with equal counts both are exactly 1.
    Nothing waits for the device.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._sum: Tensor | None = None

    def add(self, loss: Tensor, count: Tensor) -> Tensor:
        """Return the loss of the next batch, the mean of `count` values of all processes, weighted."""
        count = count.to(_wide(loss.dtype))
        if self._first is None or self._sum is None:
            self._first, self._sum = count.clamp(min=1), count
        else:
            self._sum = self._sum + count
        return loss * (count / self._first).to(loss.dtype)

    def close(self, parameters: Iterable[nn.Parameter], *, length: int) -> None:
        """Weigh the gradients after the window's last batch; each loss was divided by `length`."""
        if self._first is None or self._sum is None:
            return
        factor = length * self._first / self._sum.clamp(min=1)
        self._first = self._sum = None
        kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for gradient in (local(p.grad) for p in parameters if p.grad is not None):
            kinds.setdefault((gradient.device, gradient.dtype), []).append(gradient)
        for (device, _), gradients in kinds.items():
            torch._foreach_mul_(gradients, factor.to(device))


def _group(strategy: Any) -> dist.ProcessGroup | None:
    """Return the processes over which gradients are averaged; None if that is this one alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group: dist.ProcessGroup | None = getattr(strategy, "loss_group", dist.group.WORLD)
    return None if group is None or dist.get_world_size(group) == 1 else group


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
