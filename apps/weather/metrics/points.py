"""Points that two grids share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Grid
from core.errors import UserError

__all__ = ["places_of", "shared_points"]

_NEAR = 1e-3  # degrees between positions that are one


def shared_points(first: Grid, second: Grid, names: tuple[str, str]) -> Grid:
    """Return the points of one grid that lie on another too.

    Raises:
        UserError: If neither grid is part of the other, row by row and column by column.
    """
    shared = []
    for axis in ("latitude", "longitude"):
        own, other = getattr(first, axis), getattr(second, axis)
        if own.ndim != 1 or other.ndim != 1:
            if first != second:
                raise UserError(
                    f"{names[0]} has the {first} and {names[1]} the {second}; regrid one to the other"
                )
            return first
        near = own[_apart(own, other).min(1) < _NEAR]
        if len(near) not in (len(own), len(other)):
            raise UserError(
                f"{names[0]} has the {first} and {names[1]} the {second}, which share {len(near)} "
                f"{axis}s; regrid one to the other"
            )
        shared.append(near)
    return Grid(*shared)


def places_of(grid: Grid, wanted: Grid, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of a grid that are those of another.

    Raises:
        UserError: If one of these is not there; `name` says whose the grid is.
    """
    if grid.curvilinear and grid == wanted:
        return np.arange(grid.shape[0]), np.arange(grid.shape[1])
    places = []
    for axis in ("latitude", "longitude"):
        apart = _apart(getattr(wanted, axis), getattr(grid, axis))
        if grid.curvilinear or apart.min(1).max() > _NEAR:
            raise UserError(f"{name} has the {grid}, which lacks points of the {wanted}; regrid it")
        places.append(apart.argmin(1))
    return places[0], places[1]


def _apart(own: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances of positions `(N, M)` in degrees, around the globe."""
    turn = np.abs(own[:, None] - other) % 360
    return np.minimum(turn, 360 - turn)
