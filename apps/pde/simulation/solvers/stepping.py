"""Steps in time of a length of its own for every sample, so that no sample depends on its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Change", "advance"]

Change = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]


def advance(state: Tensor, span: float, change: Change, *, companions: Sequence[Tensor] = ()) -> Tensor:
    """Return the state after `span` by the third-order SSP Runge-Kutta method of Shu and Osher (1988).

    Every step of a sample is the rest of its span divided by the smallest number of steps that are short
    enough at the moment. Samples that arrive leave the working batch.

    Args:
        state: `(B, ...)`, real or complex.
        span: Length of time, positive.
        change: `(state, companions)` to the time derivative and each sample's longest stable step `(B,)`.
        companions: Tensors `(B, ...)` that `change` needs and that do not change.

    Raises:
        FloatingPointError: If a sample leaves the range of finite numbers.
    """
    result = torch.empty_like(state)
    rows = torch.arange(len(state), device=state.device)
    left = torch.full((len(state),), span, dtype=torch.float64, device=state.device)
    shape = (-1,) + (1,) * (state.ndim - 1)
    while len(rows):
        rate, longest = change(state, companions)
        steps = torch.ceil(left / longest.double()).clamp(min=1)
        if not bool(torch.isfinite(steps).all()):
            raise FloatingPointError(
                "a solution grew beyond the range of numbers: take a smaller Courant number"
            )
        length = left / steps
        step = length.to(longest.dtype).reshape(shape)
        first = state + step * rate
        second = 0.75 * state + 0.25 * (first + step * change(first, companions)[0])
        state = state / 3 + (2 / 3) * (second + step * change(second, companions)[0])
        left = left - length
        going = steps > 1
        if bool(going.all()):
            continue
        result[rows[~going]] = state[~going]
        state, rows, left = state[going], rows[going], left[going]
        companions = [one[going] for one in companions]
    return result
