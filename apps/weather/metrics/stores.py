"""Forecasts and climatologies as WeatherBench 2 stores them: fields on axes of more than one kind of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Grid, Variables
from apps.weather.data.readers.axes import letters_of, levels_in_hpa, stored_grid
from apps.weather.data.readers.names import conversion, recognised
from apps.weather.data.readers.stored import open_dataset
from core.errors import UserError

__all__ = ["FieldStore", "open_store", "places_of", "shared_points"]

_NEAR = 1e-3  # degrees between positions that are one
_CALENDAR = {"hour": "h", "dayofyear": "d"}


@dataclass(frozen=True, eq=False)
class FieldStore:
    """Fields of a store on the axes `tp`, start and lead of forecasts, or `hd`, hour and day of normals.

    Attributes:
        name: Of the file.
        grid: Positions, mended.
        variables: Those on all axes, levels rising.
        axes: Letter (`t` start, `p` hours of lead, `n` member, `h` hour, `d` day of year) to positions.
        stored: Name (`2t`, or `z` on levels) to the array, its letters, and factor and offset to SI.
        hours: Over which a sum runs, by name, where the stored name says it.
        rows: Index of each row on the stored axis.
        columns: Index of each column.
        levels: Index of each level.
    """

    name: str
    grid: Grid
    variables: Variables
    axes: Mapping[str, NDArray[Any]]
    stored: Mapping[tuple[str, bool], tuple[Any, str, tuple[float, float]]]
    hours: Mapping[str, float]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    levels: Mapping[float, int]

    def on(self, grid: Grid) -> FieldStore:
        """Return the store on points of a grid, which must be among its own."""
        rows, columns = places_of(self.grid, grid, self.name)
        return replace(self, grid=grid, rows=self.rows[rows], columns=self.columns[columns])

    def read(
        self, variables: Variables, **places: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return surface `(..., VS, H, W)` and atmospheric `(..., VA, C, H, W)` values; missing ones are NaN.

        `places` are indices on each axis by letter, in the order in which the axes come out.
        """
        levels = np.array([self.levels[level] for level in variables.levels], dtype=np.int64)
        shape = (*map(len, places.values()), len(self.rows), len(self.columns))
        surface = [self._field(name, places, None) for name in variables.surface]
        atmospheric = [self._field(name, places, levels) for name in variables.atmospheric]
        return (
            np.stack(surface, -3) if surface else np.empty((*shape[:-2], 0, *shape[-2:]), np.float32),
            np.stack(atmospheric, -4)
            if atmospheric
            else np.empty((*shape[:-2], 0, len(levels), *shape[-2:]), np.float32),
        )

    def _field(
        self, name: str, places: Mapping[str, NDArray[np.int64]], levels: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        array, letters, (factor, offset) = self.stored[name, levels is not None]
        every = slice(None)
        index = {**places, "l": levels, "y": every, "x": every, "1": 0}
        where = {dim: index[letter] for dim, letter in zip(array.dims, letters, strict=True)}
        try:
            values = np.asarray(array.isel(where).values)
        except Exception as error:  # each engine raises what it likes
            why = " ".join(str(error).split())[:160] or type(error).__name__
            raise UserError(f"{self.name}: {name} cannot be read ({why}); copy it again") from error
        order = [*places, *("l" if levels is not None else ""), "y", "x"]
        left = letters.replace("1", "")
        values = values.transpose([left.index(letter) for letter in order])
        values = values[..., self.rows[:, None], self.columns]
        return (values if (factor, offset) == (1, 0) else values * factor + offset).astype(np.float32)


def open_store(path: str, kinds: str) -> FieldStore:
    """Open a store of fields on the axes `kinds`, in any order; an ensemble's members are an axis besides.

    Raises:
        UserError: If it cannot be read, or holds no such fields.
    """
    import xarray

    try:
        dataset = xarray.decode_cf(open_dataset(path), decode_timedelta=True)
    except (ValueError, TypeError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"the times of {path} cannot be read ({why}); mend their attribute units") from error
    fields: dict[tuple[str, bool], tuple[Any, str, tuple[float, float]]] = {}
    hours: dict[str, float] = {}
    axes: dict[str, Any] = {}
    for stored, array in dataset.variables.items():
        kept = zip(array.dims, letters_of(array, dataset), strict=True)
        letters = "".join(_CALENDAR.get(str(dim), letter) for dim, letter in kept)
        usual = letters.replace("1", "")
        if not set(f"{kinds}yx") <= set(usual) <= set(f"{kinds}yxnl") or len(set(usual)) < len(usual):
            continue
        base, _, rest = str(stored).partition("_seeps_")
        row = recognised(base, array.attrs, levelled="l" in letters)
        if row is None or row.kind == "static":
            continue
        unit = row.unit if rest == "dry_fraction" else str(array.attrs.get("units", row.unit))
        pair = conversion(unit, row.unit)
        if pair is None:
            raise UserError(f"{path}: {stored} is in '{unit}', which cannot be turned into {row.unit}")
        name = f"{row.name}_{row.hours:g}h_{rest}" if rest else row.name
        fields[name, "l" in letters] = array, letters, pair
        hours |= {name: row.hours} if row.hours else {}
        axes |= {letter: dataset[dim] for dim, letter in zip(array.dims, letters, strict=True)}
    if not fields:
        wanted = {"tp": "time and prediction_timedelta", "hd": "hour and dayofyear"}[kinds]
        raise UserError(f"{path} holds no known variable on the axes {wanted}, latitude and longitude")
    mesh = stored_grid(axes.pop("y").values, axes.pop("x").values, path, lambda note: None)
    level = axes.pop("l", None)
    levels = (
        [] if level is None else levels_in_hpa(level.values, level.attrs, path, lambda note: None).tolist()
    )
    groups = [tuple(name for name, levelled in fields if levelled == which) for which in (False, True)]
    return FieldStore(
        name=path,
        grid=mesh.grid,
        variables=Variables(*groups, levels=tuple(sorted(levels))),
        axes={letter: _positions(axis, letter, path) for letter, axis in axes.items()},
        stored=fields,
        hours=hours,
        rows=mesh.rows,
        columns=mesh.columns,
        levels={level: place for place, level in enumerate(levels)},
    )


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


def _positions(axis: Any, letter: str, path: str) -> NDArray[Any]:
    """Return starts as times to the second and leads in hours."""
    values = np.asarray(axis.values)
    kind = {"t": "M", "p": "m"}.get(letter)
    if kind and values.dtype.kind != kind:
        raise UserError(f"{path}: {axis.name} has no unit; write its attribute units, as in 'hours'")
    if letter == "p":
        return values.astype("timedelta64[s]").astype(np.int64) / 3600
    return values.astype("datetime64[s]") if letter == "t" else values
