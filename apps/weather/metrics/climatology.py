"""What is normal at a time of year and of day: files as WeatherBench 2 has them, and how they are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apps.weather.batch import Grid, States, Variables
from apps.weather.data.readers import Archive
from apps.weather.metrics.precipitation import DRY
from apps.weather.metrics.stores import open_store
from apps.weather.metrics.times import DAYS, calendar, window_weights
from core.errors import UserError, listed
from core.inference.netcdf import ArrayFile, LabelledArray, arrays_written_to

__all__ = ["Climatology", "write_climatology"]

_READ = 64  # times read at once


class Climatology:
    """Normals of a file with the axes hour and dayofyear, read as they are asked for.

    Args:
        path: The file or store.
        variables: Fields of the states that `at` returns; those that the file lacks are NaN.
        grid: Their points, which must be among the file's.

    Raises:
        UserError: If it is none, lacks points, or does not go to day 366.
    """

    def __init__(self, path: str, variables: Variables, grid: Grid) -> None:
        self.store, self.variables = open_store(path, "hd").on(grid), variables
        self.hours = self.store.axes["h"]
        if not np.array_equal(self.store.axes["d"], np.arange(1, DAYS + 1)):
            raise UserError(
                f"the days of {path} are not 1 to {DAYS} (leap years have day {DAYS}); make one by "
                "`dfm weather climatology`"
            )
        has = self.store.variables
        self.known = Variables(
            tuple(name for name in variables.surface if name in has.surface),
            tuple(name for name in variables.atmospheric if name in has.atmospheric),
            tuple(level for level in variables.levels if level in has.levels),
        )
        rain = (f"tp_{hours}h_threshold" for hours in DRY if "tp" in variables.surface)
        self.rain = next((name for name in rain if name in has.surface), "")

    def at(self, valid: Tensor) -> States:
        """Return states `(B, K, ...)` at the times `(B, K)`; NaN at an hour of day that the file lacks."""
        surface, atmospheric = self._read(valid, self.known)
        names, shape = self.variables, (*surface.shape[:2], *surface.shape[-2:])
        wide = surface.new_full((*shape[:2], len(names.surface), *shape[2:]), torch.nan)
        deep = wide.new_full((*shape[:2], len(names.atmospheric), len(names.levels), *shape[2:]), torch.nan)
        if self.known.surface:
            wide[:, :, [names.surface.index(name) for name in self.known.surface]] = surface
        if self.known.atmospheric and self.known.levels:
            rows = torch.tensor([names.atmospheric.index(name) for name in self.known.atmospheric])
            deep[:, :, rows[:, None], [names.levels.index(x) for x in self.known.levels]] = atmospheric
        return States(wide.to(valid.device), deep.to(valid.device))

    def rain_at(self, valid: Tensor) -> tuple[str, float, Tensor, Tensor] | None:
        """Return variable, dry amount, and dry share and heavy amount `(B, K, H, W)` for SEEPS."""
        if not self.rain:
            return None
        names = (self.rain.replace("threshold", "dry_fraction"), self.rain)
        share, heavy = self._read(valid, Variables(names))[0].to(valid.device).unbind(2)
        return "tp", DRY[int(self.rain.split("_")[1][:-1])], share, heavy

    def _read(self, valid: Tensor, variables: Variables) -> tuple[Tensor, Tensor]:
        hours, days = calendar(valid.cpu().numpy().astype("datetime64[s]"))
        pairs, back = np.unique(DAYS * hours + days - 1, return_inverse=True)
        parts = []
        for hour, day in zip(*np.divmod(pairs, DAYS), strict=True):
            place = np.flatnonzero(self.hours == hour)
            fields = self.store.read(variables, h=place[:1], d=np.array([day]))
            parts.append(
                [x[0, 0] if len(place) else np.full(x.shape[2:], np.nan, np.float32) for x in fields]
            )
        stacked = (np.stack(group)[back.reshape(valid.shape)] for group in zip(*parts, strict=True))
        surface, atmospheric = (torch.from_numpy(group) for group in stacked)
        return surface, atmospheric


def write_climatology(
    archive: Archive,
    years: tuple[int, int],
    out: Path,
    *,
    command: str,
    hours: int = 6,
    memory: float = 1.0,
) -> list[str]:
    """Write the mean over years and a window of 61 days, for each hour and day of year; return what to tell.

    Day 366 of a common year is its day 365. Variables and bands of rows are taken one after another, so many
    rows at once as sums of `memory` GiB hold, each in one pass through the archive in the order of time.

    Args:
        archive: Opened with `fill="keep"`.
        years: First and last.
        out: A `.zarr` or `.nc`.
        command: Who writes it.
        hours: Between two hours of day.
        memory: GiB.

    Raises:
        UserError: If there is no state in a year.
    """
    in_years = archive.times.astype("datetime64[Y]").astype(np.int64) + 1970
    if missing := [year for year in range(years[0], years[1] + 1) if year not in in_years]:
        has = f"{in_years[0]} to {in_years[-1]}" if len(in_years) else "none"
        lacks = listed([str(year) for year in missing], 3)
        raise UserError(f"{archive.name} has no state in {lacks} (its years: {has}); give other --years")
    times = archive.times[(in_years >= years[0]) & (in_years <= years[1])]
    times = times[calendar(times)[0] % hours == 0]
    shown = np.unique(calendar(times)[0])
    window = np.stack([np.roll(np.roll(_padded(window_weights()), -30), day) for day in range(DAYS)])
    names, grid = archive.variables, archive.grid
    arrays = {
        "hour": LabelledArray(("hour",), {}, shown),
        "dayofyear": LabelledArray(("dayofyear",), {}, np.arange(1, DAYS + 1)),
        "level": LabelledArray(("level",), {"units": "hPa"}, np.array(names.levels)),
        "latitude": LabelledArray(("latitude",), {"units": "degrees_north"}, grid.latitude),
        "longitude": LabelledArray(("longitude",), {"units": "degrees_east"}, grid.longitude),
    }
    fields = {}
    for name, levelled in (*((n, False) for n in names.surface), *((n, True) for n in names.atmospheric)):
        sums = archive.accumulated.get(name, 0)
        stored = f"total_precipitation_{sums:g}hr" if name == "tp" and sums else name
        axes = ("hour", "dayofyear", *(("level",) if levelled else ()), "latitude", "longitude")
        arrays[stored] = LabelledArray(axes, {"units": archive.units.get(name, "1")})
        fields[stored] = Variables((), (name,), names.levels) if levelled else Variables((name,))
    about = {"description": f"mean of {years[0]} to {years[1]} over 61 days with triangular weights"}
    empty = 0
    with arrays_written_to(out, ArrayFile(arrays, command, about, {"hour": 1, "dayofyear": 1})) as written:
        for stored, variables in fields.items():
            cells = grid.shape[1] * max(len(variables.levels), 1)
            band = max(int(memory * 2**30 / (2 * 8 * len(shown) * DAYS * cells)), 1)
            for first in range(0, grid.shape[0], band):
                rows = slice(first, min(first + band, grid.shape[0]))
                for place, normal in enumerate(_normals(archive, times, shown, variables, rows, window)):
                    written[stored][place, ..., rows, :] = normal if variables.levels else normal[:, 0]
                    empty += int(np.isnan(normal).sum())
    return [f"{empty} values are NaN, for the archive has none there"] if empty else []


def _normals(
    archive: Archive,
    times: NDArray[np.datetime64],
    shown: NDArray[np.int64],
    variables: Variables,
    rows: slice,
    window: NDArray[np.float64],
) -> Iterator[NDArray[np.float32]]:
    """Yield the normals `(366, C, H, W)` of each hour."""
    hour, day = calendar(times)
    year_end = (day == DAYS - 1) & (calendar(times + np.timedelta64(1, "D"))[1] == 1)  # of a common year
    counts = np.zeros((len(shown), DAYS))
    sums: NDArray[np.float64] | None = None
    for start in range(0, len(times), _READ):
        block = slice(start, start + _READ)
        surface, atmospheric = archive.read(times[block].astype(np.int64).tolist(), variables, rows)
        values = atmospheric[:, 0] if variables.levels else surface  # T C H W
        sums = np.zeros((len(shown), DAYS, *values.shape[1:])) if sums is None else sums
        for field, place, at, last in zip(
            values, np.searchsorted(shown, hour[block]), day[block] - 1, year_end[block], strict=True
        ):
            for index in (at, at + 1) if last else (at,):
                sums[place, index] += field
                counts[place, index] += 1
    assert sums is not None
    with np.errstate(invalid="ignore"):
        for total, count in zip(sums, counts, strict=True):
            flat = (window @ total.reshape(DAYS, -1)) / (window @ count)[:, None]
            yield flat.reshape(total.shape).astype(np.float32)


def _padded(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([weights, np.zeros(DAYS - len(weights))])
