"""Incompressible flows on the periodic unit square: the NS and FNS sets of PDEgym.

Ranges: Herde et al. 2024 (Poseidon, arXiv 2405.19101), appendix on the incompressible data sets. Points are
x_i = i/N. Each initial condition is a function of x and y, so that two resolutions show the same flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from apps.pde.simulation.families.family import (
    Draw,
    Drawn,
    Family,
    Numbers,
    Problem,
    PublishedSet,
    centred_images,
    integer,
    periodic_points,
    uniform,
)
from apps.pde.simulation.solvers.fourier import velocity_from_vorticity
from apps.pde.simulation.solvers.incompressible import Damping, solve_incompressible

__all__ = ["FAMILIES"]

Start = Callable[[Drawn, int, Numbers], Tensor]

_TURN = 2 * math.pi
# A radial cubic B-spline of radius r spreads like a Gaussian of this times r along each axis.
_SPLINE_DEVIATION = 0.2812


def _draw_sines(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {
        "amplitude": uniform(generator, 10, 10, low=-1),
        "phase_x": uniform(generator, 10, 10, high=_TURN),
        "phase_y": uniform(generator, 10, 10, high=_TURN),
    }


def _sines(drawn: Drawn, n: int, parameters: Numbers) -> Tensor:
    x = periodic_points(n, device=drawn["amplitude"].device)
    mode = torch.arange(1, 11, dtype=torch.float64, device=x.device)
    weight = drawn["amplitude"] / torch.sqrt(_TURN * (mode[:, None] + mode))
    along = _TURN * mode[:, None, None] * x + drawn["phase_x"][..., None]
    across = _TURN * mode[:, None] * x + drawn["phase_y"][..., None]
    waves = [
        torch.einsum("bij,bijx,bijy->bxy", weight, wave(along), wave(across))
        for wave in (torch.sin, torch.cos)
    ]
    return torch.stack(waves, dim=1)


def _draw_gauss(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {
        "amplitude": uniform(generator, 100, low=-1),
        "width": uniform(generator, 100, low=0.01, high=0.1),
        "centre": uniform(generator, 2, 100),
    }


def _gauss(drawn: Drawn, n: int, parameters: Numbers) -> Tensor:
    x = periodic_points(n, device=drawn["amplitude"].device)
    bump_x, bump_y = (
        centred_images(x, drawn["centre"][:, axis], drawn["width"], periodic=True) for axis in (0, 1)
    )
    curl = torch.einsum("bk,bkx,bky->bxy", drawn["amplitude"] / drawn["width"], bump_x, bump_y)
    return velocity_from_vorticity(curl)


def _draw_pwc(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {"vorticity": uniform(generator, 10, 10, low=-1)}


def _pwc(drawn: Drawn, n: int, parameters: Numbers) -> Tensor:
    square = 10 * torch.arange(n, device=drawn["vorticity"].device) // n
    curl = parameters["amplitude"] * drawn["vorticity"][:, square][:, :, square]
    return velocity_from_vorticity(curl)


def _draw_sl(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    count = integer(generator, 7, 12)
    kept = torch.arange(1, 13) <= count
    return {
        "amplitude": uniform(generator, 12) * kept,
        "phase": uniform(generator, 12, high=_TURN),
        "thickness": uniform(generator, low=0.08, high=0.12),
        "offset": uniform(generator, low=-0.0625, high=0.0625),
    }


def _sl(drawn: Drawn, n: int, parameters: Numbers) -> Tensor:
    x = periodic_points(n, device=drawn["offset"].device)
    mode = torch.arange(1, 13, dtype=torch.float64, device=x.device)
    waves = torch.sin(_TURN * mode[:, None] * x - drawn["phase"][..., None])
    bend = drawn["offset"][:, None] + 0.025 * torch.einsum("bk,bkx->bx", drawn["amplitude"], waves)
    height = torch.remainder(x + bend[:, :, None], 1.0)
    thickness = drawn["thickness"][:, None, None]
    u = torch.tanh(_TURN * torch.where(height <= 0.5, height - 0.25, 0.75 - height) / thickness)
    return torch.stack([u, torch.zeros_like(u)], dim=1)


def _draw_svs(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {"amplitude": uniform(generator, 10, high=0.003125), "shift": uniform(generator, 10)}


def _svs(drawn: Drawn, n: int, parameters: Numbers) -> Tensor:
    x = periodic_points(n, device=drawn["shift"].device)
    points = periodic_points(1024, device=x.device)
    waves = torch.sin(_TURN * (points + drawn["shift"][..., None]))
    sheet = 0.5 + 0.2 * torch.sin(_TURN * points) + torch.einsum("bk,bkx->bx", drawn["amplitude"], waves)
    width = torch.full_like(sheet, parameters["width"] * _SPLINE_DEVIATION)
    along = centred_images(x, points.expand_as(sheet), width, periodic=True)
    across = centred_images(x, sheet, width, periodic=True)
    norm = 1 / (_TURN * width[0, 0] ** 2 * len(points))
    return velocity_from_vorticity(norm * torch.einsum("bkx,bky->bxy", along, across))


_BRIDGE_MODES = 63


def _draw_bb(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {"coefficient": uniform(generator, 2, 2, 2, _BRIDGE_MODES + 1, _BRIDGE_MODES + 1, low=-1)}


def _bb(drawn: Drawn, n: int, parameters: Numbers) -> Tensor:
    top = min(_BRIDGE_MODES, n // 2 - 1) + 1
    coefficient = drawn["coefficient"][..., :top, :top]
    x = periodic_points(n, device=coefficient.device)
    mode = torch.arange(top, dtype=torch.float64, device=x.device)
    radius = torch.hypot(mode[:, None], mode)
    radius[0, 0] = math.inf
    weight = parameters["amplitude"] * radius ** (-1 - parameters["hurst"])
    basis = torch.stack([torch.cos(_TURN * mode[:, None] * x), torch.sin(_TURN * mode[:, None] * x)])
    return torch.einsum("bcpqij,pix,qjy->bcxy", coefficient * weight, basis, basis)


def _disk(n: int, device: torch.device) -> Tensor:
    x = periodic_points(n, device=device) - 0.5
    return (torch.hypot(x[:, None], x) <= 0.25).double()


def _solve(
    problem: Problem, *, start: Start, tracer: bool = True, warm_up: bool = False, forced: bool = False
) -> Tensor:
    """Solve from the velocity that `start` gives, or from what becomes of it in the time `before`."""
    parameters, times, dtype = problem.parameters, problem.times, problem.dtype
    solve = partial(
        solve_incompressible,
        damping=Damping(strength=parameters["damping"], viscosity=parameters["viscosity"]),
        cfl=parameters["cfl"],
    )
    velocity = start(problem.drawn, problem.resolution, parameters).to(dtype)
    if warm_up:
        velocity = solve(velocity, torch.tensor([0.0, parameters["before"]], dtype=torch.float64))[:, -1]
    if forced:
        x = periodic_points(problem.resolution, device=problem.device)
        wave = parameters["forcing"] * torch.sin(_TURN * (x[:, None] + x)).to(dtype)
        frames = solve(velocity, times, forcing=torch.stack([wave, -wave]))
        return torch.cat([frames, wave.expand(*frames.shape[:2], 1, -1, -1)], dim=2)
    disk = _disk(problem.resolution, problem.device).to(dtype).expand(len(velocity), 1, -1, -1)
    return solve(velocity, times, tracer=disk if tracer else None)


_SCHEME = {"damping": 0.05, "viscosity": 0.0, "cfl": 0.5}


def _family(
    name: str,
    title: str,
    *,
    draw: Draw,
    start: Start,
    file: str,
    tracer: bool = True,
    axes: str = "txy",
    warm_up: bool = False,
    **parameters: float,
) -> Family:
    channels = ("velocity_x", "velocity_y", "tracer") if tracer else ("velocity_x", "velocity_y")
    return Family(
        name=name,
        title=title,
        equation="du/dt + div(u u) + grad p = D u, div u = 0; dc/dt + div(c u) = D c (tracer c)",
        source="Herde et al. 2024, arXiv 2405.19101, appendix on incompressible flows",
        channels=channels,
        snapshots=21,
        horizon=1.0,
        draw=draw,
        solve=partial(_solve, start=start, tracer=tracer, warm_up=warm_up),
        parameters={**_SCHEME, **parameters},
        published=PublishedSet(file=file, variables={"velocity": channels}, axes=axes),
    )


FAMILIES: tuple[Family, ...] = (
    _family("ns_sines", "Sums of sine waves", draw=_draw_sines, start=_sines, file="NS-Sines.nc"),
    _family("ns_gauss", "A hundred Gaussian vortices", draw=_draw_gauss, start=_gauss, file="NS-Gauss.nc"),
    *(
        _family(name, title, draw=_draw_pwc, start=_pwc, file="NS-PwC.nc", amplitude=10.0)
        for name, title in (
            ("ns_pwc", "Piecewise constant vorticity on a 10 x 10 grid"),
            ("ns_tracer_pwc", "Piecewise constant vorticity; the tracer is the field of interest"),
        )
    ),
    _family(
        "ns_sl", "Double shear layer", draw=_draw_sl, start=_sl, file="NS-SL.nc", tracer=False, axes="tyx"
    ),
    _family("ns_svs", "Bent vortex sheet", draw=_draw_svs, start=_svs, file="NS-SVS.nc", width=5 / 128),
    _family(
        "ns_bb",
        "Brownian-bridge velocity, half a time unit on",
        draw=_draw_bb,
        start=_bb,
        file="NS-BB.nc",
        warm_up=True,
        amplitude=4 / _TURN**1.5,
        hurst=0.5,
        before=0.5,
    ),
    Family(
        name="fns_kf",
        title="Piecewise constant vorticity under a constant Kolmogorov forcing",
        equation="du/dt + div(u u) + grad p = D u + (f, -f), f = 0.1 sin(2 pi (x + y)), div u = 0",
        source="Herde et al. 2024, arXiv 2405.19101; the direction of the forcing is our choice",
        channels=("velocity_x", "velocity_y", "forcing"),
        snapshots=21,
        horizon=1.0,
        draw=_draw_pwc,
        solve=partial(_solve, start=_pwc, forced=True),
        constants=("forcing",),
        parameters={**_SCHEME, "amplitude": 10.0, "forcing": 0.1},
        published=PublishedSet(file="FNS-KF.nc", variables={"solution": ("velocity_x", "velocity_y")}),
    ),
)
