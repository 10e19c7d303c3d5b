"""Burgers' equation u_t + (u^2 / 2)_x = nu u_xx on one axis.

With viscosity: periodic, Fourier modes with the two-thirds rule, and the exponential Runge-Kutta scheme
ETDRK4 (Cox and Matthews 2002; coefficients by contour integrals, Kassam and Trefethen 2005). Without:
Godunov's flux between limited linear states and Runge-Kutta steps of order 2 that keep shocks sharp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, pi

import torch
from torch import Tensor

from apps.pde.simulation.solvers.finite_volume import (
    GHOSTS,
    Boundary,
    block_mean,
    boundaries,
    check_grid,
    fill,
    march,
    sides,
)
from core.errors import UserError

__all__ = ["inviscid", "viscous"]


def viscous(
    initial: Tensor,
    *,
    times: Sequence[float] | Tensor,
    viscosity: float = 0.01,
    length: float = 1.0,
    courant: float = 0.5,
) -> Tensor:
    """Return u `(B, T, X)` at `times`, started from `initial (B, X)` at time 0 on a periodic axis.

    The length of the steps follows from the largest |u| of each sample at the start, which viscosity only
    lowers; steps are equal in between two frames.

    Args:
        initial: Values at the points `i * length / X`.
        times: Increasing times of the frames.
        viscosity: nu, above 0.
        length: Length of the axis.
        courant: Step in units of the time in which the fastest value crosses a cell.

    Raises:
        UserError: If the viscosity is not positive or the shape is not `(B, X)`.
    """
    if initial.dim() != 2:
        raise UserError(f"the initial values have shape {tuple(initial.shape)}; give (B, X)")
    if not viscosity > 0:
        raise UserError(f"viscosity is {viscosity}; it must be above 0, else use the inviscid solver")
    cells = initial.shape[1]
    check_grid((cells,), least=8)
    goals = [float(t) for t in torch.as_tensor(times, dtype=torch.float64)]
    number = torch.fft.rfftfreq(cells, 1 / cells, dtype=torch.float64, device=initial.device)
    wave = 2 * pi / length * number
    linear = -viscosity * wave**2
    kept = number < cells / 3
    slope = torch.where(kept, -0.5j * wave, torch.zeros_like(wave) + 0j)
    fastest = initial.abs().amax(1).double().clamp(min=1e-6)

    real, complexes = initial.dtype, (initial[:, :1] + 0j).dtype
    rate = slope.to(complexes)

    def change(modes: Tensor) -> Tensor:
        return rate * torch.fft.rfft(torch.fft.irfft(modes, n=cells).square())

    modes = torch.fft.rfft(initial)
    frames, now = [], 0.0
    for goal in goals:
        if goal == 0:
            frames.append(initial)
            continue
        stable = courant * length / cells / fastest
        # Steps are halved until they are short enough, so samples share a few sets of coefficients.
        levels = ((goal - now) / stable).log2().ceil().clamp(min=0)
        after = torch.empty_like(modes)
        for level in levels.unique().tolist():
            which = (levels == level).nonzero()[:, 0]
            count = 2 ** ceil(level)
            scheme = [part.to(complexes) for part in _coefficients(linear, (goal - now) / count)]
            part = modes[which]
            for _ in range(count):
                part = _etdrk4(part, change, scheme)
            after[which] = part
        modes, now = after, goal
        frames.append(torch.fft.irfft(modes, n=cells).to(real))
    return torch.stack(frames, 1)


def inviscid(
    initial: Tensor,
    *,
    times: Sequence[float] | Tensor,
    length: float = 1.0,
    boundary: Boundary = "periodic",
    cfl: float = 0.4,
    limiter: str = "mc",
    average: int = 1,
) -> Tensor:
    """Return the cell means u `(B, T, X)` of the entropy solution at `times`.

    Args:
        initial: Cell means `(B, X)` at time 0.
        times: Increasing times of the frames.
        length: Length of the axis.
        boundary: `periodic`, `outflow` or `reflecting` (u changes its sign there).
        cfl: Step in units of the time in which the fastest value crosses a cell.
        limiter: `minmod`, `mc` or `van_leer`.
        average: Frames are means over blocks of so many cells.

    Raises:
        UserError: If the shape is not `(B, X)` or blocks do not tile it.
    """
    if initial.dim() != 2:
        raise UserError(f"the initial values have shape {tuple(initial.shape)}; give (B, X)")
    cells = initial.shape[1]
    check_grid((cells,), average=average)
    (kinds,) = boundaries(boundary, 1)
    width = length / cells

    def limit(state: Tensor) -> Tensor:
        return cfl * width / state[0].abs().amax(1).clamp(min=1e-6)

    def forward(state: Tensor, lengths: Tensor) -> Tensor:
        padded = state.new_empty(*state.shape[:2], cells + 2 * GHOSTS)
        padded[..., GHOSTS:-GHOSTS] = state
        fill(padded, axis=0, kinds=kinds, odd=0)
        left, right = sides(padded, axis=0, space=1, limiter=limiter)
        flux = torch.maximum(left.clamp(min=0).square(), right.clamp(max=0).square()) * 0.5
        return state - flux.diff(dim=-1) * (lengths[:, None] / width)

    def step(state: Tensor, lengths: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        after = (forward(forward(state, lengths), lengths) + state) * 0.5
        return after, after[0].isfinite().all(1)

    def keep(state: Tensor) -> Tensor:
        return block_mean(state, average, 1).transpose(0, 1)

    moments = torch.as_tensor(times, dtype=torch.float64)
    return march(initial[None], times=moments, limit=limit, step=step, keep=keep)[:, :, 0]


def _coefficients(linear: Tensor, step: float, points: int = 32) -> list[Tensor]:
    """Return the factors of ETDRK4 for a diagonal linear part; contour means avoid 0/0 at small modes."""
    z = linear * step
    circle = torch.exp(1j * pi * (torch.arange(points, dtype=torch.float64, device=z.device) + 0.5) / points)
    r = z[:, None] + circle
    e = r.exp()

    def mean(values: Tensor) -> Tensor:
        return step * values.mean(1).real

    return [
        z.exp(),
        (z / 2).exp(),
        mean(((r / 2).exp() - 1) / r),
        mean((-4 - r + e * (4 - 3 * r + r**2)) / r**3),
        mean(2 * (2 + r + e * (r - 2)) / r**3),
        mean((-4 - 3 * r - r**2 + e * (4 - r)) / r**3),
    ]


def _etdrk4(modes: Tensor, change: Callable[[Tensor], Tensor], scheme: list[Tensor]) -> Tensor:
    whole, half, middle, first, second, third = scheme
    n = change(modes)
    start = half * modes
    a = start + middle * n
    n_a = change(a)
    b = start + middle * n_a
    n_b = change(b)
    c = half * a + middle * (2 * n_b - n)
    return whole * modes + first * n + second * (n_a + n_b) + third * change(c)
