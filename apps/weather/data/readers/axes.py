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

__all__ = ["StoredGrid", "decoded_times", "is_axis", "letters_of", "levels_in_hpa", "stored_grid"]

NAMES = {
    "t": "time valid_time date datetime forecast_reference_time",
    "p": "prediction_timedelta lead_time step forecast_period leadtime lead lead_timedelta",
    "n": "number realization member ensemble ens ensemble_member",
    "e": "expver",
    "l": "level pressure_level isobaricinhpa isobaricinpa plev lev pressure air_pressure isobaric levels",
    "y": "latitude lat y nav_lat rlat",
    "x": "longitude lon x nav_lon rlon",
}  # fmt: skip
_STANDARD = {"latitude": "y", "longitude": "x", "air_pressure": "l", "time": "t", "realization": "n"}
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
Notes = Callable[[str], None]  # takes a sentence; each is said once


def letters_of(variable: Any, dataset: Any) -> str:
    """Return a letter of `NAMES` for each axis, `1` for another of length one, `?` for others."""
    letters = ""
    for dim, size in zip(variable.dims, variable.shape, strict=True):
        attributes = dataset.variables[dim].attrs if dim in dataset.variables else {}
        units = str(attributes.get("units", "")).lower()
        named = next((letter for letter, names in NAMES.items() if str(dim).lower() in names.split()), None)
        if named is None and units.startswith(("degrees_n", "degree_n", "degrees_e", "degree_e")):
            named = "y" if "_n" in units else "x"
        if named is None:
            named = _STANDARD.get(str(attributes.get("standard_name")), "1" if size == 1 else "?")
        letters += named
    return letters


def is_axis(name: Any, letter: str) -> bool:
    """Say whether a variable is called as the positions along an axis."""
    return str(name).lower() in NAMES[letter].split()


def decoded_times(values: Any, attributes: Mapping[str, Any], where: str) -> NDArray[np.datetime64]:
    """Return stored times as UTC to the second.

    Args:
        values: Numbers, text or datetimes.
        attributes: Of the variable: `units` and `calendar`.
        where: File and variable, for messages.

    Raises:
        UserError: If they have no units, a calendar other than ours, or cannot be read.
    """
    times = np.asarray(values)
    units, calendar = str(attributes.get("units", "")), str(attributes.get("calendar", "standard")).lower()
    if calendar not in _CALENDARS:
        raise UserError(
            f"the times of {where} are of the calendar '{calendar}'; only dates of the ordinary calendar can "
            "be used: convert them first (xarray: `convert_calendar('standard')`)"
        )
    try:
        if times.dtype.kind == "M":
            return times.astype("datetime64[s]")
        if times.dtype.kind in "SUO":
            return np.array([_moment(str(np.asarray(text).astype(str))) for text in times.ravel()])
        if re.match(r"day as %Y%m%d", units):
            days = np.array([f"{int(day):08d}" for day in times], dtype=str)
            dates = np.array([f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in days], dtype="datetime64[s]")
            return dates + np.round(times % 1 * 86400).astype("timedelta64[s]")
        if " since " not in units:
            raise UserError(
                f"the times of {where} are numbers {f'of the unit {units!r}' if units else 'without units'}, "
                "which tell no date; write their attribute units, as in 'hours since 1900-01-01'"
            )
        from xarray.coding.times import decode_cf_datetime

        decoded = decode_cf_datetime(times, units, calendar, use_cftime=False)
    except (ValueError, TypeError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"the times of {where} cannot be read ({units}: {why}); mend that variable"
        ) from error
    # A fraction of a day in floating point is off by less than half a second, or by less than half a minute.
    whole = np.timedelta64(1, "m" if times.dtype.kind == "f" else "s")
    rounded = (decoded.astype("datetime64[ns]") + whole.astype("timedelta64[ns]") // 2).astype(
        f"datetime64[{np.datetime_data(whole)[0]}]"
    )
    return rounded.astype("datetime64[s]")


def _moment(text: str) -> np.datetime64:
    import pandas

    moment = pandas.Timestamp(text)
    return np.datetime64((moment.tz_convert("UTC").tz_localize(None) if moment.tz else moment), "s")


def levels_in_hpa(values: Any, attributes: Mapping[str, Any], where: str, note: Notes) -> NDArray[np.float64]:
    """Return pressure levels in hPa.

    Raises:
        UserError: If they are no pressures.
    """
    levels = np.atleast_1d(np.asarray(values, dtype=np.float64))
    unit = str(attributes.get("units", "")).lower()
    if unit in ("pa", "pascal", "pascals") or (unit in ("", "1") and levels.max() > 2000):
        note("levels are in Pa: taken as hPa")
        return levels / 100
    if unit in ("hpa", "millibars", "millibar", "mb", "mbar", "", "1"):
        return levels
    raise UserError(f"the levels of {where} are in '{unit}'; only pressure levels (hPa or Pa) can be used")


@dataclass(frozen=True)
class StoredGrid:
    """Positions of a file's fields, mended, and where each row and column is stored.

    Attributes:
        grid: Falling latitude, rising longitude from 0 to below 360.
        rows: `(H,)` index of each row on the stored axis.
        columns: `(W,)` index of each column.
    """

    grid: Grid
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    @property
    def _positions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.grid.latitude, self.grid.longitude

    def same(self, other: StoredGrid) -> bool:
        """Say whether two files have one grid, to the precision of float32."""
        return self.grid.shape == other.grid.shape and all(
            first.shape == second.shape and bool(np.allclose(first, second, rtol=0, atol=1e-4))
            for first, second in zip(self._positions, other._positions, strict=True)
        )


def stored_grid(latitude: Any, longitude: Any, where: str, note: Notes) -> StoredGrid:
    """Return the mesh of stored positions, lists or matrices (H, W).

    Raises:
        UserError: If they give no grid.
    """
    north, east = _plain(latitude), _plain(longitude)
    rows, columns = np.arange(north.shape[0]), np.arange(east.shape[-1])
    if not (np.isfinite(north).all() and np.isfinite(east).all()):
        raise UserError(f"{where} has positions that are no numbers; mend its latitudes and longitudes")
    if north.shape[0] > 1 and (np.diff(north, axis=0) > 0).all():
        note("latitude rises: turned to fall from north to south")
        rows = rows[::-1]
    if (east < 0).any() and (east >= -180.001).all():
        note("longitude lies in -180 to 180: turned to 0 to 360")
    if (east < 0).any() or (east >= 360).any():
        east = np.round(east, 9) % 360
        if east.ndim == 1:
            columns = np.unique(east, return_index=True)[1]
            if len(columns) < len(east):
                note("the last longitude repeats the first: left out")
    try:
        if north.ndim == 2:
            return StoredGrid(Grid(north[rows], east[rows]), rows, columns)
        return StoredGrid(Grid(north[rows], east[columns]), rows, columns)
    except UserError as error:
        raise UserError(f"{where} has no grid that can be used: {error}; mend it or regrid first") from error


def _plain(positions: Any) -> NDArray[np.float64]:
    """Return positions in float64: 45.3 in float32 as the decimal number that is meant."""
    values = np.asarray(positions)
    if values.dtype == np.float32:
        values = values.astype(str)
    return np.atleast_1d(values.astype(np.float64))
