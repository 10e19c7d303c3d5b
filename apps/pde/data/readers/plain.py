"""Arrays whose axes have no names, which the user says: HDF5, netCDF, Zarr, MATLAB's and NumPy's files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from apps.pde.data.readers.arrays import ArraySource
from apps.pde.data.readers.labelled import LazyArrays, letters, open_dataset, source_of
from core.data.hdf5 import is_hdf5
from core.errors import UserError

__all__ = ["open_plain", "recognise", "shapes", "source"]

SUFFIXES = (".h5", ".hdf5", ".nc", ".nc4", ".cdf", ".zarr", ".mat", ".npz", ".npy")


def recognise(path: Path) -> bool:
    """Recognise nothing: the axes must be said."""
    return False


def source(path: Path, *, axes: str | None = None) -> ArraySource:
    """Return the trajectories of a file: arrays with all of the axes are fields.

    An array that lacks axes of time or samples, but none of space, is a field that does not change along
    them; one of the samples' length is a number of the equation; one called as an axis has its positions.

    Args:
        path: The file.
        axes: Names of the axes in the order in which the file's own tools show them, as "run time y x".

    Raises:
        UserError: If no axes are said, their names mean nothing, or no array has as many.
    """
    import xarray

    if axes is None:
        raise UserError(
            f"the layout of {path} is not known and its axes have no names ({shapes(path)}); say which is "
            "which, as in --data.axes 'run time y x'"
        )
    names = axes.replace(",", " ").split()[:: -1 if _is_reversed(path) else 1]
    meant = letters(names)
    if "x" not in meant or None in meant or len(set(meant)) < len(meant):
        raise UserError(
            f"data.axes is '{axes}'; it must name each axis once: run, time, channel, x, y or z, x among them"
        )
    arrays = _variables(str(path))
    stems = Counter(re.sub(r"\d+", "", name) for name, array in arrays.items() if array.ndim == len(names))
    if "n" not in meant and any(many > 1 for many in stems.values()):
        raise UserError(
            f"{path} has an array for each run ({shapes(path)}); join them in one, with an axis of runs"
        )
    whole = [array.shape for array in arrays.values() if array.ndim == len(names)]
    if not whole:
        raise UserError(
            f"{path} has no numbers with {len(names)} axes, as data.axes '{axes}' says; it has {shapes(path)}"
        )
    sizes = dict(zip(names, max(whole, key=np.prod), strict=True))
    fields: dict[str, Any] = {}
    positions: dict[str, Any] = {}
    for name, array in arrays.items():
        if (dims := _dims(name, array.shape, sizes)) is None:
            continue
        if array.ndim == 1 and letters([name]) == letters(dims):
            positions[dims[0]] = (dims, array.values)
        else:
            fields[name] = (dims, array)
    return source_of(xarray.Dataset(fields, positions), path, layout="plain", opener=open_plain)


def shapes(path: Path) -> str:
    """Return the names and shapes of a file's arrays in words."""
    order = -1 if _is_reversed(path) else 1
    arrays = _variables(str(path)).items()
    shown = [f"{name} {array.shape[::order]}" for name, array in arrays if array.ndim > 1]
    return ", ".join(shown[:8]) or "no arrays of numbers"


def open_plain(path: str) -> LazyArrays:
    """Return the arrays of a file by name."""
    return LazyArrays(_variables(path), lambda: None)


def _dims(name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[str, ...] | None:
    """Return the axes of an array, None where it fits none."""
    if len(shape) == 1:
        called = [axis for axis in sizes if letters([axis]) == letters([name])]
        runs = [axis for axis in sizes if letters([axis]) == ("n",)]
        return next(((axis,) for axis in called or runs if (sizes[axis],) == shape), None)
    space = {axis for axis in sizes if letters([axis])[0] in ("x", "y", "z")}
    fitting = (dims for dims in combinations(sizes, len(shape)) if space <= set(dims))
    return next((dims for dims in fitting if tuple(sizes[axis] for axis in dims) == shape), None)


def _variables(path: str) -> dict[str, Any]:
    """Return the arrays of a file as variables of xarray, those of HDF5 and Zarr unread."""
    import xarray

    file, suffix = Path(path), Path(path).suffix.lower()
    if suffix in (".npy", ".npz", ".mat") and not is_hdf5(file):
        arrays = {
            name: xarray.Variable([f"{name}_{axis}" for axis in range(np.ndim(array))], array)
            for name, array in _in_memory(file).items()
        }
    else:
        opened = open_dataset(path, groups=True)
        every = [
            (group.strip("/"), str(name), array)
            for group, dataset in (opened if isinstance(opened, dict) else {"": opened}).items()
            if not group.startswith("/#")  # what MATLAB refers to
            for name, array in dataset.variables.items()
        ]
        names = Counter(name for _, name, _ in every)
        arrays = {
            name if names[name] == 1 else f"{group}/{name}".strip("/").replace("/", "_"): array
            for group, name, array in every
        }
    arrays = {name: array for name, array in arrays.items() if array.dtype.kind in "fiubc"}
    if suffix == ".mat":  # which has no vectors
        rows = [name for name, array in arrays.items() if array.ndim == 2 and 1 in array.shape]
        arrays |= {name: arrays[name].squeeze() for name in rows}
    return arrays


def _in_memory(file: Path) -> Mapping[str, Any]:
    """Return the arrays of NumPy's files and of MATLAB's older ones.

    Raises:
        UserError: If it is damaged or holds something else.
    """
    try:
        if file.suffix.lower() == ".npy":
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False)}
        if file.suffix.lower() == ".npz":
            with np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        from scipy.io import loadmat

        return {name: array for name, array in loadmat(file).items() if not name.startswith("__")}
    except Exception as error:  # each library raises what it likes
        why = " ".join(str(error).split())[:160]
        if "allow_pickle" in why:
            raise UserError(f"{file} holds Python objects; save arrays of numbers") from error
        raise UserError(f"{file} is cut off, damaged or of another kind ({why}); copy it again") from error


def _is_reversed(path: Path) -> bool:
    """Say whether HDF5 has the axes in the other order than the tool that wrote them, MATLAB, shows them."""
    return path.suffix.lower() == ".mat" and is_hdf5(path)
