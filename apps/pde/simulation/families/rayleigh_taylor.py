"""Rayleigh-Taylor instability of a ball of gas: a heavy shell on a light core under radial gravity."""

from __future__ import annotations

from collections.abc import Mapping
from math import pi

import torch
from torch import Tensor

from apps.pde.simulation.families.family import Family, Published
from apps.pde.simulation.families.random_fields import uniform
from apps.pde.simulation.solvers import euler
from apps.pde.simulation.solvers.finite_volume import block_mean, centres

__all__ = ["FAMILIES"]

EXTENT = (-0.5, 0.5)
CHANNELS = ("density", "velocity_x", "velocity_y", "pressure", "tracer", "potential")


def _draw(generator: torch.Generator, parameters: Mapping[str, float]) -> dict[str, Tensor]:
    return {
        "bend": uniform(generator, low=-1.0),
        "phase": uniform(generator, low=-pi, high=pi),
        "density": uniform(generator, low=-1.0),
        "pressure": uniform(generator, low=-1.0),
        "contrast": uniform(generator, low=-1.0),
    }


def _solve(
    drawn: dict[str, Tensor],
    *,
    resolution: int,
    times: Tensor,
    parameters: Mapping[str, float],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Solve around the equilibrium of the core's gas, which the scheme keeps to rounding."""
    average = int(parameters["oversample"])
    axis = centres(resolution * average, EXTENT).to(device)
    x, y = axis[:, None], axis[None, :]
    value = {name: number.view(-1, 1, 1) for name, number in drawn.items()}
    density, pressure = 1 + 0.2 * value["density"], 1 + 0.2 * value["pressure"]
    contrast = parameters["contrast"] * (1 + 0.2 * value["contrast"])
    stiffness = pressure / density**2
    # G = 1; torch.sinc(z) is sin(pi z) / (pi z).
    inverse = (2 * pi / stiffness).sqrt()
    core = density * torch.sinc(inverse * torch.hypot(x, y) / pi)
    potential = -2 * stiffness * core
    balanced = stiffness * core**2
    edge = 0.25 * (1 + parameters["bend"] * value["bend"] * torch.cos(torch.atan2(y, x) + value["phase"]))
    shell = torch.hypot(x, y) > edge
    start = core * torch.where(shell, (1 + contrast) / (1 - contrast), torch.ones_like(contrast))
    still = torch.zeros_like(core)
    tracer = shell.to(core)
    found = euler.solve(
        torch.stack([start, still, still, balanced, tracer], 1).to(dtype),
        times=times,
        extent=EXTENT,
        boundary="reflecting",
        gamma=parameters["gamma"],
        cfl=parameters["cfl"],
        average=average,
        potential=potential.to(dtype),
        balance=torch.stack([core, still, still, balanced, tracer], 1).to(dtype),
    )
    fixed = block_mean(potential, average, 2).to(dtype)[:, None, None]
    return torch.cat([found, fixed.expand(-1, found.shape[1], -1, -1, -1)], 2)


FAMILIES: tuple[Family, ...] = (
    Family(
        name="gce_rt",
        title="Rayleigh-Taylor instability of a gas ball",
        equation=(
            "rho_t + div(rho v) = 0, (rho v)_t + div(rho v v + p I) = -rho grad phi, "
            "E_t + div((E + p) v) = -rho v . grad phi, E = rho |v|^2 / 2 + p / (gamma - 1)"
        ),
        source="Herde et al. 2024, arXiv 2405.19101, appendix B",
        channels=CHANNELS,
        units=dict.fromkeys(CHANNELS, "1"),
        snapshots=11,
        horizon=5.0,
        extent=EXTENT,
        periodic=False,
        points="centre",
        constants=("potential",),
        parameters={"gamma": 2.0, "cfl": 0.4, "oversample": 2.0, "contrast": 0.05, "bend": 0.05},
        draw=_draw,
        solve=_solve,
        published=Published(file="GCE-RT.nc", variables={"solution": CHANNELS}),
    ),
)
