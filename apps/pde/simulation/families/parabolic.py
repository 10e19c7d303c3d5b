"""Heat, advection with and without diffusion, and the Allen-Cahn equation.

Allen-Cahn follows the ACE set of PDEgym (Herde et al. 2024, arXiv 2405.19101). Two printed numbers do not
give the published standard deviation of 0.65 over all snapshots. The coefficient may mean e = 220 or
e^2 = 220: with the second nothing happens in the published time. The printed factor K^-2 of the initial state
gives 0.38, K^-1 gives 0.64. So e = 220 and K^-1 are the defaults. The other families are our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from apps.pde.simulation.families.family import Family, Published
from apps.pde.simulation.families.random_fields import integer, nodes, periodic_points, uniform
from apps.pde.simulation.solvers.advection import solve_advection
from apps.pde.simulation.solvers.allen_cahn import solve_allen_cahn
from apps.pde.simulation.solvers.heat import solve_heat
from apps.pde.simulation.solvers.incompressible import Damping
from apps.pde.simulation.solvers.spectral import velocity_from_vorticity

__all__ = ["FAMILIES"]

Numbers = Mapping[str, Tensor]
Settings = Mapping[str, float]

_MODES = 8


def _draw_series(generator: torch.Generator) -> Tensor:
    """Return cosine and sine coefficients `(2, 2, M + 1, M + 1)` of a random periodic field."""
    return torch.randn(2, 2, _MODES + 1, _MODES + 1, generator=generator, dtype=torch.float64)


def _series(coefficient: Tensor, n: int, *, power: float, top: int = _MODES) -> Tensor:
    """Return fields `(B, N, N)` with amplitudes |n|^-power up to mode `top`, scaled to variance one.

    The mean mode is absent. The scale is that of the ensemble, not of the sample.
    """
    coefficient = coefficient[..., : top + 1, : top + 1]
    x = periodic_points(n, device=coefficient.device)
    mode = torch.arange(top + 1, dtype=torch.float64, device=x.device)
    weight = torch.hypot(mode[:, None], mode)
    weight[0, 0] = math.inf
    weight = weight**-power
    basis = torch.stack(
        [torch.cos(2 * math.pi * mode[:, None] * x), torch.sin(2 * math.pi * mode[:, None] * x)]
    )
    variance = torch.einsum("ij,pix,qjy->xy", weight**2, basis**2, basis**2)[0, 0]
    return torch.einsum("bpqij,pix,qjy->bxy", coefficient * weight, basis, basis) / variance.sqrt()


def _draw_heat(generator: torch.Generator, parameters: Settings) -> dict[str, Tensor]:
    return {"temperature": _draw_series(generator)}


def _solve_heat(
    drawn: Numbers,
    *,
    resolution: int,
    times: Tensor,
    parameters: Settings,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    initial = _series(drawn["temperature"], resolution, power=2.0).to(dtype)
    return solve_heat(initial, times, diffusivity=parameters["diffusivity"])[:, :, None]


def _draw_advection(generator: torch.Generator, parameters: Settings) -> dict[str, Tensor]:
    return {
        "concentration": _draw_series(generator),
        "vorticity": _draw_series(generator),
        "drift": uniform(generator, 2, low=-1),
    }


def _solve_advection(
    drawn: Numbers,
    *,
    resolution: int,
    times: Tensor,
    parameters: Settings,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    initial = _series(drawn["concentration"], resolution, power=2.0).to(dtype)
    eddies = velocity_from_vorticity(_series(drawn["vorticity"], resolution, power=1.0, top=3))
    drift = parameters["drift"] * drawn["drift"]
    velocity = (2 * math.pi * parameters["eddies"] * eddies + drift[:, :, None, None]).to(dtype)
    frames = solve_advection(
        initial,
        times,
        velocity=velocity,
        diffusivity=parameters["diffusivity"],
        damping=Damping(strength=parameters["damping"]),
        cfl=parameters["cfl"],
    )
    carrier = velocity[:, None].expand(-1, len(times), -1, -1, -1)
    return torch.cat([frames[:, :, None], carrier], dim=2)


def _draw_phase(generator: torch.Generator, parameters: Settings) -> dict[str, Tensor]:
    return {
        "modes": integer(generator, 16, 32),
        "power": uniform(generator, low=0.7, high=1.0),
        "amplitude": uniform(generator, 32, 32, low=-1),
    }


def _solve_phase(
    drawn: Numbers,
    *,
    resolution: int,
    times: Tensor,
    parameters: Settings,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    # A front is 0.01 wide: on fewer cells its phases overshoot.
    finer = max(1, math.ceil(parameters["cells"] / (resolution - 1)))
    mode = torch.arange(1, 33, dtype=torch.float64, device=device)
    count, power = drawn["modes"][:, None, None], drawn["power"][:, None, None]
    weight = (mode[:, None] ** 2 + mode**2) ** -power / count ** parameters["decay"]
    weight = weight * ((mode[:, None] <= count) & (mode <= count))
    sines = torch.sin(math.pi * mode[:, None] * nodes(finer * (resolution - 1) + 1, device=device))
    initial = torch.einsum("bij,ix,jy->bxy", weight * drawn["amplitude"], sines, sines)
    for edge in (0, -1):
        initial[:, edge] = 0
        initial[:, :, edge] = 0
    frames = solve_allen_cahn(
        initial.to(dtype), times, rate=parameters["epsilon"] ** 2, longest=parameters["step"]
    )
    return frames[:, :, None, ::finer, ::finer]


_ADVECTED = ("concentration", "velocity_x", "velocity_y")


def _advection(name: str, title: str, equation: str, *, diffusivity: float) -> Family:
    return Family(
        name=name,
        title=title,
        equation=equation,
        source="ours: random Fourier series in |n| <= 8 (concentration) and |n| <= 3 (stream function)",
        channels=_ADVECTED,
        units=dict.fromkeys(_ADVECTED, "1"),
        snapshots=21,
        horizon=1.0,
        draw=_draw_advection,
        solve=_solve_advection,
        constants=_ADVECTED[1:],
        parameters={"diffusivity": diffusivity, "eddies": 0.5, "drift": 0.5, "damping": 0.05, "cfl": 0.5},
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        name="heat",
        title="Decay of a random temperature",
        equation="u_t = kappa lap u",
        source="ours: a random Fourier series with amplitudes |n|^-2 up to mode 8",
        channels=("temperature",),
        units={"temperature": "1"},
        snapshots=21,
        horizon=1.0,
        draw=_draw_heat,
        solve=_solve_heat,
        parameters={"diffusivity": 0.005},
    ),
    _advection(
        "advection",
        "A concentration carried by a steady random flow",
        "c_t + div(v c) = D c, div v = 0, D the spectral viscosity",
        diffusivity=0.0,
    ),
    _advection(
        "advection_diffusion",
        "A concentration carried by a steady random flow and diffused",
        "c_t + div(v c) = kappa lap c, div v = 0",
        diffusivity=0.002,
    ),
    Family(
        name="ace",
        title="Phase separation from a random sine series",
        equation="u_t = lap u - epsilon^2 u (u^2 - 1), u = 0 on the boundary",
        source="Herde et al. 2024, arXiv 2405.19101, appendix on the Allen-Cahn equation",
        channels=("phase",),
        units={"phase": "1"},
        snapshots=20,
        horizon=2e-4,
        periodic=False,
        points="both",
        draw=_draw_phase,
        solve=_solve_phase,
        parameters={"epsilon": 220.0, "decay": 1.0, "cells": 250.0, "step": 0.25},
        published=Published(file="ACE.nc", variables={"solution": ("phase",)}),
    ),
)
