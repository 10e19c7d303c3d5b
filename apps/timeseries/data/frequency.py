"""Sampling rates: pandas aliases old and new, inference from stamps, tokens, seasons, grids of stamps."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from apps.timeseries.data.pieces import pieces
from core.errors import UserError

__all__ = [
    "TOKENS",
    "StampGrid",
    "anchored",
    "beside_grid",
    "canonical",
    "coarser",
    "hours_in",
    "in_microseconds",
    "infer",
    "is_daily_or_slower",
    "season",
    "smallest_step",
    "token",
]

TOKENS: dict[str, int] = {
    "oov": 0, "min": 1, "2min": 2, "5min": 3, "10min": 4, "15min": 5, "30min": 6, "h": 7, "D": 8, "W": 9,
}  # fmt: skip
"""The resolution prefix's vocabulary (TTM r2, arXiv 2401.03955); an unlisted rate is `oov`."""

_SEASONS = {
    "s": 3600, "min": 1440, "h": 24, "D": 1, "W": 1, "B": 5, "ME": 12, "MS": 12, "BME": 12, "BMS": 12,
    "QE": 4, "QS": 4, "BQE": 4, "BQS": 4,
}  # fmt: skip
_OLD = {
    "H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns", "M": "ME", "Q": "QE", "A": "YE",
    "Y": "YE",     "AS": "YS", "BM": "BME", "BQ": "BQE", "d": "D", "w": "W", "b": "B", "m": "ME",
    "hour": "h", "hours": "h", "hourly": "h", "minute": "min", "minutes": "min",
    "day": "D", "days": "D", "daily": "D",
    "week": "W", "weekly": "W", "month": "ME", "monthly": "ME", "quarter": "QE", "quarterly": "QE",
    "year": "YE", "yearly": "YE", "second": "s", "seconds": "s",
}  # fmt: skip
_NANOSECONDS = {
    "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9, "D": 86400 * 10**9,
    "W": 7 * 86400 * 10**9,
}  # fmt: skip
_MONTHS = {"ME": 1, "MS": 1, "QE": 3, "QS": 3, "YE": 12, "YS": 12}
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_SAMPLE = 1 << 17  # stamps that show which step is the commonest
_UNITS = (*_NANOSECONDS, *_MONTHS, "B", "BME", "BMS", "BQE", "BQS")
_ALIAS = r"(\d*)\s*([A-Za-z]+)(-[A-Za-z]{3}|-\d+[BDbd])?"


def canonical(alias: str) -> str:
    """Return the present pandas alias of a frequency written in any of the usual ways.

    `"H"` gives `"h"`, `"15T"` `"15min"`, `"60min"` `"h"`, `"M"` `"ME"`, `"7D"` `"W"`; anchors (`W-SUN`) are
    kept, and so is the number of stamps in an opened day: `h-7B` are seven hours of every business day.

    Raises:
        UserError: If the alias is none that pandas knows.
    """
    found = re.fullmatch(_ALIAS, alias.strip())
    number, unit, anchor = found.groups() if found else ("", "", None)
    unit = unit if unit in _UNITS else _OLD.get(unit, _OLD.get(unit.lower(), ""))
    if unit not in _UNITS or number == "0" or (number and int(number) < 1):
        raise UserError(
            f"the frequency '{alias}' is not known; write it as pandas does: "
            "s, min, 15min, h, D, B, W, ME, QE or YE"
        )
    n = int(number or 1)
    if unit in _NANOSECONDS and anchor is None:
        return _fixed(n * _NANOSECONDS[unit])
    return f"{n if n > 1 else ''}{unit}{(anchor or '').upper()}"


def token(frequency: str) -> int:
    """Return the resolution token of a frequency, 0 (out of vocabulary) for one without its own."""
    if not frequency:
        return TOKENS["oov"]
    return TOKENS.get(canonical(frequency).split("-")[0], TOKENS["oov"])


def season(frequency: str) -> int:
    """Return the period in steps that the field's metrics use: 24 for h, 96 for 15min, 12 for ME, else 1."""
    if not frequency:
        return 1
    if hours := _opened(canonical(frequency)):
        return hours
    number, unit = _split(canonical(frequency))
    period = _SEASONS.get(unit, 1)
    return period // number if period % number == 0 else 1


def is_daily_or_slower(frequency: str) -> bool:
    """Say whether a sampling rate is a day or longer; an unknown one counts as faster."""
    return bool(frequency) and hours_in(frequency) >= 24 and not _opened(frequency)


def hours_in(frequency: str) -> float:
    """Return the hours in a step; 24 or more for days and slower, and for opened days, which end at night."""
    number, unit = _split(canonical(frequency))
    days = _opened(frequency) or unit not in _NANOSECONDS
    return 24 if days else number * _NANOSECONDS[unit] / _NANOSECONDS["h"]


def coarser(frequency: str, factor: int) -> str:
    """Return the frequency of a series down-sampled by `factor`; empty where the frequency is not known."""
    if not frequency or _opened(canonical(frequency)):
        return ""
    number, unit = _split(canonical(frequency))
    anchor = canonical(frequency).partition("-")[2]
    if unit in _NANOSECONDS and not anchor:
        return _fixed(number * factor * _NANOSECONDS[unit])
    return f"{number * factor}{unit}{'-' + anchor if anchor else ''}"


def infer(times: pd.DatetimeIndex) -> str | None:
    """Return the frequency on whose grid all the sorted, distinct stamps lie, or None if there is none.

    Stamps may be missing (the commonest step counts), as long as at least half of the grid is there.
    """
    if len(times) < 3:
        return None
    ticks, tick = times.asi8, _nanoseconds(times)
    steps, counts = np.unique(np.diff(ticks[:_SAMPLE]), return_counts=True)
    step = int(steps[counts.argmax()])
    nanoseconds = step * tick
    if step < 1:
        return None
    if nanoseconds >= 28 * _NANOSECONDS["D"]:
        calendar = _infer_calendar(times)
        if calendar:
            return calendar
    if nanoseconds == _NANOSECONDS["D"] and len(steps) > 1 and not (times.day_of_week >= 5).any():
        expected = len(pd.bdate_range(times[0].normalize(), times[-1].normalize()))
        if len(times) >= 0.8 * expected and len(times) >= 8:
            return "B"
    if beside_grid(ticks, step) is not None:
        rounded = _rounded(times)
        return _fixed(round(rounded[0])) if rounded else _infer_opened(times, nanoseconds)
    share = len(ticks) / ((ticks[-1] - ticks[0]) // step + 1)
    if share < 0.75 and (opened := _infer_opened(times, nanoseconds)):
        return opened
    if share < 0.5:
        return None
    if nanoseconds % _NANOSECONDS["W"] == 0 and (times[0].normalize() == times[0]):
        number = nanoseconds // _NANOSECONDS["W"]
        return f"{number if number > 1 else ''}W-{_WEEKDAYS[times[0].day_of_week]}"
    return _fixed(nanoseconds)


def anchored(frequency: str, times: pd.DatetimeIndex) -> str:
    """Return a stated frequency with the anchor its stamps show: weekday, or month's last or another day."""
    number, unit = _split(frequency)
    many = str(number) if number > 1 else ""
    if "-" in frequency or not len(times):
        return frequency
    if unit == "W" and times[0].normalize() == times[0]:
        return f"{many}W-{_WEEKDAYS[times[0].day_of_week]}"
    if unit in _MONTHS:
        letter = "E" if times.is_month_end.all() else "S"
        return f"{many}{unit[0]}{letter}{_anchor(unit[0] + letter, times[0].month)}"
    return frequency


@dataclass(frozen=True)
class StampGrid:
    """Regular stamps: the first one, their rate, and what its alias does not say.

    Attributes:
        origin: The first stamp.
        frequency: Present alias.
        rounded: Step, shift and resolution (ns) of stamps that are rounded, as of 30 frames a second.
        day: Of the month, clipped to its length; 0 is the first stamp's.
        hours: Microseconds after midnight at which stamps stand within an opened day (trading hours).
    """

    origin: pd.Timestamp
    frequency: str
    rounded: tuple[float, float, int] | None = None
    day: int = 0
    hours: tuple[int, ...] = ()

    @staticmethod
    def of(times: pd.DatetimeIndex, frequency: str) -> tuple[StampGrid, np.ndarray | None, int]:
        """Return the grid, where every sorted stamp stands on it, and its length.

        Positions are None where no stamp is missing.

        Raises:
            ValueError: With the offending row as its only argument, if a stamp lies beside the grid.
        """
        number, unit = _split(frequency)
        grid = StampGrid(times[0], frequency)
        if opened := _opened(frequency):
            clock = in_microseconds(times - times.normalize()).asi8
            hours = np.unique(clock)
            if len(hours) != opened:
                raise ValueError(int(np.flatnonzero(clock == hours[-1])[0]))
            grid = StampGrid(times[0], frequency, hours=tuple(hours.tolist()))
            days, beside = _days(times, frequency[-1])
            if beside.any():
                raise ValueError(int(beside.argmax()))
            away = days * opened + np.searchsorted(hours, clock)
            away -= away[0]
        elif unit in _NANOSECONDS:
            step, ticks = number * _NANOSECONDS[unit], times.asi8
            whole, fraction = divmod(step, _nanoseconds(times))
            row = 1 if fraction else beside_grid(ticks, whole)
            if row is None:
                if ticks[-1] - ticks[0] == whole * (len(ticks) - 1) and smallest_step(ticks)[0] > 0:
                    return grid, None, len(ticks)  # rising, on the grid, and as many as the grid has
                away = (ticks - ticks[0]) // whole
            else:
                rounded = _rounded(times)
                if rounded is None or abs(rounded[0] - step) > 0.5:
                    raise ValueError(row)
                *exact, away = rounded
                grid = StampGrid(times[0], frequency, rounded=tuple(exact))
        elif unit in _MONTHS:
            day = 31 if unit.endswith("E") else int(times.day.max())
            grid = StampGrid(times[0], frequency, day=day)
            months = np.asarray(times.year, dtype=np.int64) * 12 + np.asarray(times.month, dtype=np.int64)
            away, beside = np.divmod(months - months[0], number * _MONTHS[unit])
            if beside.any():
                raise ValueError(int(np.flatnonzero(beside)[0]))
        else:
            regular = pd.date_range(times[0], times[-1], freq=frequency).as_unit(times.unit)
            away = regular.get_indexer(times)
            if (away < 0).any():
                raise ValueError(int(np.flatnonzero(away < 0)[0]))
        if len(away) > 1 and (np.diff(away) < 1).any():
            raise ValueError(int(np.flatnonzero(np.diff(away) < 1)[0]) + 1)
        length = int(away[-1]) + 1
        return grid, None if length == len(times) else away, length

    def stamps(self, first: int, count: int) -> pd.DatetimeIndex:
        """Return `count` stamps from the one at position `first`, which may lie before the origin."""
        number, unit = _split(self.frequency)
        steps = np.arange(first, first + count, dtype=np.int64)
        if self.hours:
            hours = np.array(self.hours)
            day = self.origin.normalize()
            start = int(np.searchsorted(hours, (self.origin - day) // pd.Timedelta(microseconds=1)))
            days, row = np.divmod(steps + start, len(hours))
            offset = pd.tseries.frequencies.to_offset(self.frequency[-1])
            calendar = pd.date_range(day + int(days[0]) * offset, periods=np.ptp(days) + 1, freq=offset)
            return calendar.as_unit("us")[days - days[0]] + pd.to_timedelta(hours[row], unit="us")
        if self.rounded:
            step, shift, resolution = self.rounded
            away = np.rint((steps * step + shift) / resolution).astype(np.int64) * resolution
            return _natural(self.origin.as_unit("ns") + pd.to_timedelta(away, unit="ns"))
        if unit in _NANOSECONDS:  # weeks too: a bare "W" would make pandas jump to the next Sunday
            finest = "ns" if unit == "ns" or self.origin.unit == "ns" else "us"
            step = np.timedelta64(number * _NANOSECONDS[unit] // (1 if finest == "ns" else 1000), finest)
            return pd.DatetimeIndex(np.datetime64(self.origin.as_unit(finest)) + step * steps)
        if unit in _MONTHS:
            months = self.origin.year * 12 + self.origin.month - 1 + steps * number * _MONTHS[unit]
            start = pd.DatetimeIndex(
                months.astype("datetime64[M]") - np.datetime64(1970 * 12, "M").astype(int)
            )
            day = 31 if unit.endswith("E") else self.day or self.origin.day
            days = np.minimum(day, start.days_in_month) - 1
            clock = self.origin - self.origin.normalize()
            return (start.as_unit("us") + pd.to_timedelta(days, unit="D") + clock).as_unit("us")
        offset = pd.tseries.frequencies.to_offset(self.frequency)
        begin = self.origin if first >= 0 else self.origin + first * offset
        times = pd.date_range(begin, periods=max(first, 0) + count + 1, freq=offset)
        skipped = max(first, 0) - (times[0] != begin)  # an origin beside the calendar is none of its stamps
        return times[max(skipped, 0) :][:count].as_unit("us")


def in_microseconds(times: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Return the stamps in microseconds, the same object where they are already (pandas would copy it)."""
    return times if times.unit == "us" else times.as_unit("us")


def _natural(times: pd.DatetimeIndex) -> pd.DatetimeIndex:
    return times if (times.asi8 % 1000).any() else times.as_unit("us")


def smallest_step(ticks: np.ndarray) -> tuple[int, int]:
    """Return the smallest difference of neighbouring stamps and the row before it, copying nothing long."""
    best, place = np.iinfo(np.int64).max, 0
    for first, piece in pieces(ticks, beyond=1):
        if len(piece) < 2:  # the last row alone
            break
        steps = np.diff(piece)
        lowest = int(steps.argmin())
        if steps[lowest] < best:
            best, place = int(steps[lowest]), first + lowest
    return best, place


def beside_grid(ticks: np.ndarray, step: int) -> int | None:
    """Return the first row whose stamp is no multiple of `step` after the first one, or None."""
    for first, piece in pieces(ticks):
        beside = (piece - ticks[0]) % step != 0
        if beside.any():
            return first + int(beside.argmax())
    return None


def _split(frequency: str) -> tuple[int, str]:
    number, unit, _ = re.fullmatch(_ALIAS, frequency).groups()  # type: ignore[union-attr]
    return int(number or 1), unit


def _opened(frequency: str) -> int:
    """Return how many stamps an opened day has (7 of `h-7B`), 0 where all hours count."""
    hours = re.search(r"-(\d+)[BD]$", frequency)
    return int(hours[1]) if hours else 0


def _nanoseconds(times: pd.DatetimeIndex) -> int:
    return _NANOSECONDS[times.unit]


def _fixed(nanoseconds: int) -> str:
    unit = next(unit for unit in reversed(_NANOSECONDS) if nanoseconds % _NANOSECONDS[unit] == 0)
    number = nanoseconds // _NANOSECONDS[unit]
    return f"{number if number > 1 else ''}{unit}"


def _rounded(times: pd.DatetimeIndex) -> tuple[float, float, int, np.ndarray] | None:
    """Return step, shift, resolution (nanoseconds) and positions of stamps that are regular but for rounding.

    30 frames a second in milliseconds are 0, 33, 67, 100; spreadsheets write 00:14:59.999.
    """
    away = (times.asi8 - times.asi8[0]) * _nanoseconds(times)
    resolution = next(r for r in (10**9, 10**6, 10**3, 1) if not (away % r).any())
    steps = np.diff(away)
    values, counts = np.unique(steps[:_SAMPLE], return_counts=True)
    step = float(steps[np.abs(steps - values[counts.argmax()]) <= 2 * resolution].mean())
    if step < 2 * resolution or steps.min() <= 0:
        return None
    places = np.concatenate([[0], np.cumsum(np.rint(steps / step))]).astype(np.int64)
    step = away[-1] / places[-1]
    # the round number (of units, or of frames a second) that the stamps allow
    likely = [round(step / 1e9) * 1e9, round(step / 1e6) * 1e6, 1e9 / max(1, round(1e9 / step)), round(step)]
    step = next((s for s in likely if s and abs(s - step) * places[-1] <= 2 * resolution), step)
    beside = away - places * step
    if np.ptp(beside) > 1.001 * resolution or len(times) < 0.5 * (places[-1] + 1):
        return None
    return step, float(beside.max() + beside.min()) / 2, resolution, places


def _days(times: pd.DatetimeIndex, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each stamp's day among the business days (B) or all days, and what is on none."""
    days = times.normalize()
    if kind == "D":
        return np.asarray((days - days[0]).days), np.zeros(len(days), dtype=bool)
    dates = days.to_numpy().astype("datetime64[D]")
    return np.busday_count(dates[0], dates), ~np.is_busday(dates)


def _infer_opened(times: pd.DatetimeIndex, step: int) -> str | None:
    """Return the alias of stamps at the same hours of every day or business day, None for others."""
    hours = (times - times.normalize()).unique()
    kind = "D" if (times.day_of_week >= 5).any() else "B"
    days = _days(times, kind)[0][-1] + 1
    if not 2 <= len(hours) <= len(times) / 2 or step >= _NANOSECONDS["D"]:
        return None
    return f"{_fixed(step)}-{len(hours)}{kind}" if len(times) >= 0.8 * days * len(hours) else None


def _infer_calendar(times: pd.DatetimeIndex) -> str | None:
    months = np.asarray(times.year) * 12 + np.asarray(times.month)
    steps, counts = np.unique(np.diff(months), return_counts=True)
    step = int(steps[counts.argmax()])
    clock = times - times.normalize()
    if step == 0 or ((months - months[0]) % step).any() or (clock != clock[0]).any():
        return None
    end = bool(times.is_month_end.all())
    if not end and (times.day != np.minimum(times.day.max(), times.days_in_month)).any():
        return next((rate for rate in ("BME", "BMS") if _are_all(times, rate)), None)
    letter = "E" if end else "S"
    if step % 12 == 0:
        number, unit = step // 12, f"Y{letter}"
    elif step % 3 == 0:
        number, unit = step // 3, f"Q{letter}"
    else:
        number, unit = step, f"M{letter}"
    return f"{number if number > 1 else ''}{unit}{_anchor(unit, times[0].month)}"


def _are_all(times: pd.DatetimeIndex, rate: str) -> bool:
    """Return whether the stamps are those of a calendar, most of which are there."""
    calendar = pd.date_range(times[0], times[-1], freq=rate)
    return len(calendar) < 2 * len(times) and bool(times.isin(calendar).all())


def _anchor(unit: str, month: int) -> str:
    if unit[0] == "M":
        return ""
    if unit[0] == "Q":  # four months of the year mean the same: pandas' own choice of name
        month = (month - 1) % 3 + 1 if unit == "QS" else {0: 12, 1: 1, 2: 2}[month % 3]
    return f"-{_MONTH_NAMES[month - 1]}"
