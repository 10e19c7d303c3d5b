"""The batch every weather network is fed with, and what is known of the fields in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from core.data.batch import Batch
from core.data.facts import Facts
from core.errors import UserError

__all__ = ["Grid", "States", "Variables", "WeatherBatch", "WeatherFacts", "level_name", "level_text"]


def level_text(level: float) -> str:
    """Return a pressure level in hPa as names have it: `500`, and `700_5` for 700.5."""
    rounded = round(float(level), 3)
    return str(int(rounded)) if rounded.is_integer() else str(rounded).replace(".", "_")


def level_name(variable: str, level: float) -> str:
    """Return the name of a variable on one pressure level, such as `z_500`."""
    return f"{variable}_{level_text(level)}"


@dataclass(frozen=True)
class Variables:
    """Names and levels of the fields of a batch, in the order of their axes.

    Attributes:
        surface: Names of single-level variables, such as `2t`.
        atmospheric: Names of variables on pressure levels, all on the same ones.
        levels: Pressure levels in hPa.
        static: Names of fields that do not change with time.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    surface: tuple[str, ...] = ()
    atmospheric: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()
    static: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every dynamic field's own name: surface variables, then `z_500` by variable and level."""
        return (*self.surface, *(level_name(v, level) for v in self.atmospheric for level in self.levels))


class Grid:
    """Latitudes and longitudes of a grid, in degrees and float64; grids with equal positions are equal.

    Args:
        latitude: `(H,)` strictly decreasing, within -90 to 90; or `(H, W)` of a curvilinear grid.
        longitude: `(W,)` strictly increasing, from 0 to below 360; or `(H, W)`. A region across Greenwich
            begins below 360 and goes on beyond it, as in 350, 355, 360, 365: networks take a patch's centre
            modulo 360, so that it has the position that it has on the globe.

    Raises:
        UserError: If a rule is broken, naming the coordinate.
    """

    def __init__(self, latitude: ArrayLike, longitude: ArrayLike) -> None:
        self.latitude = np.ascontiguousarray(latitude, dtype=np.float64)
        self.longitude = np.ascontiguousarray(longitude, dtype=np.float64)
        if self.latitude.ndim != self.longitude.ndim or self.latitude.ndim not in (1, 2):
            raise UserError("latitude and longitude must both be lists, or both be matrices of one shape")
        if self.curvilinear and self.latitude.shape != self.longitude.shape:
            shapes = f"{self.latitude.shape} and {self.longitude.shape}"
            raise UserError(f"latitude and longitude are matrices of the shapes {shapes}; they must agree")
        if not (np.abs(self.latitude) <= 90).all() or not (np.diff(self.latitude, axis=0) < 0).all():
            raise UserError("latitude must decrease strictly (from north to south) and lie within -90 and 90")
        west, east = self.longitude[..., 0], self.longitude[..., -1]
        inside = (west >= 0).all() and (west < 360).all() and (east - west < 360).all()
        if not inside or not (np.diff(self.longitude, axis=-1) > 0).all():
            raise UserError("longitude must increase strictly, begin from 0 to below 360, and span below 360")
        self._key = (self.latitude.shape, self.latitude.tobytes(), self.longitude.tobytes())

    @property
    def curvilinear(self) -> bool:
        """Whether latitude and longitude are matrices."""
        return self.latitude.ndim == 2

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.latitude.shape[0], self.longitude.shape[-1]

    @property
    def periodic(self) -> bool:
        """Whether the columns reach around the globe."""
        if self.curvilinear or self.shape[1] < 2:
            return False
        steps = np.diff(self.longitude)
        gap = self.longitude[0] + 360 - self.longitude[-1]
        return bool(np.isclose(gap, steps.mean(), rtol=1e-3))

    def cropped(self, rows: int) -> Grid:
        """Return the grid of the first `rows` rows."""
        longitude = self.longitude[:rows] if self.curvilinear else self.longitude
        return Grid(self.latitude[:rows], longitude)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return "Grid({} x {}, {:.4g} to {:.4g} N, {:.4g} to {:.4g} E)".format(
            *self.shape, self.latitude.max(), self.latitude.min(), self.longitude.min(), self.longitude.max()
        )


@dataclass(frozen=True, eq=False)
class States(Batch):
    """Fields at one or several times; an empty group has no variables (`VS` or `VA` is 0).

    Attributes:
        surface: `(B, T, VS, H, W)` float32.
        atmospheric: `(B, T, VA, C, H, W)` float32, C in the order of the levels.
    """

    surface: Tensor
    atmospheric: Tensor

    @property
    def steps(self) -> int:
        """Number of times T."""
        return self.surface.shape[1]

    @property
    def fields(self) -> Tensor:
        """All fields on one axis, `(B, T, F, H, W)`, in the order of `Variables.names`."""
        return torch.cat([self.surface, self.atmospheric.flatten(2, 3)], dim=2)

    @classmethod
    def in_order(cls, parts: Sequence[States]) -> States:
        """Return the times of several states, one after the other."""
        return cls(
            torch.cat([part.surface for part in parts], dim=1),
            torch.cat([part.atmospheric for part in parts], dim=1),
        )

    def at(self, times: slice) -> States:
        """Return some of the times."""
        return States(self.surface[:, times], self.atmospheric[:, times])

    def then(self, later: States) -> States:
        """Return these times followed by `later`."""
        return States.in_order([self, later])


@dataclass(frozen=True, eq=False)
class WeatherBatch(Batch):
    """A history of states and the states that follow; physical units (SI) unless a function says otherwise.

    All samples of a batch have the same variables, grid, step and roll-out step. Values are finite, but for
    missing ocean waves and targets that are masked (NaN: the loss and the scores leave them out).

    Attributes:
        inputs: T states, oldest first; the last is the current one.
        static: `(B, S, H, W)` float32.
        targets: K states after the current one, of `target_variables`; None in prediction.
        time: `(B,)` int64, seconds since 1970-01-01 UTC of the current state.
        variables: Of inputs and static fields.
        target_variables: Of the targets.
        grid: Positions.
        step: Hours between states.
        rollout_step: Steps of the network that lie between the data and the current state.
        source: Name of the data set.
    """

    inputs: States
    static: Tensor
    targets: States | None
    time: Tensor
    variables: Variables
    target_variables: Variables
    grid: Grid
    step: float
    rollout_step: int = 0
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class WeatherFacts(Facts):
    """What a network of weather was trained on; enough to predict in physical units from files alone.

    Attributes:
        variables: What goes in.
        target_variables: What comes out, or is learnt beside it.
        statistics: Location and scale of each field by name: `2t`, `z_500`, `static_z`.
        units: Unit of each variable by name: `2t`, `z`, `static_z`.
        latitude: Of the training grid, in degrees from north to south.
        longitude: From west to east.
        static: `(S, H, W)` float32 static fields on it, for files that lack them; None where there are none.
        history: States that go in.
        step: Hours between states.
        transforms: Variable to the transform before its statistics (`apps.weather.data.transforms`).
        bounds: Variable to its least and greatest value (None: none), to which predictions are clipped.
        patch: Rows and columns of a patch, of which the grid is a multiple.
    """

    variables: Variables
    target_variables: Variables
    statistics: Mapping[str, tuple[float, float]]
    units: Mapping[str, str] = field(default_factory=dict)
    latitude: tuple[float, ...] = ()
    longitude: tuple[float, ...] = ()
    static: Tensor | None = None
    history: int = 2
    step: float = 6.0
    transforms: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    patch: int = 1
