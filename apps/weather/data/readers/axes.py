"""Axes of stored fields, known by their names, and mended: times, levels, latitudes and longitudes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Grid
from core.errors import UserError

__all__ = ["StoredGrid", "decoded_times", "hours_of", "is_axis", "letters_of", "levels_in_hpa", "stored_grid"]

NAMES = {
    "t": "time valid_time date datetime forecast_reference_time init_time",
    "p": "prediction_timedelta lead_time step forecast_period leadtime lead lead_timedelta",
    "n": "number realization member ensemble ens ensemble_member",
    "e": "expver",
    "l": "level pressure_level isobaricinhpa isobaricinpa plev lev pressure air_pressure isobaric levels",
    "y": "latitude lat nav_lat y",
    "x": "longitude lon nav_lon x",
}
_STANDARD = {"latitude": "y", "longitude": "x", "air_pressure": "l", "time": "t", "realization": "n"}
_STANDARD |= {"degrees_north": "y", "degree_north": "y", "degrees_east": "x", "degree_east": "x"}
_HOURS = dict.fromkeys(("", "h", "hr", "hour"), 1.0) | {"day": 24.0, "minute": 1 / 60, "second": 1 / 3600}
_HOURS |= {"nanosecond": 1 / 36e11}
Notes = Callable[[str], None]  # takes a sentence; each is said once


def is_axis(name: Any, letter: str) -> bool:
    """Say whether a variable is called as the positions along an axis."""
    return str(name).lower() in NAMES[letter].split()


def letters_of(variable: Any, dataset: Any) -> str:
    """Return a letter of `NAMES` for each axis, `1` for another of length one, `?` for others."""
    letters = ""
    for dim, size in zip(variable.dims, variable.shape, strict=True):
        attributes = dataset.variables[dim].attrs if dim in dataset.variables else {}
        tags = (str(attributes.get(key)).lower() for key in ("standard_name", "units"))
        named = [letter for letter in NAMES if is_axis(dim, letter)] + [_STANDARD.get(tag) for tag in tags]
        letters += next(filter(None, named), "1" if size == 1 else "?")
    return letters


def decoded_times(values: Any, attributes: Mapping[str, Any], where: str) -> NDArray[np.datetime64]:
    """Return stored times, numbers, text or datetimes, as UTC to the second.

    Raises:
        UserError: If they have no units, a calendar other than ours, or cannot be read.
    """
    times, units = np.atleast_1d(values), str(attributes.get("units", ""))
    calendar = str(attributes.get("calendar", "standard")).lower()
    if calendar not in ("standard", "gregorian", "proleptic_gregorian"):
        raise UserError(
            f"the times of {where} are of the calendar '{calendar}', not of the ordinary one; convert them "
            "(xarray: `convert_calendar('standard')`)"
        )
    try:
        if times.dtype.kind == "M":
            decoded = times.astype("datetime64[s]")
        elif times.dtype.kind in "SUO":
            import pandas

            text = [each.decode() if isinstance(each, bytes) else str(each) for each in times.tolist()]
            decoded = pandas.to_datetime(text, utc=True).tz_localize(None).to_numpy().astype("datetime64[s]")
        elif units.startswith("day as %Y%m%d"):
            days = [f"{int(day):08d}" for day in times]
            decoded = np.array([f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in days], dtype="datetime64[s]")
            decoded += np.round(times % 1 * 86400).astype("timedelta64[s]")
        elif " since " in units:
            from xarray.coding.times import decode_cf_datetime

            decoded = decode_cf_datetime(times, units, calendar, use_cftime=False).astype("datetime64[ns]")
            if times.dtype.kind == "f":  # fractions of days are off by less than half a minute
                decoded = (decoded + np.timedelta64(30, "s")).astype("datetime64[m]")
            decoded = decoded.astype("datetime64[s]")
        else:
            raise UserError(
                f"the times of {where} are numbers {f'of the unit {units!r}' if units else 'without units'}, "
                "which tell no date; write their attribute units, as in 'hours since 1900-01-01'"
            )
        if np.isnat(decoded).any():
            raise ValueError(f"{int(np.isnat(decoded).sum())} are missing")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"the times of {where} cannot be read ({units}: {why}); mend them") from error
    return decoded


def hours_of(values: Any, attributes: Mapping[str, Any], where: str) -> tuple[float, ...]:
    """Return lead times in hours; other units than of time are refused."""
    leads, unit = np.atleast_1d(values), str(attributes.get("units", "")).lower().rstrip("s")
    if leads.dtype.kind == "m":
        return tuple((leads / np.timedelta64(1, "h")).tolist())
    if unit not in _HOURS:
        raise UserError(f"{where} has lead times in '{unit}'; write them in hours")
    return tuple((leads.astype(np.float64) * _HOURS[unit]).round(6).tolist())


def levels_in_hpa(values: Any, attributes: Mapping[str, Any], where: str, note: Notes) -> tuple[float, ...]:
    """Return pressure levels in hPa.

    Raises:
        UserError: If they are no pressures.
    """
    levels, unit = (
        np.atleast_1d(np.asarray(values, dtype=np.float64)),
        str(attributes.get("units", "")).lower(),
    )
    other = re.search("hybrid|sigma|model", " ".join(map(str, attributes.values())).lower())
    if unit not in ("hpa", "millibars", "millibar", "mb", "mbar", "pa", "pascal", "", "1", "~") or other:
        raise UserError(
            f"{where} lies on levels of '{other[0] if other else unit}', not of pressure; interpolate it"
        )
    if unit.startswith("pa") or (unit in ("", "1", "~") and levels.max() > 2000):
        note("levels are in Pa: taken as hPa")
        levels = levels / 100
    return tuple(levels.round(3).tolist())


@dataclass(frozen=True, eq=False)
class StoredGrid:
    """Positions, mended: latitude falls, longitude rises from 0 to below 360; and where they are stored."""

    grid: Grid
    rows: NDArray[np.int64]  # (H,) index of each row on the stored axis
    columns: NDArray[np.int64]  # (W,)

    def same(self, other: StoredGrid) -> bool:
        """Say whether two files have one grid, to the precision of float32."""
        first, second = self.grid, other.grid
        pairs = (first.latitude, second.latitude), (first.longitude, second.longitude)
        return first.shape == second.shape and all(np.allclose(*pair, rtol=0, atol=1e-4) for pair in pairs)


def stored_grid(latitude: Any, longitude: Any, where: str, note: Notes) -> StoredGrid:
    """Return the grid of stored positions, lists or matrices (H, W).

    Raises:
        UserError: If they give no grid.
    """
    north, east = _plain(latitude), _plain(longitude)
    rows, columns = np.arange(north.shape[0]), np.arange(east.shape[-1])
    if north.shape[0] > 1 and (np.diff(north, axis=0) > 0).all():
        note("latitude rises: turned to fall from north to south")
        rows = rows[::-1]
    if (east < 0).any():
        note("longitude lies in -180 to 180: turned to 0 to 360")
    east = np.round(east, 9) % 360
    if east.ndim == 1 and len(columns := np.unique(east, return_index=True)[1]) < len(east):
        note("the last longitude repeats the first: left out")
    try:
        return StoredGrid(Grid(north[rows], east[columns] if east.ndim == 1 else east[rows]), rows, columns)
    except UserError as error:
        raise UserError(f"{where} has no grid that can be used: {error}; mend it or regrid first") from error


def _plain(positions: Any) -> NDArray[np.float64]:
    """Return positions in float64: 45.3 in float32 as the decimal number that is meant."""
    values = np.atleast_1d(positions)
    return (values.astype(str) if values.dtype == np.float32 else values).astype(np.float64)
