"""Wave equation u_tt = c(x)^2 lap u on the unit square, second-order central differences and leapfrog.

An absorbing edge lets the outgoing wave u_t + c du/dn + (c kappa / 2) u = 0 pass: Engquist and Majda (1977),
first order, and with the curvature kappa of the fronts Bayliss and Turkel (1980); without it a constant would
stay for ever. It enters as the flux through the outer face of the half cells at the edge, so that the energy
cannot grow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["solve_wave"]

_BOUNDARIES = ("absorbing", "reflecting", "fixed", "periodic")


def solve_wave(
    initial: Tensor,
    times: Tensor,
    *,
    speed: Tensor,
    boundary: str = "absorbing",
    curvature: float = 0.0,
    cfl: float = 0.6,
) -> Tensor:
    """Return the displacement `(B, T, N, N)` at `times`, started at rest.

    Every sample takes equal steps between two frames, as long as its own greatest speed allows.

    Args:
        initial: `(B, N, N)` at `times[0]`; the points are i/N for a periodic boundary, else i/(N-1).
        times: `(T,)` increasing.
        speed: c `(B, N, N)`, positive.
        boundary: `absorbing`, `reflecting` (no slope), `fixed` (no displacement) or `periodic`.
        curvature: kappa of an absorbing edge, such as one over its distance from the source.
        cfl: Courant number, below 1/sqrt(2).

    Raises:
        ValueError: If the boundary is not known, or the Courant number is too large.
    """
    if boundary not in _BOUNDARIES:
        raise ValueError(f"the boundary is '{boundary}'; it must be one of {', '.join(_BOUNDARIES)}")
    if not 0 < cfl <= 1 / math.sqrt(2):
        raise ValueError(f"the Courant number is {cfl}; leapfrog needs one in 0 to 0.707")
    n = initial.shape[-1]
    spacing = 1 / n if boundary == "periodic" else 1 / (n - 1)
    stiffness = (speed / spacing) ** 2
    friction = _edges(2 * speed / spacing) if boundary == "absorbing" else torch.zeros_like(speed)
    hold = None
    if boundary == "absorbing" and curvature:
        hold = _edges(torch.full_like(speed[:1], spacing * curvature))
    if boundary == "fixed":
        inside = _edges(torch.ones_like(speed[:1])) == 0
        stiffness = stiffness * inside
    longest = cfl * spacing / speed.double().amax(dim=(1, 2))
    padded = torch.nn.functional.pad(initial, (1, 1, 1, 1))
    if boundary == "fixed":
        padded[:, [1, -2]] = 0
        padded[:, :, [1, -2]] = 0
    rate = torch.zeros_like(initial)
    frames = [padded[:, 1:-1, 1:-1].clone()]
    for span in times.double().diff().tolist():
        _advance(padded, rate, stiffness, friction, hold, span, torch.ceil(span / longest), boundary)
        frames.append(padded[:, 1:-1, 1:-1].clone())
    return torch.stack(frames, dim=1)


def _edges(values: Tensor) -> Tensor:
    """Return `values` on the edges, twice that in the corners, and 0 inside."""
    result = torch.zeros_like(values)
    for edge in (0, -1):
        result[:, edge] += values[:, edge]
        result[:, :, edge] += values[:, :, edge]
    return result


def _advance(
    padded: Tensor,
    rate: Tensor,
    stiffness: Tensor,
    friction: Tensor,
    hold: Tensor | None,
    span: float,
    steps: Tensor,
    boundary: str,
) -> None:
    """Carry `padded` `(B, N+2, N+2)` and its time derivative over `span` in place."""
    for count in torch.unique(steps).tolist():
        rows = (steps == count).nonzero()[:, 0]
        half = span / count / 2
        field, velocity = padded[rows], rate[rows]
        pull, drag = half * stiffness[rows], half * friction[rows]
        grip = 1 / (1 + drag)
        drag = 1 - drag
        inner = field[:, 1:-1, 1:-1]
        force = _force(field, pull, hold, boundary)
        for _ in range(int(count)):
            velocity.add_(force).mul_(grip)
            inner.add_(velocity, alpha=2 * half)
            force = _force(field, pull, hold, boundary)
            velocity.mul_(drag).add_(force)
        padded[rows], rate[rows] = field, velocity


def _force(field: Tensor, pull: Tensor, hold: Tensor | None, boundary: str) -> Tensor:
    """Return `pull` times (the sum of differences to the four neighbours less `hold` times the field)."""
    near, far = (-2, 1) if boundary == "periodic" else (2, -3)
    field[:, 0], field[:, -1] = field[:, near], field[:, far]
    field[:, :, 0], field[:, :, -1] = field[:, :, near], field[:, :, far]
    force = field[:, 2:, 1:-1] + field[:, :-2, 1:-1]
    force += field[:, 1:-1, 2:]
    force += field[:, 1:-1, :-2]
    force.sub_(field[:, 1:-1, 1:-1], alpha=4)
    if hold is not None:
        force.addcmul_(hold, field[:, 1:-1, 1:-1], value=-1)
    return force.mul_(pull)
