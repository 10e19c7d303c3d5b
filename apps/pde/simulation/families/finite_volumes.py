"""Families solved by finite volumes: a gas (Riemann problems, shear layers, vortices, blasts, a ball under
its own gravity) and shallow water.

Initial distributions of the gas: Herde et al. 2024 (Poseidon, arXiv 2405.19101, appendix B). Numbers that
the paper does not give are parameters. Every state is drawn as a few numbers and evaluated on a grid
`oversample` times finer than the output, on which the equations are solved; frames are block means of the
conserved variables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import pi

import torch
from torch import Tensor

from apps.pde.simulation.families.family import Draw, Drawn, Family, Numbers, Problem, PublishedSet, uniform
from apps.pde.simulation.solvers import euler, shallow_water
from apps.pde.simulation.solvers.finite_volume import block_mean, centres

__all__ = ["FAMILIES"]

CHANNELS = ("density", "velocity_x", "velocity_y", "pressure")
EQUATION = (
    "rho_t + div(rho v) = 0, (rho v)_t + div(rho v v + p I) = 0, E_t + div((E + p) v) = 0, "
    "E = rho |v|^2 / 2 + p / (gamma - 1)"
)
GAS = {"gamma": 1.4, "cfl": 0.4, "oversample": 2.0}

State = Callable[[Drawn, Tensor, Tensor, Numbers], Tensor]


def _solve(problem: Problem, *, state: State) -> Tensor:
    """Evaluate `state` at the cells' centres of the fine grid and solve from there."""
    average, x = _fine_centres(problem, (0.0, 1.0))
    first = state(problem.drawn, x[:, None], x[None, :], problem.parameters)
    return euler.solve(
        first.to(problem.dtype),
        times=problem.times,
        gamma=problem.parameters["gamma"],
        cfl=problem.parameters["cfl"],
        average=average,
    )


def _fine_centres(problem: Problem, extent: tuple[float, float]) -> tuple[int, Tensor]:
    """Return how many cells of the fine grid make one of the output along an axis, and their centres."""
    average = int(problem.parameters["oversample"])
    return average, centres(problem.resolution * average, extent).to(problem.device)


# Riemann problems: constant states on cells of the square, with straight or bent edges


def _draw_states(generator: torch.Generator, parameters: Numbers, *, cells: int) -> dict[str, Tensor]:
    speed = parameters["speed"]
    low, high = parameters["pressure_low"], parameters["pressure_high"]
    return {
        "density": uniform(
            generator, cells, cells, low=parameters["density_low"], high=parameters["density_high"]
        ),
        "velocity_x": uniform(generator, cells, cells, low=-speed, high=speed),
        "velocity_y": uniform(generator, cells, cells, low=-speed, high=speed),
        "pressure": uniform(generator, cells, cells, low=low, high=high),
    }


def _draw_bent(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    cells, bend = int(parameters["cells"]), parameters["bend"]
    return {
        **_draw_states(generator, parameters, cells=cells),
        "bend": uniform(generator, 2, cells, cells, low=-bend, high=bend),
        "phase": uniform(generator, 2, cells, cells),
    }


def _quadrants(drawn: Drawn, x: Tensor, y: Tensor, parameters: Numbers) -> Tensor:
    column, row = (2 * x).long().clamp(0, 1), (2 * y).long().clamp(0, 1)
    return torch.stack([drawn[name][:, column, row] for name in CHANNELS], 1)


def _bent(drawn: Drawn, x: Tensor, y: Tensor, parameters: Numbers) -> Tensor:
    """States on `cells x cells` cells whose edges are displaced by sums of waves.

    The printed formula has `j y` without the factor `2 pi`, which would break at the periodic edge; it is
    taken as `2 pi j y`.
    """
    cells, offset = int(parameters["cells"]), int(parameters["wave_offset"])
    bend, phase = drawn["bend"], drawn["phase"]
    moved = torch.zeros(bend.shape[0], 2, x.shape[0], y.shape[1], dtype=x.dtype, device=x.device)
    for i in range(cells):
        for j in range(cells):
            angle = 2 * pi * ((i + 1 + offset) * x + (j + 1 + offset) * y)
            wave = torch.sin(angle + phase[:, :, i, j, None, None])
            moved += bend[:, :, i, j, None, None] * wave
    column = ((x + moved[:, 0]).remainder(1.0) * cells).long().clamp(0, cells - 1)
    row = ((y + moved[:, 1]).remainder(1.0) * cells).long().clamp(0, cells - 1)
    flat = (column * cells + row).flatten(1)
    values = [drawn[name].flatten(1).gather(1, flat).view_as(column) for name in CHANNELS]
    return torch.stack(values, 1)


# Shear layers and vortices


def _draw_shear(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    modes = int(parameters["modes"])
    return {"amplitude": uniform(generator, 2, modes), "phase": uniform(generator, 2, modes)}


def _shear(drawn: Drawn, x: Tensor, y: Tensor, parameters: Numbers) -> Tensor:
    number = torch.arange(1, int(parameters["modes"]) + 1, dtype=x.dtype, device=x.device)
    amplitude = drawn["amplitude"] / drawn["amplitude"].sum(-1, keepdim=True)
    waves = torch.cos(2 * pi * number * (x.unsqueeze(-1) + drawn["phase"][:, :, None, None]))
    edge = parameters["bend"] * (amplitude[:, :, None, None] * waves).sum(-1)
    inside = (y >= 0.25 + edge[:, 0]) & (y <= 0.75 + edge[:, 1])
    density = torch.where(inside, 2.0, 1.0).to(x)
    flow = torch.where(inside, -0.5, 0.5).to(x)
    pressure = torch.full_like(density, parameters["pressure"])
    return torch.stack([density, flow, torch.zeros_like(flow), pressure], 1)


def _draw_vortices(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    count = int(parameters["vortices"])
    return {
        "strength": uniform(generator, count, low=-1.0),
        "width": uniform(generator, count, low=parameters["width_low"], high=parameters["width_high"]),
        "centre": uniform(generator, 2, count),
    }


def _vortices(drawn: Drawn, x: Tensor, y: Tensor, parameters: Numbers) -> Tensor:
    """Velocity of Gaussian vortices; their Fourier series is known, so no grid enters."""
    cells = x.shape[0]
    mode = torch.fft.fftfreq(cells, 1 / cells, dtype=x.dtype, device=x.device)
    width, centre = drawn["width"], drawn["centre"]
    bell = torch.exp(-2 * (pi * width.unsqueeze(-1) * mode) ** 2)
    # Cell centres lie half a cell right of the points that the inverse transform gives.
    shift = [torch.exp(-2j * pi * mode * (centre[:, axis].unsqueeze(-1) - 0.5 / cells)) for axis in (0, 1)]
    circulation = parameters["strength"] * drawn["strength"] * 2 * pi * width
    vorticity = torch.einsum("bv,bvx,bvy->bxy", circulation + 0j, bell * shift[0], bell * shift[1])
    square = (mode[:, None] ** 2 + mode[None, :] ** 2) * 4 * pi**2
    square[0, 0] = 1.0
    stream = vorticity / square
    stream[:, 0, 0] = 0
    if cells % 2 == 0:  # the highest mode has no derivative on the grid
        stream[:, cells // 2, :] = 0
        stream[:, :, cells // 2] = 0
    u = torch.fft.ifft2(stream * (2j * pi * mode[None, :])).real * cells**2
    v = torch.fft.ifft2(stream * (-2j * pi * mode[:, None])).real * cells**2
    rest = torch.ones_like(u)
    return torch.stack([parameters["density"] * rest, u, v, parameters["pressure"] * rest], 1)


# A blast inside a heavy bubble


def _draw_bubble(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    modes = int(parameters["modes"])
    return {"amplitude": uniform(generator, modes), "phase": uniform(generator, modes)}


def _bubble(drawn: Drawn, x: Tensor, y: Tensor, parameters: Numbers) -> Tensor:
    """A blast in the middle of a heavy bubble whose radius is a sum of waves around the polar angle."""
    dx, dy = x - 0.5, y - 0.5
    radius, turn = torch.hypot(dx, dy), torch.atan2(dy, dx) / (2 * pi)
    number = torch.arange(1, drawn["amplitude"].shape[1] + 1, dtype=x.dtype, device=x.device)
    amplitude = drawn["amplitude"] / drawn["amplitude"].sum(-1, keepdim=True)
    waves = torch.sin(2 * pi * (number * turn.unsqueeze(-1) + drawn["phase"][:, None, None]))
    edge = 0.25 + parameters["bend"] * (amplitude[:, None, None] * waves).sum(-1)
    heavy = (radius < edge).to(x.dtype)
    pressure = torch.where(radius < 0.1, 20.0, 1.0).to(x).expand_as(heavy)
    still = torch.zeros_like(heavy)
    return torch.stack([1.0 + heavy, still, still, pressure, heavy], 1)


# A ball of gas: a heavy shell on a light core under radial gravity

_BALL_EXTENT = (-0.5, 0.5)
_BALL_CHANNELS = (*CHANNELS, "tracer", "potential")


def _draw_ball(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {
        "bend": uniform(generator, low=-1.0),
        "phase": uniform(generator, low=-pi, high=pi),
        "density": uniform(generator, low=-1.0),
        "pressure": uniform(generator, low=-1.0),
        "contrast": uniform(generator, low=-1.0),
    }


def _solve_ball(problem: Problem) -> Tensor:
    """Solve around the equilibrium of the core's gas, which the scheme keeps to rounding."""
    parameters, dtype = problem.parameters, problem.dtype
    average, axis = _fine_centres(problem, _BALL_EXTENT)
    x, y = axis[:, None], axis[None, :]
    value = {name: number.view(-1, 1, 1) for name, number in problem.drawn.items()}
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
    frames = euler.solve(
        torch.stack([start, still, still, balanced, tracer], 1).to(dtype),
        times=problem.times,
        extent=_BALL_EXTENT,
        boundary="reflecting",
        gamma=parameters["gamma"],
        cfl=parameters["cfl"],
        average=average,
        potential=potential.to(dtype),
        balance=torch.stack([core, still, still, balanced, tracer], 1).to(dtype),
    )
    fixed = block_mean(potential, average, 2).to(dtype)[:, None, None]
    return torch.cat([frames, fixed.expand(-1, frames.shape[1], -1, -1, -1)], 2)


# Shallow water: a round dam that breaks

_DAM_EXTENT = (-2.5, 2.5)


def _draw_dam(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {"radius": uniform(generator, low=parameters["radius_low"], high=parameters["radius_high"])}


def _solve_dam(problem: Problem) -> Tensor:
    parameters = problem.parameters
    average, axis = _fine_centres(problem, _DAM_EXTENT)
    inside = torch.hypot(axis[:, None], axis[None, :]) <= problem.drawn["radius"].view(-1, 1, 1)
    depth = 1 + (parameters["depth"] - 1) * inside.double()
    still = torch.zeros_like(depth)
    return shallow_water.solve(
        torch.stack([depth, still, still], 1).to(problem.dtype),
        times=problem.times,
        extent=_DAM_EXTENT,
        boundary="outflow",
        gravity=parameters["gravity"],
        cfl=parameters["cfl"],
        average=average,
    )


# Low and high are the ends of ranges that numbers are drawn from.
_STATES = ("density_low", "density_high", "speed", "pressure_low", "pressure_high")
_UNIT_STATES = dict(zip(_STATES, (0.1, 1.0, 1.0, 0.1, 1.0), strict=True))
_FAST_STATES = dict(zip(_STATES, (1.0, 3.0, 10.0, 5.0, 7.0), strict=True))
_CELLS = {"cells": 2.0, "bend": 0.1, "wave_offset": 0.0}
_VORTICES = {"vortices": 100.0, "strength": 1.0, "width_low": 0.01, "width_high": 0.1, "density": 0.1}

# Published file, title, draw, state, numbers; the set's fifth channel, energy, is a function of the others.
_PERIODIC: tuple[tuple[str, str, Draw, State, Numbers], ...] = (
    (
        "CE-RP",
        "Four-quadrant Riemann problem of a gas in a periodic square",
        partial(_draw_states, cells=2),
        _quadrants,
        _UNIT_STATES,
    ),
    (
        "CE-CRP",
        "Riemann problem of a gas on cells with curved edges",
        _draw_bent,
        _bent,
        {**_UNIT_STATES, **_CELLS},
    ),
    (
        "CE-RPUI",
        "Riemann problem of a gas on cells with finely perturbed edges",
        _draw_bent,
        _bent,
        {**_FAST_STATES, **_CELLS, "bend": 0.01, "wave_offset": 8.0},
    ),
    (
        "CE-KH",
        "Kelvin-Helmholtz instability of two shear layers",
        _draw_shear,
        _shear,
        {"modes": 10.0, "bend": 0.05, "pressure": 2.5},
    ),
    (
        "CE-Gauss",
        "Gaussian vortices in a thin gas",
        _draw_vortices,
        _vortices,
        {**_VORTICES, "pressure": 2.5},
    ),
)

_GAS_FAMILY = partial(
    Family,
    equation=EQUATION,
    source="Herde et al. 2024, arXiv 2405.19101, appendix B",
    snapshots=21,
    points="centre",
)

FAMILIES: tuple[Family, ...] = (
    *(
        _GAS_FAMILY(
            name=set_name.lower().replace("-", "_"),
            title=title,
            channels=CHANNELS,
            horizon=1.0,
            parameters={**numbers, **GAS},
            draw=draw,
            solve=partial(_solve, state=state),
            published=PublishedSet(file=f"{set_name}.nc", variables={"data": (*CHANNELS, "energy")}),
        )
        for set_name, title, draw, state, numbers in _PERIODIC
    ),
    _GAS_FAMILY(
        name="ce_rm",
        title="Richtmyer-Meshkov instability: a blast leaves a heavy bubble",
        channels=(*CHANNELS, "tracer"),
        horizon=2.0,
        parameters={"modes": 10.0, "bend": 0.05, **GAS},
        draw=_draw_bubble,
        solve=partial(_solve, state=_bubble),
        published=PublishedSet(file="CE-RM.nc", variables={"solution": (*CHANNELS, "tracer")}),
    ),
    Family(
        name="gce_rt",
        title="Rayleigh-Taylor instability of a gas ball",
        equation=(
            "rho_t + div(rho v) = 0, (rho v)_t + div(rho v v + p I) = -rho grad phi, "
            "E_t + div((E + p) v) = -rho v . grad phi, E = rho |v|^2 / 2 + p / (gamma - 1)"
        ),
        source="Herde et al. 2024, arXiv 2405.19101, appendix B",
        channels=_BALL_CHANNELS,
        snapshots=11,
        horizon=5.0,
        extent=_BALL_EXTENT,
        periodic=False,
        points="centre",
        constants=("potential",),
        parameters={"gamma": 2.0, "cfl": 0.4, "oversample": 2.0, "contrast": 0.05, "bend": 0.05},
        draw=_draw_ball,
        solve=_solve_ball,
        published=PublishedSet(file="GCE-RT.nc", variables={"solution": _BALL_CHANNELS}),
    ),
    Family(
        name="swe_dam_break",
        title="A round dam breaks",
        equation="h_t + div(h v) = 0, (h v)_t + div(h v v + g h^2 / 2 I) = 0",
        source="Takamoto et al. 2022 (PDEBench, arXiv 2210.07182), section on the radial dam break",
        channels=("depth", "velocity_x", "velocity_y"),
        snapshots=101,
        horizon=1.0,
        extent=_DAM_EXTENT,
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
        draw=_draw_dam,
        solve=_solve_dam,
    ),
)
