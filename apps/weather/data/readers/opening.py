"""Opening files, folders and stores of any layout as one archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.data.readers import axes
from apps.weather.data.readers.archive import Archive
from apps.weather.data.readers.names import StoredName, conversion, near_names, recognised
from apps.weather.data.readers.pickled import is_pickle
from apps.weather.data.readers.stored import StoredField, is_grib, is_store, open_datasets, unwritten_as
from core.errors import UserError, listed

if TYPE_CHECKING:
    import xarray

__all__ = ["files_of", "gathered", "open_archive"]

_SUFFIXES = (".nc", ".nc4", ".cdf", ".h5", ".grib", ".grb", ".grib1", ".grib2", ".grb2", ".pickle")
Paths = str | Path | Sequence[str | Path]


def open_archive(
    path: Paths | xarray.Dataset, *, fill: str | None = None, names: Mapping[str, str] | None = None
) -> Archive:
    """Return the weather fields of a file, a folder, several files, a Zarr store or its address.

    CDS's netCDF old and new, WeatherBench 1 folders, WeatherBench 2 stores and GRIB are known, and pickles of
    Aurora's static fields; whatever is mended is told in `Archive.notes`. Forecasts are taken by valid time,
    each from its latest start.

    Args:
        path: Where they are; or a data set in memory.
        fill: See `Archive`.
        names: Stored name to ours, for variables that the table of names does not know, in the units of the
            file; an empty name leaves a variable out.

    Raises:
        UserError: If something cannot be read as weather fields, naming file and variable.
    """
    if fill not in (None, "mean", "nearest_level", "keep"):
        raise UserError(f"data.fill is '{fill}'; it must be mean, nearest_level, keep or null")
    archive, notes = gathered(path, names or {})
    archive = replace(archive, fields=_by_valid_time(archive.fields, notes), fill=fill)
    doubles = 0
    for (group, name), every in archive.series.items():
        for series in every:
            arrays = sorted({each.dataset for each in series.fields})
            if series.doubles and len(arrays) > 1 and group != "static":
                raise UserError(_several(archive.name, arrays, name))
            doubles += series.doubles if not any(each.rank for each in series.fields) else 0
    if doubles:
        notes[f"{doubles} fields are stored twice for a time: the first is taken"] = None
    if any((np.diff(each.times) < np.timedelta64(0, "s")).any() for each in archive.fields):
        notes["times are not in order: sorted"] = None
    if len(archive.gaps):
        first = archive.gaps[0].astype("datetime64[m]")
        notes[f"{len(archive.gaps)} times are missing, the first {first}"] = None
    times = [each.times for each in archive.fields if each.row.kind != "static"]
    if times and (fewer := len(np.unique(np.concatenate(times))) - len(archive.times)):
        notes[f"{fewer} times lack some of the variables"] = None
    return replace(archive, notes=list(notes))


def gathered(path: Paths | xarray.Dataset, names: Mapping[str, str]) -> tuple[Archive, dict[str, None]]:
    """Return the fields of all files as they are stored, on one grid, and notes on what was mended.

    Raises:
        UserError: If something cannot be read, or the files have several grids.
    """
    notes, licences = dict[str, None](), dict[str, None]()
    fields: list[StoredField] = []
    files = [] if hasattr(path, "data_vars") else files_of(path)
    for file in files or ["the data set"]:
        keep = not files or is_grib(file) or is_pickle(file)
        for dataset in open_datasets(file) if files else [path]:
            fields += _Reading(file, dataset, names, notes, keep).fields()
            if not keep:
                dataset.close()
            texts = {key.lower(): str(text) for key, text in dataset.attrs.items()}
            licences |= {texts[key]: None for key in ("license", "licence") if key in texts}
    whole = path if isinstance(path, str | Path) else Path(files[0]).parent if files else "the data set"
    if not fields:
        raise UserError(
            f"{whole} has no known field on latitude and longitude ({'; '.join(notes) or 'none'}); name its "
            "variables by data.variables.names"
        )
    for each in fields:
        if not each.place.same(fields[0].place):
            raise UserError(
                f"{each.path}: {each.dataset} has {each.place.grid}, {fields[0].path}: {fields[0].dataset} "
                f"has {fields[0].place.grid}; an archive has one grid: regrid it or leave it out"
            )
    places = {id(each.place): replace(each.place, grid=fields[0].place.grid) for each in fields}
    return Archive(
        name=Path(str(whole).rstrip("/")).stem,
        fields=[replace(each, place=places[id(each.place)]) for each in fields],
        members=max(each.members for each in fields),
        licences=tuple(licences),
        files=[Path(file) for file in files],
    ), notes


def files_of(path: Paths) -> list[str]:
    """Return the files and stores that a path names.

    Raises:
        UserError: If there is none.
    """
    if not isinstance(path, str | Path):
        return [file for each in path for file in files_of(each)]
    if is_store(str(path)) or Path(path).is_file():
        return [str(path)]
    if not Path(path).is_dir():
        raise UserError(f"there is no file or folder {path}; check data.path")
    files = [each for each in sorted(Path(path).rglob("*")) if each.suffix.lower() in _SUFFIXES]
    files = [each for each in files if each.is_file()]
    files += [store for store in sorted(Path(path).iterdir()) if is_store(str(store))]
    if not files:
        raise UserError(f"{path} holds no netCDF, GRIB or Zarr ({', '.join(_SUFFIXES)}); check data.path")
    return [str(each) for each in files]


def _several(where: str, names: Sequence[str], ours: str) -> str:
    advice = f"leave some out by data.variables.names, as in {{{names[-1]}: ''}}"
    return f"{where}: {' and '.join(names)} are all {ours}; {advice}"


def _by_valid_time(fields: Sequence[StoredField], notes: dict[str, None]) -> list[StoredField]:
    """Return forecasts as fields of one lead time each, those that the next start has not replaced.

    Raises:
        UserError: If forecasts have one start: then their later states are no truth.
    """
    flat = [each for each in fields if not each.leads]
    for each in fields:
        starts = np.unique(np.concatenate([other.times for other in fields if other.key == each.key]))
        hours = np.diff(starts).min().astype(np.int64) / 3600 if len(starts) > 1 else 0.0
        if not hours and len(each.leads) > 1:
            raise UserError(
                f"{each.path} holds a forecast of {len(each.leads)} lead times from one start, no archive; "
                "score it by `dfm weather score`, or give states of one lead time"
            )
        leads = {at: lead for at, lead in enumerate(each.leads) if lead <= hours or len(each.leads) == 1}
        if (
            leads
            and each.row.kind == "sum"
            and getattr(each.array, "attrs", {}).get("GRIB_class", "ea") != "ea"
        ):
            if len(leads) > 1:
                notes[f"{each.row.name} is summed from each start on, over differing hours: left out"] = None
                continue
            each = replace(each, row=replace(each.row, hours=max(leads.values())))
        if len(each.leads) > 1:
            last = max(leads.values())
            notes[f"forecasts are taken by valid time, from the latest start: up to {last:g} hours"] = None
        for at, lead in leads.items():
            times = each.times + np.timedelta64(round(lead * 3600), "s")
            flat.append(replace(each, times=times, leads=(), rank=lead, fixed={**each.fixed, "p": at}))
    return flat


class _Reading:
    """One data set as fields."""

    def __init__(
        self, path: str, dataset: Any, names: Mapping[str, str], notes: dict[str, None], keep: bool
    ) -> None:
        self.path, self.dataset, self.names, self.keep = path, dataset, names, keep
        self.note = notes.setdefault
        self.grids: dict[tuple[str, ...], axes.StoredGrid] = {}

    def fields(self) -> list[StoredField]:
        fields: dict[tuple[str, str, float], list[StoredField]] = {}
        left: list[str] = []
        for name, variable in self.dataset.data_vars.items():
            letters = axes.letters_of(variable, self.dataset)
            plain = letters.replace("1", "")
            if not {"y", "x"} <= set(letters) or self.names.get(str(name)) == "":
                continue
            if (row := self._row(str(name), variable, letters)) is None:
                left.append(str(name))
            elif "?" in letters or len(set(plain)) != len(plain):
                left.append(f"{name} (axes {', '.join(map(str, variable.dims))})")
            else:
                stored = self._field(str(name), variable, letters, row)
                fields.setdefault((*stored.key, row.level), []).append(stored)
        if left:
            self.note(f"unknown variables are left out: {listed(left, 8)}{near_names(left[0])}")
        return [self._chosen(every) if len(every) > 1 else every[0] for every in fields.values()]

    def _row(self, name: str, variable: Any, letters: str) -> StoredName | None:
        """Return what a variable is: by the user's word, its name, a scalar level, or its folder's name."""
        levelled = "l" in letters
        if name in self.names:
            row = recognised(self.names[name], {}, levelled=levelled)
            kind = "level" if levelled else "surface" if "t" in letters else "static"
            return row or StoredName(self.names[name], kind, str(variable.attrs.get("units", "1")))
        row = recognised(name, variable.attrs, levelled=levelled)
        single = None if levelled else recognised(name, variable.attrs, levelled=True)
        unit = variable.attrs.get("units")
        if single and row and unit is not None and conversion(str(unit), row.unit) is None:
            row = None  # relative humidity at 2 m is no runoff, though both are called r
        if single and (row is None or row.kind == "static"):  # t or z, perhaps of one level
            if (level := self._along("l")) is not None:
                (pressure,) = axes.levels_in_hpa(level.values, level.attrs, f"{self.path}: {name}", self.note)
                return replace(single, level=pressure)
            folder = recognised(Path(self.path).parent.name, {}, levelled=False)  # geopotential_500/….nc
            if folder and folder.level and folder.name == single.name:
                return folder
        return row

    def _chosen(self, every: list[StoredField]) -> StoredField:
        """Return one of several variables that map to one name: of sums that which runs over a step."""
        hours = np.diff(every[0].times[:2]).astype(np.int64) / 3600
        chosen = [each for each in every if each.row.kind == "sum" and each.row.hours in hours]
        names, row = [each.dataset for each in every], every[0].row
        if len(chosen) != 1:
            raise UserError(_several(self.path, names, row.name))
        self.note(f"of {', '.join(names)} {chosen[0].dataset} is taken for {row.name}")
        return chosen[0]

    def _along(self, letter: str, variable: Any = None, letters: str = "") -> Any:
        """Return the positions along an axis of a variable, or of the whole file; None if it has none."""
        dim = variable.dims[letters.index(letter)] if letter in letters else None
        if dim in self.dataset.variables:
            return self.dataset.variables[dim]
        for name, other in self.dataset.variables.items():  # such as valid_time along `time`, latitude(y, x)
            inside = dim in other.dims and set(other.dims) <= set(variable.dims) if dim else not other.dims
            if axes.is_axis(name, letter) and inside:
                return other
        return None

    def _field(self, name: str, variable: Any, letters: str, row: StoredName) -> StoredField:
        where, attributes = f"{self.path}: {name}", variable.attrs
        levels, times, leads = self._levels(variable, letters, row), *self._times(variable, letters)
        if not len(times) and row.kind != "level":
            row = replace(row, kind="static")
        if "e" in letters and variable.shape[letters.index("e")] > 1:
            self.note("final (expver 1) and preliminary (expver 5) values are joined")
            versions = self._along("e", variable, letters)
            if versions is not None and int(versions.values[0]) > int(versions.values[-1]):
                letters = letters.replace("e", "E")
        if letters.index("x") < letters.index("y"):
            self.note("longitude before latitude: axes turned")
        fills = [attributes[key] for key in ("_FillValue", "missing_value") if key in attributes]
        chunks = variable.encoding.get("chunks") or variable.encoding.get("chunksizes")
        if is_store(self.path) and variable.dtype.kind == "f":
            fills = [fill for fill in fills if fill != 0]  # zarr's default for what is not stored, no mark
            if row.may_vanish and unwritten_as(self.path, name) == 0:
                self.note(f"chunks of {row.name} that are not stored are read as 0")
        factor, offset = self._conversion(where, attributes, row)
        return StoredField(
            self.path, name, row, letters, self._place(variable, letters), times, levels, factor, offset,
            fills=tuple({value for value in np.ravel(fills).tolist() if value == value}),
            members=variable.shape[letters.index("n")] if "n" in letters else 0,
            leads=leads,
            chunk=chunks[letters.index("t")] if chunks and "t" in letters else 1,
            array=variable.variable if self.keep else None,
        )  # fmt: skip

    def _conversion(self, where: str, attributes: Mapping[str, Any], row: StoredName) -> tuple[float, float]:
        """Return factor and offset of packing and unit together."""
        scale, shift = float(attributes.get("scale_factor", 1.0)), float(attributes.get("add_offset", 0.0))
        unit = str(attributes.get("units", ""))
        to_si = conversion(unit, row.unit) if unit else (1.0, 0.0)
        if to_si is None:
            raise UserError(f"{where} is in '{unit}', no known unit of {row.name} ({row.unit}); convert it")
        if to_si != (1.0, 0.0):
            self.note(f"{row.name} is converted from {unit} to {row.unit}")
        elif not unit and row.unit not in ("1", "code"):
            self.note(f"{row.name} has no unit: taken as {row.unit}")
        if (scale, shift) != (1.0, 0.0):
            self.note("packed integers are unpacked")
        return scale * to_si[0], shift * to_si[0] + to_si[1]

    def _levels(self, variable: Any, letters: str, row: StoredName) -> tuple[float, ...]:
        if "l" not in letters:
            return (row.level,) if row.level else ()
        if (axis := self._along("l", variable, letters)) is None:
            raise UserError(
                f"{self.path}: {variable.name} has levels without values; write them as a coordinate"
            )
        levels = axes.levels_in_hpa(axis.values, axis.attrs, f"{self.path}: {variable.name}", self.note)
        if levels[0] > levels[-1]:
            self.note("levels fall: sorted by value")
        return levels

    def _place(self, variable: Any, letters: str) -> axes.StoredGrid:
        latitude, longitude = self._along("y", variable, letters), self._along("x", variable, letters)
        if latitude is None or longitude is None:
            raise UserError(f"{self.path} has no latitude and longitude; write them as coordinates")
        key = (*latitude.dims, *longitude.dims)
        if key not in self.grids:
            self.grids[key] = axes.stored_grid(latitude.values, longitude.values, self.path, self.note)
        return self.grids[key]

    def _times(self, variable: Any, letters: str) -> tuple[NDArray[np.datetime64], tuple[float, ...]]:
        """Return times, or starts and leads."""
        axis, lead = self._along("t", variable, letters), self._along("p", variable, letters)
        if axis is None and "t" in letters:
            raise UserError(f"{self.path} has an axis of time without times; write them as a coordinate")
        if axis is None:
            return np.array([], dtype="datetime64[s]"), ()
        leads = axes.hours_of(lead.values, lead.attrs, self.path) if lead is not None else ()
        times = axes.decoded_times(axis.values, axis.attrs, self.path)
        doubled = is_store(self.path) and len(np.unique(times)) < len(times)
        if doubled and unwritten_as(self.path, axis.dims[0]) is not None:
            raise UserError(f"{self.path}: chunks of {axis.dims[0]} are missing in the store; copy it again")
        return times, leads
