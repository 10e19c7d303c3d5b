"""Batches whose gradients are added up before one update: each counts by what it holds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from core.strategies.pieces import local

__all__ = ["Window"]


class Window:
    """Makes the gradient of a window of batches the mean over all their values.

    Lightning divides each loss by the window's length, which makes a mean of the batches' means, and one that
    is too small where an epoch ends within a window. Losses are weighted by their count over the first one's,
    and the gradients by `length * first / sum` once all are there: with equal counts both are exactly 1.
    Nothing waits for the device.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._sum: Tensor | None = None

    def add(self, loss: Tensor, count: Tensor) -> Tensor:
        """Return the loss of the window's next batch, weighted.

        Args:
            loss: The mean over what all processes hold of this batch.
            count: How many values these are, on the loss's device.
        """
        count = count.to(torch.float64 if loss.dtype == torch.float64 else torch.float32)
        if self._first is None or self._sum is None:
            self._first, self._sum = count.clamp(min=1), count
        else:
            self._sum = self._sum + count
        return loss * (count / self._first).to(loss.dtype)

    def close(self, parameters: Iterable[nn.Parameter], *, length: int) -> None:
        """Weigh the gradients after the window's last batch.

        Args:
            parameters: Those whose gradients the window has filled.
            length: What each loss was divided by.
        """
        if self._first is None or self._sum is None:
            return
        factor = length * self._first / self._sum.clamp(min=1)
        self._first = self._sum = None
        kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for gradient in (local(p.grad) for p in parameters if p.grad is not None):
            kinds.setdefault((gradient.device, gradient.dtype), []).append(gradient)
        for (device, _), gradients in kinds.items():
            torch._foreach_mul_(gradients, factor.to(device))
