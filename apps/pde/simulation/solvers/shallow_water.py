"""Shallow-water equations over flat ground by finite volumes: limited linear reconstruction and the HLL flux.

Sideways momentum goes with the flow of mass (Toro 2001, Shock-Capturing Methods for Free-Surface Shallow
Flows, chapter 10).

Variables, in order: depth, velocity along x, velocity along y.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from apps.pde.simulation.solvers.finite_volume import (
    GHOSTS,
    Boundary,
    block_mean,
    boundaries,
    check_grid,
    chunks,
    fill,
    march,
    sides,
)
from core.errors import UserError

__all__ = ["solve"]


def solve(
    initial: Tensor,
    *,
    times: Sequence[float] | Tensor,
    extent: tuple[float, float] = (0.0, 1.0),
    boundary: Boundary = "periodic",
    gravity: float = 1.0,
    cfl: float = 0.4,
    limiter: str = "mc",
    average: int = 1,
) -> Tensor:
    """Return depth and velocities `(B, T, 3, X, Y)` at `times`, started from `initial (B, 3, X, Y)`.

    Every sample takes its own steps, so a result does not depend on the other samples of the batch.

    Args:
        initial: Depth (above 0 everywhere) and the two velocities, means over cells.
        times: Increasing times of the frames.
        extent: Lower and upper end of both axes.
        boundary: `periodic`, `outflow` or `reflecting`; one for all sides or one (low, high) pair an axis.
        gravity: Acceleration downwards.
        cfl: Step in units of the time in which the fastest wave crosses a cell.
        limiter: `minmod`, `mc` or `van_leer`.
        average: Frames are means over blocks of so many cells along each axis.

    Raises:
        UserError: If the shape is wrong, a depth is not positive, or blocks do not tile the grid.
    """
    if initial.dim() != 4 or initial.shape[1] != 3:
        raise UserError(f"the initial state has shape {tuple(initial.shape)}; give (B, 3, X, Y)")
    shape = tuple(initial.shape[2:])
    check_grid(shape, average=average)
    if not bool((initial[:, 0] > 0).all()):
        raise UserError("the initial depth is not positive everywhere; dry ground is not supported")
    kinds = boundaries(boundary, 2)
    widths = [(extent[1] - extent[0]) / size for size in shape]

    def fields(state: Tensor) -> Tensor:
        return torch.cat([state[:1], state[1:] / state[0]])

    def limit(state: Tensor) -> Tensor:
        wave = (state[0] * gravity).sqrt()
        rates = [((state[1 + i] / state[0]).abs() + wave).flatten(1).amax(1) / widths[i] for i in (0, 1)]
        return cfl / torch.maximum(*rates)

    def forward(state: Tensor, lengths: Tensor) -> Tensor:
        padded = state.new_empty(*state.shape[:2], *(size + 2 * GHOSTS for size in shape))
        padded[:, :, GHOSTS:-GHOSTS, GHOSTS:-GHOSTS] = fields(state)
        after = state
        for axis in (0, 1):
            fill(padded, axis=axis, kinds=kinds[axis], odd=1 + axis)
            left, right = sides(padded, axis=axis, space=2, limiter=limiter)
            flux = _hll(left, right, normal=1 + axis, gravity=gravity)
            after = after - flux.diff(dim=axis + 2) * (lengths / widths[axis])
        return after

    def step(state: Tensor, lengths: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        lengths = lengths.view(-1, 1, 1)
        first = forward(state, lengths)
        after = (forward(first, lengths) + state) * 0.5
        return after, (torch.minimum(first[0], after[0]) > 0).flatten(1).all(1)

    def keep(state: Tensor) -> Tensor:
        return fields(block_mean(state, average, 2)).transpose(0, 1)

    moments = torch.as_tensor(times, dtype=torch.float64)
    start = torch.cat([initial[:, :1], initial[:, :1] * initial[:, 1:]], 1).transpose(0, 1)
    return torch.cat(
        [
            march(start[:, part], times=moments, limit=limit, step=step, keep=keep)
            for part in chunks(initial.shape[0], initial[0, 0].numel(), initial.device)
        ]
    )


def _hll(left: Tensor, right: Tensor, *, normal: int, gravity: float) -> Tensor:
    """Return the flux `(3, ...)` between states `(3, ...)` on both sides of faces."""
    h_l, h_r, u_l, u_r = left[0], right[0], left[normal], right[normal]
    root_l, root_r = h_l.sqrt(), h_r.sqrt()
    mean_u = (root_l * u_l + root_r * u_r) / (root_l + root_r)
    mean_c = ((h_l + h_r) * (0.5 * gravity)).sqrt()
    slow = torch.minimum(u_l - root_l * gravity**0.5, mean_u - mean_c)
    fast = torch.maximum(u_r + root_r * gravity**0.5, mean_u + mean_c)
    low, high = slow.clamp(max=0), fast.clamp(min=0)
    spread = (high - low).clamp(min=torch.finfo(left.dtype).tiny)

    def outer(left: Tensor, right: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return (high * before - low * after + low * high * (right - left)) / spread

    flow = outer(h_l, h_r, h_l * u_l, h_r * u_r)
    thrust_l = h_l * u_l**2 + 0.5 * gravity * h_l**2
    thrust_r = h_r * u_r**2 + 0.5 * gravity * h_r**2
    along = outer(h_l * u_l, h_r * u_r, thrust_l, thrust_r)
    sideways = 3 - normal
    across = flow * torch.where(flow >= 0, left[sideways], right[sideways])
    return torch.stack([flow, along, across] if normal == 1 else [flow, across, along])
