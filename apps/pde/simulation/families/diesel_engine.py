"""Transients of a diesel engine's air path under random commands; the model is our own solver's.

The measured data of the diesel-engine study with DeepONets are not public. This family stands in for them:
the same inputs and outputs, made by a documented mean-value model.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from apps.pde.simulation.families.family import Drawn, Family, Numbers, Problem, uniform
from apps.pde.simulation.solvers.diesel_engine import COMMANDS, OUTPUTS, solve_engine, steady_state

__all__ = ["DURATION", "FAMILIES", "RANGES", "commands_at"]

DURATION = 60.0
RANGES = ((500.0, 2500.0), (1.0, 250.0), (0.0, 100.0), (0.0, 100.0))
"""Lowest and highest value of each command."""

_PIECES = 24  # of at least 2.6 s: more than enough for the duration
_GRID = 0.2  # commands change where an engine's control unit samples, s


def _draw(generator: torch.Generator, parameters: Numbers) -> dict[str, Tensor]:
    """Draw, for each command, pieces that hold, ramp or swing.

    The speed has no jumps; the other commands jump to a new level where a piece holds or swings.
    """
    lengths = uniform(generator, 4, _PIECES, low=2.6, high=9.0)
    ends = (lengths.cumsum(-1) / _GRID).round() * _GRID
    low, high = torch.tensor(RANGES, dtype=torch.float64).T
    level = uniform(generator, 4, _PIECES + 1)
    kind = torch.rand(4, _PIECES, generator=generator, dtype=torch.float64)  # hold, ramp or swing
    swing = uniform(generator, 4, _PIECES, low=0.02, high=0.15) * (kind > 0.7)
    first = level[:, :-1].clone()
    ramp = (kind > 0.4) & (kind <= 0.7)
    last = torch.where(ramp, level[:, 1:], level[:, :-1])
    for piece in range(1, _PIECES):
        joined = ramp[:, piece].clone()
        joined[0] = True
        first[:, piece] = torch.where(joined, last[:, piece - 1], first[:, piece])
        last[:, piece] = torch.where(ramp[:, piece], last[:, piece], first[:, piece])
    span = (high - low)[:, None]
    return {
        "ends": ends,
        "first": low[:, None] + span * first,
        "last": low[:, None] + span * last,
        "swing": span * swing,
        "waves": torch.randint(1, 5, (4, _PIECES), generator=generator).double(),
    }


def commands_at(drawn: Drawn, times: Tensor) -> Tensor:
    """Return the commands `(4, B, S)` of drawn pieces `(B, 4, P)` at `times (S,)`, in seconds."""
    ends = drawn["ends"]
    where = times.expand(*ends.shape[:2], -1).contiguous()
    piece = torch.searchsorted(ends, where + 1e-9, right=True).clamp(max=ends.shape[-1] - 1)
    starts = torch.cat([torch.zeros_like(ends[..., :1]), ends[..., :-1]], dim=-1)
    begin, end, first, last, swing, waves = (
        values.gather(-1, piece)
        for values in (starts, ends, drawn["first"], drawn["last"], drawn["swing"], drawn["waves"])
    )
    phase = (where - begin) / (end - begin)
    values = first + (last - first) * phase + swing * torch.sin(2 * math.pi * waves * phase)
    low, high = torch.tensor(RANGES, dtype=values.dtype, device=values.device).T
    return torch.minimum(torch.maximum(values, low[:, None]), high[:, None]).transpose(0, 1)


def _solve(problem: Problem) -> Tensor:
    """Return `(B, 1, 11, L)`: commands and outputs at L times from 0, `DURATION / L` apart."""
    points, step = problem.resolution, problem.parameters["step"]
    at = torch.arange(points, dtype=torch.float64, device=problem.device) * (DURATION / points)
    commands = partial(commands_at, problem.drawn)
    start = steady_state(commands(at[:1])[..., 0].to(problem.dtype), step=step)
    outputs = solve_engine(commands, at, start=start, step=step)
    outputs[:, :2] /= 1e5  # bar
    return torch.cat([commands(at).to(problem.dtype).transpose(0, 1), outputs], dim=1).unsqueeze(1)


FAMILIES = (
    Family(
        name="diesel_engine",
        title="Air path of a diesel engine under random commands",
        equation="mean-value model: two manifold volumes, residual gas, charge temperature, three actuators",
        source="our own surrogate after Wahlstroem and Eriksson 2011, doi 10.1177/0954407011398177",
        channels=(*COMMANDS, *OUTPUTS),
        units={
            "speed": "rpm",
            "fuel": "mg/cycle",
            "egr_command": "%",
            "vgt_command": "%",
            "p_im": "bar",
            "p_em": "bar",
            "T_1": "K",
            "egr_1": "%",
            "egr_2": "%",
            "vgt": "%",
        },
        draw=_draw,
        solve=_solve,
        space=1,
        extent=(0.0, DURATION),
        periodic=False,
        inputs=COMMANDS,
        parameters={"step": 0.0125},
        resolution=300,
    ),
)
