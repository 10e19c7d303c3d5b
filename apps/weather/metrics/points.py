"""Points that two grids share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Grid
from apps.weather.data.regions import NEAR, degrees_apart, places_on
from core.errors import UserError

__all__ = ["places_of", "shared_points"]


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
        near = own[degrees_apart(own, other).min(1) < NEAR]
        if len(near) not in (len(own), len(other)):
            raise UserError(
                f"{names[0]} has the {first} and {names[1]} the {second}, which share {len(near)} "
                f"{axis}s; regrid one to the other"
            )
        shared.append(near)
    return Grid(*shared)


def places_of(grid: Grid, wanted: Grid, name: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of a grid that are those of another.

    Raises:
        UserError: If one of these is not there; `name` says whose the grid is.
    """
    if (places := places_on(grid, wanted)) is None:
        raise UserError(f"{name} has the {grid}, which lacks points of the {wanted}; regrid it")
    return places
