"""Steady problems: Poisson and Helmholtz (PDEgym) and Darcy flow (the FNO paper's).

Linear systems are solved in float64 whatever the type of the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from apps.pde.simulation.families.family import Family, Published
from apps.pde.simulation.families.random_fields import centred_images, integer, nodes, uniform
from apps.pde.simulation.solvers.darcy import solve_darcy
from apps.pde.simulation.solvers.helmholtz import solve_helmholtz
from apps.pde.simulation.solvers.poisson import solve_poisson

__all__ = ["FAMILIES"]

Numbers = Mapping[str, Tensor]
Settings = Mapping[str, float]

_BUMPS = 32
_FIELD_MODES = 64


def _bumps(height: Tensor, drawn: Numbers, x: Tensor) -> Tensor:
    """Return `(B, X, X)`: Gaussians of heights `(B, K)` at the drawn centres."""
    along, across = (
        centred_images(x, drawn["centre"][:, axis], drawn["width"], periodic=False) for axis in (0, 1)
    )
    return torch.einsum("bk,bkx,bky->bxy", height, along, across)


def _draw_poisson(generator: torch.Generator, parameters: Settings) -> dict[str, Tensor]:
    count = torch.ceil(torch.log1p(-uniform(generator)) / math.log(0.6)).clamp(1, _BUMPS)
    return {
        "present": (torch.arange(_BUMPS) < count).double(),
        "centre": uniform(generator, 2, _BUMPS),
        "width": uniform(generator, _BUMPS, low=0.025, high=0.1),
    }


def _solve_poisson(
    drawn: Numbers,
    *,
    resolution: int,
    times: Tensor,
    parameters: Settings,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    finer = max(1, round(parameters["refine"]))
    x = nodes(finer * (resolution - 1) + 1, device=device)
    source = parameters["amplitude"] * _bumps(drawn["present"], drawn, x)
    pair = torch.stack([source, solve_poisson(source)], dim=1)
    return pair[:, None, :, ::finer, ::finer].to(dtype)


def _draw_darcy(generator: torch.Generator, parameters: Settings) -> dict[str, Tensor]:
    shape = (_FIELD_MODES, _FIELD_MODES)
    return {"coefficient": torch.randn(shape, generator=generator, dtype=torch.float64)}


def _solve_darcy(
    drawn: Numbers,
    *,
    resolution: int,
    times: Tensor,
    parameters: Settings,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    finer = max(1, round(parameters["refine"]))
    x = nodes(finer * (resolution - 1) + 1, device=device)
    mode = torch.arange(_FIELD_MODES, dtype=torch.float64, device=device)
    weight = 1 / (math.pi**2 * (mode[:, None] ** 2 + mode**2) + parameters["tau"] ** 2)
    weight[0, 0] = 0
    cosine = torch.cos(math.pi * mode[:, None] * x)
    field = torch.einsum("bij,ix,jy->bxy", weight * drawn["coefficient"], cosine, cosine)
    coefficient = torch.where(field >= 0, parameters["high"], parameters["low"]).double()
    solution = solve_darcy(coefficient, torch.ones_like(coefficient))
    pair = torch.stack([coefficient, solution], dim=1)
    return pair[:, None, :, ::finer, ::finer].to(dtype)


def _draw_helmholtz(generator: torch.Generator, parameters: Settings) -> dict[str, Tensor]:
    count = integer(generator, 2, 7)
    return {
        "amplitude": uniform(generator, 7, low=0.5, high=10) * (torch.arange(7) < count),
        "centre": uniform(generator, 2, 7, low=0.2, high=0.8),
        "width": uniform(generator, 7, low=0.05, high=0.1),
        "boundary": uniform(generator, low=0.25, high=0.5),
    }


def _solve_helmholtz(
    drawn: Numbers,
    *,
    resolution: int,
    times: Tensor,
    parameters: Settings,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    finer = max(1, round(parameters["refine"]))
    x = nodes(finer * (resolution - 1) + 1, device=device)
    # The extremes are taken on one grid, or the problem would change with the resolution.
    extremes = _bumps(drawn["amplitude"], drawn, nodes(257, device=device))
    low, high = (one[:, None, None] for one in (extremes.amin((1, 2)), extremes.amax((1, 2))))
    coefficient = (high - _bumps(drawn["amplitude"], drawn, x)) / (high - low)
    solution = solve_helmholtz(coefficient, boundary=drawn["boundary"], frequency=parameters["frequency"])
    boundary = drawn["boundary"][:, None, None].expand_as(solution)
    fields = torch.stack([coefficient, boundary, solution], dim=1)
    return fields[:, None, :, ::finer, ::finer].to(dtype)


FAMILIES: tuple[Family, ...] = (
    Family(
        name="poisson_gauss",
        title="Poisson equation with Gaussian sources",
        equation="-lap u = f, u = 0 on the boundary",
        source="Herde et al. 2024, arXiv 2405.19101, appendix on the Poisson equation",
        channels=("source", "solution"),
        units={"source": "1", "solution": "1"},
        snapshots=1,
        horizon=0.0,
        periodic=False,
        points="both",
        inputs=("source",),
        draw=_draw_poisson,
        solve=_solve_poisson,
        parameters={"amplitude": 1.0, "refine": 2.0},
        published=Published(
            file="Poisson-Gauss.nc",
            variables={"source": ("source",), "solution": ("solution",)},
            constants=("source", "solution"),
        ),
    ),
    Family(
        name="darcy",
        title="Flow through a medium of two permeabilities",
        equation="-div(a grad u) = 1, u = 0 on the boundary",
        source="Li et al. 2021, arXiv 2010.08895, appendix A.3: a is 12 or 3 by the sign of a Gaussian field "
        "with covariance (-lap + 9)^-2",
        channels=("coefficient", "solution"),
        units={"coefficient": "1", "solution": "1"},
        snapshots=1,
        horizon=0.0,
        periodic=False,
        points="both",
        inputs=("coefficient",),
        draw=_draw_darcy,
        solve=_solve_darcy,
        parameters={"low": 3.0, "high": 12.0, "tau": 3.0, "refine": 2.0},
    ),
    Family(
        name="helmholtz",
        title="Helmholtz equation in a medium with dips",
        equation="-lap u - w^2 a u = 0, u = b on the boundary, w = frequency",
        source="Herde et al. 2024, arXiv 2405.19101, appendix on the Helmholtz equation",
        channels=("coefficient", "boundary", "solution"),
        units={"coefficient": "1", "boundary": "1", "solution": "1"},
        snapshots=1,
        horizon=0.0,
        periodic=False,
        points="both",
        inputs=("coefficient", "boundary"),
        draw=_draw_helmholtz,
        solve=_solve_helmholtz,
        parameters={"frequency": 2.5 * math.pi, "refine": 2.0},
    ),
)
