"""Heat, advection with and without diffusion, the Allen-Cahn and Burgers' equation.

Allen-Cahn follows the ACE set of PDEgym (Herde et al. 2024, arXiv 2405.19101). Two printed numbers do not
give the published standard deviation of 0.65 over all snapshots. The coefficient may mean e = 220 or
e^2 = 220: with the second nothing happens in the published time. The printed factor K^-2 of the initial state
gives 0.38, K^-1 gives 0.64. So e = 220 and K^-1 are the defaults.

Burgers is as in the data of the Fourier neural operator. The published covariance is `625 (-lap + 25)^-2`;
the data that go with the operator's library have the spectrum of `625^2 (-lap + 25)^-4`, the default here.
The other families are our own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apps.pde.simulation.families.family import (
    Family,
    Numbers,
    Problem,
    PublishedSet,
    integer,
    periodic_points,
    uniform,
)
from apps.pde.simulation.solvers import burgers
from apps.pde.simulation.solvers.fourier import velocity_from_vorticity
from apps.pde.simulation.solvers.incompressible import Damping, solve_advection
from apps.pde.simulation.solvers.sine_series import solve_allen_cahn, solve_heat

__all__ = ["FAMILIES"]

_MODES = 8
_BURGERS_MODES = 32


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


def _draw_heat(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {"temperature": _draw_series(generator)}


def _solve_heat(problem: Problem) -> Tensor:
    initial = _series(problem.drawn["temperature"], problem.resolution, power=2.0).to(problem.dtype)
    return solve_heat(initial, problem.times, diffusivity=problem.parameters["diffusivity"])[:, :, None]


def _draw_advection(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {
        "concentration": _draw_series(generator),
        "vorticity": _draw_series(generator),
        "drift": uniform(generator, 2, low=-1),
    }


def _solve_advection(problem: Problem) -> Tensor:
    drawn, parameters = problem.drawn, problem.parameters
    initial = _series(drawn["concentration"], problem.resolution, power=2.0).to(problem.dtype)
    eddies = velocity_from_vorticity(_series(drawn["vorticity"], problem.resolution, power=1.0, top=3))
    drift = parameters["drift"] * drawn["drift"]
    velocity = (2 * math.pi * parameters["eddies"] * eddies + drift[:, :, None, None]).to(problem.dtype)
    frames = solve_advection(
        initial,
        problem.times,
        velocity=velocity,
        diffusivity=parameters["diffusivity"],
        damping=Damping(strength=parameters["damping"]),
        cfl=parameters["cfl"],
    )
    carrier = velocity[:, None].expand(-1, len(problem.times), -1, -1, -1)
    return torch.cat([frames[:, :, None], carrier], dim=2)


def _draw_phase(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {
        "modes": integer(generator, 16, 32),
        "power": uniform(generator, low=0.7, high=1.0),
        "amplitude": uniform(generator, 32, 32, low=-1),
    }


def _solve_phase(problem: Problem) -> Tensor:
    drawn, parameters = problem.drawn, problem.parameters
    # A front is 0.01 wide: on fewer cells its phases overshoot.
    finer = max(1, math.ceil(parameters["cells"] / (problem.resolution - 1)))
    mode = torch.arange(1, 33, dtype=torch.float64, device=problem.device)
    count, power = drawn["modes"][:, None, None], drawn["power"][:, None, None]
    weight = (mode[:, None] ** 2 + mode**2) ** -power / count ** parameters["decay"]
    weight = weight * ((mode[:, None] <= count) & (mode <= count))
    sines = torch.sin(math.pi * mode[:, None] * problem.refined_nodes(finer))
    initial = torch.einsum("bij,ix,jy->bxy", weight * drawn["amplitude"], sines, sines)
    for edge in (0, -1):
        initial[:, edge] = 0
        initial[:, :, edge] = 0
    frames = solve_allen_cahn(
        initial.to(problem.dtype), problem.times, rate=parameters["epsilon"] ** 2, longest=parameters["step"]
    )
    return frames[:, :, None, ::finer, ::finer]


def _draw_burgers(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {"waves": torch.randn(2, _BURGERS_MODES, generator=generator, dtype=torch.float64)}


def _solve_burgers(problem: Problem) -> Tensor:
    """Start from a Gaussian random field of covariance `scale^2 (-lap + tau^2)^-decay` without its mean."""
    parameters = problem.parameters
    finer = -(-int(parameters["points"]) // problem.resolution)
    x = periodic_points(problem.resolution * finer, device=problem.device)
    wave = 2 * math.pi * torch.arange(1, _BURGERS_MODES + 1, dtype=torch.float64, device=problem.device)
    size = parameters["scale"] * 2**0.5 * (wave**2 + parameters["tau"] ** 2) ** (-parameters["decay"] / 2)
    cosine, sine = problem.drawn["waves"].unbind(1)
    phase = wave[:, None] * x
    first = (size * cosine) @ phase.cos() + (size * sine) @ phase.sin()
    velocity = burgers.viscous(
        first.to(problem.dtype), times=problem.times, viscosity=parameters["viscosity"]
    )
    return velocity[:, :, None, ::finer]


_ADVECTED = ("concentration", "velocity_x", "velocity_y")


def _advection(name: str, title: str, equation: str, *, diffusivity: float) -> Family:
    return Family(
        name=name,
        title=title,
        equation=equation,
        source="ours: random Fourier series in |n| <= 8 (concentration) and |n| <= 3 (stream function)",
        channels=_ADVECTED,
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
        snapshots=20,
        horizon=2e-4,
        periodic=False,
        points="both",
        draw=_draw_phase,
        solve=_solve_phase,
        parameters={"epsilon": 220.0, "decay": 1.0, "cells": 250.0, "step": 0.25},
        published=PublishedSet(file="ACE.nc", variables={"solution": ("phase",)}),
    ),
    Family(
        name="burgers",
        title="Viscous Burgers equation from a Gaussian random field",
        equation="u_t + u u_x = nu u_xx on [0, 1), periodic",
        source="Li et al. 2021 (Fourier neural operator, arXiv 2010.08895), section 5.1 and appendix A.3",
        channels=("velocity",),
        snapshots=17,
        horizon=1.0,
        space=1,
        parameters={"viscosity": 0.01, "scale": 625.0, "tau": 5.0, "decay": 4.0, "points": 256.0},
        draw=_draw_burgers,
        solve=_solve_burgers,
        resolution=128,
    ),
)
