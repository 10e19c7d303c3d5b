"""Tracks of tropical cyclones in forecasts: the tracker of Aurora (Bodnar et al. 2025, Nature 641).

A step's first guess goes on in a straight line; the centre is the nearest minimum of pressure over open sea,
else of the height of 700 hPa.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError

if TYPE_CHECKING:
    from apps.weather.batch import Grid, States, Variables

__all__ = ["CyclonePoint", "follow_cyclone"]

_REACH = 5.0  # degrees about the first guess
_REACHES = (5.0, 4.0, 3.0, 2.0, 1.5)
_CORE = 1.5  # degrees about the centre in which strength is measured
_MEMORY = 8  # points that the straight line is fitted to
_APART = 8  # grid points that a minimum must rule
_LAND = 0.5

Point = tuple[float, float]


@dataclass(frozen=True)
class CyclonePoint:
    """A cyclone's centre in degrees, the least pressure (Pa) and greatest 10-m wind (m/s) within 1.5 degrees,
    and whether a minimum was there; else the centre is the first guess.
    """

    latitude: float
    longitude: float
    pressure: float
    wind: float
    found: bool = True


def follow_cyclone(
    forecast: Iterable[States], variables: Variables, grid: Grid, land: NDArray, *, start: Point
) -> list[CyclonePoint]:
    """Return a cyclone's points, one for each state.

    Args:
        forecast: States of one sample and one time each, physical units: what a roll-out yields.
        variables: Theirs, with `msl`, `10u` and `10v`, and best `z` on 700 hPa.
        grid: Theirs.
        land: `(H, W)` fraction of land.
        start: Latitude and longitude of the centre before the first state.

    Raises:
        UserError: If a variable is missing, the grid is curvilinear, or no minimum is near the start.
    """
    if missing := [name for name in ("msl", "10u", "10v") if name not in variables.surface]:
        raise UserError(f"a cyclone cannot be followed without {', '.join(missing)} in the forecast")
    if grid.curvilinear:
        raise UserError("a cyclone is followed on rows of latitude and columns of longitude only")
    has_height = "z" in variables.atmospheric and 700 in variables.levels
    centres, track = [start], []
    for state in forecast:
        surface = state.surface[0, 0].cpu().numpy()
        msl, u, v = (surface[variables.surface.index(name)] for name in ("msl", "10u", "10v"))
        height = None
        if has_height:
            at = variables.atmospheric.index("z"), variables.levels.index(700)
            height = state.atmospheric[0, 0][at].cpu().numpy()
        centre = _next_centre(centres, msl, height, grid, land)
        if centre is None and len(track) == 0:
            raise UserError(
                "no minimum of pressure lies near {:.1f} N, {:.1f} E in the first state; give the cyclone's "
                "centre as start".format(*start)
            )
        latitude, longitude = centre or _guess(centres)
        core = (latitude, longitude), _CORE
        pressure = _box(msl, grid, *core)[0].min(initial=np.inf)
        wind = _box(np.hypot(u, v), grid, *core)[0].max(initial=0.0)
        track.append(CyclonePoint(latitude, longitude, float(pressure), float(wind), centre is not None))
        centres.append((latitude, longitude))
    return track


def _next_centre(
    centres: Sequence[Point], msl: NDArray, height: NDArray | None, grid: Grid, land: NDArray
) -> Point | None:
    guess = _guess(centres)
    if (centre := _over_sea(msl, grid, land, guess)) is not None:
        return centre
    if height is None or (aloft := _nearest_minimum(height, grid, guess, _REACH)) is None:
        return None
    return _over_sea(msl, grid, land, aloft) or aloft


def _guess(centres: Sequence[Point]) -> Point:
    last = np.array(centres[-_MEMORY:], dtype=np.float64)
    if len(last) > 1:
        last[:, 1] = np.unwrap(last[:, 1], period=360)
        last = np.polyval(np.polyfit(np.arange(len(last)), last, 1), len(last))[None]
    return float(np.clip(last[0, 0], -90, 90)), float(last[0, 1] % 360)


def _over_sea(msl: NDArray, grid: Grid, land: NDArray, near: Point) -> Point | None:
    for reach in _REACHES:
        if _box(land, grid, near, reach)[0].max(initial=0.0) < _LAND:
            centre = _nearest_minimum(msl, grid, near, reach)
            if centre is not None:
                return centre
    return None


def _nearest_minimum(field: NDArray, grid: Grid, near: Point, reach: float) -> Point | None:
    from scipy.ndimage import gaussian_filter, minimum_filter

    box, latitude, longitude = _box(field, grid, near, reach)
    if min(box.shape) < 3:
        return None
    smooth = gaussian_filter(box, sigma=1)
    lowest = minimum_filter(smooth, size=_APART) == smooth
    rows, columns = np.nonzero(lowest[1:-1, 1:-1])  # at the rim it is the field's slope
    if len(rows) == 0:
        return None
    y, x = np.deg2rad(latitude[rows + 1]), np.deg2rad(longitude[columns + 1])
    y0, x0 = np.deg2rad(near)
    closeness = np.sin(y) * np.sin(y0) + np.cos(y) * np.cos(y0) * np.cos(x - x0)
    best = int(np.argmax(closeness))
    return float(latitude[rows[best] + 1]), float(longitude[columns[best] + 1])


def _box(field: NDArray, grid: Grid, centre: Point, reach: float) -> tuple[NDArray, NDArray, NDArray]:
    """Return what lies within `reach` degrees, from west to east also across 0, and its coordinates."""
    rows = np.flatnonzero(np.abs(grid.latitude - centre[0]) <= reach)
    offset = (grid.longitude - centre[1] + 180) % 360 - 180
    columns = np.flatnonzero(np.abs(offset) <= reach)
    columns = columns[np.argsort(offset[columns])]
    return field[np.ix_(rows, columns)], grid.latitude[rows], grid.longitude[columns]
