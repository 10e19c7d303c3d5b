"""Advection and diffusion of a concentration by a given steady flow on the periodic unit square."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from apps.pde.simulation.solvers.incompressible import Damping
from apps.pde.simulation.solvers.spectral import from_modes, from_padded, to_modes, to_padded, wavenumbers
from apps.pde.simulation.solvers.stepping import advance

__all__ = ["solve_advection"]


def solve_advection(
    initial: Tensor,
    times: Tensor,
    *,
    velocity: Tensor,
    diffusivity: float = 0.0,
    damping: Damping | None = None,
    cfl: float = 0.5,
) -> Tensor:
    """Return the concentration `(B, T, N, N)` of c_t + div(v c) = kappa lap c at `times`.

    A uniform velocity is solved exactly, mode by mode. A field is solved by Fourier modes with products on a
    3N/2 grid and SSP-RK3.

    Args:
        initial: `(B, N, N)` at `times[0]` and at the points i/N; N is even. Its Nyquist modes are dropped.
        times: `(T,)` increasing.
        velocity: Uniform `(B, 2)` or a field `(B, 2, N, N)`.
        diffusivity: kappa.
        damping: Decay of high modes; none by default.
        cfl: Courant number, at most about 0.5.

    Raises:
        FloatingPointError: If the solution leaves the range of finite numbers.
    """
    n, dtype, device = initial.shape[-1], initial.dtype, initial.device
    nx, ny = wavenumbers(n, dtype=dtype, device=device)
    kx, ky = 2 * math.pi * nx, 2 * math.pi * ny
    rates = (damping or Damping(kind="none")).rates(n, dtype=dtype, device=device)
    rates = rates + diffusivity * (kx**2 + ky**2)
    modes = to_modes(initial)
    if velocity.ndim == 2:
        span = (times - times[0]).to(dtype=dtype, device=device)[:, None, None]
        u, v = velocity.to(initial)[:, :, None, None, None].unbind(1)
        turn = torch.polar(torch.exp(-rates * span), torch.zeros_like(rates)) * torch.polar(
            torch.ones((), dtype=dtype, device=device), -(kx * u + ky * v) * span
        )
        return from_modes(modes[:, None] * turn)

    carrier = to_padded(to_modes(velocity.to(initial)))
    longest = cfl / n / carrier.abs().sum(1).amax(dim=(1, 2)).clamp(min=1e-30)
    longest = longest.clamp(max=1 / max(float(rates.max()), 1e-30))

    def change(state: Tensor, companions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        flow, bound = companions
        flux = from_padded(flow * to_padded(state)[:, None])
        return -1j * (kx * flux[:, 0] + ky * flux[:, 1]) - rates * state, bound

    frames = [from_modes(modes)]
    for span in times.double().diff().tolist():
        modes = advance(modes, span, change, companions=[carrier, longest])
        frames.append(from_modes(modes))
    return torch.stack(frames, dim=1)
