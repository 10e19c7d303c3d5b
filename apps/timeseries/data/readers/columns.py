"""Columns of a table: what each is for (time, ids, targets, covariates, …), and the time of its rows.

Stamps are dates however written, seconds since 1970, or columns year, month, day, hour.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency as rates
from apps.timeseries.data.readers.tables import Table
from core.errors import UserError, did_you_mean

__all__ = ["TIME_NAMES", "Roles", "infer_roles", "numbers_are_stamps", "read_stamps"]

TIME_NAMES = ("date", "datetime", "timestamp", "time", "ds", "stamp")
"""Usual names of the column of time stamps, in small letters."""

_ID_NAMES = ("item_id", "unique_id", "series_id", "ts_id", "id", "series")
_ID_LIKE = (
    r"(?i)(.*[ _-])?(id|code|sku|store|shop|item|product|article|station|sensor|device|meter|machine|"
    r"site|location|region|country|state|city|customer|user|account|symbol|ticker|zone|building)s?"
    r"([ _-]?(id|nr|no))?"
)
_COMPOSED = ("year", "month", "day", "hour", "minute", "second")


@dataclass(frozen=True)
class Roles:
    """Names of columns by role; empty means not stated.

    Attributes:
        time: The column of time stamps, or several (`year, month, day, hour`) that make one.
        ids: Columns that tell several series in one table apart.
        targets: What is forecast.
        observable: Covariates whose past and future are known (forecasts of weather, say).
        control: Covariates whose past and future are known because the user sets them.
        conditional: Covariates of which only the past is known.
        categorical: Categories that change in time; coded as whole numbers, past only.
        static_categorical: Categories that belong to a whole series.
    """

    time: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    observable: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    conditional: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    static_categorical: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels in their order: target, observable, control, conditional, categorical."""
        return self.targets + self.observable + self.control + self.conditional + self.categorical

    @property
    def exogenous(self) -> tuple[int, ...]:
        """Positions of the channels whose future is known (observable and control)."""
        first = len(self.targets)
        return tuple(range(first, first + len(self.observable) + len(self.control)))

    @staticmethod
    def of(**roles: str | Sequence[str] | None) -> Roles:
        """Return roles from names given singly or as lists; None is an unstated role."""
        names = [field.name for field in fields(Roles)]
        for name in roles:
            if name not in names:
                raise UserError(f"'{name}' is no column role{did_you_mean(name, names)}")
        return Roles(
            **{k: (v,) if isinstance(v, str) else tuple(str(x) for x in v or ()) for k, v in roles.items()}
        )


def infer_roles(
    kinds: Mapping[str, str],
    stated: Roles,
    *,
    source: str,
    distinct: Callable[[Sequence[str]], bool] = lambda _: True,
) -> tuple[Roles, list[str]]:
    """Return the complete roles of a table and what was decided for the user.

    Args:
        kinds: Column name to kind: `"number"`, `"time"` (stamps or text that reads as stamps), `"text"`,
            `"counter"` (whole numbers rising by one) or `"empty"`, in the order of the file.
        stated: What the user named.
        source: What messages call the table.
        distinct: Whether no two rows agree in some columns; stamps that stand twice ask for ids.

    Raises:
        UserError: For an unknown column, one named twice, or no numeric column left.
    """
    _check(kinds, stated, source)
    notes: list[str] = []
    named = {name for field in fields(Roles) for name in getattr(stated, field.name)}
    time = stated.time or _infer_time(kinds, named)
    if time and not stated.time:
        notes.append(f"{source}: time is {', '.join(repr(name) for name in time)}")
    named.update(time)
    ids = stated.ids
    if not ids:
        # a frame in the long layout: a column with one of the usual names
        usual = [name for name in kinds if name.lower() in _ID_NAMES and name not in named]
        ids = tuple(name for name in usual if kinds[name] in ("text", "number", "time"))[:1]
        if time and not ids and not distinct(time):
            ids = _infer_ids(kinds, named, lambda names: distinct([*time, *names]))
        if ids:
            notes.append(f"{source}: series are told apart by {_some(ids)}")
    named.update(ids)
    targets = stated.targets
    if not targets:
        rest = [name for name in kinds if name not in named]
        counters = [name for name in rest if kinds[name] == "counter" and _is_row_number(name)]
        targets = tuple(
            name for name in rest if kinds[name] in ("number", "counter") and name not in counters
        )
        text = [name for name in rest if kinds[name] in ("text", "time")]
        if not targets:
            words = f"; column '{text[0]}' of {source} holds text" if text else ""
            raise UserError(
                f"{source} has no numeric column to forecast among its columns {_some(list(kinds))}{words}"
            )
        for name in counters:
            notes.append(f"{source}: '{name}' only counts the rows and is left out")
        empty = [name for name in rest if kinds[name] == "empty"]
        if empty:
            notes.append(f"{source}: {_listed(empty)} empty and left out")
        if text:
            notes.append(
                f"{source}: {_listed(text)} left out, being no numbers; --data.ids, --data.categorical and "
                "--data.static_categorical name such columns"
            )
        if len(targets) > 1 or stated == Roles():
            notes.append(f"{source}: targets are {_some(list(targets))}")
    return replace(stated, time=tuple(time), ids=tuple(ids), targets=tuple(targets)), notes


def _check(kinds: Mapping[str, str], stated: Roles, source: str) -> None:
    seen: dict[str, str] = {}
    for field in fields(Roles):
        for name in getattr(stated, field.name):
            if name not in kinds:
                raise UserError(
                    f"{source} has no column '{name}' (named in {field.name}); it has {_some(list(kinds))}"
                    f"{did_you_mean(name, kinds)}"
                )
            # a static category may also tell the series apart
            if name in seen and {seen[name], field.name} != {"ids", "static_categorical"}:
                raise UserError(
                    f"column '{name}' of {source} is named both in {seen[name]} and in {field.name}"
                )
            seen[name] = field.name
            if field.name in ("targets", "observable", "control", "conditional") and kinds[name] in (
                "text",
                "time",
            ):
                raise UserError(
                    f"column '{name}' of {source}, named in {field.name}, holds text, not numbers; name "
                    "it in --data.categorical, or mend its cells"
                )


def _infer_time(kinds: Mapping[str, str], named: set[str]) -> tuple[str, ...]:
    free = {name.lower(): name for name in kinds if name not in named}
    for name in TIME_NAMES:
        if name in free and kinds[free[name]] == "time":
            return (free[name],)
    for name, kind in kinds.items():
        if kind == "time" and name not in named:
            return (name,)
    parts = [free[part] for part in _COMPOSED if part in free and kinds[free[part]] in ("number", "counter")]
    if len(parts) >= 3 and "year" in free:
        return tuple(parts)
    if "year" in free and kinds[free["year"]] in ("number", "counter"):
        return (free["year"], free["month"]) if "month" in free else (free["year"],)
    return ()


def _infer_ids(
    kinds: Mapping[str, str], named: set[str], apart: Callable[[Sequence[str]], bool]
) -> tuple[str, ...]:
    """Return the first column of words, else of numbers by its name, else all these that tell rows apart."""
    free = [name for name in kinds if name not in named]
    text = [name for name in free if kinds[name] == "text"]
    coded = [name for name in free if kinds[name] == "number" and re.fullmatch(_ID_LIKE, name)]
    choices = [*((name,) for name in [*text, *coded]), tuple(text), (*text, *coded)]
    return next((names for names in choices if names and apart(names)), ())


def _is_row_number(name: str) -> bool:
    return bool(
        re.fullmatch(
            r"(?i)(unnamed: ?\d+|no\.?|index|row|rownum|nr|#|time|t|step|level_0|__index_level_\d+__|)", name
        )
    )


def _listed(names: Sequence[str]) -> str:
    return f"column {names[0]!r} is" if len(names) == 1 else f"columns {_some(names)} are"


def _some(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


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
