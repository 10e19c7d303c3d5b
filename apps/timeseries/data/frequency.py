"""Sampling rates: pandas aliases old and new, inference from stamps, tokens, seasons, future stamps."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from core.errors import UserError

__all__ = [
    "TOKENS",
    "anchored",
    "beside_grid",
    "canonical",
    "coarser",
    "future_times",
    "grid",
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

_SEASONS = {"s": 3600, "min": 1440, "h": 24, "D": 1, "W": 1, "B": 5, "ME": 12, "MS": 12, "QE": 4, "QS": 4}
_OLD = {
    "H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns", "M": "ME", "Q": "QE", "A": "YE",
    "Y": "YE",     "AS": "YS", "BM": "BME", "BQ": "BQE", "d": "D", "w": "W", "b": "B", "m": "ME",
    "hour": "h", "hours": "h", "hourly": "h", "minute": "min", "minutes": "min",
    "day": "D", "days": "D", "daily": "D",
    "week": "W", "weekly": "W", "month": "ME", "monthly": "ME", "quarter": "QE", "quarterly": "QE",
    "year": "YE", "yearly": "YE", "second": "s", "seconds": "s",
}  # fmt: skip
_MICROSECONDS = {
    "us": 1, "ms": 10**3, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "D": 86400 * 10**6,
    "W": 7 * 86400 * 10**6,
}  # fmt: skip
_MONTHS = {"ME": 1, "MS": 1, "QE": 3, "QS": 3, "YE": 12, "YS": 12}
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_SAMPLE = 1 << 17  # stamps that show which step is the commonest
_PIECE = 1 << 18  # long columns are looked at in pieces: no second copy of them
_UNITS = (*_MICROSECONDS, *_MONTHS, "B", "BME", "BMS", "BQE", "BQS", "ns")


def canonical(alias: str) -> str:
    """Return the present pandas alias of a frequency written in any of the usual ways.

    `"H"` gives `"h"`, `"15T"` `"15min"`, `"60min"` `"h"`, `"M"` `"ME"`, `"7D"` `"W"`; anchors (`W-SUN`) are
    kept.

    Raises:
        UserError: If the alias is none that pandas knows.
    """
    found = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]+)(-[A-Za-z]{3})?\s*", alias)
    number, unit, anchor = found.groups() if found else ("", "", None)
    unit = unit if unit in _UNITS else _OLD.get(unit, _OLD.get(unit.lower(), ""))
    if unit not in _UNITS or number == "0" or (number and int(number) < 1):
        raise UserError(
            f"the frequency '{alias}' is not known; write it as pandas does: "
            "s, min, 15min, h, D, B, W, ME, QE or YE"
        )
    n = int(number or 1)
    if unit in _MICROSECONDS and anchor is None:
        return _fixed(n * _MICROSECONDS[unit])
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
    number, unit = _split(canonical(frequency))
    period = _SEASONS.get(unit, 1)
    return period // number if period % number == 0 else 1


def is_daily_or_slower(frequency: str) -> bool:
    """Say whether a sampling rate is a day or longer; an unknown one counts as faster."""
    if not frequency:
        return False
    number, unit = _split(canonical(frequency))
    return unit != "ns" and number * _MICROSECONDS.get(unit, _MICROSECONDS["D"]) >= _MICROSECONDS["D"]


def coarser(frequency: str, factor: int) -> str:
    """Return the frequency of a series down-sampled by `factor`; empty where the frequency is not known."""
    if not frequency:
        return ""
    number, unit = _split(canonical(frequency))
    anchor = canonical(frequency).partition("-")[2]
    if unit in _MICROSECONDS and not anchor:
        return _fixed(number * factor * _MICROSECONDS[unit])
    return f"{number * factor}{unit}{'-' + anchor if anchor else ''}"


def future_times(last: pd.Timestamp, frequency: str, horizon: int) -> pd.DatetimeIndex:
    """Return the `horizon` stamps that follow `last` at the given frequency."""
    number, unit = _split(canonical(frequency))
    if unit in _MICROSECONDS:  # weeks too: a bare "W" would make pandas jump to the next Sunday
        step = np.timedelta64(number * _MICROSECONDS[unit], "us")
        return pd.DatetimeIndex(np.datetime64(last, "us") + step * np.arange(1, horizon + 1))
    offset = pd.tseries.frequencies.to_offset(canonical(frequency))
    times = pd.date_range(last, periods=horizon + 1, freq=offset)
    return (times[1:] if times[0] == last else times[:horizon]).as_unit("us")


def infer(times: pd.DatetimeIndex) -> str | None:
    """Return the frequency on whose grid all the sorted, distinct stamps lie, or None if there is none.

    Stamps may be missing (the commonest step counts), as long as at least half of the grid is there.
    """
    if len(times) < 3:
        return None
    ticks = in_microseconds(times).asi8
    steps, counts = np.unique(np.diff(ticks[:_SAMPLE]), return_counts=True)
    step = int(steps[counts.argmax()])
    if step >= 28 * _MICROSECONDS["D"]:
        calendar = _infer_calendar(times)
        if calendar:
            return calendar
    if step == _MICROSECONDS["D"] and len(steps) > 1 and not (times.day_of_week >= 5).any():
        expected = len(pd.bdate_range(times[0], times[-1]))
        if len(times) >= 0.8 * expected and len(times) >= 8:
            return "B"
    if beside_grid(ticks, step) is not None:
        return None
    if len(ticks) < 0.5 * ((ticks[-1] - ticks[0]) // step + 1):
        return None
    if step % _MICROSECONDS["W"] == 0 and (times[0].normalize() == times[0]):
        number = step // _MICROSECONDS["W"]
        return f"{number if number > 1 else ''}W-{_WEEKDAYS[times[0].day_of_week]}"
    return _fixed(step)


def anchored(frequency: str, times: pd.DatetimeIndex) -> str:
    """Return a stated frequency with the anchor its stamps show: weekday, or month's first or last day."""
    number, unit = _split(frequency)
    many = str(number) if number > 1 else ""
    if "-" in frequency or not len(times):
        return frequency
    if unit == "W" and times[0].normalize() == times[0]:
        return f"{many}W-{_WEEKDAYS[times[0].day_of_week]}"
    if unit in _MONTHS:
        letter = "E" if times.is_month_end.all() else "S" if times.is_month_start.all() else unit[1]
        return f"{many}{unit[0]}{letter}{_anchor(unit[0] + letter, times[0].month)}"
    return frequency


def grid(times: pd.DatetimeIndex, frequency: str) -> tuple[np.ndarray | None, int]:
    """Return `(positions, length)`: where every sorted stamp stands on the regular grid from the first one.

    Positions are None where no stamp is missing.

    Raises:
        ValueError: With the offending row as its only argument, if a stamp lies beside the grid.
    """
    number, unit = _split(frequency)
    if unit in _MICROSECONDS:
        step = number * _MICROSECONDS[unit]
        ticks = in_microseconds(times).asi8
        if (row := beside_grid(ticks, step)) is not None:
            raise ValueError(row)
        if ticks[-1] - ticks[0] == step * (len(ticks) - 1) and smallest_step(ticks)[0] > 0:
            return None, len(ticks)  # rising, on the grid, and as many as the grid has
        away = (ticks - ticks[0]) // step
    elif unit in _MONTHS:
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
    return (None if length == len(times) else away), length


def in_microseconds(times: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Return the stamps in microseconds, the same object where they are already (pandas would copy it)."""
    return times if times.unit == "us" else times.as_unit("us")


def smallest_step(ticks: np.ndarray) -> tuple[int, int]:
    """Return the smallest difference of neighbouring stamps and the row before it, copying nothing long."""
    best, place = np.iinfo(np.int64).max, 0
    for first in range(0, len(ticks) - 1, _PIECE):
        steps = np.diff(ticks[first : first + _PIECE + 1])
        lowest = int(steps.argmin())
        if steps[lowest] < best:
            best, place = int(steps[lowest]), first + lowest
    return best, place


def beside_grid(ticks: np.ndarray, step: int) -> int | None:
    """Return the first row whose stamp is no multiple of `step` after the first one, or None."""
    for first in range(0, len(ticks), _PIECE):
        beside = (ticks[first : first + _PIECE] - ticks[0]) % step != 0
        if beside.any():
            return first + int(beside.argmax())
    return None


def _split(frequency: str) -> tuple[int, str]:
    number, unit = re.fullmatch(r"(\d*)([A-Za-z]+)(?:-[A-Z]{3})?", frequency).groups()  # type: ignore[union-attr]
    return int(number or 1), unit


def _fixed(microseconds: int) -> str:
    for unit in reversed(_MICROSECONDS):
        if microseconds % _MICROSECONDS[unit] == 0:
            number = microseconds // _MICROSECONDS[unit]
            return f"{number if number > 1 else ''}{unit}"
    raise UserError(
        "a sampling step below one microsecond is not supported; give the series another time unit"
    )


def _infer_calendar(times: pd.DatetimeIndex) -> str | None:
    months = np.asarray(times.year) * 12 + np.asarray(times.month)
    steps, counts = np.unique(np.diff(months), return_counts=True)
    step = int(steps[counts.argmax()])
    if step == 0 or ((months - months[0]) % step).any() or (times.normalize() != times).any():
        return None
    end = bool(times.is_month_end.all())
    if not end and len(np.unique(times.day)) > 1:
        return None
    letter = "E" if end else "S"
    if step % 12 == 0:
        number, unit = step // 12, f"Y{letter}"
    elif step % 3 == 0:
        number, unit = step // 3, f"Q{letter}"
    else:
        number, unit = step, f"M{letter}"
    return f"{number if number > 1 else ''}{unit}{_anchor(unit, times[0].month)}"


def _anchor(unit: str, month: int) -> str:
    if unit[0] == "M":
        return ""
    if unit[0] == "Q":  # four months of the year mean the same: pandas' own choice of name
        month = (month - 1) % 3 + 1 if unit == "QS" else {0: 12, 1: 1, 2: 2}[month % 3]
    return f"-{_MONTH_NAMES[month - 1]}"
