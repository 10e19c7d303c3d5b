"""A family of initial-value or steady problems that our solvers can generate, and what families share: random
numbers, points, and what an equation's numbers may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "Draw",
    "Drawn",
    "Family",
    "Numbers",
    "Problem",
    "PublishedSet",
    "bumps",
    "centred_images",
    "integer",
    "nodes",
    "periodic_points",
    "uniform",
    "wrong_number",
]

Drawn = Mapping[str, Tensor]
"""The random float64 numbers `(B, ...)` of a batch by name."""

Numbers = Mapping[str, float]
"""The numbers of an equation by name."""

Draw = Callable[[torch.Generator, Numbers], dict[str, Tensor]]


@dataclass(frozen=True)
class PublishedSet:
    """Where the published data set of the family keeps its values.

    Attributes:
        file: File name, such as `NS-Sines.nc`.
        variables: Variable name to the channels it holds, in order; a variable of one name has no channel
            axis.
        constants: Those of the variables that have no time axis.
        axes: Order of the stored axes, `txy` for the data sets' usual one, `tyx` where x and y are exchanged.
    """

    file: str
    variables: Mapping[str, tuple[str, ...]]
    constants: tuple[str, ...] = ()
    axes: str = "txy"


@dataclass(frozen=True)
class Problem:
    """A batch of problems, drawn and to be solved.

    Attributes:
        drawn: What a family's `draw` gives, stacked: name to float64 numbers `(B, ...)`.
        resolution: Grid points along each axis.
        times: Times `(T,)` float64 of the frames.
        parameters: Numbers of the equation.
        dtype: Type of the solution.
        device: Where it is solved.
    """

    drawn: Drawn
    resolution: int
    times: Tensor
    parameters: Numbers
    dtype: torch.dtype
    device: torch.device

    def refined_nodes(self, finer: int) -> Tensor:
        """Return points with both ends `(N,)`, `finer` times as close as the output's."""
        return nodes(finer * (self.resolution - 1) + 1, device=self.device)


@dataclass(frozen=True)
class Family:
    """A distribution of problems and the solver that makes trajectories of them.

    Attributes:
        name: Lower case with underscores, as in `dfm data generate pde/<name>`.
        title: One line.
        equation: The equation solved, in words or plain symbols.
        source: Paper and section that the ranges come from.
        channels: Names of the fields in the order of the solution's channel axis.
        draw: `(generator, parameters)` to the float64 random numbers of ONE sample, whatever the resolution.
        solve: Problem to solution `(B, T, C, *space)`.
        units: Field name to unit, for those that have one.
        snapshots: How many frames are kept, the initial one included; 1 for steady problems, whose input and
            solution are channels of one frame.
        horizon: Time of the last frame in the equation's unit; frames are equally spaced. 0 for steady ones.
        space: Number of space axes.
        extent: Lower and upper end of every axis.
        periodic: Whether the domain is periodic.
        points: Where the grid's points lie: at the `left` ends of equal cells (x_i = i/n), at their
            `centre`s, or on `both` ends of the axis and between.
        inputs: Channels that a steady problem is given; empty where the first frame is the input.
        constants: Channels that do not change along a trajectory (a wave speed, a coefficient).
        parameters: Adjustable numbers and their defaults; `dfm data generate` takes `--set name=value`.
        published: The published layout, or None.
        resolution: Default number of grid points along each axis.
    """

    name: str
    title: str
    equation: str
    source: str
    channels: tuple[str, ...]
    draw: Draw
    solve: Callable[[Problem], Tensor]
    units: Mapping[str, str] = field(default_factory=dict)
    snapshots: int = 1
    horizon: float = 0.0
    space: int = 2
    extent: tuple[float, float] = (0.0, 1.0)
    periodic: bool = True
    points: Literal["left", "centre", "both"] = "left"
    inputs: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    parameters: Numbers = field(default_factory=dict)
    published: PublishedSet | None = None
    resolution: int = 128

    @property
    def steady(self) -> bool:
        """Whether there is no time."""
        return self.snapshots == 1

    def times(self, snapshots: int | None = None) -> Tensor:
        """Return the times `(T,)` float64 of the frames, 0 to `horizon`."""
        return torch.linspace(0.0, self.horizon, snapshots or self.snapshots, dtype=torch.float64)

    def sample(
        self,
        generators: Sequence[torch.Generator],
        *,
        resolution: int | None = None,
        snapshots: int | None = None,
        parameters: Numbers | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return trajectories `(B, T, C, *space)`, one a generator.

        A sample depends on its own generator alone, not on its neighbours in the batch.
        """
        numbers = {**self.parameters, **(parameters or {})}
        drawn = [self.draw(generator, numbers) for generator in generators]
        stacked = {name: torch.stack([one[name] for one in drawn]).to(device) for name in drawn[0]}
        return self.solve(
            Problem(
                drawn=stacked,
                resolution=resolution or self.resolution,
                times=self.times(snapshots),
                parameters=numbers,
                dtype=dtype,
                device=torch.device(device),
            )
        )


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return float64 numbers of the given shape, uniform in `low` to `high`."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def integer(generator: torch.Generator, low: int, high: int) -> Tensor:
    """Return a whole number from `low` to `high`, both included, as a float64 scalar."""
    return torch.randint(low, high + 1, (), generator=generator).double()


def periodic_points(n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Return i/n `(N,)` float64, the points of a periodic axis."""
    return torch.arange(n, dtype=torch.float64, device=device) / n


def nodes(n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Return i/(n-1) `(N,)` float64, the points of an axis that includes both ends."""
    return torch.linspace(0.0, 1.0, n, dtype=torch.float64, device=device)


def centred_images(points: Tensor, centres: Tensor, widths: Tensor, *, periodic: bool) -> Tensor:
    """Return Gaussians exp(-(x - c)^2 / (2 s^2)) `(B, K, N)` of points `(N,)`, centres and widths `(B, K)`.

    Periodic ones are summed with their neighbouring images, which makes them smooth at the seam.
    """
    distance = points - centres[..., None]
    width = widths[..., None] * math.sqrt(2)
    if not periodic:
        return torch.exp(-((distance / width) ** 2))
    return sum(
        (torch.exp(-(((distance + image) / width) ** 2)) for image in (-1.0, 0.0, 1.0)),
        start=torch.zeros_like(distance),
    )


_RANGES = ("width", "density", "pressure", "radius")
_POSITIVE = frozenset(
    [
        *("cfl", "step", "width", "density", "pressure", "depth", "gravity", "low", "high", "epsilon"),
        *(f"{name}_{end}" for name in _RANGES for end in ("low", "high")),
    ]
)
_NOT_NEGATIVE = frozenset(("damping", "viscosity", "diffusivity", "before", "frequency"))
_COUNTS = frozenset(("oversample", "refine", "cells", "modes", "vortices", "points"))


def bumps(heights: Tensor, centres: Tensor, widths: Tensor, points: Tensor) -> Tensor:
    """Return sums of Gaussians `(B, N, N)` of heights and widths `(B, K)` at centres `(B, 2, K)`."""
    along, across = (centred_images(points, centres[:, axis], widths, periodic=False) for axis in (0, 1))
    return torch.einsum("bk,bkx,bky->bxy", heights, along, across)


def wrong_number(parameters: Numbers) -> str:
    """Return what is wrong with all the finite numbers of a family, or an empty string.

    A name means the same in every family.
    """
    for name, value in parameters.items():
        if name in _POSITIVE and not value > 0:
            return f"{name} is {value:g}; it must be positive"
        if name == "cfl" and value > 1:
            return f"cfl is {value:g}; no scheme is stable with steps of more than a cell, give at most 1"
        if name in _NOT_NEGATIVE and value < 0:
            return f"{name} is {value:g}; it must be 0 or more"
        if name in _COUNTS and (value < 1 or value != int(value)):
            return f"{name} is {value:g}; it must be a whole number, at least 1"
        if name == "gamma" and not value > 1:
            return f"gamma is {value:g}; it must be above 1"
    for name in _RANGES:
        low, high = f"{name}_low", f"{name}_high"
        if low in parameters and high in parameters and parameters[low] > parameters[high]:
            return f"{low} is {parameters[low]:g}, above {high}, which is {parameters[high]:g}"
    return ""
