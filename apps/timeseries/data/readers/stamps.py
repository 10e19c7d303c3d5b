"""Time stamps of a table: dates however written, seconds since 1970, or columns year, month, day, hour."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency as rates
from apps.timeseries.data.readers.roles import Roles
from apps.timeseries.data.readers.tables import Table
from core.errors import UserError

__all__ = ["numbers_are_stamps", "read_stamps"]


def read_stamps(table: Table, roles: Roles) -> pd.DatetimeIndex:
    """Return the time of every row, in microseconds and without a time zone (UTC where there was one).

    Raises:
        UserError: For the first row whose time is missing or cannot be read.
    """
    if len(roles.time) > 1 or _whole_years(table, roles.time[0]):
        return _composed(table, roles.time)
    name = roles.time[0]
    column = table.column(name)
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise UserError(
            f"{table.where(int(missing[0]))} has no time stamp in column '{name}'; delete or complete it"
        )
    if pd.api.types.is_numeric_dtype(column.dtype):
        return _from_epoch(table, name, column)
    if not pd.api.types.is_datetime64_any_dtype(column.dtype):
        column = _parse(table, name, column)
    index = pd.DatetimeIndex(column)
    if index.tz is not None:
        index = index.tz_convert("UTC").tz_localize(None)
    return rates.in_microseconds(index)


def _parse(table: Table, name: str, column: pd.Series) -> pd.Series:
    text = column.astype(str).str.strip()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of slow parsing where pandas knows no single format
        for options in ({}, {"dayfirst": True}, {"format": "ISO8601"}, {"utc": True}):
            try:
                return pd.to_datetime(text, **options)
            except (ValueError, TypeError, OverflowError):
                continue
    single = pd.to_datetime(text, errors="coerce", format="mixed")
    bad = np.flatnonzero(single.isna().to_numpy())
    if not len(bad):
        return single
    raise UserError(
        f"{table.where(int(bad[0]))}, column '{name}' holds '{text.iloc[bad[0]]}', which is not a time stamp"
    )


def numbers_are_stamps(values: np.ndarray) -> bool:
    """Return whether numbers read as dates (20240131) or as time since 1970 in s, ms, us or ns."""
    return _days(values) is not None or _unit(values) is not None


def _days(values: np.ndarray) -> pd.DatetimeIndex | None:
    if not (len(values) and np.min(values) >= 1800_01_01 and np.max(values) <= 2200_12_31):
        return None
    try:
        return pd.DatetimeIndex(pd.to_datetime(values.astype(np.int64).astype(str), format="%Y%m%d"))
    except ValueError:
        return None


def _unit(values: np.ndarray) -> Literal["s", "ms", "us", "ns"] | None:
    size = float(np.abs(values).max()) if len(values) else 0.0
    units: tuple[tuple[float, Literal["s", "ms", "us", "ns"]], ...]
    units = ((1e11, "s"), (1e14, "ms"), (1e17, "us"), (1e20, "ns"))
    return next((unit for limit, unit in units if 1e8 <= size < limit), None)


def _from_epoch(table: Table, name: str, column: pd.Series) -> pd.DatetimeIndex:
    values = column.to_numpy(dtype=np.float64)
    days = _days(values)
    if days is not None:
        table.notes.append(f"{table.name}: '{name}' is read as year, month and day in one number")
        return rates.in_microseconds(days)
    unit = _unit(values)
    if unit is None:
        raise UserError(
            f"column '{name}' of {table.name}, named as time, holds numbers up to {np.abs(values).max():g}, "
            "which are neither dates nor seconds since 1970; leave time out if the rows are equally spaced"
        )
    table.notes.append(f"{table.name}: '{name}' is read as {unit} since 1970")
    return rates.in_microseconds(pd.DatetimeIndex(pd.to_datetime(column, unit=unit)))


def _whole_years(table: Table, name: str) -> bool:
    if table.kinds[name] not in ("number", "counter"):
        return False
    values = table.numbers(name)
    return bool(
        np.nanmin(values) >= 1000 and np.nanmax(values) <= 2500 and (values == np.round(values)).all()
    )


def _composed(table: Table, names: Sequence[str]) -> pd.DatetimeIndex:
    lower = [name.lower() for name in names]
    if len(names) == 1:
        lower = ["year"]
    units = ["year", "month", "day", "hour", "minute", "second"]
    wrong = [name for name, low in zip(names, lower, strict=True) if low not in units]
    if wrong or "year" not in lower:
        raise UserError(
            f"time names {len(names)} columns of {table.name}; several must be called {', '.join(units)}"
            + (f", not '{wrong[0]}'" if wrong else "")
        )
    parts = {low: table.numbers(name) for name, low in zip(names, lower, strict=True)}
    empty = next(((n, int(np.isnan(v).argmax())) for n, v in parts.items() if np.isnan(v).any()), None)
    if empty:
        raise UserError(f"{table.where(empty[1])} has no {empty[0]}; delete the row or complete its time")
    for unit in ("month", "day"):
        parts.setdefault(unit, np.ones(table.rows))
    try:
        return pd.DatetimeIndex(pd.to_datetime(pd.DataFrame(parts))).as_unit("us")
    except ValueError as error:
        found = pd.to_datetime(pd.DataFrame(parts), errors="coerce")
        row = int(found.isna().to_numpy().argmax())
        raise UserError(f"{table.where(row)}: {', '.join(names)} are no date") from error
