"""Families of the compressible Euler equations: Riemann problems, shear layers, vortices and blasts.

Initial distributions of Herde et al. 2024 (Poseidon, arXiv 2405.19101, appendix B). Numbers that the paper
does not give are parameters. Every state is drawn as a few numbers and evaluated on a grid `oversample` times
finer than the output, on which the equations are solved; frames are block means of the conserved variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import pi

import torch
from torch import Tensor

from apps.pde.simulation.families.family import Family, Published
from apps.pde.simulation.families.random_fields import uniform
from apps.pde.simulation.solvers import euler
from apps.pde.simulation.solvers.finite_volume import centres

__all__ = ["FAMILIES"]

CHANNELS = ("density", "velocity_x", "velocity_y", "pressure")
UNITS = {
    "density": "1",
    "velocity_x": "1",
    "velocity_y": "1",
    "pressure": "1",
    "tracer": "1",
    "potential": "1",
}
EQUATION = (
    "rho_t + div(rho v) = 0, (rho v)_t + div(rho v v + p I) = 0, E_t + div((E + p) v) = 0, "
    "E = rho |v|^2 / 2 + p / (gamma - 1)"
)
GAS = {"gamma": 1.4, "cfl": 0.4, "oversample": 2.0}

Drawn = dict[str, Tensor]
Parameters = Mapping[str, float]
State = Callable[[Drawn, Tensor, Tensor, Parameters], Tensor]


def _solve(
    drawn: Drawn,
    *,
    resolution: int,
    times: Tensor,
    parameters: Parameters,
    dtype: torch.dtype,
    device: torch.device,
    state: State,
    extent: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Evaluate `state` at the cells' centres of the fine grid and solve from there."""
    average = int(parameters["oversample"])
    x = centres(resolution * average, extent).to(device)
    first = state(drawn, x[:, None], x[None, :], parameters)
    return euler.solve(
        first.to(dtype),
        times=times,
        extent=extent,
        gamma=parameters["gamma"],
        cfl=parameters["cfl"],
        average=average,
    )


# Riemann problems: constant states on cells of the square, with straight or bent edges


def _draw_states(generator: torch.Generator, parameters: Parameters, *, cells: int) -> Drawn:
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


def _draw_bent(generator: torch.Generator, parameters: Parameters) -> Drawn:
    cells, bend = int(parameters["cells"]), parameters["bend"]
    return {
        **_draw_states(generator, parameters, cells=cells),
        "bend": uniform(generator, 2, cells, cells, low=-bend, high=bend),
        "phase": uniform(generator, 2, cells, cells),
    }


def _quadrants(drawn: Drawn, x: Tensor, y: Tensor, parameters: Parameters) -> Tensor:
    column, row = (2 * x).long().clamp(0, 1), (2 * y).long().clamp(0, 1)
    return torch.stack([drawn[name][:, column, row] for name in CHANNELS], 1)


def _bent(drawn: Drawn, x: Tensor, y: Tensor, parameters: Parameters) -> Tensor:
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


def _draw_shear(generator: torch.Generator, parameters: Parameters) -> Drawn:
    modes = int(parameters["modes"])
    return {
        "amplitude": uniform(generator, 2, modes),
        "phase": uniform(generator, 2, modes),
    }


def _shear(drawn: Drawn, x: Tensor, y: Tensor, parameters: Parameters) -> Tensor:
    number = torch.arange(1, int(parameters["modes"]) + 1, dtype=x.dtype, device=x.device)
    amplitude = drawn["amplitude"] / drawn["amplitude"].sum(-1, keepdim=True)
    waves = torch.cos(2 * pi * number * (x.unsqueeze(-1) + drawn["phase"][:, :, None, None]))
    edge = parameters["bend"] * (amplitude[:, :, None, None] * waves).sum(-1)
    inside = (y >= 0.25 + edge[:, 0]) & (y <= 0.75 + edge[:, 1])
    density = torch.where(inside, 2.0, 1.0).to(x)
    flow = torch.where(inside, -0.5, 0.5).to(x)
    pressure = torch.full_like(density, parameters["pressure"])
    return torch.stack([density, flow, torch.zeros_like(flow), pressure], 1)


def _draw_vortices(generator: torch.Generator, parameters: Parameters) -> Drawn:
    count = int(parameters["vortices"])
    return {
        "strength": uniform(generator, count, low=-1.0),
        "width": uniform(generator, count, low=parameters["width_low"], high=parameters["width_high"]),
        "centre": uniform(generator, 2, count),
    }


def _vortices(drawn: Drawn, x: Tensor, y: Tensor, parameters: Parameters) -> Tensor:
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


def _draw_bubble(generator: torch.Generator, parameters: Parameters) -> Drawn:
    modes = int(parameters["modes"])
    return {"amplitude": uniform(generator, modes), "phase": uniform(generator, modes)}


def _bubble(drawn: Drawn, x: Tensor, y: Tensor, parameters: Parameters) -> Tensor:
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


def _compressible(
    name: str,
    title: str,
    *,
    draw: Callable[[torch.Generator, Parameters], Drawn],
    state: State,
    parameters: Parameters,
    published: Published,
    channels: tuple[str, ...] = CHANNELS,
    horizon: float = 1.0,
) -> Family:
    return Family(
        name=name,
        title=title,
        equation=EQUATION,
        source="Herde et al. 2024, arXiv 2405.19101, appendix B",
        channels=channels,
        units=dict.fromkeys(channels, "1"),
        snapshots=21,
        horizon=horizon,
        points="centre",
        parameters={**parameters, **GAS},
        draw=draw,
        solve=partial(_solve, state=state),
        published=published,
    )


def _with_energy(file: str) -> Published:
    """The layout whose fifth channel is the total energy, a function of the other four."""
    return Published(file=file, variables={"data": (*CHANNELS, "energy")})


_UNIT_STATES = {
    "density_low": 0.1,
    "density_high": 1.0,
    "speed": 1.0,
    "pressure_low": 0.1,
    "pressure_high": 1.0,
}
_FAST_STATES = {
    "density_low": 1.0,
    "density_high": 3.0,
    "speed": 10.0,
    "pressure_low": 5.0,
    "pressure_high": 7.0,
}

FAMILIES: tuple[Family, ...] = (
    _compressible(
        "ce_rp",
        "Four-quadrant Riemann problem of a gas in a periodic square",
        draw=partial(_draw_states, cells=2),
        state=_quadrants,
        parameters=_UNIT_STATES,
        published=_with_energy("CE-RP.nc"),
    ),
    _compressible(
        "ce_crp",
        "Riemann problem of a gas on cells with curved edges",
        draw=_draw_bent,
        state=_bent,
        parameters={**_UNIT_STATES, "cells": 2.0, "bend": 0.1, "wave_offset": 0.0},
        published=_with_energy("CE-CRP.nc"),
    ),
    _compressible(
        "ce_rpui",
        "Riemann problem of a gas on cells with finely perturbed edges",
        draw=_draw_bent,
        state=_bent,
        parameters={**_FAST_STATES, "cells": 2.0, "bend": 0.01, "wave_offset": 8.0},
        published=_with_energy("CE-RPUI.nc"),
    ),
    _compressible(
        "ce_kh",
        "Kelvin-Helmholtz instability of two shear layers",
        draw=_draw_shear,
        state=_shear,
        parameters={"modes": 10.0, "bend": 0.05, "pressure": 2.5},
        published=_with_energy("CE-KH.nc"),
    ),
    _compressible(
        "ce_gauss",
        "Gaussian vortices in a thin gas",
        draw=_draw_vortices,
        state=_vortices,
        parameters={
            "vortices": 100.0,
            "strength": 1.0,
            "width_low": 0.01,
            "width_high": 0.1,
            "density": 0.1,
            "pressure": 2.5,
        },
        published=_with_energy("CE-Gauss.nc"),
    ),
    _compressible(
        "ce_rm",
        "Richtmyer-Meshkov instability: a blast leaves a heavy bubble",
        draw=_draw_bubble,
        state=_bubble,
        parameters={"modes": 10.0, "bend": 0.05},
        channels=(*CHANNELS, "tracer"),
        horizon=2.0,
        published=Published(file="CE-RM.nc", variables={"solution": (*CHANNELS, "tracer")}),
    ),
)
