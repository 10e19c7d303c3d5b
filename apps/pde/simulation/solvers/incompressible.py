"""Incompressible Navier-Stokes and Euler equations, and what a given flow carries, by Fourier modes on the
periodic unit square.

The scheme is the one behind the NS sets of PDEgym (Herde et al. 2024, arXiv 2405.19101; spectral viscosity
after Lanthaler, Mishra and Parés-Pulido 2021): d/dt u_hat = -P(i k . (u u)_hat) - rate(n) u_hat + f_hat with
P = I - k k^T/|k|^2, products on a 3N/2 grid, SSP-RK3 in time. The projection is made by carrying the
vorticity, whose modes determine the divergence-free part: of the flux only u^2 - v^2 and u v remain. The
mean velocity is held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apps.pde.simulation.solvers.fourier import (
    advance,
    from_modes,
    from_padded,
    to_modes,
    to_padded,
    wavenumbers,
)

__all__ = ["Damping", "solve_advection", "solve_incompressible"]

_KINDS = ("quadratic", "smooth", "step", "none")


@dataclass(frozen=True)
class Damping:
    """Decay rates of the modes, per unit time.

    With n the integer mode radius and k = 2 pi n, `viscosity * k^2` plus, by `kind`:

    - `quadratic`: `(strength / N) max(0, n^2 - N)`, nothing below sqrt(N);
    - `smooth`: `e k^(2s) (1 - exp(-(k / k0)^18))`, where `e = strength / N^(2s-1)` and
      `k0 = 2 pi N^((2s-1)/(2s))`;
    - `step`: `e k^(2s)` above k0, else nothing;
    - `none`.

    Attributes:
        kind: One of the above.
        strength: The number 0.05 of the published sets.
        order: The power s.
        viscosity: Plain kinematic viscosity.
    """

    kind: str = "quadratic"
    strength: float = 0.05
    order: float = 1.0
    viscosity: float = 0.0

    def __post_init__(self) -> None:
        """Check the kind.

        Raises:
            ValueError: If the kind is not known or a coefficient is negative.
        """
        if self.kind not in _KINDS:
            raise ValueError(
                f"the spectral viscosity is '{self.kind}'; it must be one of {', '.join(_KINDS)}"
            )
        if min(self.strength, self.viscosity) < 0 or self.order <= 0:
            raise ValueError("strength and viscosity must not be negative and order must be positive")

    def rates(self, n: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Return the rates `(N, N // 2)` on a grid of `n` points along each axis."""
        nx, ny = wavenumbers(n, dtype=torch.float64, device="cpu")
        square = nx**2 + ny**2
        k = 2 * math.pi * square.sqrt()
        rates = self.viscosity * k**2
        scale = self.strength / n ** (2 * self.order - 1) * k ** (2 * self.order)
        edge = 2 * math.pi * n ** ((2 * self.order - 1) / (2 * self.order))
        if self.kind == "quadratic":
            rates = rates + self.strength / n * (square - n).clamp(min=0)
        elif self.kind == "smooth":
            rates = rates - scale * torch.expm1(-((k / edge) ** 18))
        elif self.kind == "step":
            rates = rates + torch.where(k > edge, scale, torch.zeros_like(scale))
        return rates.to(dtype=dtype, device=device)


def solve_incompressible(
    velocity: Tensor,
    times: Tensor,
    *,
    tracer: Tensor | None = None,
    forcing: Tensor | None = None,
    damping: Damping | None = None,
    cfl: float = 0.5,
) -> Tensor:
    """Return velocity and tracers at the given times.

    The first frame is the divergence-free part of `velocity`. Every sample takes steps of its own length,
    `cfl` grid spacings over the largest |u| + |v| of the moment, so it does not depend on the batch.

    Args:
        velocity: `(B, 2, N, N)` at `times[0]`; N is even and at least 4.
        times: `(T,)` increasing.
        tracer: `(B, K, N, N)`, carried by the flow and damped like it.
        forcing: `(B, 2, N, N)` or `(2, N, N)`, a constant acceleration; its gradient part and its mean have
            no effect.
        damping: Decay of the modes; the default is the published sets'.
        cfl: Courant number, at most about 0.5 with SSP-RK3.

    Returns:
        `(B, T, 2 + K, N, N)` in the type of `velocity`.

    Raises:
        FloatingPointError: If a flow leaves the range of finite numbers.
    """
    flow = _Flow(velocity, forcing=forcing, damping=damping or Damping(), cfl=cfl)
    modes = flow.start(velocity, tracer)
    mean = velocity.mean(dim=(-2, -1))
    frames = [flow.fields(modes, mean)]
    companions = [mean] if flow.curl is None else [mean, flow.curl]
    spans = times.double().diff().tolist()
    for span in spans:
        modes = advance(modes, span, flow.change, companions=companions)
        frames.append(flow.fields(modes, mean))
    return torch.stack(frames, dim=1)


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


class _Flow:
    """Constants of the scheme on one grid; the state is `(B, 1 + K, N, N // 2)`, vorticity then tracers."""

    def __init__(self, velocity: Tensor, *, forcing: Tensor | None, damping: Damping, cfl: float) -> None:
        n, dtype, device = velocity.shape[-1], velocity.dtype, velocity.device
        nx, ny = wavenumbers(n, dtype=torch.float64, device="cpu")
        kx, ky = 2 * math.pi * nx, 2 * math.pi * ny
        square = kx**2 + ky**2
        square[0, 0] = math.inf
        derivatives = 1j * torch.stack([kx.expand_as(square), ky.expand_as(square)])
        velocities = torch.stack([derivatives[1], -derivatives[0]]) / square
        complex_type = torch.complex64 if dtype == torch.float32 else torch.complex128
        self.derivatives = derivatives.to(dtype=complex_type, device=device)
        self.velocities = velocities.to(dtype=complex_type, device=device)
        self.difference = (-kx * ky).to(dtype=dtype, device=device)
        self.product = (kx**2 - ky**2).to(dtype=dtype, device=device)
        rates = damping.rates(n, dtype=dtype, device=device)
        self.rates = rates if bool(rates.any()) else None
        self.curl: Tensor | None = None
        if forcing is not None:
            self.curl = self._curl(forcing.expand(velocity.shape[0], 2, n, n))
        self.reach = cfl / n
        # Neither this nor a step of a fluid at rest may be beyond the range of the type.
        self.longest = 1 / max(float(rates.max()), torch.finfo(dtype).tiny)

    def start(self, velocity: Tensor, tracer: Tensor | None) -> Tensor:
        """Return the state of the fields."""
        curl = self._curl(velocity)
        return curl if tracer is None else torch.cat([curl, to_modes(tracer)], dim=1)

    def fields(self, modes: Tensor, mean: Tensor) -> Tensor:
        """Return `(B, 2 + K, N, N)` of the state."""
        return from_modes(self._all_modes(modes, mean))

    def change(self, modes: Tensor, companions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the state's derivative and longest step; companions are the mean and the forcing."""
        mean = companions[0]
        values = to_padded(self._all_modes(modes, mean))
        u, v, tracers = values[:, :1], values[:, 1:2], values[:, 2:]
        speed = (u.abs() + v.abs()).amax(dim=(1, 2, 3))
        flux = from_padded(torch.cat([(u + v) * (u - v), u * v, u * tracers, v * tracers], dim=1))
        count = tracers.shape[1]
        turn = self.difference * flux[:, :1] + self.product * flux[:, 1:2]
        if len(companions) > 1:
            turn = turn + companions[1]
        if count:
            x, y = flux[:, 2 : 2 + count], flux[:, 2 + count :]
            turn = torch.cat([turn, -(self.derivatives[0] * x + self.derivatives[1] * y)], dim=1)
        if self.rates is not None:
            turn = turn - self.rates * modes
        return turn, (self.reach / speed).clamp(max=self.longest)

    def _all_modes(self, modes: Tensor, mean: Tensor) -> Tensor:
        flow = modes[:, :1] * self.velocities
        flow[:, :, 0, 0] = mean.to(flow.dtype)
        return torch.cat([flow, modes[:, 1:]], dim=1) if modes.shape[1] > 1 else flow

    def _curl(self, velocity: Tensor) -> Tensor:
        modes = to_modes(velocity)
        return self.derivatives[0] * modes[:, 1:2] - self.derivatives[1] * modes[:, :1]
