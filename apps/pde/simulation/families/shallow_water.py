"""Shallow water: a round dam that breaks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from apps.pde.simulation.families.family import Family
from apps.pde.simulation.families.random_fields import uniform
from apps.pde.simulation.solvers import shallow_water
from apps.pde.simulation.solvers.finite_volume import centres

__all__ = ["FAMILIES"]

EXTENT = (-2.5, 2.5)


def _draw(generator: torch.Generator, parameters: Mapping[str, float]) -> dict[str, Tensor]:
    return {"radius": uniform(generator, low=parameters["radius_low"], high=parameters["radius_high"])}


def _solve(
    drawn: dict[str, Tensor],
    *,
    resolution: int,
    times: Tensor,
    parameters: Mapping[str, float],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    average = int(parameters["oversample"])
    axis = centres(resolution * average, EXTENT).to(device)
    inside = torch.hypot(axis[:, None], axis[None, :]) <= drawn["radius"].view(-1, 1, 1)
    depth = 1 + (parameters["depth"] - 1) * inside.double()
    still = torch.zeros_like(depth)
    return shallow_water.solve(
        torch.stack([depth, still, still], 1).to(dtype),
        times=times,
        extent=EXTENT,
        boundary="outflow",
        gravity=parameters["gravity"],
        cfl=parameters["cfl"],
        average=average,
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        name="swe_dam_break",
        title="A round dam breaks",
        equation="h_t + div(h v) = 0, (h v)_t + div(h v v + g h^2 / 2 I) = 0",
        source="Takamoto et al. 2022 (PDEBench, arXiv 2210.07182), section on the radial dam break",
        channels=("depth", "velocity_x", "velocity_y"),
        units={"depth": "1", "velocity_x": "1", "velocity_y": "1"},
        snapshots=101,
        horizon=1.0,
        extent=EXTENT,
        periodic=False,
        points="centre",
        parameters={
            "depth": 2.0,
            "radius_low": 0.3,
            "radius_high": 0.7,
            "gravity": 1.0,
            "cfl": 0.4,
            "oversample": 2.0,
        },
        draw=_draw,
        solve=_solve,
    ),
)
