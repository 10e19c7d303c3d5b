"""Any netCDF file or Zarr group whose axes have names, read through xarray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apps.pde.sources.arrays import ArraySource, Segment, Variable, is_hdf5, uniform
from core.errors import UserError

__all__ = ["open_labelled", "recognise", "source"]

SUFFIXES = (".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".zarr")
AXES = {
    "n": ("sample", "samples", "trajectory", "trajectories", "member", "batch", "n", "simulation"),
    "t": ("time", "t", "step", "snapshot"),
    "c": ("channel", "channels", "variable", "component"),
    "x": ("x", "lon", "longitude"),
    "y": ("y", "lat", "latitude"),
    "z": ("z", "level", "height"),
}


class _Lazy:
    """The arrays of a data set as objects that read what is indexed."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, name: str) -> Any:
        return _Array(self._dataset.variables[name])

    def close(self) -> None:
        self._dataset.close()


class _Array:
    def __init__(self, variable: Any) -> None:
        self._variable, self.shape = variable, variable.shape

    def __getitem__(self, where: Any) -> Any:
        return self._variable[where].values


def open_labelled(path: str) -> Any:
    """Return the arrays of a file by name.

    Raises:
        UserError: If the file is damaged, cut off or of no known kind.
    """
    return _Lazy(_dataset(path))


def recognise(path: Path) -> bool:
    """Say whether the file has an array with named axes of space."""
    if path.suffix.lower() not in SUFFIXES and not (path / "zarr.json").is_file():
        return False
    with _dataset(str(path)) as dataset:
        return any(_axes(array.dims) is not None for array in dataset.data_vars.values())


def source(path: Path) -> ArraySource:
    """Return the trajectories: each data variable with an axis of space is a channel.

    Axes are found by their names (sample or trajectory, time, channel, x, y, z, in any order). Without an
    axis of samples there is one trajectory, without one of time one snapshot.

    Raises:
        UserError: If no variable has named axes of space, or two have other grids.
    """
    with _dataset(str(path)) as dataset:
        variables: dict[str, Variable] = {}
        units: dict[str, str] = {}
        sizes: dict[str, int] = {}
        constants = []
        for name, array in dataset.data_vars.items():
            axes = _axes(array.dims)
            if axes is None or array.dtype.kind not in "fiub":
                continue
            for axis, size in zip(axes, array.shape, strict=True):
                if axis != "c" and sizes.setdefault(axis, size) != size:
                    raise UserError(
                        f"{path} has {name} with {size} points along {axis}, others have {sizes[axis]}; "
                        "keep fields of one grid in a file"
                    )
            many = array.shape[axes.index("c")] if "c" in axes else 1
            for number, channel in enumerate(_channels(str(name), array, axes, many, dataset)):
                variables[channel] = Variable(str(name), axes, number)
                units[channel] = str(array.attrs.get("units", "1"))
                if "t" not in axes:
                    constants.append(channel)
        if not variables:
            known = ", ".join(f"{name}{tuple(array.dims)}" for name, array in dataset.data_vars.items())
            raise UserError(
                f"{path} has no field with axes named x (and y, z); it has {known or 'no variables'}; "
                "rename its axes or name the layout in data.layout"
            )
        space = [axis for axis in "xyz" if axis in sizes]
        grid = tuple(sizes[axis] for axis in space)
        names = {axis: _dimension(dataset, axis) for axis in ("t", *space)}
        steps = sizes.get("t", 1)
        positions = {
            axis: np.array(dataset[name].values, dtype=np.float64)
            for axis, name in names.items()
            if name in dataset.coords and dataset[name].dtype.kind in "fiu"
        }
        return ArraySource(
            name=path.stem,
            path=str(path),
            layout="labelled",
            segments=[Segment(str(path), sizes.get("n", 1), variables)],
            steps=steps,
            space=grid,
            times=positions.get("t", uniform(steps, float(steps - 1))),
            coordinates=tuple(positions.get(axis, uniform(sizes[axis])) for axis in space),
            units=units,
            periodic=bool(int(dataset.attrs.get("periodic", 0))),
            constants=tuple(constants),
            opener=open_labelled,
        )


def _dataset(path: str) -> Any:
    import xarray

    how: dict[str, Any] = {"decode_times": False, "cache": False}
    if Path(path).is_dir():
        how |= {"engine": "zarr", "consolidated": None}
    elif Path(path).is_file() and is_hdf5(Path(path)):
        how |= {"engine": "h5netcdf", "phony_dims": "access"}
    try:
        return xarray.open_dataset(path, **how)
    except FileNotFoundError as error:
        raise UserError(f"the file {path} does not exist; check data.path") from error
    except Exception as error:  # each engine raises what it likes
        why = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} is cut off, damaged or no netCDF file or Zarr group ({why}); copy or download it again"
        ) from error


def _axes(dims: Any) -> str | None:
    """Return the letters of an array's axes; None if one has no known name or none is of space."""
    letters = ""
    for dim in dims:
        word = str(dim).lower()
        found = next((letter for letter, names in AXES.items() if word in names), None)
        found = "c" if found is None and word.endswith("_channel") else found
        if found is None or found in letters:
            return None
        letters += found
    return letters if "x" in letters else None


def _channels(name: str, array: Any, axes: str, many: int, dataset: Any) -> list[str]:
    if "c" not in axes:
        return [name]
    said = [word.strip() for word in str(array.attrs.get("channels", "")).split(",") if word.strip()]
    if len(said) == many:
        return said
    dim = array.dims[axes.index("c")]
    if dim in dataset.coords:
        return [str(value) for value in dataset[dim].values]
    return [f"{name}_{number}" for number in range(many)]


def _dimension(dataset: Any, axis: str) -> str:
    return next((str(dim) for dim in dataset.sizes if str(dim).lower() in AXES[axis]), axis)
