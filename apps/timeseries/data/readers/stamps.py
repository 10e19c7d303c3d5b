"""Time of a table's rows, however it is written, and the same writing for the stamps that follow."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta, timezone, tzinfo

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency as rates
from apps.timeseries.data.readers.columns import COUNT_NAMES, DAY_PARTS, TIME_NAMES, Roles
from apps.timeseries.data.readers.tables import Table
from core.errors import UserError

__all__ = ["Clock", "Stamps", "kind_of_numbers", "read_stamps", "style_of"]

_EPOCH = pd.Timestamp(0).as_unit("us")
_FIELDS = {
    "%Y": r"\d{4}", "%G": r"\d{4}", "%y": r"\d{2}", "%m": r"\d{2}", "%V": r"\d{1,2}", "%u": "[1-7]",
    "%q": "[1-4]", "%b": "[A-Za-z]{3}",
}  # fmt: skip
_TEXTS = (
    "%G-W%V", "%GW%V", "%G-W%V-%u", "%GW%V%u", "%YQ%q", "%Y-Q%q", "%Y Q%q", "Q%q %Y", "Q%q-%Y", "Q%q/%Y",
    "%Y-%m", "%Y/%m", "%Y.%m", "%YM%m", "%Y-M%m", "%m/%Y", "%m.%Y", "%m-%Y", "%b %Y", "%b-%Y", "%b-%y",
)  # fmt: skip
_NUMBERS = {"%Y%m%d": 8, "%Y%m": 6, "%G%V": 6, "%Y%m%d%H": 10, "%Y%m%d%H%M": 12, "%Y%m%d%H%M%S": 14, "%Y": 4}
_EPOCHS = {"s": 1e8, "ms": 1e11, "us": 1e14, "ns": 1e17}  # the smallest number of each unit, up to the next's
_LIMIT = 9e12  # a count in microseconds of 64 bits
_DATE = r"(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})(?!\d)(.*)"
_OFFSET = r"\s*(?:Z|UTC|[+-]\d{2}:?\d{2})$"


@dataclass(frozen=True)
class Stamps:
    """Time of rows, and how it is written.

    Attributes:
        times: Without a zone: universal time where the table has zones, unless `local`.
        style: Pattern of dates (`%G-W%V`), unit of numbers since 1970 (`ms`), `number`, `duration`, a period
            (`period M`), or the order of a date's parts (`day first`); empty for other stamps.
        zone: Zone of the table, or None.
        offsets: From universal time to the clock of each row, where only offsets are written.
        local: Whether the times are those of the zone's clock.
    """

    times: pd.DatetimeIndex
    style: str = ""
    zone: tzinfo | None = None
    offsets: pd.TimedeltaIndex | None = None
    local: bool = False

    @property
    def nameless(self) -> bool:
        """Whether the rate has no name: the rows are only counted."""
        return self.style == "number"

    def of(self, rows: np.ndarray | slice) -> Stamps:
        """Return the stamps of some rows; those with offsets go on in the last row's."""
        if self.offsets is None:
            return replace(self, times=self.times[rows])
        offsets = self.offsets[rows]
        zone = timezone(timedelta(seconds=offsets[-1].total_seconds()))
        return replace(self, times=self.times[rows], offsets=offsets, zone=zone)

    def on_clock(self) -> Stamps:
        """Return the stamps on the zone's own clock."""
        if self.zone is None or self.local:
            return self
        if self.offsets is not None:
            return replace(self, times=self.times + self.offsets, local=True)
        times = self.times.tz_localize("UTC").tz_convert(self.zone).tz_localize(None)
        return replace(self, times=times, local=True)

    def matching(self, other: Stamps) -> pd.DatetimeIndex:
        """Return the times as comparable to another table's, which may have another zone, or none."""
        if other.zone is None or self.zone is None or isinstance(other.zone, timezone):
            return (
                self.on_clock().times if other.zone is None or other.local else _universal(self, other.zone)
            )
        return replace(self, zone=other.zone, offsets=None).on_clock().times if other.local else self.times

    def write(self, times: pd.DatetimeIndex) -> pd.Index:
        """Return further times as the table writes its own."""
        if self.style == "duration":
            return times - _EPOCH
        if self.style in ("number", *_EPOCHS):
            unit = np.timedelta64(1, "s" if self.style == "number" else self.style)
            away = np.asarray(times - _EPOCH)
            whole = (away % unit == np.timedelta64(0)).all()
            return pd.Index(away // unit if whole else (away / unit).round(9))
        if self.style.startswith("period "):
            return times.to_period(self.style[7:])
        if "%" in self.style:
            words = (times.to_period("Q") if "%q" in self.style else times).strftime(self.style)
            return words.astype(np.int64) if self.style in _NUMBERS else words
        if self.zone is None:
            return times
        if not self.local:
            return times.tz_localize("UTC").tz_convert(self.zone)
        return _localised(times, self.zone)


@dataclass(frozen=True)
class Clock:
    """Stamps of a regular series at any position, before or after its rows, and how its table writes them."""

    grid: rates.StampGrid
    written: Stamps

    def stamps(self, first: int, count: int) -> pd.Index:
        """Return `count` stamps from position `first` on, as the table writes them."""
        return self.written.write(self.grid.stamps(first, count))

    def positions(self, times: Stamps, rows: np.ndarray, first: int, count: int) -> np.ndarray:
        """Return which of `count` positions from `first` on another table's rows are, -1 for none."""
        wanted, others = self.grid.stamps(first, count), times.of(rows).matching(self.written)
        if self.grid.rounded is None:
            return wanted.get_indexer(others.as_unit(wanted.unit))
        half = pd.Timedelta(self.grid.rounded[0] / 2, unit="ns")
        return wanted.get_indexer(others.as_unit(wanted.unit), method="nearest", tolerance=half)


def read_stamps(table: Table, roles: Roles, *, style: str = "") -> Stamps:
    """Return the time of every row.

    Args:
        table: The table.
        roles: Its columns' roles.
        style: How a table that belongs to this one writes its time; it decides what can be read in two ways.

    Raises:
        UserError: For the first row whose time is missing or cannot be read.
    """
    names = roles.time
    if len(names) > 1 and not any(name.lower() == "year" for name in names):
        label, column = " and ".join(names), _joined(table, names)
    elif len(names) > 1:
        return Stamps(_composed(table, names))
    else:
        label, column = names[0], table.column(names[0])
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise UserError(
            f"{table.where(int(missing[0]))} has no time stamp in column '{label}'; delete or complete it"
        )
    kind = column.dtype
    if isinstance(kind, pd.PeriodDtype):
        return Stamps(_plain(column.dt.to_timestamp()), f"period {kind.name[7:-1]}")
    if pd.api.types.is_timedelta64_dtype(kind):
        return Stamps(_plain(_EPOCH + column), "duration")
    if pd.api.types.is_numeric_dtype(kind):
        return _from_numbers(table, label, column, style)
    if pd.api.types.is_datetime64_any_dtype(kind):
        return _zoned(column)
    return _from_text(table, label, column.astype(str).str.strip(), style)


def style_of(table: Table, roles: Roles, *, proof: bool = False) -> str:
    """Return the style of a table's time if another reading is possible; with `proof` only a certain one."""
    if len(roles.time) > 1:
        return ""
    column = table.column(roles.time[0])
    if pd.api.types.is_numeric_dtype(column.dtype):
        styles = _styles(column.to_numpy(dtype=np.float64, na_value=np.nan))
        if proof:
            return styles[0] if len(styles) == 1 else ""
        return styles[0] if {"%Y%m", "%G%V"} <= set(styles) else ""
    if column.dtype.kind != "O" and not pd.api.types.is_string_dtype(column.dtype):
        return ""
    text = column.dropna().astype(str).str.strip()
    if not len(text) or not re.fullmatch(_DATE, text.iloc[0]):
        return ""
    return _certain(text) if proof else _order(text, "")


def kind_of_numbers(table: Table, name: str) -> str:
    """Return `"time"` for numbers that are dates such as 202401, seconds since 1970 or a count.

    Beside a column of dates, numbers such as 1330 in a column called time are a `"clock"`. Empty for others.
    """
    others = [kind for other, kind in table.kinds.items() if other != name and kind in ("time", "date")]
    alone = not others and "year" not in map(str.lower, table.kinds)
    if name.lower() == "year":
        return ""
    named = name.lower() in TIME_NAMES or (alone and name.lower() in COUNT_NAMES)
    if not named and not _styles(pd.to_numeric(table.head(name), errors="coerce").to_numpy(np.float64)):
        return ""
    column = table.column(name)  # float64 has no room for nanoseconds since 1970
    values = column.to_numpy() if column.dtype.kind in "iu" else table.numbers(name)
    if len(values) < 2 or not np.isfinite(values).all():
        return ""
    if name.lower() == "time" and "date" in others and values.min() >= 0 and values.max() <= 2400:
        return "clock" if (values % 100 < 60).all() and (values == np.rint(values)).all() else ""
    unique = np.unique(values)
    steps = np.diff(values)
    likely = np.isclose(steps, np.median(steps[steps > 0])) if (steps > 0).any() else np.array([False])
    runs = likely.sum() > 0.9 * (steps > 0).sum() and (steps < 0).sum() < len(steps) / 3
    styles = [style for style in _styles(values) if style != "%Y" or (runs and values.min() >= 1800)]
    if not named:
        regular = len(unique) > 7 and any(rates.infer(_dated(unique, style)) for style in styles)
    else:
        counted = alone and name.lower() in TIME_NAMES and np.abs(values).max() < _LIMIT
        regular = bool(styles or runs or (steps > 0).all()) or (counted and rates.infer(_numbered(unique)))
    return "time" if regular else ""


def _plain(column: pd.Series | pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Return naive stamps in microseconds, in nanoseconds only where they need them."""
    times = pd.DatetimeIndex(column, copy=False)  # the frame's own: long tables have no room for two
    return times if times.unit == "ns" and (times.asi8 % 1000).any() else rates.in_microseconds(times)


def _zoned(column: pd.Series, style: str = "") -> Stamps:
    index = pd.DatetimeIndex(column)
    if index.tz is None:
        return Stamps(_plain(index), style)
    return Stamps(_plain(index.tz_convert("UTC").tz_localize(None)), style, index.tz)


def _universal(stamps: Stamps, zone: tzinfo) -> pd.DatetimeIndex:
    if stamps.zone is not None:
        return stamps.times
    return _localised(stamps.times, zone).tz_convert("UTC").tz_localize(None)


def _localised(times: pd.DatetimeIndex, zone: tzinfo) -> pd.DatetimeIndex:
    first = np.ones(len(times), dtype=bool)  # of the two hours of one name
    return times.tz_localize(zone, ambiguous=first, nonexistent="shift_forward")


# numbers


def _styles(values: np.ndarray) -> list[str]:
    """Return the ways in which numbers read as time: patterns of dates, or a unit since 1970."""
    values = values[~np.isnan(values)]
    if not len(values) or (values != np.rint(values)).any():
        values = values[:0]
    least, most = (values.min(), values.max()) if len(values) else (0, 0)
    styles = [
        style
        for style, digits in _NUMBERS.items()
        if (1000 if style == "%Y" else 1800) * 10 ** (digits - 4) <= least
        and most < 2201 * 10 ** (digits - 4)
        and _dated(values, style) is not None
    ]
    return styles + [unit for unit, size in _EPOCHS.items() if size <= least and most < 1000 * size]


def _dated(values: np.ndarray, style: str) -> pd.DatetimeIndex | None:
    if style in _EPOCHS:
        return _plain(pd.DatetimeIndex(values.astype(np.int64).view(f"datetime64[{style}]")))
    text = pd.Series(values.astype(np.int64).astype(str))
    try:
        return _plain(_patterned(text, style))
    except ValueError:
        return None


def _numbered(values: np.ndarray) -> pd.DatetimeIndex:
    return _plain(pd.DatetimeIndex(np.rint(values * 1e6).astype(np.int64).view("datetime64[us]")))


def _from_numbers(table: Table, name: str, column: pd.Series, style: str) -> Stamps:
    values = column.to_numpy(dtype=np.float64)
    styles = _styles(values)
    if style in (*styles, "number"):
        styles = [style]
    elif "%G%V" in styles and re.search(r"(?i)week|ww|kw", name):
        styles = ["%G%V"]
    elif styles == ["%Y"] and not re.search("(?i)year|yyyy|jahr|^an", name) and values.min() < 1800:
        styles = []  # a count
    if not styles or styles == ["number"]:
        if not np.isfinite(values).all() or np.abs(values).max() > _LIMIT:
            raise UserError(
                f"column '{name}' of {table.name}, named as time, holds numbers beyond {_LIMIT:g}"
            )
        table.notes.append(f"{table.name}: '{name}' counts time in a unit that is not known")
        return Stamps(_numbered(values), "number")
    words = f"{styles[0]} since 1970" if styles[0] in _EPOCHS else f"{_named(styles[0])} in one number"
    table.notes.append(f"{table.name}: '{name}' is read as {words}")
    if styles[0] in _EPOCHS and pd.api.types.is_integer_dtype(column.dtype):
        values = column.to_numpy(dtype=np.int64)  # float64 has no room for nanoseconds
    return Stamps(_dated(values, styles[0]), styles[0])  # type: ignore[arg-type]


def _named(style: str) -> str:
    names = {
        "%Y": "year",
        "%G": "year",
        "%m": "month",
        "%V": "week",
        "%d": "day",
        "%H": "hour",
        "%M": "minute",
        "%S": "second",
    }
    return " and ".join(names[part] for part in re.findall("%[A-Z]|%[md]", style))


# text


def _patterned(text: pd.Series, style: str, errors: str = "raise") -> pd.Series:
    if "%q" in style:  # pandas reads no quarters: their first months
        text = text.str.replace(r"Q([1-4])", lambda quarter: f"{3 * int(quarter[1]) - 2:02d}", regex=True)
        style = style.replace("Q%q", "%m")
    if "%V" in style and "%u" not in style:
        text, style = text + "-1", style + "-%u"
    return pd.to_datetime(text, format=style, errors=errors)  # type: ignore[call-overload]


def _from_text(table: Table, name: str, text: pd.Series, style: str) -> Stamps:
    for pattern in _TEXTS:
        fields = re.sub("%[A-Za-z]", lambda part: _FIELDS[part[0]], pattern.replace(".", r"\."))
        if re.fullmatch(fields, text.iloc[0]):
            return Stamps(_checked(table, name, text, _patterned(text, pattern, errors="coerce")), pattern)
    if re.fullmatch(r"-?\d+ days?.*", text.iloc[0]):
        lengths = pd.to_timedelta(text, errors="coerce")
        return Stamps(_checked(table, name, text, _EPOCH + lengths), "duration")
    words, order = text, ""
    if re.fullmatch(_DATE, text.iloc[0]):
        order = _order(text, style)
        first, second = (4, 3) if order == "day first" else (4, 1)
        words = text.str.replace(_DATE, rf"\{first}-\{second}-\{4 - second}\5", regex=True)
        words = words.str.replace(
            r"^(\d\d)-", lambda y: f"{'20' if int(y[1]) < 69 else '19'}{y[1]}-", regex=True
        )
        if order == "month first" and "/" in text.iloc[0][:3] and not _certain(text):
            table.notes.append(f"{table.name}: dates such as '{text.iloc[0]}' are read as month/day/year")
        elif order == "day first":
            table.notes.append(f"{table.name}: dates such as '{text.iloc[0]}' are read as day, month, year")
    midnight = words.str.contains(r"[T ]24:00", regex=True)
    if midnight.any():
        words = words.str.replace(r"([T ])24:00", r"\g<1>00:00", regex=True)
    stamps = _parsed(words)
    if stamps is None:
        stamps = Stamps(_checked(table, name, text, pd.to_datetime(words, errors="coerce", format="mixed")))
    if midnight.any():
        days = pd.to_timedelta(midnight.to_numpy().astype(np.int64), unit="D")
        stamps = replace(stamps, times=stamps.times + days)
    return replace(stamps, style=order)


def _parsed(text: pd.Series) -> Stamps | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of slow parsing where pandas knows no single format
        for options in ({"format": "ISO8601"}, {}, {"utc": True}):
            try:
                column = pd.to_datetime(text, **options)  # type: ignore[call-overload]
            except (ValueError, TypeError, OverflowError):
                continue
            stamps = _zoned(column)
            if "utc" not in options:
                return stamps
            try:  # clocks with offsets that change
                clock = _plain(pd.to_datetime(text.str.replace(_OFFSET, "", regex=True)))
            except (ValueError, TypeError, OverflowError):
                return stamps
            return replace(stamps, offsets=clock - stamps.times)
    return None


def _checked(table: Table, name: str, text: pd.Series, times: pd.Series) -> pd.DatetimeIndex:
    bad = np.flatnonzero(times.isna().to_numpy())
    if len(bad):
        raise UserError(
            f"{table.where(int(bad[0]))}, column '{name}' holds '{text.iloc[bad[0]]}', "
            "which is not a time stamp"
        )
    return _plain(times)


def _certain(text: pd.Series) -> str:
    """Return the order of day and month that the numbers allow, empty where both are possible."""
    parts = text.str.extract(_DATE)
    largest = [pd.to_numeric(parts[place], errors="coerce").max() for place in (0, 2)]
    if max(largest) <= 12 or min(largest) > 12:
        return ""
    return "day first" if largest[0] > 12 else "month first"


def _order(text: pd.Series, style: str) -> str:
    """Return `day first` or `month first`: as the numbers, a related table, dots or a regular grid show."""
    if certain := _certain(text):
        return certain
    if style in ("day first", "month first"):
        return style
    if re.match(r"\d+\.", text.iloc[0]):
        return "day first"
    regular: dict[str, str] = {}
    for order, swapped in (("month first", r"\4-\1-\3\5"), ("day first", r"\4-\3-\1\5")):
        stamps = _parsed(text.drop_duplicates().str.replace(_DATE, swapped, regex=True))
        rate = rates.infer(stamps.times.unique().sort_values()) if stamps else None
        if rate and not (rate[-1:] == "S" and (stamps.times.day != 1).any()):  # type: ignore[union-attr]
            regular[order] = rate
    return next(iter(regular)) if regular else "month first"


# several columns


def _joined(table: Table, names: Sequence[str]) -> pd.Series:
    """Return dates and times of day from several columns as text."""
    dates = [name for name in names if table.kinds[name] in ("time", "date")]
    parts = {name.lower(): name for name in names if name not in dates}
    wrong = [n for low, n in parts.items() if table.kinds[n] != "clock" and low not in (*DAY_PARTS, "time")]
    if len(dates) != 1 or wrong:
        raise UserError(
            f"time names {len(names)} columns of {table.name}; several must be year, month, day, hour, … or "
            "a column of dates and one of times of day" + (f", not '{wrong[0]}'" if wrong else "")
        )
    column = table.column(dates[0])
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        column = column.dt.strftime("%Y-%m-%d").where(column.notna())
    clocks = [name for name in parts.values() if table.kinds[name] == "clock"]
    if clocks:
        clock = table.column(clocks[0])
        return column.astype("string").str.cat(clock.astype("string"), sep=" ")
    numbers = {low: table.numbers(name) for low, name in parts.items()}
    if "time" in numbers:  # 0, 100, …, 2300
        numbers["hour"], numbers["minute"] = np.divmod(numbers.pop("time"), 100)
    fields = [pd.Series(numbers.get(part, np.zeros(table.rows))) for part in DAY_PARTS]
    clock = (
        fields[0]
        .map("{:02.0f}".format)
        .str.cat([field.map("{:02.0f}".format) for field in fields[1:]], sep=":")
    )
    clock.index = column.index
    return column.astype("string").str.cat(clock.where(~sum(fields).isna().to_numpy()), sep=" ")


def _part_of_date(table: Table, name: str) -> np.ndarray:
    """Return a column's numbers, those of months also from their names."""
    if table.kinds[name] != "month":
        return table.numbers(name)
    return pd.to_datetime(
        table.column(name).str.strip().str[:3], format="%b", errors="coerce"
    ).dt.month.to_numpy()


def _composed(table: Table, names: Sequence[str]) -> pd.DatetimeIndex:
    units = ["year", "quarter", "month", "week", "day", *DAY_PARTS]
    wrong = [name for name in names if name.lower() not in units]
    if wrong:
        raise UserError(
            f"time names {len(names)} columns of {table.name}; several must be called {', '.join(units)}, "
            f"not '{wrong[0]}'"
        )
    parts = {name.lower(): _part_of_date(table, name) for name in names}
    empty = next(((n, int(np.isnan(v).argmax())) for n, v in parts.items() if np.isnan(v).any()), None)
    if empty:
        raise UserError(f"{table.where(empty[1])} has no {empty[0]}; delete the row or complete its time")
    if "quarter" in parts:
        parts["month"] = 3 * parts.pop("quarter") - 2
    if "week" in parts:
        weeks = pd.Series(parts["year"] * 100 + parts["week"]).map("{:.0f}".format)
        times = _patterned(weeks, "%G%V", errors="coerce")
    else:
        parts.setdefault("month", np.ones(table.rows))
        parts.setdefault("day", np.ones(table.rows))
        times = pd.to_datetime(pd.DataFrame(parts), errors="coerce")
    bad = np.flatnonzero(times.isna().to_numpy())
    if len(bad):
        raise UserError(f"{table.where(int(bad[0]))}: {', '.join(names)} are no date")
    return _plain(times)
