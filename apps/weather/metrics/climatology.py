"""What is normal at a time of year and of day: files as WeatherBench 2 has them, and how they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apps.weather.batch import Grid, States, Variables
from apps.weather.data.readers import Archive
from apps.weather.data.readers.axes import letters_of, levels_in_hpa, stored_grid
from apps.weather.data.readers.names import conversion, recognised
from apps.weather.data.readers.stored import ReadWindow, StoredField, arrays_of, open_datasets
from apps.weather.metrics.points import places_of
from apps.weather.metrics.precipitation import DRY
from apps.weather.metrics.times import DAYS, calendar, window_weights
from core.errors import UserError, listed
from core.inference.netcdf import ArrayFile, LabelledArray, arrays_written_to

__all__ = ["Climatology", "write_climatology"]

_READ = 2**24  # values read at once


class Climatology:
    """Normals of a file with the axes hour and dayofyear, read as they are asked for.

    Args:
        path: The file or store.
        variables: Fields of the states that `at` returns; those that the file lacks are NaN.
        grid: Their points, which must be among the file's.
        rain: Hours over which their `tp` is summed; SEEPS needs the file's thresholds for it.

    `hours` are those of the day that the file has.

    Raises:
        UserError: If it is none, lacks points, or does not go to day 366.
    """

    def __init__(self, path: str, variables: Variables, grid: Grid, *, rain: float = 0.0) -> None:
        dataset = open_datasets(path)[0]
        self._fields = _fields_of(path, dataset)
        days = dataset["dayofyear"].values if self._fields else None
        if not np.array_equal(days, np.arange(1, DAYS + 1)):
            why = (
                f"the days of {path} are not 1 to {DAYS}"
                if self._fields
                else f"{path} has no field by hour and day"
            )
            raise UserError(f"{why}; make a climatology by `dfm weather climatology`")
        first = next(iter(self._fields.values()))
        self._window = ReadWindow(*places_of(first.place.grid, grid, path))
        levels = next((each.levels for each in self._fields.values() if each.levels), ())
        places = [levels.index(level) if level in levels else -1 for level in variables.levels]
        self._levels, self.hours = np.array(places, dtype=np.int64), dataset["hour"].values.tolist()
        self._variables, self._arrays = variables, arrays_of(path)
        self._kept: dict[tuple[str, int], NDArray[np.float32]] = {}
        known = rain in DRY and f"tp_{rain:g}h_threshold" in self._fields and "tp" in variables.surface
        self._rain = rain if known else 0.0

    def at(self, valid: Tensor) -> States:
        """Return states `(B, K, ...)` at the times `(B, K)`; NaN at an hour of day that the file lacks."""
        surface = self._read(self._variables.surface, valid, np.zeros(1, dtype=np.int64))[:, :, :, 0]
        states = States(surface, self._read(self._variables.atmospheric, valid, self._levels))
        self._forget(valid)
        return states

    def rain_at(self, valid: Tensor) -> tuple[str, float, Tensor, Tensor] | None:
        """Return variable, dry amount, and dry share and heavy amount `(B, K, H, W)` for SEEPS."""
        if not self._rain:
            return None
        names = [f"tp_{self._rain:g}h_{part}" for part in ("dry_fraction", "threshold")]
        share, heavy = self._read(names, valid, np.zeros(1, dtype=np.int64))[:, :, :, 0].unbind(2)
        return "tp", DRY[self._rain], share, heavy

    def _read(self, names: Sequence[str], valid: Tensor, levels: NDArray[np.int64]) -> Tensor:
        """Return values `(B, K, V, C, H, W)`."""
        pairs, back = np.unique(_pairs(valid), return_inverse=True)
        shape = (len(pairs), len(names), len(levels), len(self._window.rows), len(self._window.columns))
        values = np.full(shape, np.nan, dtype=np.float32)
        for (n, pair), (v, name) in product(enumerate(pairs.tolist()), enumerate(names)):
            if name in self._fields and pair // DAYS in self.hours:
                values[n, v] = self._field(name, pair, levels)
        values[:, :, levels < 0] = np.nan
        return torch.from_numpy(values).to(valid.device)[torch.from_numpy(back.reshape(valid.shape))]

    def _field(self, name: str, pair: int, levels: NDArray[np.int64]) -> NDArray[np.float32]:
        if (name, pair) not in self._kept:
            fixed = {"h": self.hours.index(pair // DAYS), "d": pair % DAYS}
            field = replace(self._fields[name], fixed=fixed)
            array = self._arrays[field.dataset]
            self._kept[name, pair] = field.read(array, slice(0, 1), levels.clip(min=0), self._window)[0]
        return self._kept[name, pair]

    def _forget(self, valid: Tensor) -> None:
        """Keep the fields of these times alone: the next starts need most of them again."""
        used = set(_pairs(valid).ravel().tolist())
        self._kept = {key: field for key, field in self._kept.items() if key[1] in used}


def _pairs(valid: Tensor) -> NDArray[np.int64]:
    hours, days = calendar(valid.cpu().numpy().astype("datetime64[s]"))
    return DAYS * hours + days - 1


def _fields_of(path: str, dataset: Any) -> dict[str, StoredField]:
    """Return the fields by hour and day of year; SEEPS' are `tp_6h_threshold` and `tp_6h_dry_fraction`."""
    fields: dict[str, StoredField] = {}
    for stored, array in dataset.variables.items():
        dims = dict(zip(array.dims, letters_of(array, dataset), strict=True)) | {
            "hour": "h",
            "dayofyear": "d",
        }
        letters = "".join(dims[dim] for dim in array.dims)
        base, _, rest = str(stored).partition("_seeps_")
        row = recognised(base, array.attrs, levelled="l" in letters)
        if row is None or row.kind == "static" or sorted(letters.replace("l", "")) != sorted("hdyx"):
            continue
        axes = {dims[dim]: dataset[dim] for dim in array.dims if dim in dataset.variables}
        factor, offset = conversion(str(array.attrs.get("units", row.unit)), row.unit) or (1.0, 0.0)
        scale, shift = (float(array.attrs.get(k, x)) for k, x in (("scale_factor", 1), ("add_offset", 0)))
        fields[f"{row.name}_{row.hours:g}h_{rest}" if rest else row.name] = StoredField(
            path, str(stored), row, letters,
            stored_grid(axes["y"].values, axes["x"].values, path, _silent),
            np.array([], dtype="datetime64[s]"),
            levels_in_hpa(axes["l"].values, axes["l"].attrs, path, _silent) if "l" in axes else (),
            factor * scale,
            factor * shift + offset,
        )  # fmt: skip
    return fields


def _silent(note: str) -> None:
    """Say nothing: the file is ours, or one of WeatherBench 2's."""


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
    cells = (rows.stop - rows.start) * archive.grid.shape[1] * max(len(variables.levels), 1)
    step = max(_READ // cells, 1)
    for start in range(0, len(times), step):
        block = slice(start, start + step)
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
