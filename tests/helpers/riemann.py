"""The exact solution of the Riemann problem of an ideal gas (Toro 2009, chapter 4), on batched tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import UserError

__all__ = ["Star", "sample", "star"]


@dataclass(frozen=True)
class Star:
    """The state between the two outer waves.

    Attributes:
        pressure: Pressure `(...)` on both sides of the contact; 0 if a vacuum opens.
        velocity: Velocity `(...)` of the contact.
        density_left: Density `(...)` left of the contact.
        density_right: Density `(...)` right of it.
    """

    pressure: Tensor
    velocity: Tensor
    density_left: Tensor
    density_right: Tensor


def star(
    left: Tensor | Sequence[float], right: Tensor | Sequence[float], *, gamma: float = 1.4, rounds: int = 60
) -> Star:
    """Return the star state between `left` and `right`, each `(..., 3)` of density, velocity and pressure.

    The pressure is the root of a function that rises and is concave; it is found by Newton's method, in
    float64.

    Raises:
        UserError: If a density or pressure is not positive.
    """
    a, b = _state(left, "left"), _state(right, "right")
    rho_l, u_l, p_l = a.unbind(-1)
    rho_r, u_r, p_r = b.unbind(-1)
    c_l, c_r = (gamma * p_l / rho_l).sqrt(), (gamma * p_r / rho_r).sqrt()
    power = (gamma - 1) / (2 * gamma)
    # The two-rarefaction pressure is exact without shocks and above the root with them; from there Newton
    # overshoots to below the root once and then rises monotonically.
    base = (c_l + c_r - (gamma - 1) / 2 * (u_r - u_l)).clamp(min=0)
    pressure = (base / (c_l / p_l**power + c_r / p_r**power)) ** (1 / power)
    empty = base == 0
    pressure = pressure.clamp(min=1e-300)
    for _ in range(rounds):
        f_l, d_l = _branch(pressure, rho_l, p_l, c_l, gamma)
        f_r, d_r = _branch(pressure, rho_r, p_r, c_r, gamma)
        moved = pressure - (f_l + f_r + u_r - u_l) / (d_l + d_r)
        pressure = torch.where(moved > 0, moved, pressure * 0.1)
    f_l, _ = _branch(pressure, rho_l, p_l, c_l, gamma)
    f_r, _ = _branch(pressure, rho_r, p_r, c_r, gamma)
    velocity = 0.5 * (u_l + u_r + f_r - f_l)
    zero = torch.zeros_like(pressure)
    return Star(
        pressure=torch.where(empty, zero, pressure),
        velocity=velocity,
        density_left=torch.where(empty, zero, _density(pressure, rho_l, p_l, gamma)),
        density_right=torch.where(empty, zero, _density(pressure, rho_r, p_r, gamma)),
    )


def sample(
    left: Tensor | Sequence[float], right: Tensor | Sequence[float], speed: Tensor, *, gamma: float = 1.4
) -> Tensor:
    """Return density, velocity and pressure `(..., S, 3)` where `x / t = speed (S,)`.

    Args:
        left: State `(..., 3)` at x < 0, time 0.
        right: State `(..., 3)` at x > 0.
        speed: Positions divided by time.
        gamma: Ratio of specific heats.
    """
    a, b = _state(left, "left"), _state(right, "right")
    middle = star(a, b, gamma=gamma)
    speed = speed.to(torch.float64)
    on_left = _side(a, middle.pressure, middle.velocity, middle.density_left, speed, gamma)
    # The right half is the mirror image of a left half.
    sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    on_right = _side(b * sign, middle.pressure, -middle.velocity, middle.density_right, -speed, gamma) * sign
    vacuum = middle.pressure == 0
    boundary = torch.where(
        vacuum, a[..., 1] + 2 / (gamma - 1) * (gamma * a[..., 2] / a[..., 0]).sqrt(), middle.velocity
    )
    return torch.where((speed < boundary.unsqueeze(-1)).unsqueeze(-1), on_left, on_right)


def _side(
    state: Tensor, pressure: Tensor, velocity: Tensor, density: Tensor, speed: Tensor, gamma: float
) -> Tensor:
    rho, u, p = (part.unsqueeze(-1) for part in state.unbind(-1))
    p_star, u_star, rho_star = pressure.unsqueeze(-1), velocity.unsqueeze(-1), density.unsqueeze(-1)
    sound = (gamma * p / rho).sqrt()
    shock = u - sound * ((gamma + 1) / (2 * gamma) * p_star / p + (gamma - 1) / (2 * gamma)).sqrt()
    # Inside the fan; its tail is where the star state, or the vacuum, begins.
    ratio = (2 / (gamma + 1) + (gamma - 1) / (gamma + 1) * (u - speed) / sound).clamp(min=0)
    fan = torch.stack(
        [
            rho * ratio ** (2 / (gamma - 1)),
            2 / (gamma + 1) * (sound + (gamma - 1) / 2 * u + speed),
            p * ratio ** (2 * gamma / (gamma - 1)),
        ],
        -1,
    )
    c_star = sound * (p_star / p) ** ((gamma - 1) / (2 * gamma))
    tail = torch.where(p_star > 0, u_star - c_star, u + 2 / (gamma - 1) * sound)
    grid = torch.broadcast_tensors(rho, speed)[0].shape
    outer = torch.stack([part.expand(grid) for part in (rho, u, p)], -1)
    inner = torch.stack([part.expand(grid) for part in (rho_star, u_star, p_star)], -1)
    rarefied = torch.where(
        (speed < u - sound).unsqueeze(-1), outer, torch.where((speed < tail).unsqueeze(-1), fan, inner)
    )
    shocked = torch.where((speed < shock).unsqueeze(-1), outer, inner)
    return torch.where((p_star > p).unsqueeze(-1), shocked, rarefied)


def _branch(pressure: Tensor, rho: Tensor, p: Tensor, sound: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return the jump of velocity across one outer wave and its derivative by the star pressure."""
    a, b = 2 / ((gamma + 1) * rho), (gamma - 1) / (gamma + 1) * p
    root = (a / (pressure + b)).sqrt()
    shock, d_shock = (pressure - p) * root, root * (1 - (pressure - p) / (2 * (pressure + b)))
    ratio = pressure / p
    fan = 2 * sound / (gamma - 1) * (ratio ** ((gamma - 1) / (2 * gamma)) - 1)
    d_fan = ratio ** (-(gamma + 1) / (2 * gamma)) / (rho * sound)
    above = pressure > p
    return torch.where(above, shock, fan), torch.where(above, d_shock, d_fan)


def _density(pressure: Tensor, rho: Tensor, p: Tensor, gamma: float) -> Tensor:
    ratio, g = pressure / p, (gamma - 1) / (gamma + 1)
    return torch.where(pressure > p, rho * (ratio + g) / (g * ratio + 1), rho * ratio ** (1 / gamma))


def _state(values: Tensor | Sequence[float], name: str) -> Tensor:
    state = torch.as_tensor(values, dtype=torch.float64)
    if state.shape[-1] != 3 or not bool((state[..., [0, 2]] > 0).all()):
        raise UserError(
            f"the {name} state must be (density, velocity, pressure) with positive density and pressure"
        )
    return state
