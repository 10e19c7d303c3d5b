"""A family of initial-value or steady problems that our solvers can generate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Family", "Published"]

Draw = Callable[[torch.Generator, Mapping[str, float]], dict[str, Tensor]]
Solve = Callable[..., Tensor]


@dataclass(frozen=True)
class Published:
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
class Family:
    """A distribution of problems and the solver that makes trajectories of them.

    Attributes:
        name: Lower case with underscores, as in `dfm data generate pde/<name>`.
        title: One line.
        equation: The equation solved, in words or plain symbols.
        source: Paper and section that the ranges come from.
        channels: Names of the fields in the order of the solution's channel axis.
        units: Field name to unit ("1" if dimensionless).
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
        draw: `(generator, parameters)` to the float64 random numbers of ONE sample, whatever the resolution.
        solve: `(drawn, *, resolution, times, parameters, dtype, device)` to `(B, T, C, *space)`, where
            `drawn` holds the stacked numbers `(B, ...)` of a batch and `times` the float64 times `(T,)` of
            the frames.
        published: The published layout, or None.
        resolution: Default number of grid points along each axis.
    """

    name: str
    title: str
    equation: str
    source: str
    channels: tuple[str, ...]
    units: Mapping[str, str]
    snapshots: int
    horizon: float
    draw: Draw
    solve: Solve
    space: int = 2
    extent: tuple[float, float] = (0.0, 1.0)
    periodic: bool = True
    points: Literal["left", "centre", "both"] = "left"
    inputs: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)
    published: Published | None = None
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
        parameters: Mapping[str, float] | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return trajectories `(B, T, C, *space)`, one a generator.

        A sample depends on its own generator alone, not on its neighbours in the batch.
        """
        known = {**self.parameters, **(parameters or {})}
        drawn = [self.draw(generator, known) for generator in generators]
        stacked = {name: torch.stack([one[name] for one in drawn]).to(device) for name in drawn[0]}
        return self.solve(
            stacked,
            resolution=resolution or self.resolution,
            times=self.times(snapshots),
            parameters=known,
            dtype=dtype,
            device=torch.device(device),
        )
