"""Forecasts in WeatherBench 2's layout: starts, lead times, perhaps members, and fields of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apps.weather.data.readers.archive import Archive
from apps.weather.data.readers.opening import Paths, gathered
from core.errors import UserError

__all__ = ["ForecastArchive", "open_forecast"]


@dataclass(frozen=True, eq=False)
class ForecastArchive(Archive):
    """Forecasts by start and lead time; `at` gives those of a start as an archive by valid time."""

    @property
    def starts(self) -> NDArray[np.datetime64]:
        """Sorted, unique starts of the forecasts, datetime64[s]."""
        return self.times

    @cached_property
    def leads(self) -> tuple[float, ...]:
        """Lead times in hours, rising, that all variables have."""
        every = [set(each.leads or (0.0,)) for each in self.fields if each.row.kind != "static"]
        return tuple(sorted(set.intersection(*every)))

    def at(self, start: np.datetime64) -> Archive:
        """Return the forecast of one start as an archive: its times are those of its states.

        Raises:
            UserError: If there is none.
        """
        fields = []
        for each in self.fields:
            indices = np.flatnonzero(each.times == start)
            if each.row.kind != "static" and len(indices):
                seconds = np.round(np.array(each.leads or (0.0,)) * 3600).astype("timedelta64[s]")
                letters = each.letters.translate(str.maketrans("tp", "st"))
                fixed = {**each.fixed, "s": int(indices[0])}
                times = np.datetime64(start, "s") + seconds
                fields.append(replace(each, letters=letters, times=times, leads=(), fixed=fixed, chunk=1))
        if not fields:
            raise UserError(f"{self.name} has no forecast that starts at {start}; choose one of its starts")
        return Archive(**{**self.parts, "fields": fields})


def open_forecast(
    path: Paths, *, fill: str | None = "keep", names: Mapping[str, str] | None = None
) -> ForecastArchive:
    """Return the forecasts of a file, a store or its address; mended as `open_archive` does.

    Args:
        path: Where they are.
        fill: As in `open_archive`; by default missing values stay NaN.
        names: As in `open_archive`.

    Raises:
        UserError: If something cannot be read, or has no lead times.
    """
    archive, notes = gathered(path, names or {})
    if not any(each.leads for each in archive.fields):
        raise UserError(
            f"{archive.name} has no lead times (an axis prediction_timedelta, lead_time or step): it holds "
            "no forecasts; name a file of forecasts"
        )
    return ForecastArchive(**{**archive.parts, "fill": fill, "notes": list(notes)})
