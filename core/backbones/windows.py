"""Windows of a token grid with any number of axes, cyclic shifts, and continuous position biases.

Shifted windows after Liu et al. 2021 (arXiv 2103.14030), log-spaced offsets after Liu et al. 2022 (Swin V2,
arXiv 2111.09883). Shift, padding and partition together are one gather each way. What depends on the geometry
alone is computed once for each device and kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

__all__ = ["WindowPlan", "join_windows", "offset_index", "offset_table", "plan_windows", "split_windows"]

Kind = TypeVar("Kind")
Padding = Literal["end", "around"]
_KEPT = 64  # geometries remembered by each function below


def _remembered(function: Callable[..., Kind]) -> Callable[..., Kind]:
    """Remember results by geometry and device, so that a network asks for them in every forward pass."""

    @lru_cache(maxsize=_KEPT)
    def kept(*geometry: tuple[int, ...], **how: Any) -> Kind:
        with torch.inference_mode(False):  # kept tensors must serve training too
            return function(*geometry, **how)

    @wraps(function)
    def call(*geometry: Sequence[int], device: torch.device | str = "cpu", **how: Any) -> Kind:
        return kept(*map(tuple, geometry), device=torch.device(device), **how)

    return call


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """Places of every token of a grid when the grid is cut into windows.

    Attributes:
        grid: Tokens along each axis.
        window: Side of the windows along each axis.
        shift: Cyclic shift along each axis.
        count: Number of windows.
        size: Tokens in a window.
        gather: `(count * size,)` int64, the token that each place in the windows shows (row-major grid); None
            where windows and grid have the same order. Places of padding show token 0.
        scatter: `(tokens,)` int64, the place of each token, or None.
        padding: Places that hold padding, or None without padding.
        regions: `(count, size)` int64: places of one window with different numbers are no neighbours on the
            grid. None without a shift.
    """

    grid: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...]
    count: int
    size: int
    gather: Tensor | None
    scatter: Tensor | None
    padding: Tensor | None
    regions: Tensor | None

    def mask(self, *, value: float, dtype: torch.dtype) -> Tensor | None:
        """Return `(count, size, size)` with `value` between places of different regions and 0 elsewhere."""
        return None if self.regions is None else _mask(self, value, dtype)


@_remembered
def plan_windows(
    grid: tuple[int, ...],
    window: tuple[int, ...],
    shift: tuple[int, ...],
    *,
    device: torch.device,
    padding: Padding = "end",
    periodic: tuple[int, ...] = (),
) -> WindowPlan:
    """Return the plan for cutting `grid` into windows, tokens and sides along each axis.

    Each axis is shifted cyclically towards its start, by 0 to below the window, padded to a multiple of its
    window, and cut.

    Args:
        grid: Tokens along each axis.
        window: Sides of the windows.
        shift: Cyclic shifts.
        device: Of the plan's tensors.
        padding: `end` pads each axis at its end before the shift, so that padding counts as grid. `around`
            pads it after the shift in front (the smaller half) and behind; padding is then a region.
        periodic: Axes whose ends are neighbours, such as longitude.

    Raises:
        ValueError: If the axes do not agree in number, or a side or shift is out of range.
    """
    if not len(grid) == len(window) == len(shift) > 0:
        raise ValueError(f"grid {grid}, window {window} and shift {shift} must have as many axes")
    if min(grid) < 1 or min(window) < 1 or any(not 0 <= s < w for s, w in zip(shift, window, strict=True)):
        raise ValueError(f"grid {grid} and window {window} must be positive, shift {shift} below the window")
    padded = [-(-g // w) * w for g, w in zip(grid, window, strict=True)]
    around = padding == "around"
    size, count = math.prod(window), math.prod(padded) // math.prod(window)
    shown = torch.zeros(1, dtype=torch.int64, device=device)  # token of each padded place, row-major
    inside = torch.ones(1, dtype=torch.bool, device=device)
    region = torch.zeros(1, dtype=torch.int64, device=device)
    for axis, (g, p, w, s) in enumerate(zip(grid, padded, window, shift, strict=True)):
        front = (p - g) // 2 if around else 0
        turn = g if around else p  # what the shift turns round
        position = torch.arange(p, device=device) - front
        held = (position >= 0) & (position < turn)
        part = torch.zeros(p, dtype=torch.int64, device=device)
        if s:
            part[(position >= turn - w) & held] = 1
            part[(position >= turn - s) & held] = 1 if axis in periodic else 2
        position = torch.where(held, (position + s) % turn, g)
        shown = shown[..., None] * g + position.clamp(max=g - 1)
        inside = inside[..., None] & (position < g)
        region = region[..., None] * 3 + part
    if around:
        region = torch.where(inside, region, 3 ** len(grid))
    shown, inside, region = (_cut(x[0], window) for x in (shown, inside, region))
    gather = scatter = blank = None
    if list(padded) != list(grid):
        blank = torch.nonzero(~inside.flatten()).flatten() if device.type != "meta" else shown.flatten()
    if count > 1 or any(shift) or blank is not None:
        gather = torch.where(inside, shown, 0).flatten()
        places = torch.arange(count * size, device=device)
        scatter = torch.zeros(math.prod(grid), dtype=torch.int64, device=device)
        # Padding writes behind the end, so that no token's place depends on the order of writes.
        target = torch.where(inside.flatten(), gather, scatter.numel())
        scatter = torch.cat([scatter, scatter.new_zeros(1)]).scatter_(0, target, places)[:-1].clone()
    return WindowPlan(
        grid, window, shift, count, size, gather, scatter, blank, region if any(shift) else None
    )


def split_windows(x: Tensor, plan: WindowPlan, *, padding: Tensor | None = None) -> Tensor:
    """Cut tokens `(B, L, C)` into windows `(B * count, size, C)`; padding shows `padding (C,)`, or zero."""
    if plan.gather is not None:
        fill = None if plan.padding is None else padding
        x = _Gather.apply(x, plan.gather, plan.scatter, plan.padding, None, fill)
    return x.reshape(-1, plan.size, x.shape[-1])


def join_windows(windows: Tensor, plan: WindowPlan) -> Tensor:
    """Put windows `(B * count, size, C)` together to tokens `(B, L, C)` without the padding."""
    x = windows.reshape(-1, plan.count * plan.size, windows.shape[-1])
    if plan.scatter is None:
        return x
    return _Gather.apply(x, plan.scatter, plan.gather, None, plan.padding, None)


@_remembered
def offset_table(
    window: tuple[int, ...], *, device: torch.device, dtype: torch.dtype, scale: float = 8.0
) -> Tensor:
    """Return `(offsets, axes)`: every offset between two places of a window, log-spaced as in Swin V2.

    An offset is divided by the window less one and multiplied by `scale`; the table holds
    `sign(x) log2(|x| + 1) / log2(scale)` of that.

    Raises:
        ValueError: If a window is below 2, where no offset but zero exists.
    """
    if min(window) < 2:
        raise ValueError(f"window is {window}; position offsets need at least 2 along each axis")
    axes = [torch.arange(1 - w, w, dtype=torch.float32, device=device) / (w - 1) for w in window]
    table = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2) * scale
    return (table.sign() * torch.log2(table.abs() + 1.0) / math.log2(scale)).to(dtype)


@_remembered
def offset_index(window: tuple[int, ...], *, device: torch.device) -> Tensor:
    """Return `(size * size,)` int64: the row of `offset_table` for each pair (query, key) of a window."""
    axes = [torch.arange(w, device=device) for w in window]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)  # (axes, size)
    index = torch.zeros(positions.shape[1], positions.shape[1], dtype=torch.int64, device=device)
    for w, position in zip(window, positions, strict=True):
        index = index * (2 * w - 1) + position[:, None] - position[None, :] + w - 1
    return index.flatten()


@lru_cache(maxsize=_KEPT)
def _mask(plan: WindowPlan, value: float, dtype: torch.dtype) -> Tensor:
    assert plan.regions is not None
    with torch.inference_mode(False):
        other = plan.regions[:, :, None] != plan.regions[:, None]
        return torch.zeros(other.shape, dtype=dtype, device=other.device).masked_fill_(other, value)


class _Gather(torch.autograd.Function):
    """A gather whose gradient is the gather back, which is much cheaper than adding at an index.

    Places named in `blank` hold `fill`, or zero; the gradient is zero at those of `back_blank`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        index: Tensor,
        back: Tensor,
        blank: Tensor | None,
        back_blank: Tensor | None,
        fill: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(back, back_blank, blank)
        out = _gathered(x, index, blank if fill is None else None)
        if fill is not None and blank is not None:
            out[:, blank] = fill.to(out.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        back, back_blank, blank = ctx.saved_tensors
        filled = grads[0].index_select(1, blank).sum((0, 1)) if ctx.needs_input_grad[5] else None
        return _gathered(grads[0], back, back_blank), None, None, None, None, filled


def _gathered(x: Tensor, index: Tensor, blank: Tensor | None) -> Tensor:
    out = x.index_select(1, index)
    return out if blank is None else out.index_fill_(1, blank, 0.0)


def _cut(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """Return a grid `(p1, p2, …)` as its windows `(count, size)`."""
    n = len(window)
    sides = [side for p, w in zip(x.shape, window, strict=True) for side in (p // w, w)]
    order = [*range(0, 2 * n, 2), *range(1, 2 * n, 2)]
    return x.reshape(sides).permute(order).reshape(-1, math.prod(window))
