"""Mean daily cycle of normalised fields: what a short record of a region says before any learning."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["DailyCycle"]

_HOURS, _SECONDS = 24, 3600


class DailyCycle(nn.Module):
    """Takes the mean of an hour of the day off fields, and the deviation of what is left.

    Args:
        fields: V.
        grid: Rows and columns.
    """

    def __init__(self, fields: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(_HOURS, fields, *grid))
        self.register_buffer("deviation", torch.empty(fields, 1, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the cycle that changes nothing."""
        nn.init.zeros_(self.mean)
        nn.init.ones_(self.deviation)

    def learn(self, states: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Count mean and deviation over times in seconds `(N,)` with fields `(N, V, H, W)`, each time once.

        Hours that never occur have the mean over all.
        """
        total = torch.zeros(self.mean.shape, dtype=torch.float64)
        squares, count = torch.zeros_like(total), torch.zeros(_HOURS, 1, 1, 1, dtype=torch.float64)
        met: set[int] = set()
        for times, fields in states:
            rows = [row for row, time in enumerate(times.tolist()) if not (time in met or met.add(time))]
            hour, values = self._hours(times[rows]), fields[rows].double()
            total.index_add_(0, hour, values)
            squares.index_add_(0, hour, values.square())
            count.index_add_(0, hour, torch.ones(len(rows), 1, 1, 1, dtype=torch.float64))
        mean = torch.where(count > 0, total / count.clamp(min=1), total.sum(0) / count.sum())
        left = (squares - count * mean.square()).sum((0, 2, 3)) / (count.sum() * mean[0, 0].numel())
        self.mean.copy_(mean)
        self.deviation.copy_(left.clamp(min=1e-12).sqrt()[:, None, None])

    def removed(self, fields: Tensor, times: Tensor) -> Tensor:
        """Return anomalies of fields `(B, T, V, H, W)` at seconds `(B, T)`."""
        return (fields - self.mean[self._hours(times)]) / self.deviation

    def restored(self, anomalies: Tensor, times: Tensor) -> Tensor:
        """Undo `removed`."""
        return anomalies * self.deviation + self.mean[self._hours(times)]

    def _hours(self, times: Tensor) -> Tensor:
        return times.div(_SECONDS, rounding_mode="floor") % _HOURS
