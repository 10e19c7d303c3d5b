"""Acoustic waves through a medium: the Wave-Gauss and Wave-Layer sets of PDEgym.

Ranges: Herde et al. 2024 (arXiv 2405.19101), appendix on the wave equation. The published time scales
contradict each other; ours, on a square of 1 m, are those in which a wave of the mean speed crosses it once,
so that much of it is still inside at the end.
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
    bumps,
    integer,
    uniform,
)
from apps.pde.simulation.solvers.wave import solve_wave

__all__ = ["FAMILIES"]

Medium = Callable[[Drawn, Tensor], Tensor]


def _draw_pulses(generator: torch.Generator) -> dict[str, Tensor]:
    count = integer(generator, 2, 6)
    return {
        "present": (torch.arange(6) < count).double(),
        "centre": uniform(generator, 2, 6, low=1 / 6, high=5 / 6),
        "width": uniform(generator, 6, low=0.039, high=0.156),
    }


def _draw_gauss(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {
        **_draw_pulses(generator),
        "base": uniform(generator, low=1500, high=2500),
        "change": uniform(generator, 4, low=1000, high=2500),
        "spread": uniform(generator, 4, low=1 / 12, high=1 / 6),
        "offset": uniform(generator, 2, 4, low=-0.3125, high=0.3125),
    }


def _gauss(drawn: Drawn, x: Tensor) -> Tensor:
    anchors = torch.tensor(
        [[0.25, 0.25, 0.75, 0.75], [0.25, 0.75, 0.25, 0.75]], dtype=x.dtype, device=x.device
    )
    centres = anchors + drawn["offset"]
    return drawn["base"][:, None, None] + bumps(drawn["change"], centres, drawn["spread"], x)


def _draw_layer(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    return {
        **_draw_pulses(generator),
        "layers": integer(generator, 3, 6),
        "speed": uniform(generator, 6, low=2000, high=5000),
        "jitter": uniform(generator, 5, low=-1),
        "wave": uniform(generator, 5, 3, low=-1),
        "phase": uniform(generator, 5, 3, high=2 * math.pi),
    }


def _layer(drawn: Drawn, x: Tensor) -> Tensor:
    count = drawn["layers"][:, None]
    index = torch.arange(1, 6, dtype=x.dtype, device=x.device)
    middle = (index + 0.25 * drawn["jitter"]) / count
    mode = torch.arange(1, 4, dtype=x.dtype, device=x.device)
    waves = torch.sin(2 * math.pi * mode[:, None] * x + drawn["phase"][..., None])
    bend = torch.einsum("bkm,bkmx->bkx", drawn["wave"] / mode, waves) * 0.1 / count[..., None]
    height = torch.where((index < count)[..., None], middle[..., None] + bend, math.inf)
    below = (x >= height[..., None]).sum(dim=1)
    return torch.gather(drawn["speed"], 1, below.flatten(1)).reshape(below.shape)


def _solve(problem: Problem, *, medium: Medium) -> Tensor:
    parameters = problem.parameters
    finer = max(1, round(parameters["refine"]))
    x = problem.refined_nodes(finer)
    drawn, dtype = problem.drawn, problem.dtype
    speed = medium(drawn, x).to(dtype)
    frames = solve_wave(
        bumps(drawn["present"], drawn["centre"], drawn["width"], x).to(dtype),
        problem.times,
        speed=speed,
        curvature=parameters["curvature"],
        cfl=parameters["cfl"],
    )
    both = torch.stack([frames, speed[:, None].expand_as(frames)], dim=2)
    return both[..., ::finer, ::finer]


def _family(
    name: str, title: str, *, draw: Draw, medium: Medium, file: str, snapshots: int, horizon: float
) -> Family:
    return Family(
        name=name,
        title=title,
        equation="u_tt = c^2 lap u, u_t = 0 at t = 0, outgoing waves leave through the boundary",
        source="Herde et al. 2024, arXiv 2405.19101, appendix on the wave equation; times are our choice",
        channels=("displacement", "speed"),
        units={"speed": "m s-1"},
        snapshots=snapshots,
        horizon=horizon,
        periodic=False,
        points="both",
        draw=draw,
        solve=partial(_solve, medium=medium),
        constants=("speed",),
        parameters={"refine": 2.0, "cfl": 0.6, "curvature": 2.0},
        published=PublishedSet(
            file=file, variables={"solution": ("displacement",), "c": ("speed",)}, constants=("c",)
        ),
    )


FAMILIES: tuple[Family, ...] = (
    _family(
        "wave_gauss",
        "Waves through a medium with smooth fast lenses",
        draw=_draw_gauss,
        medium=_gauss,
        file="Wave-Gauss.nc",
        snapshots=15,
        horizon=4e-4,
    ),
    _family(
        "wave_layer",
        "Waves through a layered medium",
        draw=_draw_layer,
        medium=_layer,
        file="Wave-Layer.nc",
        snapshots=21,
        horizon=3e-4,
    ),
)
