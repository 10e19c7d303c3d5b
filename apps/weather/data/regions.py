"""Rectangles of a grid, also across Greenwich, cropped to whole patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Grid
from core.errors import UserError

__all__ = ["NEAR", "Rectangle", "degrees_apart", "places_on", "rectangle", "same_positions"]

NEAR = 1e-3
"""Degrees between positions that are one: coordinates are often float32."""
Indices = slice | NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Rectangle:
    """Rows and columns of an archive's grid, columns from the western edge on, and the grid that they make.

    `note` says what was left out of it, or nothing.
    """

    rows: Indices
    columns: Indices
    grid: Grid
    note: str = ""

    def of(self, fields: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rectangle of fields `(..., H, W)` on the archive's grid."""
        return fields[..., self.rows, :][..., self.columns]


def rectangle(grid: Grid, region: Sequence[float] | None, patch: int, where: str) -> Rectangle:
    """Return a region `[south, north, west, east]` of the grid of the archive `where`, or all of it.

    Edges are included; west may be negative or above east. Whole grids follow Aurora's rule: one row more
    than a multiple of `patch` is the south pole's and is dropped, anything else is refused. Regions lose rows
    at their southern and columns at their eastern edge.

    Raises:
        UserError: If the region holds no point or less than a patch, or the grid is no multiple of it.
    """
    rows, columns = np.arange(grid.shape[0]), np.arange(grid.shape[1])
    if region is not None:
        rows, columns = _inside(grid, region, where)
    elif not grid.curvilinear and len(columns) > 2:
        gaps = np.diff(grid.longitude, append=grid.longitude[0] + 360)
        if gaps.max() > 1.5 * np.median(gaps):  # the western edge lies behind the widest gap
            columns = np.roll(columns, -1 - int(gaps.argmax()))
    height, width = len(rows), len(columns)
    south, east = height % patch, width % patch
    if min(height, width) < patch:
        raise UserError(
            f"{where}{'' if region is None else f' in data.region {list(region)}'} has {height} x {width} "
            f"points, too few for patches of {patch}; choose a smaller data.patch or more of the grid"
        )
    if region is None and (east or south > 1):
        raise UserError(
            f"{where} has {height} x {width} points, which are not whole patches of {patch} (one row more is "
            "dropped); choose another data.patch, or a data.region, which is cropped to them"
        )
    rows, columns = rows[: height - south], columns[: width - east]
    note = ""
    if south or east:
        left = [f"{n} {name}" for n, name in ((south, "southernmost"), (east, "easternmost")) if n]
        kept = f"{len(rows)} x {len(columns)} of {height} x {width} points"
        note = f"{where}: {kept} are used, for patches of {patch}; left out: {' and '.join(left)}"
    if grid.curvilinear:
        return Rectangle(slice(0, len(rows)), slice(None), grid.cropped(len(rows)), note)
    longitude = grid.longitude[columns]
    longitude = longitude + 360 * (np.arange(len(columns)) > longitude.argmax())
    return Rectangle(_sliced(rows), _sliced(columns), Grid(grid.latitude[rows], longitude), note)


def same_positions(grid: Grid, other: Grid, where: str) -> Rectangle:
    """Return the rows and columns of `other`, the grid of `where`, that lie at the positions of `grid`.

    Raises:
        UserError: If it does not have them all.
    """
    if grid == other:
        return Rectangle(slice(None), slice(None), grid)
    if (places := places_on(other, grid)) is not None:
        return Rectangle(*map(_sliced, places), grid)
    raise UserError(f"{where} lacks positions of the data: it has {other}, the data have {grid}")


def places_on(grid: Grid, wanted: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Return rows and columns of `grid` at the positions of `wanted`; None if it does not have them all."""
    if grid.curvilinear or wanted.curvilinear:
        return (np.arange(grid.shape[0]), np.arange(grid.shape[1])) if grid == wanted else None
    apart = [degrees_apart(getattr(wanted, axis), getattr(grid, axis)) for axis in ("latitude", "longitude")]
    if max(distances.min(axis=1).max() for distances in apart) >= NEAR:
        return None
    return apart[0].argmin(axis=1), apart[1].argmin(axis=1)


def degrees_apart(own: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances of positions `(N, M)` in degrees, around the globe."""
    turn = np.abs(own[:, None] - other) % 360
    return np.minimum(turn, 360 - turn)


def _inside(grid: Grid, region: Sequence[float], where: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    if len(region) != 4 or not -90 <= region[0] <= region[1] <= 90 or grid.curvilinear:
        raise UserError(
            f"data.region is {list(region)}; give degrees [south, north, west, east], as [35, 75, -10, 40], "
            "of an archive whose grid is not curvilinear"
        )
    south, north, west, east = region
    rows = np.flatnonzero((grid.latitude >= south - NEAR) & (grid.latitude <= north + NEAR))
    width = 360.0 if abs(east - west) >= 360 - NEAR else (east - west) % 360
    # Degrees to the east of the western edge, so that a point on it is not 360 away.
    distance = (grid.longitude - west + NEAR) % 360
    columns = np.argsort(distance, kind="stable")
    columns = columns[distance[columns] <= width + 2 * NEAR]
    if not len(rows) or not len(columns):
        raise UserError(f"data.region {list(region)} holds no point of {where}, which has {grid}")
    return rows, columns


def _sliced(numbers: NDArray[np.intp]) -> Indices:
    """Return rising neighbours as a slice, which is read without a copy."""
    whole = (np.diff(numbers) == 1).all()
    return slice(int(numbers[0]), int(numbers[-1]) + 1) if whole else numbers
