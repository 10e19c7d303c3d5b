"""Steady problems: Poisson and Helmholtz (PDEgym) and Darcy flow (the FNO paper's).

Linear systems are solved in float64 whatever the type of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from apps.pde.simulation.families.family import (
    Draw,
    Family,
    Numbers,
    Problem,
    PublishedSet,
    bumps,
    integer,
    nodes,
    uniform,
)
from apps.pde.simulation.solvers.sine_series import solve_darcy, solve_helmholtz, solve_poisson

__all__ = ["FAMILIES"]

_BUMPS = 32
_FIELD_MODES = 64


def _refinement(problem: Problem) -> int:
    return max(1, round(problem.parameters["refine"]))


def _fine_nodes(problem: Problem) -> Tensor:
    return problem.refined_nodes(_refinement(problem))


def _frame(problem: Problem, *fields: Tensor) -> Tensor:
    """Return the only frame `(B, 1, C, X, Y)` of fields `(B, N, N)` on the finer grid."""
    finer = _refinement(problem)
    return torch.stack(fields, dim=1)[:, None, :, ::finer, ::finer].to(problem.dtype)


def _draw_poisson(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    count = torch.ceil(torch.log1p(-uniform(generator)) / math.log(0.6)).clamp(1, _BUMPS)
    return {
        "present": (torch.arange(_BUMPS) < count).double(),
        "centre": uniform(generator, 2, _BUMPS),
        "width": uniform(generator, _BUMPS, low=0.025, high=0.1),
    }


def _solve_poisson(problem: Problem) -> Tensor:
    amplitude, drawn = problem.parameters["amplitude"], problem.drawn
    source = amplitude * bumps(drawn["present"], drawn["centre"], drawn["width"], _fine_nodes(problem))
    return _frame(problem, source, solve_poisson(source))


def _draw_darcy(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    shape = (_FIELD_MODES, _FIELD_MODES)
    return {"coefficient": torch.randn(shape, generator=generator, dtype=torch.float64)}


def _solve_darcy(problem: Problem) -> Tensor:
    parameters, x = problem.parameters, _fine_nodes(problem)
    mode = torch.arange(_FIELD_MODES, dtype=torch.float64, device=problem.device)
    weight = 1 / (math.pi**2 * (mode[:, None] ** 2 + mode**2) + parameters["tau"] ** 2)
    weight[0, 0] = 0
    cosine = torch.cos(math.pi * mode[:, None] * x)
    field = torch.einsum("bij,ix,jy->bxy", weight * problem.drawn["coefficient"], cosine, cosine)
    coefficient = torch.where(field >= 0, parameters["high"], parameters["low"]).double()
    return _frame(problem, coefficient, solve_darcy(coefficient, torch.ones_like(coefficient)))


def _draw_helmholtz(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    count = integer(generator, 2, 7)
    return {
        "amplitude": uniform(generator, 7, low=0.5, high=10) * (torch.arange(7) < count),
        "centre": uniform(generator, 2, 7, low=0.2, high=0.8),
        "width": uniform(generator, 7, low=0.05, high=0.1),
        "boundary": uniform(generator, low=0.25, high=0.5),
    }


def _solve_helmholtz(problem: Problem) -> Tensor:
    drawn, frequency = problem.drawn, problem.parameters["frequency"]
    dips = partial(bumps, drawn["amplitude"], drawn["centre"], drawn["width"])
    # The extremes are taken on one grid, or the problem would change with the resolution.
    extremes = dips(nodes(257, device=problem.device))
    low, high = (one[:, None, None] for one in (extremes.amin((1, 2)), extremes.amax((1, 2))))
    coefficient = (high - dips(_fine_nodes(problem))) / (high - low)
    solution = solve_helmholtz(coefficient, boundary=drawn["boundary"], frequency=frequency)
    return _frame(problem, coefficient, drawn["boundary"][:, None, None].expand_as(solution), solution)


def _steady(
    name: str,
    title: str,
    *,
    equation: str,
    source: str,
    inputs: tuple[str, ...],
    draw: Draw,
    solve: Callable[[Problem], Tensor],
    published: PublishedSet | None = None,
    **parameters: float,
) -> Family:
    return Family(
        name=name,
        title=title,
        equation=equation,
        source=source,
        channels=(*inputs, "solution"),
        periodic=False,
        points="both",
        inputs=inputs,
        draw=draw,
        solve=solve,
        parameters={**parameters, "refine": 2.0},
        published=published,
    )


FAMILIES: tuple[Family, ...] = (
    _steady(
        "poisson_gauss",
        "Poisson equation with Gaussian sources",
        equation="-lap u = f, u = 0 on the boundary",
        source="Herde et al. 2024, arXiv 2405.19101, appendix on the Poisson equation",
        inputs=("source",),
        draw=_draw_poisson,
        solve=_solve_poisson,
        amplitude=1.0,
        published=PublishedSet(
            file="Poisson-Gauss.nc",
            variables={"source": ("source",), "solution": ("solution",)},
            constants=("source", "solution"),
        ),
    ),
    _steady(
        "darcy",
        "Flow through a medium of two permeabilities",
        equation="-div(a grad u) = 1, u = 0 on the boundary",
        source="Li et al. 2021, arXiv 2010.08895, appendix A.3: a is 12 or 3 by the sign of a Gaussian field "
        "with covariance (-lap + 9)^-2",
        inputs=("coefficient",),
        draw=_draw_darcy,
        solve=_solve_darcy,
        low=3.0,
        high=12.0,
        tau=3.0,
    ),
    _steady(
        "helmholtz",
        "Helmholtz equation in a medium with dips",
        equation="-lap u - w^2 a u = 0, u = b on the boundary, w = frequency",
        source="Herde et al. 2024, arXiv 2405.19101, appendix on the Helmholtz equation",
        inputs=("coefficient", "boundary"),
        draw=_draw_helmholtz,
        solve=_solve_helmholtz,
        frequency=2.5 * math.pi,
    ),
)
