"""Burgers' equation on a periodic axis, as in the data of the Fourier neural operator.

The published covariance is `625 (-lap + 25)^-2`; the data that go with the operator's library have the
spectrum of `625^2 (-lap + 25)^-4`, which is the default here.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import pi

import torch
from torch import Tensor

from apps.pde.simulation.families.family import Family
from apps.pde.simulation.solvers import burgers

__all__ = ["FAMILIES"]

MODES = 32


def _draw(generator: torch.Generator, parameters: Mapping[str, float]) -> dict[str, Tensor]:
    return {"waves": torch.randn(2, MODES, generator=generator, dtype=torch.float64)}


def _solve(
    drawn: dict[str, Tensor],
    *,
    resolution: int,
    times: Tensor,
    parameters: Mapping[str, float],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Start from a Gaussian random field of covariance `scale^2 (-lap + tau^2)^-decay` without its mean."""
    finer = -(-int(parameters["points"]) // resolution)
    x = torch.arange(resolution * finer, dtype=torch.float64, device=device) / (resolution * finer)
    wave = 2 * pi * torch.arange(1, MODES + 1, dtype=torch.float64, device=device)
    size = parameters["scale"] * 2**0.5 * (wave**2 + parameters["tau"] ** 2) ** (-parameters["decay"] / 2)
    cosine, sine = drawn["waves"].unbind(1)
    phase = wave[:, None] * x
    first = (size * cosine) @ phase.cos() + (size * sine) @ phase.sin()
    found = burgers.viscous(first.to(dtype), times=times, viscosity=parameters["viscosity"])
    return found[:, :, None, ::finer]


FAMILIES: tuple[Family, ...] = (
    Family(
        name="burgers",
        title="Viscous Burgers equation from a Gaussian random field",
        equation="u_t + u u_x = nu u_xx on [0, 1), periodic",
        source="Li et al. 2021 (Fourier neural operator, arXiv 2010.08895), section 5.1 and appendix A.3",
        channels=("velocity",),
        units={"velocity": "1"},
        snapshots=17,
        horizon=1.0,
        space=1,
        parameters={"viscosity": 0.01, "scale": 625.0, "tau": 5.0, "decay": 4.0, "points": 256.0},
        draw=_draw,
        solve=_solve,
        resolution=128,
    ),
)
