"""Opening files, folders and stores of any layout as one archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.weather.data.readers.archive import FILLS, Archive
from apps.weather.data.readers.axes import (
    StoredGrid,
    decoded_times,
    is_axis,
    letters_of,
    levels_in_hpa,
    stored_grid,
)
from apps.weather.data.readers.names import StoredName, conversion, known_names, recognised
from apps.weather.data.readers.stored import InMemory, StoredField, arrays_of, is_store, open_dataset
from core.data.hdf5 import OpenFiles
from core.errors import UserError, did_you_mean, listed

if TYPE_CHECKING:
    import xarray

__all__ = ["fields_of", "files_of", "open_archive"]

_SUFFIXES = (".nc", ".nc4", ".cdf", ".h5", ".grib", ".grb", ".grib2", ".grb2", ".grib1")
Paths = str | Path | Sequence[str | Path]


class Notes(dict[str, None]):
    """Sentences on what was mended, each said once, in order."""

    def __call__(self, sentence: str) -> None:
        """Add one."""
        self[sentence] = None


def open_archive(
    path: Paths | xarray.Dataset, *, fill: str | None = None, names: Mapping[str, str] | None = None
) -> Archive:
    """Return the weather fields of a file, a folder, several files, a Zarr store or its address.

    CDS's netCDF old and new, WeatherBench 1 folders, WeatherBench 2 stores and GRIB are known; whatever is
    mended is told in `Archive.notes`.

    Args:
        path: Where they are; or a data set in memory.
        fill: See `Archive`.
        names: Stored name to ours, for variables that the table of names does not know, in the units of the
            file; `''` leaves a variable out.

    Raises:
        UserError: If something cannot be read as weather fields, naming file and variable.
    """
    if fill not in FILLS:
        raise UserError(f"data.fill is '{fill}'; it must be mean, nearest_level, keep or null")
    notes, licences = Notes(), dict[str, None]()
    fields: list[StoredField] = []
    if hasattr(path, "data_vars"):
        files, whole = [], "the data set"
        fields = _fields_in(whole, path, names or {}, notes, licences)
    else:
        files = files_of(path)
        for file in files:
            fields += fields_of(file, names or {}, notes, licences)
        whole = str(path) if isinstance(path, str | Path) else str(Path(files[0]).parent)
    if not fields:
        raise UserError(
            f"{whole} has no variable that is known{_unknown(notes)}; name them by data.variables.names"
        )
    for each in fields:
        if each.leads and len(each.leads) > 1:
            raise UserError(
                f"{each.path} holds forecasts: {each.dataset} has {len(each.leads)} lead times from a start; "
                "score it by `dfm weather score`, or save the states of one lead time"
            )
        if not each.mesh.same(fields[0].mesh):
            raise UserError(
                f"{each.path} has {each.mesh.grid}, {fields[0].path} has {fields[0].mesh.grid}; one archive "
                "has one grid: regrid that file or leave it out"
            )
    fields = [each if each.mesh is fields[0].mesh else replace(each, mesh=_moved(each.mesh, fields[0].mesh))
              for each in fields]  # fmt: skip
    archive = Archive(
        name=Path(whole.rstrip("/")).stem or whole,
        fields=fields,
        fill=fill,
        members=max(each.members for each in fields),
        licences=tuple(licences),
        files=[Path(file) for file in files],
        accumulated={each.row.name: each.row.hours or 1.0 for each in fields if each.row.kind == "sum"},
        _open=OpenFiles(arrays_of if files else InMemory(path)),
    )
    _tell(archive, notes)
    return replace(archive, notes=list(notes))


def _moved(mesh: StoredGrid, first: StoredGrid) -> StoredGrid:
    """Return the mesh with exactly the first one's positions."""
    return StoredGrid(first.grid, mesh.rows, mesh.columns)


def _unknown(notes: Notes) -> str:
    return "".join(f" ({note})" for note in notes if note.startswith("unknown"))


def _tell(archive: Archive, notes: Notes) -> None:
    """Note what the files together show: doubled times, gaps, variables that are not always there."""
    doubles = sum(series.doubles for kinds in archive._series.values() for series in kinds)
    if doubles:
        notes(f"{doubles} fields are stored twice for a time: the first is taken")
    if any((np.diff(each.times) < np.timedelta64(0, "s")).any() for each in archive.fields):
        notes("times are not in order: sorted")
    if len(archive.gaps):
        notes(f"{len(archive.gaps)} times are missing, the first {archive.gaps[0].astype('datetime64[m]')}")
    every = [
        series.times for (group, _), kinds in archive._series.items() if group != "static" for series in kinds
    ]
    if every and (fewer := len(np.unique(np.concatenate(every))) - len(archive.times)):
        notes(f"{fewer} times lack some variables: left out unless those are not asked for")


def files_of(path: Paths) -> list[str]:
    """Return the files and stores that a path names.

    Raises:
        UserError: If there is none.
    """
    if not isinstance(path, str | Path):
        return [file for each in path for file in files_of(each)]
    text = str(path)
    if is_store(text) or Path(text).is_file():
        return [text]
    if not Path(text).is_dir():
        raise UserError(f"there is no file or folder {text}; check data.path")
    files = [
        str(file)
        for file in sorted(Path(text).rglob("*"))
        if file.suffix.lower() in _SUFFIXES and file.is_file()
    ]
    files += [str(store) for store in sorted(Path(text).iterdir()) if store.is_dir() and is_store(str(store))]
    if not files:
        raise UserError(f"{text} holds no netCDF, GRIB or Zarr ({', '.join(_SUFFIXES)}); check data.path")
    return files


def fields_of(
    path: str, names: Mapping[str, str], notes: Notes, licences: dict[str, None]
) -> list[StoredField]:
    """Return the fields of one file or store.

    Raises:
        UserError: If it cannot be read, or a variable's unit or times are not understood.
    """
    with open_dataset(path) as dataset:
        return _fields_in(path, dataset, names, notes, licences)


def _fields_in(
    path: str, dataset: Any, names: Mapping[str, str], notes: Notes, licences: dict[str, None]
) -> list[StoredField]:
    for key in ("license", "licence", "Licence", "License"):
        if key in dataset.attrs:
            licences[str(dataset.attrs[key])] = None
    return list(_Reading(path, dataset, names, notes).fields().values())


class _Reading:
    """One data set as fields."""

    def __init__(self, path: str, dataset: Any, names: Mapping[str, str], notes: Notes) -> None:
        self.path, self.dataset, self.names, self.notes = path, dataset, names, notes
        self.meshes: dict[tuple[str, ...], StoredGrid] = {}

    def fields(self) -> dict[tuple[str, str, float], StoredField]:
        fields: dict[tuple[str, str, float], StoredField] = {}
        unknown = []
        for name, variable in self.dataset.variables.items():
            letters = letters_of(variable, self.dataset)
            if not {"y", "x"} <= set(letters) or name in self.dataset.coords:
                continue
            row, levelled = self._row(str(name), variable, letters)
            if row is None:
                unknown.append(str(name))
                continue
            if not row.name:
                continue
            if "?" in letters or len(set(letters.replace("1", ""))) != len(letters.replace("1", "")):
                raise UserError(
                    f"{self.path}: {name} has the axes {', '.join(map(str, variable.dims))}, not all of them "
                    "time, level, latitude, longitude, member or lead time; rename or remove the others"
                )
            stored = self._field(str(name), variable, letters, row, levelled)
            key = (*stored.key, row.level)
            if key in fields:
                stored = self._chosen(fields[key], stored)
            fields[key] = stored
        if unknown:
            first = did_you_mean(unknown[0], known_names())
            self.notes(f"unknown variables are left out: {listed(unknown, 8)}{first}")
        return fields

    def _row(self, name: str, variable: Any, letters: str) -> tuple[StoredName | None, bool]:
        """Return what the variable is, and whether it lies on levels."""
        levelled = "l" in letters
        if name in self.names:
            row = recognised(self.names[name], {}, levelled=levelled)
            kind = "level" if levelled else "surface" if "t" in letters else "static"
            return row or StoredName(self.names[name], kind, str(variable.attrs.get("units", "1"))), levelled
        if not levelled and self._scalar("l") is not None:
            row = recognised(name, variable.attrs, levelled=True)
            if row is not None:
                return row, True
        return recognised(name, variable.attrs, levelled=levelled), levelled

    def _chosen(self, first: StoredField, second: StoredField) -> StoredField:
        """Return one of two variables that map to one name: of sums the one that runs over a step."""
        hours = np.diff(first.times[:2]).astype(np.int64) / 3600
        for one, other in ((first, second), (second, first)):
            if one.row.kind == "sum" and len(hours) and one.row.hours == hours[0]:
                self.notes(f"{one.dataset} is taken for {one.row.name}, not {other.dataset}")
                return one
        raise UserError(
            f"{self.path}: {first.dataset} and {second.dataset} both are {first.row.name}; leave one out by "
            f"data.variables.names, as in {{{second.dataset}: ''}}"
        )

    def _axis(self, letter: str, variable: Any, letters: str) -> Any:
        """Return the variable that holds the positions along an axis, or None."""
        dim = variable.dims[letters.index(letter)]
        if dim in self.dataset.variables:
            return self.dataset.variables[dim]
        for name, other in self.dataset.variables.items():  # such as valid_time along `time`, latitude(y, x)
            if is_axis(name, letter) and dim in other.dims and set(other.dims) <= set(variable.dims):
                return other
        return None

    def _scalar(self, letter: str) -> Any:
        """Return a variable of no axes that tells the position of the whole file along one, or None."""
        for name, variable in self.dataset.variables.items():
            if variable.ndim == 0 and is_axis(name, letter):
                return variable
        return None

    def _field(self, name: str, variable: Any, letters: str, row: StoredName, levelled: bool) -> StoredField:
        where = f"{self.path}: {name}"
        attributes = variable.attrs
        factor, offset = float(attributes.get("scale_factor", 1.0)), float(attributes.get("add_offset", 0.0))
        unit = str(attributes.get("units", ""))
        to_si = conversion(unit, row.unit) if unit else (1.0, 0.0)
        if to_si is None:
            raise UserError(
                f"{where} is in '{unit}', which is no known unit of {row.name} ({row.unit}); convert it, and "
                "mend its attribute units"
            )
        if to_si != (1.0, 0.0):
            self.notes(f"{row.name} is converted from {unit} to {row.unit}")
        elif not unit and row.unit not in ("1", "code"):
            self.notes(f"{row.name} has no unit: taken as {row.unit}")
        if (factor, offset) != (1.0, 0.0):
            self.notes("packed integers are unpacked")
        if "e" in letters and variable.shape[letters.index("e")] > 1:
            self.notes("final (expver 1) and preliminary (expver 5) values are joined")
        order = [letters.index(axis) for axis in letters if axis in "yx"]
        if order and letters.index("x") < letters.index("y"):
            self.notes("longitude before latitude: axes turned")
        levels: tuple[float, ...] = (row.level,) if row.level else ()
        if levelled:
            axis = self._axis("l", variable, letters) if "l" in letters else self._scalar("l")
            if axis is None:
                raise UserError(f"{where} has levels without values; write the pressures as a coordinate")
            levels = tuple(levels_in_hpa(axis.values, axis.attrs, where, self.notes).round(3).tolist())
            if len(levels) > 1 and levels[0] > levels[-1]:
                self.notes("levels fall: sorted by value")
        leads = self._leads(variable, letters)
        times = self._times(variable, letters)
        if len(leads) == 1:
            times, leads = times + np.timedelta64(round(leads[0] * 3600), "s"), ()
        if not len(times) and row.kind != "level":
            row = replace(row, kind="static")
        chunks = variable.encoding.get("chunks") or variable.encoding.get("chunksizes") or ()
        fills = [attributes[key] for key in ("_FillValue", "missing_value") if key in attributes]
        return StoredField(
            path=self.path,
            dataset=name,
            row=row,
            letters=letters,
            mesh=self._mesh(variable, letters),
            times=times,
            levels=levels,
            factor=factor * to_si[0],
            offset=offset * to_si[0] + to_si[1],
            fills=tuple({value for value in np.ravel(fills).tolist() if value == value}),
            members=variable.shape[letters.index("n")] if "n" in letters else 0,
            leads=leads,
            chunk=chunks[letters.index("t")] if len(chunks) == len(letters) and "t" in letters else 1,
        )

    def _mesh(self, variable: Any, letters: str) -> StoredGrid:
        latitude, longitude = self._axis("y", variable, letters), self._axis("x", variable, letters)
        if latitude is None or longitude is None:
            raise UserError(f"{self.path} has no latitude and longitude; write them as coordinates")
        key = (*latitude.dims, *longitude.dims)
        if key not in self.meshes:
            self.meshes[key] = stored_grid(latitude.values, longitude.values, self.path, self.notes)
        return self.meshes[key]

    def _times(self, variable: Any, letters: str) -> Any:
        axis = self._axis("t", variable, letters) if "t" in letters else self._scalar("t")
        if axis is None and "t" in letters:
            raise UserError(f"{self.path} has an axis of time without times; write them as a coordinate")
        if axis is None:
            return np.array([], dtype="datetime64[s]")
        return decoded_times(np.atleast_1d(axis.values), axis.attrs, self.path)

    def _leads(self, variable: Any, letters: str) -> tuple[float, ...]:
        """Return the lead times in hours."""
        axis = self._axis("p", variable, letters) if "p" in letters else None
        if axis is None:
            return ()
        values = np.atleast_1d(axis.values)
        if values.dtype.kind == "m":
            return tuple((values / np.timedelta64(1, "h")).tolist())
        unit = str(axis.attrs.get("units", "hours")).lower().rstrip("s")
        hours = {"hour": 1, "h": 1, "hr": 1, "": 1, "day": 24, "minute": 1 / 60, "second": 1 / 3600}.get(unit)
        if hours is None:
            raise UserError(f"{self.path} has lead times in '{unit}'; write them in hours")
        return tuple((values.astype(np.float64) * hours).tolist())
