"""Numerics of GPhyT: finite differences of fields, and explicit one-step integrators of `dx/dt = f(x)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FiniteDifference", "euler", "heun", "rk4"]

Slope = Callable[[Tensor], Tensor]

_FILTERS = {2: (-1.0, 0.0, 1.0), 4: (1 / 12, -2 / 3, 0.0, 2 / 3, -1 / 12)}


class FiniteDifference(nn.Module):
    """Central differences along time and both space axes, without gradient, in units of one grid step.

    The filter of second order is `(-1, 0, 1)` without the factor 1/2, as in the published program; that of
    fourth order is `(1/12, -2/3, 0, 2/3, -1/12)`. Edges are continued by their last value. The filters are
    buffers because official checkpoints hold them.

    Args:
        fields: Channels of a frame.
        order: 2 or 4.
    """

    def __init__(self, fields: int, *, order: int = 2) -> None:
        super().__init__()
        self.order = order
        size = len(_FILTERS[order])
        for axis, name in enumerate(("dt_filter", "dh_filter", "dw_filter")):
            shape = [fields, 1, 1, 1, 1]
            shape[2 + axis] = size
            self.register_buffer(name, torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Write the filters."""
        with torch.no_grad():
            for weight in (self.dt_filter, self.dh_filter, self.dw_filter):
                values = torch.tensor(_FILTERS[self.order], dtype=weight.dtype, device=weight.device)
                weight.copy_(values.expand(len(weight), -1).reshape(weight.shape))

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the differences of `(B, F, T, H, W)` along T, H and W, each of that shape."""
        along = ((2, self.dt_filter), (3, self.dh_filter), (4, self.dw_filter))
        return tuple(self._along(x, axis, weight) for axis, weight in along)  # type: ignore[return-value]

    def _along(self, x: Tensor, axis: int, weight: Tensor) -> Tensor:
        middle, size = self.order // 2, x.shape[axis]
        margins = [0] * 6
        margins[2 * (4 - axis)] = margins[2 * (4 - axis) + 1] = middle
        padded = F.pad(x, margins, mode="replicate")
        factors = weight.to(x.dtype).flatten(1)[..., None, None, None]  # F k 1 1 1
        total = padded.narrow(axis, 0, size) * factors[:, 0]
        for k in range(1, 2 * middle + 1):
            if k != middle:  # the middle of a central difference is zero
                total = torch.addcmul(total, padded.narrow(axis, k, size), factors[:, k])
        return total


def euler(f: Slope, x: Tensor, step: float = 1.0) -> Tensor:
    """Forward Euler, first order: `x + h f(x)`."""
    return x + step * f(x)


def heun(f: Slope, x: Tensor, step: float = 1.0) -> Tensor:
    """Heun's method, second order: the mean of the slopes at both ends of an Euler step."""
    first = f(x)
    return x + step / 2 * (first + f(x + step * first))


def rk4(f: Slope, x: Tensor, step: float = 1.0) -> Tensor:
    """The classical Runge-Kutta method, fourth order."""
    k1 = f(x)
    k2 = f(x + step / 2 * k1)
    k3 = f(x + step / 2 * k2)
    k4 = f(x + step * k3)
    return x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
