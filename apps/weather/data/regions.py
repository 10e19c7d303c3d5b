"""Rectangles of a grid, also across Greenwich, cropped to whole patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Grid
from core.errors import UserError

__all__ = ["Rectangle", "rectangle", "same_positions"]

_NEAR = 1e-3  # degrees; coordinates are often float32


@dataclass(frozen=True, eq=False)
class Rectangle:
    """A part of an archive's grid.

    Attributes:
        rows: Its rows, as `Archive.read` takes them.
        columns: Its columns, in the order in which longitude rises from the western edge.
        grid: Its positions.
        note: What was left out of what was asked for, for the user; empty if nothing.
    """

    rows: slice | NDArray[np.intp]
    columns: slice | NDArray[np.intp]
    grid: Grid
    note: str = ""

    def of(self, fields: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rectangle of fields `(..., H, W)` on the archive's grid."""
        return fields[..., self.rows, :][..., self.columns]


def rectangle(grid: Grid, region: Sequence[float] | None, patch: int, where: str) -> Rectangle:
    """Return a region `[south, north, west, east]` of a grid, or all of it, in whole patches.

    Whole grids follow Aurora's rule: one row too many is the south pole's and is dropped, anything else is
    refused. Regions lose rows at their southern and columns at their eastern edge.

    Args:
        grid: Of the archive `where`.
        region: Degrees north and east, edges included; west may be negative or above east. None: everything.
        patch: Rows and columns must be a multiple of it.
        where: The archive's name.

    Raises:
        UserError: If the region holds no point, or not a whole patch, or the grid is no multiple of it.
    """
    if grid.curvilinear and region is not None:
        raise UserError(f"{where} has a curvilinear grid, of which data.region cannot be cut; leave it out")
    if region is None:
        rows, columns = np.arange(grid.shape[0]), _from_the_west(grid)
    else:
        rows, columns = _inside(grid, region, where)
    height, width = len(rows), len(columns)
    if height < patch or width < patch:
        what = "the grid" if region is None else f"data.region {list(region)}"
        raise UserError(f"{where}: {what} has {height} x {width} points, fewer than a patch of {patch}")
    surplus, beyond = height % patch, width % patch
    if region is None and (beyond or surplus > 1):
        raise UserError(
            f"{where} has {height} x {width} points, no multiple of a patch of {patch} (one row more is "
            "dropped); choose another data.patch or a data.region, which is cropped"
        )
    rows, columns = rows[: height - surplus], columns[: width - beyond]
    left = [f"{count} at the {edge}" for count, edge in ((surplus, "south"), (beyond, "east")) if count]
    note = ""
    if left:
        kept = f"{len(rows)} x {len(columns)} of {height} x {width} points"
        note = f"{where}: {kept} are used, for patches of {patch} (without {' and '.join(left)})"
    if grid.curvilinear:
        return Rectangle(slice(0, len(rows)), slice(None), grid.cropped(len(rows)), note)
    longitude = grid.longitude[columns] % 360
    longitude = np.where(np.arange(len(columns)) > int(np.argmax(longitude)), longitude + 360, longitude)
    return Rectangle(_sliced(rows), _sliced(columns), Grid(grid.latitude[rows], longitude), note)


def same_positions(grid: Grid, other: Grid, where: str) -> Rectangle:
    """Return the rows and columns of `other` that lie at the positions of `grid`.

    Raises:
        UserError: If it does not have them all.
    """
    if grid.curvilinear or other.curvilinear:
        if grid == other:
            return Rectangle(slice(None), slice(None), grid)
        raise UserError(f"{where} has other positions than the data, on a curvilinear grid")
    rows = np.abs(other.latitude[None] - grid.latitude[:, None])
    turn = np.abs((other.longitude[None] - grid.longitude[:, None] + 180) % 360 - 180)
    if rows.min(axis=1).max() > _NEAR or turn.min(axis=1).max() > _NEAR:
        raise UserError(f"{where} lacks positions of the data: it has {other}, the data have {grid}")
    return Rectangle(_sliced(rows.argmin(axis=1)), _sliced(turn.argmin(axis=1)), grid)


def _inside(grid: Grid, region: Sequence[float], where: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    if len(region) != 4 or not -90 <= region[0] <= region[1] <= 90 or not -360 <= region[2] <= 360:
        raise UserError(
            f"data.region is {list(region)}; give [south, north, west, east] in degrees, as [35, 75, -10, 40]"
        )
    south, north, west, east = region
    rows = np.flatnonzero((grid.latitude >= south - _NEAR) & (grid.latitude <= north + _NEAR))
    width = 360.0 if east - west >= 360 - _NEAR else (east - west) % 360
    # The distance to the east of the western edge, so that a point on it is not 360 degrees away.
    distance = (grid.longitude - west + _NEAR) % 360
    columns = np.argsort(distance, kind="stable")
    columns = columns[distance[columns] <= width + 2 * _NEAR]
    if not len(rows) or not len(columns):
        raise UserError(f"data.region {list(region)} holds no point of {where}, which has {grid}")
    return rows, columns


def _from_the_west(grid: Grid) -> NDArray[np.intp]:
    """Return the columns in the order from the western edge: after the widest gap, where there is one."""
    columns = np.arange(grid.shape[1])
    if grid.curvilinear or len(columns) < 3:
        return columns
    gaps = np.diff(grid.longitude, append=grid.longitude[0] + 360)
    widest = int(gaps.argmax())
    return np.roll(columns, -(widest + 1)) if gaps[widest] > 1.5 * np.median(gaps) else columns


def _sliced(numbers: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Return rising neighbours as a slice, which is read without a copy."""
    if (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers
